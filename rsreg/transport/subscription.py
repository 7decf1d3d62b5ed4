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

#: Seconds without an event before a request for the journal: at first, and at most. They start
#: short, since a subscription takes a moment to reach the server, and double while nothing is
#: missed.
_PAUSE_FIRST, PAUSE_MOST = 0.25, 5.0


class EventConsumer(Protocol):
    """Takes what an event stream receives, and decides what it requests next, and when."""

    @property
    def seconds_until_next_request(self) -> float:
        """Seconds to wait for an event before the next request; 0.0 for none."""

    def next_request(self) -> Call[Any]:
        """Return the request to make now."""

    def on_reply(self, reply: Any) -> list[Record]:
        """Take in the answer to the last request; returns the events in it that are new."""

    def on_failure(self, error: RegistryError) -> None:
        """The request got no answer."""

    def on_event(self, event: Record) -> list[Record]:
        """Take in an event; returns the events that can be handed on."""


class Subscription:
    """Puts the events of one registry in order, from the one after `since`, or else from now.

    Where the journal does not reach back, or is another one, it gives an event of the type "reset",
    without data. `clock` is monotonic.
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
        #: The mark of the last event; None from an older registry, which gives no marks.
        self._mark = mark
        self._pause = _PAUSE_FIRST
        self._away = False
        self._port = _Port()
        #: When to make the next request; -inf: there is a gap.
        self._next_request_at = -math.inf

    @property
    def seconds_until_next_request(self) -> float:
        """Seconds to wait for an event before the next request; 0.0 when there is a gap."""
        return max(0.0, self._next_request_at - self._clock())

    def next_request(self) -> Call[Record]:
        """Return the request for the events that are missing."""
        return calls.events(self._seq, self._epoch, self._mark)

    def on_reply(self, reply: Mapping[str, Any]) -> list[Record]:
        """Return the events of an answer that are new."""
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
            self._wait(self._pause)
            return events
        self._epoch = epoch
        new = [event for event in reply["events"] if event["seq"] > self._seq]
        if new and self._next_request_at > -math.inf:
            self._port.missed(self._clock())
        if new:
            self._step_on(new[-1])
            self._pause = _PAUSE_FIRST
        else:
            self._pause = min(PAUSE_MOST, 2 * self._pause)
        self._wait(-math.inf if self._seq < seq else self._pause)
        return new

    def on_failure(self, error: RegistryError) -> None:
        """The request got no answer: wait, then make it again."""
        if not self._away:
            say(log, logging.WARNING, "lost the event stream, retrying: %s", error)
            self._away = True
        self._port.lost()
        self._wait(PAUSE_MOST)

    def on_event(self, event: Record) -> list[Record]:
        """Return the event if it is the next one; else a request is due, for what is missing."""
        self._port.reached()
        if self._seq is None or event.get("epoch") != self._epoch:
            self._wait(-math.inf)
            return []
        seq = int(event["seq"])
        if seq == self._seq + 1 and event.get("after") in (None, self._mark):
            self._step_on(event)
            self._wait(self._pause)
            return [event]
        if seq > self._seq:
            self._wait(-math.inf)
        return []

    def _step_on(self, event: Record) -> None:
        self._seq, self._mark = int(event["seq"]), event.get("mark")

    def _wait(self, seconds: float) -> None:
        self._next_request_at = self._clock() + seconds

    def _back(self) -> None:
        if self._away:
            say(
                log, logging.WARNING, "the registry answers again; events go on from #%s", self._seq
            )
            self._away = False


class _Port:
    """Notices that events do not arrive by themselves, but only in answers: then they come late.

    Requests may get through where the port for events is blocked. That is certain when two answers
    brought events, with as much time between them as a subscription may take, and none arrived in
    between. It is logged once.
    """

    def __init__(self) -> None:
        self._missed_since: float | None = None
        self._logged = False

    def reached(self) -> None:
        """An event arrived."""
        self._missed_since = None
        if self._logged:
            say(log, logging.WARNING, "events arrive by themselves again")
            self._logged = False

    def lost(self) -> None:
        """The registry does not answer at all; then it has to be connected to again."""
        self._missed_since = None

    def missed(self, now: float) -> None:
        """An answer brought events that had not arrived."""
        if self._missed_since is None:
            self._missed_since = now
        elif not self._logged and now - self._missed_since >= PAUSE_MOST:
            say(
                log,
                logging.WARNING,
                "events come late, by up to %g s: nothing arrives from the registry's port for "
                "events; see whether a firewall lets it through, or name the port "
                "(registry_sub_endpoint, rs_cs watch --events)",
                PAUSE_MOST,
            )
            self._logged = True


def concerns(event: Record, service_type: str | None) -> bool:
    """True if an event is about a service of a type, or about all services: a reset."""
    service = event["data"].get("service_info")
    if service_type is None or service is None:
        return True
    return service_type in records.service_types_of(
        service["type"], service["tags"], service["metadata"]
    )
