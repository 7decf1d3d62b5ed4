"""The server; gevent and peewee are imported here alone."""

from typing import TYPE_CHECKING

from rsreg.lazy import offer

if TYPE_CHECKING:
    from rsreg.server.aio import (
        AsyncInMemoryBackend,
        AsyncRegistryBackend,
        AsyncRegistryServer,
        AsyncSQLiteBackend,
    )
    from rsreg.server.backends.base import RegistryBackend
    from rsreg.server.server import RegistryServer

__all__ = [
    "AsyncInMemoryBackend",
    "AsyncRegistryBackend",
    "AsyncRegistryServer",
    "AsyncSQLiteBackend",
    "RegistryBackend",
    "RegistryServer",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "AsyncInMemoryBackend": "rsreg.server.aio",
        "AsyncRegistryBackend": "rsreg.server.aio",
        "AsyncRegistryServer": "rsreg.server.aio",
        "AsyncSQLiteBackend": "rsreg.server.aio",
        "RegistryBackend": "rsreg.server.backends.base",
        "RegistryServer": "rsreg.server.server",
    },
)
