"""Which living services say that they are at which address."""

from __future__ import annotations

from collections.abc import Iterator

from rsreg.lease import Lease
from rsreg.records import Service

#: Leases at one address that are looked through at once; behind a gateway there may be many.
_LOOKED_AT = 64


class Addresses:
    """The leases of living processes by host and port.

    An address of one lease, as nearly all are, holds the lease itself: a container for each would
    cost more than all else here.
    """

    def __init__(self) -> None:
        self._at: dict[tuple[str, int], Lease | dict[str, Lease]] = {}

    def add(self, lease: Lease) -> bool:
        """Its process is alive; whether there are others at its addresses."""
        shared = False
        for address in lease.service.addresses():
            there = self._at.setdefault(address, lease)
            if isinstance(there, dict):
                there[lease.service.id] = lease
                shared = True
            elif there is not lease:
                self._at[address] = {there.service.id: there, lease.service.id: lease}
                shared = True
        return shared

    def remove(self, lease: Lease) -> bool:
        """Its process is dead, or it left; whether there are others at its addresses."""
        shared = False
        for address in lease.service.addresses():
            there = self._at[address]
            if isinstance(there, dict):
                del there[lease.service.id]
                if len(there) == 1:
                    (self._at[address],) = there.values()
                shared = True
            else:
                del self._at[address]
        return shared

    def neighbours(self, service: Service) -> list[Lease]:
        """The other leases at its addresses, at most 64 at each."""
        return list({other.service.id: other for other in self._others(service)}.values())

    def rivals(self, service: Service) -> list[Lease]:
        """Those of them that are surely of another process."""
        return [
            other
            for other in self.neighbours(service)
            if other.service.is_of_another_process(service)
        ]

    def _others(self, service: Service) -> Iterator[Lease]:
        for address in service.addresses():
            there = self._at.get(address)
            if there is None:
                continue
            leases = there.values() if isinstance(there, dict) else (there,)
            for _, lease in zip(range(_LOOKED_AT + 1), leases, strict=False):
                if lease.service.id != service.id:
                    yield lease
