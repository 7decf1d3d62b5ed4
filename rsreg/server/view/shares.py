"""Shares: how many services, and how much memory, are of each address."""

from __future__ import annotations

from rsreg.server.view.lease import Lease


class Share:
    """How many services an address has, and about how many bytes of memory they take."""

    __slots__ = ("memory", "services")

    def __init__(self) -> None:
        self.services = self.memory = 0


class Shares:
    """What each address has registered, of what is in the registry."""

    def __init__(self) -> None:
        self._of: dict[str, Share] = {}

    def of(self, address: str) -> Share:
        """Return what an address has now."""
        return self._of.get(address) or Share()

    def add(self, lease: Lease) -> None:
        """Count a service for its address."""
        if (address := lease.service.registered_by) is not None:
            share = self._of.get(address)
            if share is None:
                share = self._of[address] = Share()
            share.services += 1
            share.memory += lease.memory

    def remove(self, lease: Lease) -> None:
        """Count a service of its address no longer."""
        if (address := lease.service.registered_by) is not None:
            share = self._of[address]
            share.services -= 1
            share.memory -= lease.memory
            if not share.services:
                del self._of[address]
