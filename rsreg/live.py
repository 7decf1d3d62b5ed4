"""The live view: all services in memory, found by id and by kind, and by when their lease ends."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec

from rsreg import wire
from rsreg.records import Service

#: Dead entries that the heap of deadlines may hold for each live one before it is made anew.
_HEAP_SLACK = 4
#: Seconds for which a look at all leases serves to tell which of them end soon.
_LOOK_AHEAD = 1.0


@dataclass(slots=True, eq=False)
class Lease:
    """A service in the live view, and how long it may stay.

    `deadline` is on the monotonic clock; `due` is when the heap of deadlines looks at the lease
    next, never later than `deadline`. `head` is the record's JSON but for its last two fields.
    """

    service: Service
    deadline: float
    last_heartbeat: int
    due: float = field(init=False)
    head: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.due = self.deadline
        self.head = wire.encode(self.service.body())[:-1]

    def record(self, passing: bool) -> msgspec.Raw:
        """The record as the protocol shows it, as JSON."""
        tail = b',"last_heartbeat":%d,"health":"%s"}' % (
            self.last_heartbeat,
            b"passing" if passing else b"critical",
        )
        return msgspec.Raw(self.head + tail)


class LiveView:
    """Leases by id, by kind, and by deadline.

    A renewal moves a lease's deadline and leaves the heap alone: the lease is found at its old
    place there and put back. So a look for what lapsed costs what is due, not what is registered.
    """

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._by_kind: dict[str, dict[str, Lease]] = {}
        self._deadlines: list[tuple[float, str]] = []
        #: What may end before the horizon: all that does, and what was renewed or removed since.
        self._ending: list[Lease] = []
        self._horizon = -math.inf

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, service_id: str) -> Lease | None:
        """The lease of a service, or None."""
        return self._leases.get(service_id)

    def all(self) -> Collection[Lease]:
        """Every lease, in the order of registration."""
        return self._leases.values()

    def of_kind(self, kind: str) -> Collection[Lease]:
        """The leases of the services found under `kind`."""
        return self._by_kind.get(kind, {}).values()

    def put(self, lease: Lease) -> None:
        """Take in a lease, in the place of another of the same id."""
        if (current := self._leases.get(lease.service.id)) is not None:
            self.remove(current)
        self._leases[lease.service.id] = lease
        for kind in lease.service.kinds():
            self._by_kind.setdefault(kind, {})[lease.service.id] = lease
        if lease.deadline < self._horizon:
            self._ending.append(lease)
        self._look_again(lease)

    def remove(self, lease: Lease) -> None:
        """Take out a lease that is in."""
        del self._leases[lease.service.id]
        for kind in lease.service.kinds():
            found = self._by_kind[kind]
            del found[lease.service.id]
            if not found:
                del self._by_kind[kind]

    def ending(self, before: float) -> list[Lease]:
        """The leases that end before a moment. It looks at all of them once a second at most."""
        if before > self._horizon:
            self._horizon = before + _LOOK_AHEAD
            self._ending = [each for each in self._leases.values() if each.deadline < self._horizon]
        return [
            lease
            for lease in self._ending
            if lease.deadline < before and self._leases.get(lease.service.id) is lease
        ]

    def lapsed(self, judged: float) -> Lease | None:
        """The lease that ended longest before `judged`, or None; it stays until it is removed."""
        while self._deadlines and self._deadlines[0][0] <= judged:
            due, service_id = self._deadlines[0]
            lease = self._leases.get(service_id)
            if lease is not None and lease.due == due == lease.deadline:
                return lease
            heapq.heappop(self._deadlines)
            if lease is not None and lease.due == due:
                self._look_again(lease)
        return None

    def _look_again(self, lease: Lease) -> None:
        lease.due = lease.deadline
        heapq.heappush(self._deadlines, (lease.due, lease.service.id))
        if len(self._deadlines) > _HEAP_SLACK * (len(self._leases) + 1_000):
            self._deadlines = [(lease.due, key) for key, lease in self._leases.items()]
            heapq.heapify(self._deadlines)
