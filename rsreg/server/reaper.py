"""Reaper: removes the services whose lease has ended."""

from __future__ import annotations

import contextlib

import gevent
from gevent.event import Event as Flag

from rsreg.errors import StoreError
from rsreg.server.guard.readiness import FIRST
from rsreg.server.publisher import Publish
from rsreg.server.rules.registry import Registry

#: Services that expire in one transaction.
EXPIRE_BATCH = 100


class Reaper:
    """Removes the services whose lease lapsed, a batch a transaction."""

    def __init__(self, registry: Registry, publish: Publish, interval: float) -> None:
        self._registry = registry
        self._publish = publish
        self._interval = interval

    def run(self, stop: Flag) -> None:
        """Make a pass every interval until `stop` is set."""
        while not stop.wait(self._interval):
            self.step()

    def step(self) -> None:
        """Remove what has lapsed; what the store refuses to remove stays for the next pass."""
        with contextlib.suppress(StoreError):
            while self._registry.expire(EXPIRE_BATCH):
                self._publish(self._registry.commit())
                gevent.idle(FIRST)
        self._registry.check_store()
