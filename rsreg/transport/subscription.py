"""The events of one registry in order, once each, without gaps. No I/O."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Protocol

from rsreg.errors import RegistryError
from rsreg.protocol import calls, records
from rsreg.protocol.calls import Call, Record
from rsreg.protocol.event_types import RESET
from rsreg.system.background import say
from rsreg.timing import Clock

log = logging.getLogger(__name__)

#: Seconds of silence before the first question to the journal, and at most. It starts short since
#: a subscription takes a moment to reach the server, and doubles while nothing was missed.
_SILENCE_FIRST, SILENCE_MOST = 0.25, 5.0


class EventConsumer(Protocol):
    """What an event stream drives: it is told what arrives, and says what to ask and when."""

    @property
    def seconds_until_next_request(self) -> float:
        """Seconds to wait for the next event before asking."""

    def next_request(self) -> Call[Any]:
        """What to ask after a silence."""

    def on_reply(self, reply: Any) -> list[Record]:
        """Take in an answer to the last question; the events in it that are new."""

    def on_failure(self, error: RegistryError) -> None:
        """The question got no answer."""

    def on_event(self, event: Record) -> list[Record]:
        """Take in an event; those that may be handed on."""


class Subscription:
    """Puts the events of one registry in order; it begins after `since`, or else now.

    Where the journal does not reach back, or is another one, it says so by an event of the type
    "reset", without data. `clock` is one that nobody sets.
    """

    def __init__(
        self,
        clock: Clock,
        since: int | None = None,
        epoch: str | None = None,
        mark: str | None = None,
    ) -> None:
        self._clock = clock
        self._epoch = epoch
        self._seq = since
        #: That of the last event; none where an older registry gives no marks.
        self._mark = mark
        self._patience = _SILENCE_FIRST
        self._away = False
        self._port = _Port()
        #: When to ask; -inf: there is a gap.
        self._ask_at = -math.inf

    @property
    def seconds_until_next_request(self) -> float:
        """Seconds to wait for the next event before asking, 0.0 when there is a known gap."""
        return max(0.0, self._ask_at - self._clock())

    def next_request(self) -> Call[Record]:
        """What to ask after a silence."""
        return calls.events(self._seq, self._epoch, self._mark)

    def on_reply(self, reply: Mapping[str, Any]) -> list[Record]:
        """The events of an answer that are new."""
        self._back()
        epoch, seq = str(reply["epoch"]), int(reply["seq"])
        if self._seq is None or reply.get("reset"):
            events: list[Record] = []
            if self._seq is not None:
                say(
                    log,
                    logging.WARNING,
                    "events were missed for good: the journal does not reach back, or is another",
                )
                reset = {"type": RESET, "data": {}, "seq": seq, "epoch": epoch}
                events = [{**reset, "mark": reply.get("mark")}]
            self._epoch, self._seq, self._mark = epoch, seq, reply.get("mark")
            self._wait(self._patience)
            return events
        self._epoch = epoch
        new = [event for event in reply["events"] if event["seq"] > self._seq]
        if new and self._ask_at > -math.inf:
            self._port.missed(self._clock())
        if new:
            self._step_on(new[-1])
            self._patience = _SILENCE_FIRST
        else:
            self._patience = min(SILENCE_MOST, 2 * self._patience)
        self._wait(-math.inf if self._seq < seq else self._patience)
        return new

    def on_failure(self, error: RegistryError) -> None:
        """The question got no answer: wait, then ask again."""
        if not self._away:
            say(log, logging.WARNING, "no events for now, trying on: %s", error)
            self._away = True
        self._port.lost()
        self._wait(SILENCE_MOST)

    def on_event(self, event: Record) -> list[Record]:
        """The event, if it is the next one; a gap or another epoch is asked for first."""
        self._port.reached()
        if self._seq is None or event.get("epoch") != self._epoch:
            self._wait(-math.inf)
            return []
        seq = int(event["seq"])
        if seq == self._seq + 1 and event.get("after") in (None, self._mark):
            self._step_on(event)
            self._wait(self._patience)
            return [event]
        if seq > self._seq:
            self._wait(-math.inf)
        return []

    def _step_on(self, event: Record) -> None:
        self._seq, self._mark = int(event["seq"]), event.get("mark")

    def _wait(self, seconds: float) -> None:
        self._ask_at = self._clock() + seconds

    def _back(self) -> None:
        if self._away:
            say(
                log, logging.WARNING, "the registry answers again; events go on from #%s", self._seq
            )
            self._away = False


class _Port:
    """Whether events arrive by themselves, or only when the registry is asked for them.

    Requests may get through where the port for events is blocked: then events come late. That is
    sure when answers brought some twice, with as much time between as a subscription may take, and
    none came in between. It is said once.
    """

    def __init__(self) -> None:
        self._missed_since: float | None = None
        self._said = False

    def reached(self) -> None:
        """An event arrived."""
        self._missed_since = None
        if self._said:
            say(log, logging.WARNING, "events arrive by themselves again")
            self._said = False

    def lost(self) -> None:
        """Nothing is heard of the registry at all; then it has to be connected to again."""
        self._missed_since = None

    def missed(self, now: float) -> None:
        """An answer brought events that had not arrived."""
        if self._missed_since is None:
            self._missed_since = now
        elif not self._said and now - self._missed_since >= SILENCE_MOST:
            say(
                log,
                logging.WARNING,
                "events come late, by up to %g s: nothing arrives from the registry's port for "
                "events; see whether a firewall lets it through, or name the port "
                "(registry_sub_endpoint, rs_cs watch --events)",
                SILENCE_MOST,
            )
            self._said = True


def concerns(event: Record, kind: str | None) -> bool:
    """Whether an event is about a service found under `kind`, or about all: then it is a reset."""
    service = event["data"].get("service_info")
    if kind is None or service is None:
        return True
    return kind in records.kinds_of(service["type"], service["tags"], service["metadata"])
