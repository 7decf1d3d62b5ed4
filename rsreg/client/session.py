"""What the operations of one client share: its settings, its own services, and its cache."""

from __future__ import annotations

from typing import Any

import zmq

from rsreg.client.cache.client_cache import ClientCache
from rsreg.client.registration.own_services import OwnServices
from rsreg.config import ClientSettings


class Session:
    """The state of one client, blocking or asyncio, in one process.

    `context` is the one for sockets to services; None is rsreg's own. The cache and the heartbeats
    run on threads, with the context of `own`.
    """

    def __init__(
        self,
        settings: ClientSettings,
        own: OwnServices,
        context: zmq.Context[Any] | None,
        *,
        cache: bool,
    ) -> None:
        self.settings = settings
        self.own = own
        self.context = context
        self.cache = ClientCache(settings, own.context) if cache else None

    def after_fork(self) -> None:
        """Forget what is the parent's, in a forked child; nothing is closed."""
        self.own.after_fork()
        self.context = None
        if self.cache is not None:
            self.cache = ClientCache(self.settings, None)

    def on_change(self) -> None:
        """The client may have changed the registry: what the cache knows is too old now."""
        if self.cache is not None:
            self.cache.on_change()

    def own_id(self, service_id: str | None) -> str | None:
        """Return the id, or without one that of what the client registered last, if anything."""
        last = self.own.last
        return service_id if service_id is not None or last is None else last.service_id
