"""Leases by a key of theirs, such as a name, of which most have one lease."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from typing import Generic, TypeVar

from rsreg.server.view.lease import Lease

K = TypeVar("K", bound=Hashable)


class LeaseIndex(Generic[K]):
    """The leases of each key, in the order in which they were added.

    A key of one lease holds the lease itself: a container for each would cost more than all else.
    """

    def __init__(self) -> None:
        self._at: dict[K, Lease | dict[str, Lease]] = {}

    def __iter__(self) -> Iterator[K]:
        return iter(self._at)

    def at(self, key: K) -> Collection[Lease]:
        """Return the leases of a key."""
        there = self._at.get(key)
        if there is None:
            return ()
        return there.values() if isinstance(there, dict) else (there,)

    def add(self, key: K, lease: Lease) -> bool:
        """Add a lease under a key; return whether the key has others, too."""
        there = self._at.setdefault(key, lease)
        if isinstance(there, dict):
            there[lease.service.id] = lease
        elif there is not lease:
            self._at[key] = {there.service.id: there, lease.service.id: lease}
        return there is not lease

    def remove(self, key: K, lease: Lease) -> bool:
        """Remove a lease from a key; return whether the key has others still."""
        there = self._at[key]
        if not isinstance(there, dict):
            del self._at[key]
            return False
        del there[lease.service.id]
        if len(there) == 1:
            (self._at[key],) = there.values()
        return True
