"""TypeIndex: the leases by their types, and which of them may be discovered."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rsreg.config import HARDWARE, SIMULATOR
from rsreg.server.view.lease import Lease


class Pool:
    """The services of one type and mode: how many there are, and those to discover, in no order."""

    __slots__ = ("_places", "count", "discoverable")

    def __init__(self) -> None:
        self.count = 0
        self.discoverable: list[Lease] = []
        self._places: dict[str, int] = {}

    def admit(self, lease: Lease) -> None:
        """Let it be discovered from now on."""
        self._places[lease.service.id] = len(self.discoverable)
        self.discoverable.append(lease)

    def exclude(self, lease: Lease) -> None:
        """Let it be discovered no longer."""
        place = self._places.pop(lease.service.id)
        last = self.discoverable.pop()
        if last is not lease:
            self.discoverable[place] = last
            self._places[last.service.id] = place


class TypeEntry:
    """The services of one type: all in the order of registration, and those of each mode."""

    __slots__ = ("leases", "pools")

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}
        self.pools: dict[str, Pool] = {}

    def discoverable(self, mode: str | None) -> Sequence[Lease]:
        """Return those of a mode that may be discovered."""
        if mode is None:
            mode = HARDWARE if HARDWARE in self.pools else SIMULATOR
        pool = self.pools.get(mode)
        return pool.discoverable if pool else ()

    def add(self, lease: Lease) -> None:
        """Add a service that is registered."""
        self.leases[lease.service.id] = lease
        pool = self.pools.setdefault(lease.service.mode, Pool())
        pool.count += 1
        if lease.discoverable:
            pool.admit(lease)

    def remove(self, lease: Lease) -> None:
        """Remove a service that is no longer registered."""
        del self.leases[lease.service.id]
        pool = self.pools[lease.service.mode]
        if lease.discoverable:
            pool.exclude(lease)
        pool.count -= 1
        if not pool.count:
            del self.pools[lease.service.mode]


class TypeIndex:
    """The leases by the types under which the services are found.

    A type of one service holds the lease itself, no TypeEntry: a tag of its own costs little.
    """

    def __init__(self) -> None:
        self._at: dict[str, Lease | TypeEntry] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def at(self, name: str) -> Collection[Lease]:
        """Return the leases of the services found under `name`, in the order of registration."""
        there = self._at.get(name)
        if isinstance(there, TypeEntry):
            return there.leases.values()
        return () if there is None else (there,)

    def discoverable(self, name: str, mode: str | None) -> Sequence[Lease]:
        """Return those found under `name` that may be discovered, in no order.

        Without a mode hardware; a simulator only if no hardware is registered at all.
        """
        there = self._at.get(name)
        if isinstance(there, TypeEntry):
            return there.discoverable(mode)
        fits = there is not None and there.discoverable and mode in (None, there.service.mode)
        return (there,) if there is not None and fits else ()

    def add(self, lease: Lease) -> None:
        """Add a service that is registered."""
        for name in lease.service.service_types():
            there = self._at.setdefault(name, lease)
            if there is lease:
                continue
            if not isinstance(there, TypeEntry):
                alone, there = there, TypeEntry()
                there.add(alone)
                self._at[name] = there
            there.add(lease)

    def remove(self, lease: Lease) -> None:
        """Remove a service that is no longer registered."""
        for name in lease.service.service_types():
            there = self._at[name]
            if not isinstance(there, TypeEntry):
                del self._at[name]
                continue
            there.remove(lease)
            if len(there.leases) == 1:
                (self._at[name],) = there.leases.values()

    def admit(self, lease: Lease) -> None:
        """Let it be discovered from now on."""
        for pool in self._pools(lease):
            pool.admit(lease)

    def exclude(self, lease: Lease) -> None:
        """Let it be discovered no longer."""
        for pool in self._pools(lease):
            pool.exclude(lease)

    def _pools(self, lease: Lease) -> Iterator[Pool]:
        for name in lease.service.service_types():
            there = self._at[name]
            if isinstance(there, TypeEntry):
                yield there.pools[lease.service.mode]
