"""rsreg: the service registry for test and measurement labs.

The names of the server are loaded when they are asked for, so that a driver that uses
`RegistryClient` imports neither gevent nor a database.
"""

from typing import TYPE_CHECKING

from rsreg.config import DEFAULT_RS_HB_PORT, DEFAULT_RS_PUB_PORT, DEFAULT_RS_REQ_PORT
from rsreg.lazy import offer

if TYPE_CHECKING:
    from rsreg.client.aio import AsyncRegistryClient
    from rsreg.client.cache.service_cache import ServiceCache
    from rsreg.client.interactive import InteractiveClient
    from rsreg.client.sync import RegistryClient
    from rsreg.server.backends.base import RegistryBackend
    from rsreg.server.backends.memory import InMemoryBackend
    from rsreg.server.backends.sqlite import SQLiteBackend
    from rsreg.server.server import RegistryServer

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_RS_HB_PORT",
    "DEFAULT_RS_PUB_PORT",
    "DEFAULT_RS_REQ_PORT",
    "AsyncRegistryClient",
    "InMemoryBackend",
    "InteractiveClient",
    "RegistryBackend",
    "RegistryClient",
    "RegistryServer",
    "SQLiteBackend",
    "ServiceCache",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "AsyncRegistryClient": "rsreg.client.aio",
        "InteractiveClient": "rsreg.client.interactive",
        "DEFAULT_RS_HB_PORT": "rsreg.config",
        "DEFAULT_RS_PUB_PORT": "rsreg.config",
        "DEFAULT_RS_REQ_PORT": "rsreg.config",
        "InMemoryBackend": "rsreg.server.backends.memory",
        "RegistryBackend": "rsreg.server.backends.base",
        "RegistryClient": "rsreg.client.sync",
        "RegistryServer": "rsreg.server.server",
        "SQLiteBackend": "rsreg.server.backends.sqlite",
        "ServiceCache": "rsreg.client.cache.service_cache",
    },
)
