"""The events of one registry in order, once each, without gaps. No I/O."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rsreg import calls
from rsreg.calls import Record
from rsreg.errors import RegistryError
from rsreg.exchange import Call

log = logging.getLogger(__name__)

#: Seconds of silence before the first question to the journal, and at most. It starts short since
#: a subscription takes a moment to reach the server, and doubles while nothing was missed.
_SILENCE_FIRST, SILENCE_MOST = 0.25, 5.0


class Follower:
    """Puts the events of one registry in order. No I/O: it is told, and says what to ask."""

    def __init__(self) -> None:
        self._epoch: str | None = None
        self._seq: int | None = None
        self._patience = _SILENCE_FIRST
        self._away = False
        self._silence = 0.0

    @property
    def silence(self) -> float:
        """Seconds to wait for the next event before asking, 0.0 when there is a known gap."""
        return self._silence

    def question(self) -> Call[Record]:
        """What to ask after a silence."""
        return calls.events(self._seq, self._epoch)

    def answered(self, reply: Mapping[str, Any]) -> list[Record]:
        """The events of an answer that are new."""
        self._back()
        epoch, seq = str(reply["epoch"]), int(reply["seq"])
        if self._seq is None or reply.get("reset"):
            if self._seq is not None:
                log.warning("events were missed for good: the journal does not reach back")
            self._epoch, self._seq = epoch, seq
            self._silence = self._patience
            return []
        new = [event for event in reply["events"] if event["seq"] > self._seq]
        if new:
            self._seq = int(new[-1]["seq"])
            self._patience = _SILENCE_FIRST
        else:
            self._patience = min(SILENCE_MOST, 2 * self._patience)
        self._silence = 0.0 if self._seq < seq else self._patience
        return new

    def unanswered(self, error: RegistryError) -> None:
        """The question got no answer: wait, then ask again."""
        if not self._away:
            log.warning("no events for now, trying on: %s", error)
            self._away = True
        self._silence = SILENCE_MOST

    def published(self, event: Record) -> list[Record]:
        """The event, if it is the next one; a gap or another epoch is asked for first."""
        if self._seq is None or event.get("epoch") != self._epoch:
            self._silence = 0.0
            return []
        seq = int(event["seq"])
        if seq == self._seq + 1:
            self._seq = seq
            return [event]
        if seq > self._seq:
            self._silence = 0.0
        return []

    def _back(self) -> None:
        if self._away:
            log.warning("the registry answers again; events go on from #%s", self._seq)
            self._away = False
