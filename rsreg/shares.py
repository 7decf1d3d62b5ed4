"""How much of the registry is of which address."""

from __future__ import annotations

from dataclasses import dataclass

from rsreg.lease import Lease


@dataclass(frozen=True)
class Share:
    """How many services, and about how many bytes of memory they take."""

    services: int = 0
    memory: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(self.services + other.services, self.memory + other.memory)

    def __sub__(self, other: Share) -> Share:
        return Share(self.services - other.services, self.memory - other.memory)


_NOTHING = Share()


class Shares:
    """What each address has registered, of what is in the registry."""

    def __init__(self) -> None:
        self._of: dict[str, Share] = {}

    def of(self, address: str | None) -> Share:
        """What an address has."""
        return _NOTHING if address is None else self._of.get(address, _NOTHING)

    def add(self, lease: Lease) -> None:
        """Its address has it, too, from now on."""
        if (address := lease.service.registered_by) is not None:
            self._of[address] = self.of(address) + share_of(lease)

    def remove(self, lease: Lease) -> None:
        """Its address no longer has it."""
        if (address := lease.service.registered_by) is not None:
            left = self.of(address) - share_of(lease)
            if left.services:
                self._of[address] = left
            else:
                del self._of[address]


def share_of(lease: Lease) -> Share:
    """That of one service."""
    return Share(1, lease.memory)
