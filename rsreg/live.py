"""The live view: all services in memory, found by id and by kind, and by when their lease ends."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from rsreg import wire
from rsreg.records import Service

#: Dead entries that the heap of deadlines may hold for each live one before it is made anew.
_HEAP_SLACK = 4
#: Seconds for which a look at all leases serves to tell which of them end soon.
_LOOK_AHEAD = 1.0
#: Leases that one judgement looks at, at most: a few milliseconds.
_JUDGED_AT_ONCE = 300


@dataclass(slots=True, eq=False)
class Lease:
    """A service in the live view, and how long it may stay.

    `deadline` is on the monotonic clock; `due` is when the heap of deadlines looks at the lease
    next, never later than `deadline`. `passing` is what the view last judged.
    """

    service: Service
    deadline: float
    last_heartbeat: int
    due: float = field(init=False)
    passing: bool = field(init=False, default=True)
    _head: bytes = field(init=False)
    _tail: bytes | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.due = self.deadline
        self._head = wire.encode(self.service.body())[:-1]

    def renew(self, deadline: float, last_heartbeat: int) -> None:
        """It was heard of."""
        self.deadline = deadline
        self.last_heartbeat = last_heartbeat
        self._tail = None

    def judge(self, *, passing: bool) -> None:
        """What its health is from now on."""
        self.passing = passing
        self._tail = None

    def record(self) -> bytes:
        """The record as the protocol shows it, as JSON.

        Its two fields that change by themselves come last, and are kept apart from the others.
        """
        tail = self._tail
        if tail is None:
            health = b"passing" if self.passing else b"critical"
            tail = b',"last_heartbeat":%d,"health":"%s"}' % (self.last_heartbeat, health)
            self._tail = tail
        return self._head + tail


class Kind:
    """The services found under one name: all in the order of registration, the passing in none."""

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}
        self.passing: list[Service] = []
        self._places: dict[str, int] = {}

    def admit(self, service: Service) -> None:
        """It is passing."""
        self._places[service.id] = len(self.passing)
        self.passing.append(service)

    def exclude(self, service: Service) -> None:
        """It is not passing; the last one takes its place."""
        place = self._places.pop(service.id)
        last = self.passing.pop()
        if last is not service:
            self.passing[place] = last
            self._places[last.id] = place


class LiveView:
    """Leases by id, by kind, and by deadline, judged at one moment.

    A renewal moves a lease's deadline and leaves the heap alone: the lease is found at its old
    place there and put back. So a look for what lapsed costs what is due, not what is registered.
    """

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._kinds: dict[str, Kind] = {}
        self._deadlines: list[tuple[float, str]] = []
        #: What may end before the horizon: all that does, and what was renewed or removed since.
        self._ending: list[Lease] = []
        self._horizon = -math.inf
        #: Those that are not passing, in the order in which they were found so.
        self._lapsed: dict[str, Lease] = {}
        self._judged = -math.inf

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, service_id: str) -> Lease | None:
        """The lease of a service, or None."""
        return self._leases.get(service_id)

    def all(self) -> Collection[Lease]:
        """Every lease, in the order of registration."""
        return self._leases.values()

    def of_kind(self, kind: str) -> Collection[Lease]:
        """The leases of the services found under `kind`, in the order of registration."""
        found = self._kinds.get(kind)
        return found.leases.values() if found else ()

    def passing(self, kind: str) -> Sequence[Service]:
        """The passing services found under `kind`, in no order."""
        found = self._kinds.get(kind)
        return found.passing if found else ()

    def lapsed(self, limit: int) -> list[Lease]:
        """At most `limit` leases that ended, the longest lapsed first."""
        return list(islice(self._lapsed.values(), limit))

    def put(self, lease: Lease) -> None:
        """Take in a lease, in the place of another of the same id."""
        service = lease.service
        if (current := self._leases.get(service.id)) is not None:
            self.remove(current)
        self._leases[service.id] = lease
        for name in service.kinds():
            kind = self._kinds.setdefault(name, Kind())
            kind.leases[service.id] = lease
            kind.admit(service)
        lease.judge(passing=True)
        if lease.deadline < self._horizon:
            self._ending.append(lease)
        self._look_again(lease)

    def put_back(self, before: Mapping[str, Lease | None]) -> None:
        """Have those ids again as they were before some changes; None: not in."""
        lapsed = False
        for service_id, lease in before.items():
            if (current := self._leases.get(service_id)) is not None:
                self.remove(current)
            if lease is not None:
                self.put(lease)
                if lease.deadline <= self._judged:
                    self._lapse(lease)
                    lapsed = True
        if lapsed:
            in_order = sorted(self._lapsed.items(), key=lambda item: (item[1].deadline, item[0]))
            self._lapsed = dict(in_order)

    def remove(self, lease: Lease) -> None:
        """Take out a lease that is in."""
        service = lease.service
        del self._leases[service.id]
        self._lapsed.pop(service.id, None)
        for name in service.kinds():
            kind = self._kinds[name]
            del kind.leases[service.id]
            if lease.passing:
                kind.exclude(service)
            if not kind.leases:
                del self._kinds[name]

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

    def renew(self, lease: Lease, deadline: float, last_heartbeat: int) -> None:
        """Move the end of a lease that is in; it may have lapsed."""
        lease.renew(deadline, last_heartbeat)
        if not lease.passing:
            self._recover(lease)

    def extend(self, now: float) -> None:
        """Give every lease at least its whole ttl from `now`."""
        for lease in self._leases.values():
            lease.deadline = max(lease.deadline, now + lease.service.ttl)
        for lease in list(self._lapsed.values()):
            self._recover(lease)

    def judge(self, moment: float) -> bool:
        """Leases that ended by `moment` are not passing from now on; False if some are left."""
        self._judged = moment
        for _ in range(_JUDGED_AT_ONCE):
            if not self._deadlines or self._deadlines[0][0] > moment:
                return True
            due, service_id = heapq.heappop(self._deadlines)
            lease = self._leases.get(service_id)
            if lease is None or lease.due != due or not lease.passing:
                continue
            if lease.deadline > due:
                self._look_again(lease)
            else:
                self._lapse(lease)
        return False

    def _lapse(self, lease: Lease) -> None:
        lease.judge(passing=False)
        self._lapsed[lease.service.id] = lease
        for name in lease.service.kinds():
            self._kinds[name].exclude(lease.service)

    def _recover(self, lease: Lease) -> None:
        lease.judge(passing=True)
        del self._lapsed[lease.service.id]
        for name in lease.service.kinds():
            self._kinds[name].admit(lease.service)
        self._look_again(lease)

    def _look_again(self, lease: Lease) -> None:
        lease.due = lease.deadline
        heapq.heappush(self._deadlines, (lease.due, lease.service.id))
        if len(self._deadlines) > _HEAP_SLACK * (len(self._leases) + 1_000):
            self._deadlines = [(lease.due, key) for key, lease in self._leases.items()]
            heapq.heapify(self._deadlines)


def joined(leases: Iterable[Lease]) -> msgspec.Raw:
    """Their records as one JSON array."""
    return msgspec.Raw(b"[%s]" % b",".join([lease.record() for lease in leases]))
