"""The synchronous client: for drivers, scripts and the Python shell.

Imports neither gevent nor a database. `AsyncRegistryClient` is offered here too, as in the
specification.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import zmq

from rsreg import calls, config, native, records
from rsreg.calls import Record, Registration
from rsreg.channel import Channel
from rsreg.clientcache import ClientCache
from rsreg.errors import Disconnected, RegistryError, RequestTimeout
from rsreg.exchange import Call
from rsreg.follower import Follower
from rsreg.heartbeat import Heartbeats
from rsreg.records import ServiceList, ServiceRecord
from rsreg.waiting import Waiting
from rsreg.watch import EventListener, Handler, Handlers, ServiceCache

if TYPE_CHECKING:
    from rsreg.aio import AsyncRegistryClient

__all__ = ["AsyncRegistryClient", "RegistryClient"]

A = TypeVar("A")
T = TypeVar("T")

#: Seconds that `close` waits for a call under way in another thread.
_CLOSE = 0.5


class RegistryClient:
    """Talks to a registry; every call ends within `timeout` seconds, with an answer or an error.

    "Not found" is an answer (None, False, []); a registry that can't be reached raises
    RequestTimeout, one that refuses raises a ServerError (docs/api.md has the whole tree).

    Sockets are opened on first use. Threads may share a client; a second greenlet that enters it
    while a call is under way gets a RuntimeError. In a forked child it has fresh sockets, and
    neither heartbeat nor registration. A gevent program passes `context=zmq.green.Context()`.

    `registry_req_endpoint` is `tcp://host:port`, `host:port` or `host`; the default is
    `RSREG_ENDPOINT`, else this machine. The endpoints for events and heartbeats are asked of the
    server where they are needed and not given. `client_id` names this client in its `repr`.

    With `cache` it follows the registry from the first question on, and answers `get_service`,
    `list_services`, `discover_service`, and what is made of them, from a ServiceCache: only passing
    services, and only as long as that is sure. It asks for all else, and for five seconds or so
    after it changed something itself.
    """

    _pid: int
    _holder: int | None
    _registration: Registration | None
    _heartbeats: Heartbeats
    _listener: EventListener | None

    def __init__(
        self,
        registry_req_endpoint: str | None = None,
        registry_sub_endpoint: str | None = None,
        registry_hb_endpoint: str | None = None,
        timeout: float = config.DEFAULT_TIMEOUT,
        client_id: str = "registry-client",
        *,
        cache: bool = False,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        self._given_context = context
        self._wants_cache = cache
        self.settings = config.ClientSettings(
            registry_req_endpoint, registry_sub_endpoint, registry_hb_endpoint, timeout, client_id
        )
        self._handlers = Handlers()
        self._closed = False
        self._start_afresh()

    def __repr__(self) -> str:
        return f"<RegistryClient {self.settings.client_id} on {self.settings.req_endpoint}>"

    def __enter__(self) -> RegistryClient:
        self.connect()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- connecting

    def connect(self) -> None:
        """Open the socket for requests now. Needed only after `disconnect`: calls do it too."""
        self._closed = False
        with self._alone(self.settings.timeout):
            self._channel.open()
        if self._cache is not None:
            self._cache.open()

    def disconnect(self) -> None:
        """Stop the heartbeat and the events, and close the sockets.

        A registration stays until its ttl. Takes at most a second for each of them, also with the
        registry gone.
        """
        self.stop_heartbeat()
        self.stop_event_listener()
        self._closed = True
        if self._cache is not None:
            self._cache.close()
        # A call under way in another thread closes the socket itself when it is over.
        with contextlib.suppress(RequestTimeout), self._alone(_CLOSE):
            self._channel.close()

    close = disconnect

    # -- registering

    def register(
        self,
        name: str,
        host: str,
        port: int,
        service_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: float = config.DEFAULT_TTL,
        singleton: bool = False,
        allow_duplicate_service_type: bool = False,
        service_id: str | None = None,
        *,
        tags: list[str] | None = None,
    ) -> str:
        """Register a service; returns its id, which the client keeps for the calls without one.

        `ttl` is 1 to 86400 seconds of silence, after which the registration ends: `start_heartbeat`
        keeps it alive. A `service_id` that is registered already is updated in place. `singleton`
        refuses if the type is taken, `allow_duplicate_service_type` permits it on a server that
        otherwise refuses. Raises InvalidRequest, DuplicateServiceType, Unavailable.
        """
        wanted = calls.registration(
            name,
            host,
            port,
            service_type,
            metadata,
            ttl,
            singleton=singleton,
            allow_duplicate_service_type=allow_duplicate_service_type,
            service_id=service_id,
            tags=tags,
        )
        return self._register(wanted)

    def reregister(self) -> str | None:
        """Register the last registration again, in full and under its id; None if there is none."""
        return self._register(self._registration) if self._registration else None

    def deregister(self, service_id: str | None = None) -> bool:
        """End a registration, this client's own by default; False if there is none.

        Its heartbeat is stopped first, else it would bring the service back.
        """
        target = self._own_id(service_id)
        if target is None:
            return False
        self._heartbeats.stop(target)
        if self._registration is not None and self._registration.service_id == target:
            self._registration = None
        return self._change(calls.deregister(target))

    def renew(self, service_id: str | None = None) -> bool:
        """Send one heartbeat; False if the registry knows no such service."""
        target = self._own_id(service_id)
        return target is not None and self._run(calls.renew(target))

    def start_heartbeat(self, interval: float | None = None) -> None:
        """Keep the last registration alive from a real OS thread, every `interval` seconds.

        The default is a third of the ttl. Others that are kept alive stay so. Raises
        ConfigurationError without a registration.
        """
        self._current_process()
        self._heartbeats.start(self._registration, interval)

    def stop_heartbeat(self) -> None:
        """Stop all of them, if any run; the registrations end after their ttl."""
        if self._current_process():
            self._heartbeats.stop()

    # -- asking

    def get_service(self, service_id: str | None = None) -> ServiceRecord | None:
        """The record of one service, this client's own by default, or None."""
        target = self._own_id(service_id)
        if target is None:
            return None
        return self._known(ServiceCache.get_service, target) or self._run(calls.get(target))

    def list_services(self, service_type: str | None = None) -> ServiceList:
        """The records of all services, or of those found under a type, passing or not."""
        known = self._known(ServiceCache.list_services, service_type)
        return known or self._run(calls.list_services(service_type))

    def discover_service(self, service_type: str) -> ServiceRecord | None:
        """The record of one passing service of a type, or None.

        A service is found under its type, each of its tags, and `metadata["type"]`.
        """
        known = self._known(ServiceCache.discover_service, service_type)
        return known or self._run(calls.discover(service_type))

    def get_endpoint(self, service_type: str) -> str | None:
        """The ZeroMQ endpoint of one passing service of a type, or None."""
        service = self.discover_service(service_type)
        return None if service is None else records.endpoint_of(service)

    def find_service(self, name: str) -> ServiceRecord | None:
        """The record that an id, a name, or the start of either means, or None.

        Raises AmbiguousName where several fit.
        """
        return records.pick_by_name(self.list_services(), name)

    def wait_for(
        self, *service_types: str, timeout: float = 60.0
    ) -> dict[str, ServiceRecord | None]:
        """Wait until there is a passing service of each type, `timeout` seconds in all.

        Maps each type to one, or to None if the time ran out. A registry that can't be reached is
        waited for too; if it did not answer at the end, RequestTimeout.
        """
        waiting = Waiting(service_types, timeout, time.monotonic)
        while True:
            try:
                for kind in waiting.missing():
                    waiting.found[kind] = self._run(calls.discover(kind), waiting.patience())
                waiting.failure = None
            except RequestTimeout as failure:
                waiting.failure = failure
            pause = waiting.pause()
            if pause is None:
                return waiting.found
            time.sleep(pause)

    def health_check(self) -> bool:
        """Whether the registry answers and is well. Never raises for a registry that isn't."""
        try:
            return self._run(calls.health())
        except RegistryError:
            return False

    def server_status(self) -> Record:
        """What the server says about itself (docs/protocol.md, "info")."""
        return self._run(calls.info())

    def terminate_registry_server(self) -> bool:
        """Stop the server; True once it said it will. Raises Forbidden from another machine."""
        return self._run(calls.terminate())

    # -- events

    def on_event(self, event_type: str, handler: Handler) -> None:
        """Call `handler` with the `data` of each event of a type: register, deregister, expire.

        `data` is `{"service_id": …, "service_info": {…}}`. Handlers run one after the other on the
        listener's thread and may call this client. Needs `start_event_listener`.
        """
        self._handlers.add(event_type, handler)

    def on_any_event(self, handler: Handler) -> None:
        """Call `handler` with each whole event: `type`, `timestamp`, `data`, `seq`, `epoch`."""
        self._handlers.add_any(handler)

    def start_event_listener(self) -> None:
        """Listen to events from now on; raises RequestTimeout if the registry can't be reached."""
        self.stop_event_listener()
        self._listener = EventListener(
            self._handlers, Follower(), self.settings, self._given_context
        )
        self._listener.start()

    def stop_event_listener(self) -> None:
        """Stop listening, if it runs."""
        if self._current_process() and self._listener is not None:
            self._listener.stop()
            self._listener = None

    def events_since(self, seq: int | None = None, epoch: str | None = None) -> Record:
        """The journal after `seq` (docs/protocol.md, "events"), at most 1000 events of it.

        `{"events": […], "seq": …, "epoch": …, "reset": …}`: `reset` says that it does not reach
        back to `seq`, or is not that of `epoch`. Without `seq` it just says where it stands.
        """
        return self._run(calls.events(seq, epoch))

    # -- carrying calls

    def _run(self, call: Call[T], timeout: float | None = None) -> T:
        limit = self.settings.timeout if timeout is None else min(timeout, self.settings.timeout)
        start = time.monotonic()
        with self._alone(limit):
            if self._closed:
                raise Disconnected("this client is closed", hint="call connect() to use it again")
            try:
                return self._channel.run(call, max(0.0, limit - (time.monotonic() - start)))
            finally:
                if self._closed:
                    self._channel.close()

    def _known(self, read: Callable[[ServiceCache, A], T], asked: A) -> T | None:
        """What the cache says, if there is one and it is sure."""
        self._current_process()
        return None if self._cache is None else self._cache.answer(read, asked)

    def _change(self, call: Call[T]) -> T:
        try:
            return self._run(call)
        finally:
            # After a timeout too: the change may have happened.
            if self._cache is not None:
                self._cache.changed()

    def _register(self, wanted: Registration) -> str:
        service_id = self._change(calls.register(wanted))
        self._registration = wanted.with_id(service_id)
        self._heartbeats.follow(self._registration)
        return service_id

    def _own_id(self, service_id: str | None) -> str | None:
        if service_id is not None or not self._current_process() or self._registration is None:
            return service_id
        return self._registration.service_id

    @contextlib.contextmanager
    def _alone(self, timeout: float) -> Iterator[None]:
        """Hold the client, by a lock of real threads; raises RuntimeError for a second greenlet."""
        self._current_process()
        me = native.thread_id()
        if self._holder == me:
            raise RuntimeError(
                "this RegistryClient is in the middle of a call on the same thread: "
                "give each greenlet a client of its own"
            )
        if not self._lock.acquire(True, timeout):
            raise RequestTimeout(f"other threads kept this client busy for {timeout:g} s")
        self._holder = me
        try:
            yield
        finally:
            self._holder = None
            self._lock.release()

    def _current_process(self) -> bool:
        """True; in a forked child first everything of the parent's is forgotten, nothing closed."""
        if self._pid != os.getpid():
            self._given_context = None
            self._start_afresh()
        return True

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = native.new_lock()
        self._holder = None
        self._channel = Channel(self.settings.req_endpoint, self._given_context)
        self._registration = None
        self._heartbeats = Heartbeats(self.settings)
        self._listener = None
        self._cache = ClientCache(self.settings, self._given_context) if self._wants_cache else None


def __getattr__(name: str) -> Any:
    if name == "AsyncRegistryClient":
        from rsreg.aio import AsyncRegistryClient

        return AsyncRegistryClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
