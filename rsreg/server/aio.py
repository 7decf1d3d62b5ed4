"""AsyncRegistryServer: the gevent server on a thread of its own, for asyncio programs.

Not for a process that gevent has monkey-patched: asyncio and the hub would share a thread there.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gevent

from rsreg import config
from rsreg.awaitable import Done
from rsreg.errors import StoreError
from rsreg.server.backends.base import RegistryBackend, Stored
from rsreg.server.backends.memory import InMemoryBackend
from rsreg.server.backends.sqlite import SQLiteBackend
from rsreg.server.backends.stored import Event, Maintenance, Service
from rsreg.server.server import RegistryServer, check_backend

#: Seconds between two looks whether the loop that is waited for still runs.
_LOOK = 1.0


class AsyncSQLiteBackend(SQLiteBackend):
    """SQLiteBackend whose `initialize()` and `close()` may be awaited, as in the specification."""

    def initialize(self) -> Done:
        """Open the file now; await the result or not."""
        super().initialize()
        return Done()

    def close(self) -> Done:
        """Close the file now; await the result or not."""
        super().close()
        return Done()


class AsyncInMemoryBackend(InMemoryBackend):
    """InMemoryBackend whose `initialize()` and `close()` may be awaited."""

    def initialize(self) -> Done:
        """Make the tables now; await the result or not."""
        super().initialize()
        return Done()

    def close(self) -> Done:
        """Forget all that is in it now; await the result or not."""
        super().close()
        return Done()


@runtime_checkable
class AsyncRegistryBackend(Protocol):
    """RegistryBackend with methods that are coroutines; what they promise stands there.

    For AsyncRegistryServer, which has them run in the loop of its `start()`, one at a time. The
    whole registry waits for each of them.
    """

    def initialize(self) -> Awaitable[object]:
        """See RegistryBackend."""

    def load(self) -> Awaitable[Stored]:
        """See RegistryBackend."""

    def commit(
        self,
        changes: Mapping[str, Service | None],
        events: Sequence[Event],
        maintenance: Sequence[Maintenance] | None = None,
    ) -> Awaitable[None]:
        """See RegistryBackend."""

    def events(self, since: int, limit: int) -> Awaitable[list[Event]]:
        """See RegistryBackend."""

    def touch(self, heartbeats: Mapping[str, int]) -> Awaitable[None]:
        """See RegistryBackend."""

    def close(self) -> Awaitable[object]:
        """See RegistryBackend."""

    def describe(self) -> str:
        """See RegistryBackend; this one is no coroutine."""


class AsyncRegistryServer:
    """RegistryServer for asyncio programs; it runs in a thread of its own.

    The attribute `enforce_unique_service_types` may be set while it serves.

    Args:
        req_port: The port of requests, as of RegistryServer; so are the next ones.
        pub_port: The port of events.
        hb_port: The port for heartbeats of CGSE's clients.
        backend: A RegistryBackend or an AsyncRegistryBackend.
        cleanup_interval: Seconds between two looks for services whose ttl is over.
        enforce_unique_service_types: CGSE's name of `unique_service_types`.
        options: Further arguments of RegistryServer.

    Raises:
        ConfigurationError: An argument is wrong, or this system can run no server.
    """

    def __init__(
        self,
        req_port: int = config.DEFAULT_RS_REQ_PORT,
        pub_port: int = config.DEFAULT_RS_PUB_PORT,
        hb_port: int | None = None,
        backend: RegistryBackend | AsyncRegistryBackend | None = None,
        cleanup_interval: float = config.DEFAULT_CLEANUP_INTERVAL,
        *,
        enforce_unique_service_types: bool | None = None,
        **options: Any,
    ) -> None:
        if enforce_unique_service_types is not None:
            options["unique_service_types"] = enforce_unique_service_types
        self._backend: Any = None
        if backend is not None:
            check_backend(backend, coroutines=True)
            self._backend = _Waiting(backend)
        #: The server itself: its `started` and its real ports can be read at any time.
        self.server = RegistryServer(
            req_port, pub_port, hb_port, self._backend, cleanup_interval, **options
        )

    @property
    def req_port(self) -> int:
        """The port of requests; the real one once it is started."""
        return self.server.req_port

    @property
    def pub_port(self) -> int:
        """The port of events."""
        return self.server.pub_port

    @property
    def enforce_unique_service_types(self) -> bool:
        """Whether a second service of a type is refused."""
        return self.server.registry.unique_service_types

    @enforce_unique_service_types.setter
    def enforce_unique_service_types(self, enforce: bool) -> None:
        self.server.registry.unique_service_types = enforce

    async def start(self) -> None:
        """Serve until `stop` is called, or the task is cancelled.

        Raises what `RegistryServer.serve_forever` raises.
        """
        if self._backend is not None:
            self._backend.loop = asyncio.get_running_loop()
        serving = asyncio.ensure_future(asyncio.to_thread(self._serve))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self.stop()
            await serving
            raise

    def stop(self) -> None:
        """Ask the server to stop soon; may be called from any thread."""
        self.server.request_stop()

    def _serve(self) -> None:
        try:
            self.server.serve_forever()
        finally:
            gevent.get_hub().destroy(destroy_loop=True)


class _Waiting:
    """A backend as the server's thread has it: it waits there for what is a coroutine.

    That keeps all greenlets of the server waiting too: none of them may see half a commit. It has
    what the backend has, so that it can be seen what else that is able to do.
    """

    def __init__(self, backend: object) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._backend = backend
        for name, value in inspect.getmembers(backend):
            if not name.startswith("_"):
                setattr(self, name, self._waiting(value) if inspect.isroutine(value) else value)

    def __getattr__(self, name: str) -> Any:
        # What a backend that passes calls on to another has, is not seen before it is asked for.
        return self._waiting(getattr(self._backend, name))

    def _waiting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            result = method(*args, **named)
            awaited = inspect.isawaitable(result) and not isinstance(result, Done)
            return self._wait(result) if awaited else result

        return call

    def _wait(self, awaitable: Awaitable[Any]) -> Any:
        assert self.loop is not None
        result = asyncio.run_coroutine_threadsafe(_result(awaitable), self.loop)
        while not concurrent.futures.wait([result], _LOOK).done:
            if not self.loop.is_running():
                raise StoreError("the event loop that the backend needs has ended")
        try:
            return result.result()
        except concurrent.futures.CancelledError as error:
            raise StoreError("the call of the backend was cancelled") from error


async def _result(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
