"""Addresses: the leases of living processes by host and port."""

from __future__ import annotations

from collections.abc import Iterator

from rsreg.server.backends.stored import Service
from rsreg.server.view.lease import Lease
from rsreg.server.view.lease_index import LeaseIndex

#: Leases at one address that are looked through at once; behind a gateway there may be many.
_LOOKED_AT = 64


class Addresses:
    """The leases of living processes by host and port."""

    def __init__(self) -> None:
        self._at: LeaseIndex[tuple[str, int]] = LeaseIndex()

    def add(self, lease: Lease) -> bool:
        """Add a lease whose process is alive; return whether its addresses have others."""
        shared = [self._at.add(address, lease) for address in lease.service.addresses()]
        return any(shared)

    def remove(self, lease: Lease) -> bool:
        """Remove a lease; return whether its addresses have others."""
        shared = [self._at.remove(address, lease) for address in lease.service.addresses()]
        return any(shared)

    def neighbours(self, service: Service) -> list[Lease]:
        """Return the other leases at its addresses, at most 64 at each."""
        return list({other.service.id: other for other in self._others(service)}.values())

    def rivals(self, service: Service) -> list[Lease]:
        """Return those of them that are surely of another process."""
        return [
            other
            for other in self.neighbours(service)
            if other.service.is_of_another_process(service)
        ]

    def _others(self, service: Service) -> Iterator[Lease]:
        for address in service.addresses():
            for _, lease in zip(range(_LOOKED_AT + 1), self._at.at(address), strict=False):
                if lease.service.id != service.id:
                    yield lease
