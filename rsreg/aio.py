"""The asyncio client: the same calls, the same exchange, driven by asyncio.

Not for a process that gevent has monkey-patched; `RegistryClient` with a green context is.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, TypeVar

import zmq
import zmq.asyncio

from rsreg import calls, config, records, sockets, wire
from rsreg.calls import Record, Registration
from rsreg.clientcache import ClientCache
from rsreg.errors import Disconnected, RegistryError, RequestTimeout
from rsreg.exchange import Call, exchange
from rsreg.follower import Follower
from rsreg.heartbeat import Heartbeats
from rsreg.records import ServiceList, ServiceRecord
from rsreg.waiting import Waiting
from rsreg.watch import Handler, Handlers, ServiceCache

log = logging.getLogger(__name__)

A = TypeVar("A")
T = TypeVar("T")


class AsyncChannel:
    """The asyncio driver of an exchange: one DEALER, one call at a time; opened when needed."""

    def __init__(self, endpoint: str, context: zmq.asyncio.Context) -> None:
        self.endpoint = endpoint
        self._context = context
        self._socket: Any = None
        self._turn = asyncio.Lock()
        self._closed = False

    def open(self) -> None:
        """Take calls again after a `close`."""
        self._closed = False

    def close(self) -> None:
        """Take no more calls; one that is under way comes to its end, and closes the socket."""
        self._closed = True
        if not self._turn.locked():
            self._drop_socket()

    async def run(self, call: Call[T], timeout: float) -> T:
        """The call's answer, or what `exchange` raises; Disconnected if the socket fails."""
        start = time.monotonic()
        try:
            # Without the wait where there is none: it costs as much as the call.
            if self._turn.locked():
                await asyncio.wait_for(self._turn.acquire(), timeout)
            else:
                await self._turn.acquire()
        except asyncio.TimeoutError:
            raise RequestTimeout(f"other tasks kept this client busy for {timeout:g} s") from None
        try:
            return await self._exchange(call, max(0.0, timeout - (time.monotonic() - start)))
        finally:
            if self._closed:
                self._drop_socket()
            self._turn.release()

    async def _exchange(self, call: Call[T], timeout: float) -> T:
        if self._closed:
            raise Disconnected("this client is closed", hint="call connect() to use it again")
        if self._socket is None:
            self._socket = sockets.dealer(self._context, self.endpoint)
        socket = self._socket
        flow = exchange(call, timeout=timeout, endpoint=self.endpoint, clock=time.monotonic)
        try:
            step = next(flow)
            while True:
                if step.frames:
                    await socket.send_multipart(step.frames, zmq.DONTWAIT)
                ready = await socket.poll(math.ceil(step.wait * 1000))
                step = flow.send(await socket.recv_multipart(zmq.DONTWAIT) if ready else None)
        except StopIteration as done:
            answer: T = done.value
            return answer
        except (RequestTimeout, asyncio.CancelledError):
            # What is still queued would be sent, stale, when the registry is back.
            self._drop_socket()
            raise
        except zmq.ZMQError as error:
            self._drop_socket()
            raise Disconnected(f"can't reach the registry on {self.endpoint}: {error}") from error

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class AsyncRegistryClient:
    """RegistryClient for asyncio: the same arguments, names, answers and errors, as coroutines.

    Event handlers may be functions or coroutines. `connect()` may be called or awaited. Tasks may
    share a client; their calls are carried one after the other.
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
        context: zmq.asyncio.Context | None = None,
    ) -> None:
        self.settings = config.ClientSettings(
            registry_req_endpoint, registry_sub_endpoint, registry_hb_endpoint, timeout, client_id
        )
        self._context = context or zmq.asyncio.Context(sockets.own_context())
        self._channel = AsyncChannel(self.settings.req_endpoint, self._context)
        self._handlers = Handlers()
        self._registration: Registration | None = None
        self._heartbeats = Heartbeats(self.settings)
        self._listener: asyncio.Task[None] | None = None
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
        self._channel.open()
        if self._cache is not None:
            self._cache.open()
        return _Connected()

    async def disconnect(self) -> None:
        """See RegistryClient."""
        await self.stop_heartbeat()
        await self.stop_event_listener()
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
        *,
        tags: list[str] | None = None,
    ) -> str:
        """See RegistryClient."""
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
        return await self._register(wanted)

    async def reregister(self) -> str | None:
        """See RegistryClient."""
        return await self._register(self._registration) if self._registration else None

    async def deregister(self, service_id: str | None = None) -> bool:
        """See RegistryClient."""
        target = self._own_id(service_id)
        if target is None:
            return False
        await asyncio.to_thread(self._heartbeats.stop, target)
        if self._registration is not None and self._registration.service_id == target:
            self._registration = None
        return await self._change(calls.deregister(target))

    async def renew(self, service_id: str | None = None) -> bool:
        """See RegistryClient."""
        target = self._own_id(service_id)
        return target is not None and await self._run(calls.renew(target))

    async def start_heartbeat(self, interval: float | None = None) -> None:
        """See RegistryClient: here too on an OS thread, so a blocked loop does not stop it."""
        await asyncio.to_thread(self._heartbeats.start, self._registration, interval)

    async def stop_heartbeat(self) -> None:
        """See RegistryClient."""
        await asyncio.to_thread(self._heartbeats.stop)

    # -- asking

    async def get_service(self, service_id: str | None = None) -> ServiceRecord | None:
        """See RegistryClient."""
        target = self._own_id(service_id)
        if target is None:
            return None
        return self._known(ServiceCache.get_service, target) or await self._run(calls.get(target))

    async def list_services(self, service_type: str | None = None) -> ServiceList:
        """See RegistryClient."""
        known = self._known(ServiceCache.list_services, service_type)
        return known if known is not None else await self._run(calls.list_services(service_type))

    async def discover_service(self, service_type: str) -> ServiceRecord | None:
        """See RegistryClient."""
        known = self._known(ServiceCache.discover_service, service_type)
        return known or await self._run(calls.discover(service_type))

    async def get_endpoint(self, service_type: str) -> str | None:
        """See RegistryClient."""
        service = await self.discover_service(service_type)
        return None if service is None else records.endpoint_of(service)

    async def find_service(self, name: str) -> ServiceRecord | None:
        """See RegistryClient."""
        return records.pick_by_name(await self.list_services(), name)

    async def wait_for(
        self, *service_types: str, timeout: float = 60.0
    ) -> dict[str, ServiceRecord | None]:
        """See RegistryClient."""
        waiting = Waiting(service_types, timeout, time.monotonic)
        while True:
            try:
                for kind in waiting.missing():
                    waiting.found[kind] = await self._run(calls.discover(kind), waiting.patience())
                waiting.failure = None
            except RequestTimeout as failure:
                waiting.failure = failure
            pause = waiting.pause()
            if pause is None:
                return waiting.found
            await asyncio.sleep(pause)

    async def health_check(self) -> bool:
        """See RegistryClient."""
        try:
            return await self._run(calls.health())
        except RegistryError:
            return False

    async def server_status(self) -> Record:
        """See RegistryClient."""
        return await self._run(calls.info())

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

    async def start_event_listener(self) -> None:
        """See RegistryClient; handlers run in a task of this loop."""
        await self.stop_event_listener()
        sub_endpoint = self.settings.sub_endpoint
        if sub_endpoint is None:
            about = await self._run(calls.info(services=False))
            sub_endpoint = config.on_port(self.settings.req_endpoint, about["pub_port"])
        socket = sockets.subscriber(self._context, sub_endpoint)
        channel = AsyncChannel(self.settings.req_endpoint, self._context)
        follower = Follower()
        try:
            await self._ask(follower, channel)
        except RegistryError:
            socket.close()
            channel.close()
            raise
        self._listener = asyncio.create_task(self._listen(socket, channel, follower))

    async def stop_event_listener(self) -> None:
        """See RegistryClient."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            if listener is not asyncio.current_task():
                await asyncio.wait([listener])

    async def events_since(self, seq: int | None = None, epoch: str | None = None) -> Record:
        """See RegistryClient."""
        return await self._run(calls.events(seq, epoch))

    async def _listen(self, socket: Any, channel: AsyncChannel, follower: Follower) -> None:
        try:
            while True:
                if follower.silence and await socket.poll(math.ceil(follower.silence * 1000)):
                    event = wire.read_event(await socket.recv_multipart(zmq.DONTWAIT))
                    await self._hand_on(follower.published(event) if event else [])
                    continue
                try:
                    await self._ask(follower, channel)
                except RegistryError as error:
                    follower.unanswered(error)
        finally:
            socket.close()
            channel.close()

    async def _ask(self, follower: Follower, channel: AsyncChannel) -> None:
        reply = await channel.run(follower.question(), self.settings.timeout)
        await self._hand_on(follower.answered(reply))

    async def _hand_on(self, events: list[Record]) -> None:
        for event in events:
            for handler, said in self._handlers.wanted(event):
                try:
                    result = handler(said)
                    if inspect.isawaitable(result):
                        await result
                except Exception:
                    log.exception("a handler of %r events failed", event["type"])

    # -- carrying calls

    async def _run(self, call: Call[T], timeout: float | None = None) -> T:
        limit = self.settings.timeout
        return await self._channel.run(call, limit if timeout is None else min(timeout, limit))

    def _known(self, read: Callable[[ServiceCache, A], T], asked: A) -> T | None:
        return None if self._cache is None else self._cache.answer(read, asked)

    async def _change(self, call: Call[T]) -> T:
        try:
            return await self._run(call)
        finally:
            # After a timeout too: the change may have happened.
            if self._cache is not None:
                self._cache.changed()

    async def _register(self, wanted: Registration) -> str:
        service_id = await self._change(calls.register(wanted))
        self._registration = wanted.with_id(service_id)
        self._heartbeats.follow(self._registration)
        return service_id

    def _own_id(self, service_id: str | None) -> str | None:
        if service_id is not None or self._registration is None:
            return service_id
        return self._registration.service_id


class _Connected:
    """The result of `connect()`: nothing to wait for, nothing lost if nobody does."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield
