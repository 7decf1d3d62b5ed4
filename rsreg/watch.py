"""Follows one registry on a thread: events for handlers, and the cache that answers from them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import zmq

from rsreg import config, native, sockets, timing
from rsreg.calls import Record
from rsreg.config import ClientSettings
from rsreg.errors import Disconnected, RegistryError, Stale
from rsreg.follower import Follower
from rsreg.lasting import Caught, keep_on, say, start_thread
from rsreg.mirror import Mirror
from rsreg.records import ServiceList, ServiceRecord
from rsreg.stream import EventStream

log = logging.getLogger(__name__)

#: Seconds that `stop` waits for the thread.
_JOIN = 1.0


#: The type that means events of all types.
ANY = "*"
#: Called with the `data` of an event, or with the whole of it; what it returns is the caller's.
Handler = Callable[[Record], Any]


class Handlers:
    """Who wants to hear of which events."""

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

    def wanted(self, event: Record) -> list[tuple[Handler, Record]]:
        """Whom to call for an event, and with what."""
        of_type = self._of_type.get(event["type"], [])
        return [(handler, event) for handler in self._of_any] + [
            (handler, event["data"]) for handler in of_type
        ]


class EventListener:
    """Hands the events of a stream to handlers, on a thread of its own.

    With a green context it is a greenlet of the hub that starts it, else a real OS thread, also in
    a monkey-patched process. What a handler raises is logged, and no other handler's business.
    """

    def __init__(
        self,
        handlers: Handlers,
        follower: Follower,
        settings: ClientSettings,
        context: zmq.Context[Any] | None,
    ) -> None:
        self._handlers = handlers
        self._context = context
        self._stop = native.Stop()
        self._stream = EventStream(follower, settings, context, self._stop)
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
        if self._thread is not None and self._runs_on != native.thread_id():
            self._thread.join(_JOIN)

    def run(self, stop: native.Stop) -> None:
        """Listen until `stop` is set."""
        self._runs_on = native.thread_id()
        try:
            what, pause = "the listener to events", pause_for(self._context, stop)
            keep_on(lambda: self._hand_on(self._stream.next()), stop, log, what, pause)
        finally:
            self._stream.close()

    def _hand_on(self, events: list[Record]) -> None:
        for event in events:
            for handler, said in self._handlers.wanted(event):
                # On a thread sys.exit would end nothing but this listener.
                with Caught(Exception, SystemExit) as caught:
                    handler(said)
                if (error := caught.error) is not None:
                    kind = event["type"]
                    say(log, logging.ERROR, "a handler of %r events failed", kind, exc_info=error)


class ServiceCache:
    """Knows all services of a registry, and answers in microseconds, without asking.

    It follows the events on a thread of its own (with a green context: a greenlet). `health` is
    what is sure: a service whose lease may have ended is critical. `last_heartbeat` is from when
    the service registered, or the cache listed it. Answers are the caller's, in any thread.

    `start` and `stop` it, or use it as a context manager, with `async with` in asyncio; the
    endpoints are those of RegistryClient, `timeout` is for one question to the registry. Without an
    answer for more than 10 s it answers no more: its methods raise Stale until the registry is
    back. They raise Disconnected if it is not started. In a forked child it has to be started anew,
    else it gets stale.
    """

    def __init__(
        self,
        registry_req_endpoint: str | None = None,
        registry_sub_endpoint: str | None = None,
        timeout: float = config.DEFAULT_TIMEOUT,
        *,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        self.settings = ClientSettings(
            registry_req_endpoint, registry_sub_endpoint, None, timeout, "service-cache"
        )
        self._context = context
        self._listener: EventListener | None = None
        self._mirror: Mirror | None = None

    def __repr__(self) -> str:
        return f"<ServiceCache on {self.settings.req_endpoint}>"

    def __enter__(self) -> ServiceCache:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    async def __aenter__(self) -> ServiceCache:
        import asyncio

        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        import asyncio

        await asyncio.to_thread(self.stop)

    def start(self) -> None:
        """Follow from now on; returns when all services are known.

        Raises RequestTimeout if the registry can't be reached.
        """
        self.stop()
        mirror = Mirror(timing.steady)
        self._listener = EventListener(Handlers(), mirror, self.settings, self._context)
        try:
            self._listener.start()
        except RegistryError:
            self._listener = None
            raise
        self._mirror = mirror

    def stop(self) -> None:
        """Follow no longer; returns within a second."""
        listener, self._listener, self._mirror = self._listener, None, None
        if listener is not None:
            listener.stop()

    @property
    def as_of(self) -> float:
        """What happened before this moment of `timing.steady` is known; -inf: nothing is."""
        mirror = self._mirror
        return -math.inf if mirror is None else mirror.as_of

    @property
    def stale(self) -> float | None:
        """Seconds since the registry last answered, if that is too long ago, else None.

        Infinite for a cache that is not started.
        """
        mirror = self._mirror
        return math.inf if mirror is None else mirror.stale()

    def get_service(self, service_id: str) -> ServiceRecord | None:
        """The record of one service, or None."""
        return self._fresh().get(service_id)

    def list_services(
        self, service_type: str | None = None, *, mode: str | None = None
    ) -> ServiceList:
        """The records of all services, or of those found under a type, passing or not.

        Only those of a `mode`, "hardware" or "simulator", if one is given.
        """
        return self._fresh().list_services(service_type or None, config.checked_mode(mode))

    def discover_service(
        self, service_type: str, *, mode: str | None = None
    ) -> ServiceRecord | None:
        """The record of one passing service of a type, a random one, or None.

        Without a `mode` it is a simulator only if no hardware of that type is registered at all.
        """
        return self._fresh().discover(service_type, config.checked_mode(mode))

    def _fresh(self) -> Mirror:
        mirror = self._mirror
        if mirror is None:
            raise Disconnected("this cache is not started", hint="call start() first")
        age = mirror.stale()
        if age is not None:
            raise Stale(
                f"no registry answers on {self.settings.req_endpoint}; what this cache knows is "
                f"{age:.1f} s old",
                hint="see whether the registry runs; the cache goes on asking for it by itself",
            )
        return mirror


def spawn(context: object, target: Callable[[], None]) -> Any:
    """Run `target` beside the caller: in a greenlet for a green context, else on an OS thread.

    Raises Disconnected if there can be no more threads.
    """
    if sockets.is_green(context):
        import gevent

        return gevent.spawn(target)
    return start_thread(target)


def pause_for(context: object, stop: native.Stop) -> Callable[[float], object]:
    """What waits some seconds where `spawn` runs its target; on a thread until `stop`."""
    if sockets.is_green(context):
        import gevent

        pause: Callable[[float], object] = gevent.sleep
        return pause
    return stop.wait
