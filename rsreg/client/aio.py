"""The asyncio client: the same calls, the same exchange, driven by asyncio.

Not for a process that gevent has monkey-patched; `RegistryClient` with a green context is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import zmq
import zmq.asyncio

from rsreg import config, timing
from rsreg.client.cache.client_cache import ClientCache, discovered
from rsreg.client.cache.service_cache import ServiceCache
from rsreg.client.registration import owner, registration
from rsreg.client.registration.async_registered import AsyncRegistered, Done
from rsreg.client.registration.local_service import Busy
from rsreg.client.registration.own_services import Heartbeats
from rsreg.client.registration.registered import Registered, plan
from rsreg.client.registration.registration import (
    Details,
    Registration,
    UpdateFields,
    fields_of_update,
)
from rsreg.client.waiting import Waiting
from rsreg.errors import RegistryError
from rsreg.protocol import calls, records
from rsreg.protocol.calls import Call, Record
from rsreg.protocol.query import (
    Choice,
    Listed,
    check_type,
    check_watch,
    checked_maintenance,
    checked_wait,
    chosen,
    listed,
    narrowed,
    pooled,
)
from rsreg.protocol.records import ServiceList, ServiceRecord
from rsreg.system.threads import Stop
from rsreg.transport import connect, sockets
from rsreg.transport.async_channel import AsyncChannel
from rsreg.transport.async_event_stream import AsyncEventStream
from rsreg.transport.async_listener import AsyncListener
from rsreg.transport.exchange import carried_async
from rsreg.transport.listener import Handler, Handlers
from rsreg.transport.subscription import Follower, Listening

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class AsyncRegistryClient:
    """RegistryClient for asyncio: the same arguments, names, answers and errors, as coroutines.

    Event handlers may be functions or coroutines. `connect()` may be called or awaited. Tasks may
    share a client; their calls are carried one after the other.

    A client may be used in one event loop after the other: with its first call there it goes over,
    and its event handlers with it. While the loop before still runs, that is a RuntimeError.
    """

    def __init__(
        self,
        registry_req_endpoint: str | None = None,
        registry_sub_endpoint: str | None = None,
        registry_hb_endpoint: str | None = None,
        timeout: float = config.DEFAULT_TIMEOUT,
        client_id: str = "registry-client",
        *,
        cache: bool = False,
        mode: str | None = None,
        context: zmq.asyncio.Context | None = None,
    ) -> None:
        self.settings = config.ClientSettings(
            registry_req_endpoint,
            registry_sub_endpoint,
            registry_hb_endpoint,
            timeout,
            client_id,
            mode,
        )
        self._context = context or zmq.asyncio.Context(sockets.own_context())
        self._channel = AsyncChannel(self.settings.req_endpoint, self._context)
        self._handlers = Handlers()
        self._heartbeats = Heartbeats(self.settings)
        self._listener = AsyncListener(self._handlers, self._stream)
        self._over = Stop()
        # On a thread of its own, like the heartbeat: it is up to date after the loop was blocked.
        self._cache = ClientCache(self.settings, None) if cache else None

    def __repr__(self) -> str:
        return f"<AsyncRegistryClient {self.settings.client_id} on {self.settings.req_endpoint}>"

    async def __aenter__(self) -> AsyncRegistryClient:
        self.connect()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    # -- connecting

    def connect(self) -> Awaitable[None]:
        """See RegistryClient; await it or not."""
        if self._over.is_set():
            self._over = Stop()
        self._channel.open()
        if self._cache is not None:
            self._cache.open()
        return Done()

    async def disconnect(self) -> None:
        """See RegistryClient."""
        await self.stop_heartbeat()
        await self.stop_event_listener()
        self._over.set()
        if self._cache is not None:
            await asyncio.to_thread(self._cache.close)
        self._channel.close()

    close = disconnect

    # -- registering

    async def register(
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
        **details: Unpack[Details],
    ) -> str:
        """See RegistryClient."""
        wanted = Registration.of(
            name,
            host,
            port,
            service_type,
            metadata,
            ttl,
            singleton=singleton,
            allow_duplicate_service_type=allow_duplicate_service_type,
            service_id=service_id,
            default_mode=self.settings.mode,
            **details,
        )
        return await self._register(wanted, judges=service_id is None)

    async def reregister(self) -> str | None:
        """See RegistryClient."""
        last = self._heartbeats.last
        return await self._register(last.registration) if last else None

    async def deregister(self, service_id: str | None = None, *, force: bool = False) -> bool:
        """See RegistryClient."""
        target = self._own_id(service_id)
        if target is None:
            return False
        await asyncio.to_thread(self._heartbeats.left, target)
        return await self._change(calls.deregister(target, owner.this_process(), force=force))

    async def renew(self, service_id: str | None = None) -> bool:
        """See RegistryClient."""
        target = self._own_id(service_id)
        if target is None:
            return False
        return (await self._run(calls.renew(target, self._heartbeats.report(target)))) is not None

    async def start_heartbeat(self, interval: float | None = None, *, reclaim: bool = True) -> None:
        """See RegistryClient: here too on an OS thread, so a blocked loop does not stop it."""
        await asyncio.to_thread(self._heartbeats.start, interval, reclaim=reclaim)

    async def stop_heartbeat(self) -> None:
        """See RegistryClient."""
        await asyncio.to_thread(self._heartbeats.stop)

    def registered(
        self,
        name: str,
        host: str | None = None,
        port: int | None = None,
        service_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: float = config.DEFAULT_TTL,
        *,
        singleton: bool = False,
        allow_duplicate_service_type: bool = False,
        service_id: str | None = None,
        socket: zmq.Socket[Any] | None = None,
        advertise: str | None = None,
        required: bool = False,
        heartbeat: str = "thread",
        watchdog: float | None = None,
        reclaim: bool = True,
        **details: Unpack[Details],
    ) -> AsyncRegistered:
        """See RegistryClient; for `async with`, and for coroutine functions."""
        wanted = plan(
            self.settings,
            name,
            host,
            port,
            service_type,
            metadata,
            ttl,
            singleton=singleton,
            allow_duplicate_service_type=allow_duplicate_service_type,
            service_id=service_id,
            socket=socket,
            advertise=advertise,
            required=required,
            heartbeat=heartbeat,
            watchdog=watchdog,
            reclaim=reclaim,
            **details,
        )
        return AsyncRegistered(Registered(wanted, self.settings, self._here, self._changed))

    async def update(self, *, force: bool = False, **changes: Unpack[UpdateFields]) -> bool:
        """See RegistryClient."""
        presence, changed = self._heartbeats.of_last(), fields_of_update(**changes)
        # Before anything is told: it has to fit into a registration, too.
        presence.registration.changed(changed)
        service_id = presence.service_id
        told = None
        with presence.changing(changed):
            if service_id is not None:
                call = calls.update(service_id, changed, presence.registration.asker, force=force)
                told = await self._change(call)
            presence.change(changed, told)
        return told is not None

    async def ready(self) -> bool:
        """See RegistryClient."""
        return await self.update(ready=True)

    def status(
        self, text: str | None = None, *, progress: float | None = None, load: float | None = None
    ) -> Awaitable[None]:
        """See RegistryClient; await it or not."""
        self._heartbeats.of_last().status(text, progress=progress, load=load)
        return Done()

    def busy(self, text: str, max: float) -> Busy:
        """See RegistryClient; for `with` and `async with`."""
        return self._heartbeats.of_last().busy(text, max)

    def feed(self) -> Awaitable[None]:
        """See RegistryClient; await it or not."""
        self._heartbeats.of_last().feed()
        return Done()

    # -- asking

    async def get_service(self, service_id: str | None = None) -> ServiceRecord | None:
        """See RegistryClient."""
        target = self._own_id(service_id)
        if target is None:
            return None
        return self._known(ServiceCache.get_service, target) or await self._run(calls.get(target))

    async def list_services(
        self, service_type: str | None = None, **filters: Unpack[Listed]
    ) -> ServiceList:
        """See RegistryClient."""
        asked = listed(filters, self.settings.mode)
        known = self._known(ServiceCache.list_services, service_type, asked)
        if known is not None:
            return known
        return await self._run(calls.list_services(service_type, asked))

    async def discover_service(
        self, service_type: str, **choice: Unpack[Choice]
    ) -> ServiceRecord | None:
        """See RegistryClient."""
        asked, seconds = chosen(service_type, choice, self.settings.mode)
        known = self._known(discovered, service_type, asked)
        if known is not None:
            return known
        call = calls.discover(service_type, owner.asking(asked))
        if not seconds:
            return await self._run(call)
        return (await self._wait({service_type: call}, seconds))[service_type]

    async def get_endpoint(
        self, service_type: str, endpoint: str | None = None, **choice: Unpack[Choice]
    ) -> str | None:
        """See RegistryClient."""
        service = await self.discover_service(service_type, **choice)
        return None if service is None else records.endpoint_of(service, endpoint)

    async def connect_to(
        self,
        service_type: str,
        kind: int = zmq.REQ,
        endpoint: str | None = None,
        *,
        timeout: float = 5.0,
        **choice: Unpack[Choice],
    ) -> Any:
        """See RegistryClient; a socket of zmq.asyncio."""
        connect.check(kind, timeout)
        first = connect.found(await self.discover_service(service_type, **choice), service_type)
        asked = pooled(choice, self.settings.mode)

        async def others(seconds: float) -> list[ServiceRecord]:
            with contextlib.suppress(RegistryError):
                known = await self._run(calls.list_services(service_type, asked), seconds)
                return connect.others(first, known, asked.get("mode"))
            return []

        race = connect.racing(self._context, kind, first, endpoint, timeout)
        return await connect.connect_async(race, others)

    async def find_service(self, name: str) -> ServiceRecord | None:
        """See RegistryClient."""
        asked = narrowed({}, self.settings.mode)
        known = self._known(ServiceCache.list_services, None, asked)
        found = await self._run(calls.find(name, asked)) if known is None else known
        return records.pick_by_name(found, name)

    async def wait_for(
        self, *service_types: str, timeout: float = 60.0
    ) -> dict[str, ServiceRecord | None]:
        """See RegistryClient."""
        checked_wait(timeout, "timeout")
        for kind in service_types:
            check_type(kind)
        asked = narrowed({}, self.settings.mode)
        return await self._wait(
            {kind: calls.discover(kind, asked) for kind in service_types}, timeout
        )

    async def maintenance(
        self,
        on: bool,
        *,
        service: str | None = None,
        service_type: str | None = None,
        host: str | None = None,
        for_: float | None = None,
        forever: bool = False,
        reason: str | None = None,
        by: str | None = None,
        force: bool = False,
    ) -> list[Record]:
        """See RegistryClient."""
        asked = checked_maintenance(
            on,
            service=service,
            service_type=service_type,
            host=host,
            for_=for_,
            forever=forever,
            reason=reason,
            by=by,
            force=force,
        )
        return await self._change(calls.maintenance(owner.signed(asked)))

    async def health_check(self) -> bool:
        """See RegistryClient."""
        with contextlib.suppress(RegistryError, zmq.ZMQError, OSError, MemoryError):
            return await self._run(calls.health())
        return False

    async def server_status(self, *, services: bool = True) -> Record:
        """See RegistryClient."""
        return await self._run(calls.info(services=services))

    async def backup(self, path: str | os.PathLike[str], *, replace: bool = False) -> Record:
        """See RegistryClient."""
        return await self._run(calls.backup(os.path.abspath(path), replace=replace))

    async def terminate_registry_server(self) -> bool:
        """See RegistryClient."""
        return await self._run(calls.terminate())

    # -- events

    def on_event(self, event_type: str, handler: Handler) -> None:
        """See RegistryClient; `handler` may be a coroutine function too."""
        self._handlers.add(event_type, handler)

    def on_any_event(self, handler: Handler) -> None:
        """See RegistryClient; `handler` may be a coroutine function too."""
        self._handlers.add_any(handler)

    async def on(self, event_type: str, handler: Handler) -> Handler:
        """See RegistryClient; no decorator here, since it has to be awaited."""
        if not self._listener.go_on():
            await self.start_event_listener()
        self._handlers.add(event_type, handler)
        return handler

    async def start_event_listener(self) -> None:
        """See RegistryClient; handlers run in a task of this loop."""
        await self._listener.start()

    async def stop_event_listener(self) -> None:
        """See RegistryClient."""
        await self._listener.stop()

    async def events_since(
        self, seq: int | None = None, epoch: str | None = None, mark: str | None = None
    ) -> Record:
        """See RegistryClient."""
        return await self._run(calls.events(seq, epoch, mark))

    def watch(
        self,
        type: str | None = None,
        *,
        since: int | None = None,
        epoch: str | None = None,
        mark: str | None = None,
    ) -> AsyncGenerator[Record, None]:
        """See RegistryClient; it begins at the first step."""
        check_watch(type, since, epoch, mark)
        return self._stream(Follower(timing.steady, since, epoch, mark)).events(type)

    def _stream(self, listening: Listening) -> AsyncEventStream:
        return AsyncEventStream(listening, self.settings, self._context, self._over)

    # -- carrying calls

    async def _wait(
        self, wanted: Mapping[str, Call[ServiceRecord | None]], seconds: float
    ) -> dict[str, ServiceRecord | None]:
        waiting = Waiting(wanted, seconds, timing.steady)
        try:
            for _ in wanted:
                waiting.answered(await self._run(waiting.question(), waiting.patience))
        except RegistryError as error:
            waiting.unanswered(error)
        with contextlib.closing(self._stream(waiting)) as stream:
            while waiting.left:
                await stream.next(waiting.left)
        return waiting.result()

    async def _run(self, call: Call[T], timeout: float | None = None) -> T:
        self._listener.go_on()
        limit = self.settings.timeout
        return await self._channel.run(call, limit if timeout is None else min(timeout, limit))

    def _known(
        self, read: Callable[..., T], target: object, asked: Mapping[str, Any] = calls.NOTHING_MORE
    ) -> T | None:
        return None if self._cache is None else self._cache.answer(read, target, asked)

    def _here(self) -> tuple[Heartbeats, None]:
        return self._heartbeats, None

    async def _change(self, call: Call[T], timeout: float | None = None) -> T:
        try:
            return await self._run(call, timeout)
        finally:
            # After a timeout too: the change may have happened.
            self._changed()

    def _changed(self) -> None:
        if self._cache is not None:
            self._cache.changed()

    async def _register(self, wanted: Registration, *, judges: bool = False) -> str:
        until = timing.steady() + self.settings.timeout
        report = self._heartbeats.report(wanted.service_id)
        with self._heartbeats.registering(wanted):
            entry = await carried_async(
                registration.registering(wanted, report, judges=judges),
                lambda call: self._change(call, max(0.0, until - timing.steady())),
            )
            self._heartbeats.registered(wanted, entry)
        return entry.service_id

    def _own_id(self, service_id: str | None) -> str | None:
        last = self._heartbeats.last
        return service_id if service_id is not None or last is None else last.service_id
