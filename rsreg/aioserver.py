"""The async face of the server: the gevent server on a thread of its own, awaited from asyncio.

Not for a process that gevent has monkey-patched: asyncio and the hub would share a thread there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import gevent

from rsreg import config
from rsreg.backend import InMemoryBackend, RegistryBackend, SQLiteBackend
from rsreg.server import RegistryServer


class _Done:
    """Something that is over, and may be awaited."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


class AsyncSQLiteBackend(SQLiteBackend):
    """SQLiteBackend whose `initialize()` may be awaited, as in the specification."""

    def initialize(self) -> _Done:
        """Open the file now; await the result or not."""
        super().initialize()
        return _Done()


class AsyncInMemoryBackend(InMemoryBackend):
    """InMemoryBackend whose `initialize()` may be awaited."""

    def initialize(self) -> _Done:
        """Make the tables now; await the result or not."""
        super().initialize()
        return _Done()


class AsyncRegistryServer:
    """RegistryServer for asyncio programs; the arguments and `options` are its."""

    def __init__(
        self,
        req_port: int = config.DEFAULT_RS_REQ_PORT,
        pub_port: int = config.DEFAULT_RS_PUB_PORT,
        hb_port: int | None = None,
        backend: RegistryBackend | None = None,
        cleanup_interval: float = config.DEFAULT_CLEANUP_INTERVAL,
        **options: Any,
    ) -> None:
        #: The server itself: its `started` and its real ports can be read at any time.
        self.server = RegistryServer(
            req_port, pub_port, hb_port, backend, cleanup_interval, **options
        )

    async def start(self) -> None:
        """Serve until `stop`, or until the task is cancelled; raises what RegistryServer raises."""
        serving = asyncio.ensure_future(asyncio.to_thread(self._serve))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self.stop()
            await serving
            raise

    def stop(self) -> None:
        """Have it stop soon; from any thread."""
        self.server.request_stop()

    def _serve(self) -> None:
        try:
            self.server.serve_forever()
        finally:
            gevent.get_hub().destroy(destroy_loop=True)
