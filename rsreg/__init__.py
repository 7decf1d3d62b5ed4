"""rsreg: the service registry for test and measurement labs.

The names of the server are loaded when they are asked for, so that a driver that uses
`RegistryClient` imports neither gevent nor a database.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rsreg.config import DEFAULT_RS_HB_PORT, DEFAULT_RS_PUB_PORT, DEFAULT_RS_REQ_PORT

if TYPE_CHECKING:
    from rsreg.aio import AsyncRegistryClient
    from rsreg.backend import InMemoryBackend, RegistryBackend, SQLiteBackend
    from rsreg.bench import Bench
    from rsreg.client import RegistryClient
    from rsreg.server import RegistryServer
    from rsreg.service_cache import ServiceCache

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_RS_HB_PORT",
    "DEFAULT_RS_PUB_PORT",
    "DEFAULT_RS_REQ_PORT",
    "AsyncRegistryClient",
    "Bench",
    "InMemoryBackend",
    "RegistryBackend",
    "RegistryClient",
    "RegistryServer",
    "SQLiteBackend",
    "ServiceCache",
]

_HOME = {
    "AsyncRegistryClient": "rsreg.aio",
    "Bench": "rsreg.bench",
    "InMemoryBackend": "rsreg.backend",
    "RegistryBackend": "rsreg.backend",
    "RegistryClient": "rsreg.client",
    "RegistryServer": "rsreg.server",
    "SQLiteBackend": "rsreg.backend",
    "ServiceCache": "rsreg.service_cache",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
