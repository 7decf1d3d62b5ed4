"""Follows one registry on a thread: events for handlers, and the cache that answers from them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import zmq

from rsreg import calls, config, native, sockets, wire
from rsreg.calls import Record
from rsreg.channel import Channel, readable
from rsreg.config import ClientSettings
from rsreg.errors import Disconnected, RegistryError, Stale
from rsreg.follower import Follower
from rsreg.mirror import Mirror
from rsreg.records import ServiceList, ServiceRecord

log = logging.getLogger(__name__)

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


class EventListener:
    """Follows the events of one registry and calls handlers, on a thread of its own.

    With a green context it is a greenlet of the hub that starts it, else a real OS thread, also in
    a monkey-patched process. What a handler raises is logged, and no other handler's business.
    Where the events are published is asked of the registry, if the settings don't say it.
    """

    def __init__(
        self,
        handlers: Handlers,
        follower: Follower,
        settings: ClientSettings,
        context: zmq.Context[Any] | None,
    ) -> None:
        self._handlers = handlers
        self._follower = follower
        self._settings = settings
        self._context = context
        self._stop = native.Stop()
        self._channel = Channel(settings.req_endpoint, context, self._stop)
        self._socket: Any = None
        self._runs_on: int | None = None
        self._thread: Any = None

    def start(self) -> None:
        """Listen from now on; no event after the return of this call is missed."""
        try:
            endpoint = self._sub_endpoint()
            self._socket = sockets.subscriber(self._context or sockets.own_context(), endpoint)
            self._ask()
        except RegistryError:
            self._close()
            raise
        self._thread = spawn(self._context, lambda: self.run(self._stop))

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
        silence = self._follower.silence
        if silence and readable(self._socket, silence, self._stop):
            event = wire.read_event(self._socket.recv_multipart(zmq.DONTWAIT))
            self._hand_on(self._follower.published(event) if event else [])
            return
        try:
            self._ask()
        except RegistryError as error:
            if not self._stop.is_set():
                self._follower.unanswered(error)

    def _ask(self) -> None:
        reply = self._channel.run(self._follower.question(), self._settings.timeout)
        self._hand_on(self._follower.answered(reply))

    def _hand_on(self, events: list[Record]) -> None:
        for event in events:
            for handler, said in self._handlers.wanted(event):
                try:
                    handler(said)
                except Exception:
                    log.exception("a handler of %r events failed", event["type"])

    def _sub_endpoint(self) -> str:
        settings = self._settings
        if settings.sub_endpoint is not None:
            return settings.sub_endpoint
        about = self._channel.run(calls.info(services=False), settings.timeout)
        return config.on_port(settings.req_endpoint, about["pub_port"])

    def _close(self) -> None:
        self._channel.close()
        if self._socket is not None:
            self._socket.close()


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
        mirror = Mirror(time.monotonic)
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
        """What happened before this moment of `time.monotonic` is known; -inf: nothing is."""
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

    def list_services(self, service_type: str | None = None) -> ServiceList:
        """The records of all services, or of those found under a type, passing or not."""
        return self._fresh().list_services(service_type or None)

    def discover_service(self, service_type: str) -> ServiceRecord | None:
        """The record of one passing service of a type, a random one, or None."""
        return self._fresh().discover(service_type)

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
    """Run `target` beside the caller: in a greenlet for a green context, else on an OS thread."""
    if is_green(context):
        import gevent

        return gevent.spawn(target)
    return native.Thread(target)


def is_green(context: object) -> bool:
    """Whether a context is one of `zmq.green`, told without importing it."""
    return any(cls.__module__.startswith("zmq.green") for cls in type(context).__mro__)
