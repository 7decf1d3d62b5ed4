"""The asyncio client: the same verbs as those of the blocking one, driven by asyncio.

Not for a process that gevent has monkey-patched; `RegistryClient` with a green context is.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import zmq
import zmq.asyncio

from rsreg import config, timing
from rsreg.awaitable import Done
from rsreg.client import verbs
from rsreg.client.event_handlers import EventHandlers
from rsreg.client.registration.async_registered import AsyncRegistered
from rsreg.client.registration.local_service import LocalService
from rsreg.client.registration.own_services import OwnServices
from rsreg.client.registration.registered import Plan, Registered, make_plan
from rsreg.client.registration.reports import AsyncReports
from rsreg.client.session import Session
from rsreg.client.sync import RegistryClient
from rsreg.client.verbs import Instruction, RunBlocking, Verb
from rsreg.protocol.calls import Call, Record
from rsreg.protocol.query import check_watch
from rsreg.system.threads import Stop
from rsreg.transport import sockets
from rsreg.transport.async_channel import AsyncChannel
from rsreg.transport.async_event_stream import AsyncEventStream
from rsreg.transport.async_listener import AsyncListener
from rsreg.transport.driver import Ask, Receive, drive_async
from rsreg.transport.listener import Handler
from rsreg.transport.subscription import EventConsumer, Subscription

P = ParamSpec("P")
T = TypeVar("T")


def coroutine(
    method: Callable[Concatenate[RegistryClient, P], T],
    verb: Callable[..., Verb[T]],
) -> Callable[Concatenate[AsyncRegistryClient, P], Coroutine[Any, Any, T]]:
    """Make the coroutine method that runs `verb`, with the signature and the help of `method`.

    Type checkers take the parameters from `method` alone: mypy can't unite a list of keywords with
    the same ones in a TypedDict.
    """

    @functools.wraps(method)
    async def run(self: AsyncRegistryClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await drive_async(verb(self._session, *args, **kwargs), self._do)

    return run


def for_async_with(
    method: Callable[Concatenate[RegistryClient, P], Registered],
    make_plan: Callable[Concatenate[config.ClientSettings, P], Plan],
) -> Callable[Concatenate[AsyncRegistryClient, P], AsyncRegistered]:
    """Make the method whose result is for `async with`, with the help of `method`."""

    @functools.wraps(method)
    def make(self: AsyncRegistryClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncRegistered:
        plan = make_plan(self.settings, *args, **kwargs)
        return AsyncRegistered(Registered(plan, self._session.own, self._session.on_change))

    signature = inspect.signature(method).replace(return_annotation=AsyncRegistered.__name__)
    make.__dict__["__signature__"] = signature
    return make


class AsyncRegistryClient(AsyncReports, EventHandlers):
    """RegistryClient for asyncio: the same arguments, names, answers and errors, as coroutines.

    Tasks may share a client: their calls are carried one after the other. A client may be used in
    one event loop after the other: it goes over with its first call there, and its event handlers
    with it. While the loop before still runs, that call raises a RuntimeError.

    Args:
        registry_req_endpoint: The registry: `tcp://host:port`, `host:port` or `host`. The default
            is `RSREG_ENDPOINT`, else this machine.
        registry_sub_endpoint: Where it publishes events; by default it is asked for that.
        registry_hb_endpoint: Where it takes heartbeats; by default where it takes requests.
        timeout: The seconds that each call may take in all.
        client_id: A name for this client, shown in its `repr`.
        cache: Answer from a ServiceCache where that is certain, as in RegistryClient.
        mode: "hardware", "simulator" or "any", as in RegistryClient.
        context: The ZeroMQ context to use; by default one of rsreg's own.

    Raises:
        ConfigurationError: An argument, or a variable of the environment, is not valid.
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
        super().__init__()
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
        self._listener = AsyncListener(self._handlers, self._stream)
        self._closed = Stop()
        # Heartbeats and the cache are on threads of their own: a blocked loop does not stop them.
        own = OwnServices(self.settings)
        self._session = Session(self.settings, own, self._context, cache=cache)

    def __repr__(self) -> str:
        return f"<AsyncRegistryClient {self.settings.client_id} on {self.settings.req_endpoint}>"

    async def __aenter__(self) -> AsyncRegistryClient:
        self.connect()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    # -- connecting

    def connect(self) -> Awaitable[None]:
        """Take calls again after `disconnect`; await it or not.

        Sockets are opened with the first call.
        """
        if self._closed.is_set():
            self._closed = Stop()
        self._channel.open()
        if self._session.cache is not None:
            self._session.cache.open()
        return Done()

    async def disconnect(self) -> None:
        """Stop heartbeats and events, and close the sockets; `close` is the same.

        Registrations stay until their ttl. Takes at most a second for each of them, also while the
        registry can't be reached.
        """
        await self.stop_heartbeat()
        await self.stop_event_listener()
        self._closed.set()
        if self._session.cache is not None:
            await asyncio.to_thread(self._session.cache.close)
        self._channel.close()

    close = disconnect

    # -- registering

    register = coroutine(RegistryClient.register, verbs.register)
    reregister = coroutine(RegistryClient.reregister, verbs.reregister)
    deregister = coroutine(RegistryClient.deregister, verbs.deregister)
    renew = coroutine(RegistryClient.renew, verbs.renew)
    start_heartbeat = coroutine(RegistryClient.start_heartbeat, verbs.start_heartbeat)
    stop_heartbeat = coroutine(RegistryClient.stop_heartbeat, verbs.stop_heartbeat)
    registered = for_async_with(RegistryClient.registered, make_plan)
    update = coroutine(RegistryClient.update, verbs.update)
    ready = coroutine(RegistryClient.ready, verbs.ready)

    # -- asking

    get_service = coroutine(RegistryClient.get_service, verbs.get_service)
    list_services = coroutine(RegistryClient.list_services, verbs.list_services)
    discover_service = coroutine(RegistryClient.discover_service, verbs.discover_service)
    get_endpoint = coroutine(RegistryClient.get_endpoint, verbs.get_endpoint)
    connect_to = coroutine(RegistryClient.connect_to, verbs.connect_to)
    find_service = coroutine(RegistryClient.find_service, verbs.find_service)
    wait_for = coroutine(RegistryClient.wait_for, verbs.wait_for)
    maintenance = coroutine(RegistryClient.maintenance, verbs.maintenance)
    health_check = coroutine(RegistryClient.health_check, verbs.health_check)
    server_status = coroutine(RegistryClient.server_status, verbs.server_status)
    backup = coroutine(RegistryClient.backup, verbs.backup)
    terminate_registry_server = coroutine(
        RegistryClient.terminate_registry_server, verbs.terminate_registry_server
    )
    events_since = coroutine(RegistryClient.events_since, verbs.events_since)

    # -- events

    async def on(self, event_type: str, handler: Handler) -> Handler:
        """Call `handler` for events of a type, and listen from now on.

        Args:
            event_type: As in `on_event`; "*" is any event, and gives the whole of it.
            handler: As in `on_event`; it is needed here: no decorator can be awaited.

        Returns:
            The handler.

        Raises:
            RequestTimeout: The listener has to be started, and the registry can't be reached.
        """
        if not self._listener.go_on():
            await self.start_event_listener()
        self._handlers.add(event_type, handler)
        return handler

    async def start_event_listener(self) -> None:
        """Listen to events from now on, in a task of this event loop.

        Raises:
            RequestTimeout: The registry can't be reached.
        """
        await self._listener.start()

    async def stop_event_listener(self) -> None:
        """Stop listening to events, if it listens."""
        await self._listener.stop()

    def watch(
        self,
        type: str | None = None,
        *,
        since: int | None = None,
        epoch: str | None = None,
        mark: str | None = None,
    ) -> AsyncGenerator[Record, None]:
        """Generate whole events: in order, once each, without gaps. It begins at the first step.

        A registry that goes away is waited for. The generator ends when the client is closed. Where
        events are missed for good, it gives one of the type "reset".

        Args:
            type: Only events of services found under this type.
            since: The `seq` of the last event that you know; by default it begins now.
            epoch: The `epoch` of that event.
            mark: The `mark` of that event.

        Raises:
            ConfigurationError: An argument is not valid.
            RequestTimeout: The registry can't be reached at the beginning.
        """
        check_watch(type, since, epoch, mark)
        return self._stream(Subscription(timing.steady, since, epoch, mark)).events(type)

    # -- how it is done

    def _reporting(self) -> LocalService:
        return self._session.own.of_last()

    async def _do(self, instruction: Instruction) -> Any:
        if isinstance(instruction, Call):
            return await self._ask(instruction, self.settings.timeout)
        if isinstance(instruction, Ask):
            call, timeout, changes = instruction
            limit = self.settings.timeout
            try:
                return await self._ask(call, limit if timeout is None else min(timeout, limit))
            finally:
                # After a timeout too: the change may have happened.
                if changes:
                    self._session.on_change()
        if isinstance(instruction, RunBlocking):
            return await asyncio.to_thread(instruction.function)
        if isinstance(instruction, Receive):
            socket, seconds = instruction
            ready = await socket.poll(math.ceil(seconds * 1000))
            return await socket.recv_multipart(zmq.DONTWAIT) if ready else None
        waiting = instruction.waiting
        with contextlib.closing(self._stream(waiting)) as stream:
            while waiting.seconds_left:
                await stream.next(waiting.seconds_left)
        return None

    async def _ask(self, call: Call[T], timeout: float) -> T:
        self._listener.go_on()
        return await self._channel.run(call, timeout)

    def _stream(self, consumer: EventConsumer) -> AsyncEventStream:
        return AsyncEventStream(consumer, self.settings, self._context, self._closed)
