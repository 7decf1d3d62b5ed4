"""Where registrations and the journal are kept: all that the author of a backend needs."""

from typing import TYPE_CHECKING

from rsreg.lazy import offer

if TYPE_CHECKING:
    from rsreg.server.backends.base import (
        Copied,
        Copyable,
        Journaled,
        RegistryBackend,
        Stored,
        Tended,
    )
    from rsreg.server.backends.memory import InMemoryBackend
    from rsreg.server.backends.sqlite import SQLiteBackend
    from rsreg.server.backends.stored import Event, Maintenance, Position, Service

__all__ = [
    "Copied",
    "Copyable",
    "Event",
    "InMemoryBackend",
    "Journaled",
    "Maintenance",
    "Position",
    "RegistryBackend",
    "SQLiteBackend",
    "Service",
    "Stored",
    "Tended",
]

__getattr__, __dir__ = offer(
    __name__,
    {
        "Copied": "rsreg.server.backends.base",
        "Copyable": "rsreg.server.backends.base",
        "Event": "rsreg.server.backends.stored",
        "InMemoryBackend": "rsreg.server.backends.memory",
        "Journaled": "rsreg.server.backends.base",
        "Maintenance": "rsreg.server.backends.stored",
        "Position": "rsreg.server.backends.stored",
        "RegistryBackend": "rsreg.server.backends.base",
        "SQLiteBackend": "rsreg.server.backends.sqlite",
        "Service": "rsreg.server.backends.stored",
        "Stored": "rsreg.server.backends.base",
        "Tended": "rsreg.server.backends.base",
    },
)
