"""Caretaker: looks after the store, and after what stands before the sockets."""

from __future__ import annotations

from collections.abc import Callable

from gevent.event import Event as Flag

from rsreg.server.rules.registry import Registry

#: Seconds between two looks after the store: how long it may go unnoticed that it is gone.
TEND = 0.5


class Caretaker:
    """Looks after the store, between two batches of requests, and switches to nobody meanwhile.

    Also after what stands before the sockets, by `look`.
    """

    def __init__(self, registry: Registry, look: Callable[[], None]) -> None:
        self._registry = registry
        self._look = look

    def run(self, stop: Flag) -> None:
        """Look every half second until `stop` is set."""
        while not stop.wait(TEND):
            self.step()

    def step(self) -> None:
        """Look once."""
        self._registry.tend_store()
        self._look()
