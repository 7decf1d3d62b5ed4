"""ServiceCache: follows one registry, and answers from memory."""

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
    """Knows all services of a registry, and answers in microseconds, without a request.

    It follows the events on a thread of its own; with a green context, in a greenlet. `health` is
    what is certain: a service whose lease may have ended is critical. `last_heartbeat` is from when
    the service registered, or the cache listed it. Records are copies, for any thread.

    Call `start` and `stop`, or use it in a `with` block, in asyncio in `async with`. In a forked
    child it has to be started anew, else it gets stale.

    Args:
        registry_req_endpoint: The registry, as in RegistryClient.
        registry_sub_endpoint: Where it publishes events, as in RegistryClient.
        timeout: The seconds that one request to the registry may take.
        context: The ZeroMQ context to use; by default one of rsreg's own.

    Raises:
        ConfigurationError: An argument, or a variable of the environment, is not valid.
        Disconnected: Of a question: the cache is not started.
        Stale: Of a question: the registry has not answered for more than 10 s.
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
        self._view: CacheView | None = None

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
        """Follow the registry from now on; returns when all services are known.

        Raises:
            RequestTimeout: The registry can't be reached.
        """
        self.stop()
        view = CacheView(timing.steady)
        self._listener = EventListener(Handlers(), view, self.settings, self._context)
        try:
            self._listener.start()
        except RegistryError:
            self._listener = None
            raise
        self._view = view

    def stop(self) -> None:
        """Stop following the registry; returns within a second."""
        listener, self._listener, self._view = self._listener, None, None
        if listener is not None:
            listener.stop()

    @property
    def as_of(self) -> float:
        """All that happened before this moment of `timing.steady` is known; -inf: nothing is."""
        view = self._view
        return -math.inf if view is None else view.as_of

    @property
    def stale(self) -> float | None:
        """Seconds since the last answer of the registry, if they are too many; else None.

        Infinite for a cache that is not started.
        """
        view = self._view
        return math.inf if view is None else view.stale()

    def get_service(self, service_id: str) -> ServiceRecord | None:
        """Return the record of one service.

        Args:
            service_id: Its id.

        Returns:
            The record, or None if there is no such service.
        """
        return self._fresh().get(service_id)

    def list_services(
        self, service_type: str | None = None, *, mode: str | None = None
    ) -> ServiceList:
        """Return the records of services, passing or not.

        Args:
            service_type: Only those found under this type.
            mode: Only "hardware", or only a "simulator".
        """
        return self._fresh().list_services(service_type or None, config.checked_mode(mode))

    def discover_service(
        self, service_type: str, *, mode: str | None = None
    ) -> ServiceRecord | None:
        """Return the record of one passing service of a type, a random one.

        Args:
            service_type: The type.
            mode: "hardware" or "simulator". Without one it is a simulator only if no hardware of
                that type is registered at all.

        Returns:
            The record, or None if there is none.
        """
        return self._fresh().discover(service_type, config.checked_mode(mode))

    def _fresh(self) -> CacheView:
        view = self._view
        if view is None:
            raise Disconnected("this cache is not started", hint="call start() first")
        age = view.stale()
        if age is not None:
            raise Stale(
                f"no registry answers on {self.settings.req_endpoint}; what this cache knows is "
                f"{age:.1f} s old",
                hint="see whether the registry runs; the cache goes on asking for it by itself",
            )
        return view
