"""The cache of one client: what it answers, and when the client has to ask the registry."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import zmq

from rsreg import timing
from rsreg.client.cache.service_cache import ServiceCache
from rsreg.config import SIMULATOR, ClientSettings
from rsreg.errors import Disconnected, Stale, TransportError
from rsreg.protocol.calls import NOTHING_MORE
from rsreg.protocol.health import PASSING
from rsreg.protocol.records import ServiceList, ServiceRecord
from rsreg.system import threads
from rsreg.system.background import Caught, Troubles
from rsreg.transport.listener import spawn

log = logging.getLogger(__name__)

R = TypeVar("R")


class ClientCache:
    """The ServiceCache of one client, blocking or asyncio, which answers only what is certain.

    It starts in the background with the first question, so no call waits for it. Until then, and
    for all that is not certain, the client asks the registry, as it does without a cache. Threads
    may share it.
    """

    def __init__(self, settings: ClientSettings, context: zmq.Context[Any] | None) -> None:
        self._cache = ServiceCache(
            settings.req_endpoint, settings.sub_endpoint, settings.timeout, context=context
        )
        self._context = context
        self._changed_at = -math.inf
        self._closed = False
        self._starting = threads.new_lock()
        self._troubles = Troubles(log, "the start of the cache")
        #: When it may be started again after it failed.
        self._next = -math.inf

    def get(self, service_id: str) -> ServiceRecord | None:
        """Return the record of one passing service; None: ask the registry."""
        return self._answer(self._cache.get_service, service_id, NOTHING_MORE)

    def list(self, service_type: str | None, params: Mapping[str, Any]) -> ServiceList | None:
        """Return all services, or those of a type, if all of them pass; None: ask the registry."""
        return self._answer(self._cache.list_services, service_type, params)

    def discover(self, service_type: str, params: Mapping[str, Any]) -> ServiceRecord | None:
        """Return one passing service of a type; None: ask the registry.

        It is never a simulator unless the parameters say so: hardware may have registered of which
        the cache does not know yet.
        """
        service = self._answer(self._cache.discover_service, service_type, params)
        if service is not None and not params and service.get("mode") == SIMULATOR:
            return None
        return service

    def _answer(
        self, read: Callable[..., R], target: object, params: Mapping[str, Any]
    ) -> R | None:
        """Return what `read` finds in the cache, or None if that is not certain.

        Only passing services are certain. That there is none, or that one is critical, may be
        because a lease, or an event, has not arrived yet. `params` narrow the question; a cache
        knows only the mode.
        """
        if params and params.keys() != {"mode"}:
            return None
        # Read first: the cache may get to know of a change right after it answered without.
        as_of = self._cache.as_of
        try:
            result = read(target, **params)
        except Disconnected:
            self._start()
            return None
        except Stale:
            return None
        services: Any = result if isinstance(result, ServiceList) else (result,)
        # A loop: a generator for one record would cost as much as the rest.
        for service in services:
            if service is None or service["health"] != PASSING:
                return None
        return result if services and as_of > self._changed_at else None

    def on_change(self) -> None:
        """The client changed something: answer nothing that the cache learned before.

        A reply does not say which event it made. So the cache answers only after it has got the
        answer to a request that it sent later than this.
        """
        self._changed_at = timing.steady()

    def open(self) -> None:
        """Answer again after a `close`."""
        self._closed = False

    def close(self) -> None:
        """Stop following the registry; returns within a second."""
        self._closed = True
        self._cache.stop()

    def _start(self) -> None:
        if self._closed or timing.steady() < self._next or not self._starting.acquire(False):
            return
        with Caught() as caught:
            spawn(self._context, self._run)
        if caught.error is not None:
            self._tried(caught.error)
            self._starting.release()

    def _run(self) -> None:
        try:
            # The client's own requests report that the registry can't be reached.
            with Caught() as caught, contextlib.suppress(TransportError):
                self._cache.start()
            self._tried(caught.error)
            if self._closed:
                self._cache.stop()
        finally:
            self._starting.release()

    def _tried(self, error: BaseException | None) -> None:
        """Note what a start raised, if anything: a later question starts the cache again."""
        self._next = timing.steady() + self._troubles.after(error)
