"""The clients; they import neither gevent nor a database."""

from typing import TYPE_CHECKING

from rsreg.lazy import offer

if TYPE_CHECKING:
    from rsreg.client.aio import AsyncRegistryClient
    from rsreg.client.sync import RegistryClient

__all__ = ["AsyncRegistryClient", "RegistryClient"]

__getattr__, __dir__ = offer(
    __name__,
    {"AsyncRegistryClient": "rsreg.client.aio", "RegistryClient": "rsreg.client.sync"},
)
