"""Events in order, once each, and without gaps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from rsreg import calls, native, sockets, wire
from rsreg.calls import Record
from rsreg.channel import Channel, readable
from rsreg.errors import Disconnected, RegistryError
from rsreg.exchange import Call

log = logging.getLogger(__name__)

#: Seconds of silence before the first question to the journal, and at most. It starts short since
#: a subscription takes a moment to reach the server, and doubles while nothing was missed.
_SILENCE_FIRST, _SILENCE_MOST = 0.25, 5.0
#: Seconds that `stop` waits for the thread.
_JOIN = 1.0


#: Called with the `data` of an event, or with the whole of it; what it returns is the caller's.
Handler = Callable[[Record], Any]


class Handlers:
    """Who wants to hear of which events."""

    def __init__(self) -> None:
        self._of_type: dict[str, list[Handler]] = {}
        self._of_any: list[Handler] = []

    def add(self, event_type: str, handler: Handler) -> None:
        """Have `handler` called with the `data` of the events of a type."""
        self._of_type.setdefault(event_type, []).append(handler)

    def add_any(self, handler: Handler) -> None:
        """Have `handler` called with each whole event."""
        self._of_any.append(handler)

    def wanted(self, event: Record) -> list[tuple[Handler, Record]]:
        """Whom to call for an event, and with what."""
        of_type = self._of_type.get(event["type"], [])
        return [(handler, event) for handler in self._of_any] + [
            (handler, event["data"]) for handler in of_type
        ]


class Follower:
    """Puts the events of one registry in order. No I/O: it is told, and says what to ask.

    `silence` is how long to wait for the next event before asking, 0.0 when there is a known gap.
    """

    def __init__(self) -> None:
        self._epoch: str | None = None
        self._seq: int | None = None
        self._patience = _SILENCE_FIRST
        self._away = False
        self.silence = 0.0

    def question(self) -> Call[Record]:
        """What to ask after a silence."""
        return calls.events(self._seq, self._epoch)

    def answered(self, reply: Mapping[str, Any]) -> list[Record]:
        """The events of an answer that are new."""
        if self._away:
            log.warning("the registry answers again; events go on from #%s", self._seq)
            self._away = False
        epoch, seq = str(reply["epoch"]), int(reply["seq"])
        if self._seq is None or reply.get("reset"):
            if self._seq is not None:
                log.warning("events were missed for good: the journal does not reach back")
            self._epoch, self._seq = epoch, seq
            self.silence = self._patience
            return []
        new = [event for event in reply["events"] if event["seq"] > self._seq]
        if new:
            self._seq = int(new[-1]["seq"])
            self._patience = _SILENCE_FIRST
        else:
            self._patience = min(_SILENCE_MOST, 2 * self._patience)
        self.silence = 0.0 if self._seq < seq else self._patience
        return new

    def unanswered(self, error: RegistryError) -> None:
        """The question got no answer: wait, then ask again."""
        if not self._away:
            log.warning("no events for now, trying on: %s", error)
            self._away = True
        self.silence = _SILENCE_MOST

    def published(self, event: Record) -> list[Record]:
        """The event, if it is the next one; a gap or another epoch is asked for first."""
        if self._seq is None or event.get("epoch") != self._epoch:
            self.silence = 0.0
            return []
        seq = int(event["seq"])
        if seq == self._seq + 1:
            self._seq = seq
            return [event]
        if seq > self._seq:
            self.silence = 0.0
        return []


class EventListener:
    """Follows the events of one registry and calls handlers, on a thread of its own.

    With a green context it is a greenlet of the hub that starts it, else a real OS thread, also in
    a monkey-patched process. What a handler raises is logged, and no other handler's business.
    """

    def __init__(
        self,
        handlers: Handlers,
        req_endpoint: str,
        sub_endpoint: str,
        context: zmq.Context[Any] | None,
        timeout: float,
    ) -> None:
        self._handlers = handlers
        self._endpoint = sub_endpoint
        self._context = context
        self._timeout = timeout
        self._stop = native.Stop()
        self._channel = Channel(req_endpoint, context, self._stop)
        self._follower = Follower()
        self._socket: Any = None
        self._runs_on: int | None = None
        self._thread: Any = None

    def start(self) -> None:
        """Listen from now on; no event after the return of this call is missed."""
        self._socket = sockets.subscriber(self._context or sockets.own_context(), self._endpoint)
        try:
            self._ask()
        except RegistryError:
            self._close()
            raise
        if is_green(self._context):
            import gevent

            self._thread = gevent.spawn(self.run, self._stop)
        else:
            self._thread = native.Thread(lambda: self.run(self._stop))

    def stop(self) -> None:
        """Stop listening; a handler may call it too."""
        self._stop.set()
        if self._thread is not None and self._runs_on != native.thread_id():
            self._thread.join(_JOIN)

    def run(self, stop: native.Stop) -> None:
        """Listen until `stop` is set."""
        self._runs_on = native.thread_id()
        try:
            while not stop.is_set():
                self.step()
        except Disconnected:
            pass
        finally:
            self._close()

    def step(self) -> None:
        """Hand on the next event, or ask for what may have been missed."""
        if self._follower.silence and readable(self._socket, self._follower.silence, self._stop):
            event = wire.read_event(self._socket.recv_multipart(zmq.DONTWAIT))
            self._hand_on(self._follower.published(event) if event else [])
            return
        try:
            self._ask()
        except RegistryError as error:
            if not self._stop.is_set():
                self._follower.unanswered(error)

    def _ask(self) -> None:
        reply = self._channel.run(self._follower.question(), self._timeout)
        self._hand_on(self._follower.answered(reply))

    def _hand_on(self, events: list[Record]) -> None:
        for event in events:
            for handler, said in self._handlers.wanted(event):
                try:
                    handler(said)
                except Exception:
                    log.exception("a handler of %r events failed", event["type"])

    def _close(self) -> None:
        self._channel.close()
        self._socket.close()


def is_green(context: object) -> bool:
    """Whether a context is one of `zmq.green`, told without importing it."""
    return any(cls.__module__.startswith("zmq.green") for cls in type(context).__mro__)
