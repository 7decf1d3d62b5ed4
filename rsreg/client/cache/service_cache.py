"""The cache that follows one registry and answers from what it knows."""

from __future__ import annotations

import math
from typing import Any

import zmq

from rsreg import config, timing
from rsreg.client.cache.view import CacheView
from rsreg.config import ClientSettings
from rsreg.errors import Disconnected, RegistryError, Stale
from rsreg.protocol.records import ServiceList, ServiceRecord
from rsreg.transport.listener import EventListener, Handlers


class ServiceCache:
    """Knows all services of a registry, and answers in microseconds, without asking.

    It follows the events on a thread of its own (with a green context: a greenlet). `health` is
    what is sure: a service whose lease may have ended is critical. `last_heartbeat` is from when
    the service registered, or the cache listed it. Answers are the caller's, in any thread.

    `start` and `stop` it, or use it as a context manager, with `async with` in asyncio; the
    endpoints are those of RegistryClient, `timeout` is for one question to the registry. Without an
    answer for more than 10 s it answers no more: its methods raise Stale until the registry is
    back. They raise Disconnected if it is not started. In a forked child it has to be started anew,
    else it gets stale.
    """

    def __init__(
        self,
        registry_req_endpoint: str | None = None,
        registry_sub_endpoint: str | None = None,
        timeout: float = config.DEFAULT_TIMEOUT,
        *,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        self.settings = ClientSettings(
            registry_req_endpoint, registry_sub_endpoint, None, timeout, "service-cache"
        )
        self._context = context
        self._listener: EventListener | None = None
        self._mirror: CacheView | None = None

    def __repr__(self) -> str:
        return f"<ServiceCache on {self.settings.req_endpoint}>"

    def __enter__(self) -> ServiceCache:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    async def __aenter__(self) -> ServiceCache:
        import asyncio

        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        import asyncio

        await asyncio.to_thread(self.stop)

    def start(self) -> None:
        """Follow from now on; returns when all services are known.

        Raises RequestTimeout if the registry can't be reached.
        """
        self.stop()
        mirror = CacheView(timing.steady)
        self._listener = EventListener(Handlers(), mirror, self.settings, self._context)
        try:
            self._listener.start()
        except RegistryError:
            self._listener = None
            raise
        self._mirror = mirror

    def stop(self) -> None:
        """Follow no longer; returns within a second."""
        listener, self._listener, self._mirror = self._listener, None, None
        if listener is not None:
            listener.stop()

    @property
    def as_of(self) -> float:
        """What happened before this moment of `timing.steady` is known; -inf: nothing is."""
        mirror = self._mirror
        return -math.inf if mirror is None else mirror.as_of

    @property
    def stale(self) -> float | None:
        """Seconds since the registry last answered, if that is too long ago, else None.

        Infinite for a cache that is not started.
        """
        mirror = self._mirror
        return math.inf if mirror is None else mirror.stale()

    def get_service(self, service_id: str) -> ServiceRecord | None:
        """The record of one service, or None."""
        return self._fresh().get(service_id)

    def list_services(
        self, service_type: str | None = None, *, mode: str | None = None
    ) -> ServiceList:
        """The records of all services, or of those found under a type, passing or not.

        Only those of a `mode`, "hardware" or "simulator", if one is given.
        """
        return self._fresh().list_services(service_type or None, config.checked_mode(mode))

    def discover_service(
        self, service_type: str, *, mode: str | None = None
    ) -> ServiceRecord | None:
        """The record of one passing service of a type, a random one, or None.

        Without a `mode` it is a simulator only if no hardware of that type is registered at all.
        """
        return self._fresh().discover(service_type, config.checked_mode(mode))

    def _fresh(self) -> CacheView:
        mirror = self._mirror
        if mirror is None:
            raise Disconnected("this cache is not started", hint="call start() first")
        age = mirror.stale()
        if age is not None:
            raise Stale(
                f"no registry answers on {self.settings.req_endpoint}; what this cache knows is "
                f"{age:.1f} s old",
                hint="see whether the registry runs; the cache goes on asking for it by itself",
            )
        return mirror
