"""Hands the events of one registry to handlers, on a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import zmq

from rsreg.config import ClientSettings
from rsreg.errors import Disconnected
from rsreg.protocol.calls import Record
from rsreg.system import threads
from rsreg.system.background import Caught, keep_on, say, start_thread
from rsreg.transport import sockets
from rsreg.transport.event_stream import EventStream
from rsreg.transport.subscription import Subscription

log = logging.getLogger(__name__)

#: Seconds that `stop` waits for the thread.
_JOIN = 1.0


#: The type that means events of all types.
ANY = "*"
#: Called with the `data` of an event, or with the whole of it; what it returns is the caller's.
Handler = Callable[[Record], Any]


class Handlers:
    """The handlers of a client, by the type of event that they are for."""

    def __init__(self) -> None:
        self._of_type: dict[str, list[Handler]] = {}
        self._of_any: list[Handler] = []

    def add(self, event_type: str, handler: Handler) -> None:
        """Have `handler` called with the `data` of the events of a type; "*": with any, whole."""
        if event_type == ANY:
            self.add_any(handler)
        else:
            self._of_type.setdefault(event_type, []).append(handler)

    def add_any(self, handler: Handler) -> None:
        """Have `handler` called with each whole event."""
        self._of_any.append(handler)

    def calls_for(self, event: Record) -> list[tuple[Handler, Record]]:
        """Return the handlers to call for an event, each with its argument."""
        of_type = self._of_type.get(event["type"], [])
        return [(handler, event) for handler in self._of_any] + [
            (handler, event["data"]) for handler in of_type
        ]


class EventListener:
    """Hands the events of a stream to handlers, on a thread of its own.

    With a green context that is a greenlet of the hub that starts it, else a real OS thread, also
    in a monkey-patched process. What a handler raises is logged, and stops no other handler.
    """

    def __init__(
        self,
        handlers: Handlers,
        subscription: Subscription,
        settings: ClientSettings,
        context: zmq.Context[Any] | None,
    ) -> None:
        self._handlers = handlers
        self._context = context
        self._stop = threads.Stop()
        self._stream = EventStream(subscription, settings, context, self._stop)
        self._runs_on: int | None = None
        self._thread: Any = None

    def start(self) -> None:
        """Listen from now on; no event after the return of this call is missed."""
        self._hand_on(self._stream.open())
        try:
            self._thread = spawn(self._context, lambda: self.run(self._stop))
        except Disconnected:
            self._stream.close()
            raise

    def stop(self) -> None:
        """Stop listening; a handler may call it too."""
        self._stop.set()
        if self._thread is not None and self._runs_on != threads.thread_id():
            self._thread.join(_JOIN)

    def run(self, stop: threads.Stop) -> None:
        """Listen until `stop` is set."""
        self._runs_on = threads.thread_id()
        try:
            what, pause = "the listener to events", pause_for(self._context, stop)
            keep_on(lambda: self._hand_on(self._stream.next()), stop, log, what, pause)
        finally:
            self._stream.close()

    def _hand_on(self, events: list[Record]) -> None:
        for event in events:
            for handler, argument in self._handlers.calls_for(event):
                # On a thread sys.exit would end nothing but this listener.
                with Caught(Exception, SystemExit) as caught:
                    handler(argument)
                if (error := caught.error) is not None:
                    text = "a handler of %r events failed"
                    say(log, logging.ERROR, text, event["type"], exc_info=error)


def spawn(context: object, target: Callable[[], None]) -> Any:
    """Run `target` beside the caller: in a greenlet for a green context, else on an OS thread.

    Raises Disconnected if there can be no more threads.
    """
    if sockets.is_green(context):
        import gevent

        return gevent.spawn(target)
    return start_thread(target)


def pause_for(context: object, stop: threads.Stop) -> Callable[[float], object]:
    """Return what waits some seconds where `spawn` runs its target; on a thread until `stop`."""
    if sockets.is_green(context):
        import gevent

        pause: Callable[[float], object] = gevent.sleep
        return pause
    return stop.wait
