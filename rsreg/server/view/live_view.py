"""The live view: all services in memory, found by id, name, type, and when their lease ends."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

import msgspec

from rsreg.protocol.messages import Report
from rsreg.server.backends.stored import Maintenance, Service
from rsreg.server.view.addresses import Addresses
from rsreg.server.view.lease import NOT_EVALUATED, Lease
from rsreg.server.view.lease_index import LeaseIndex
from rsreg.server.view.maintenance import MaintenanceIndex
from rsreg.server.view.shares import Shares
from rsreg.server.view.type_index import TypeIndex

#: Dead entries that the heap of deadlines may hold for each live one before it is made anew.
_HEAP_SLACK = 4
#: Seconds for which a look at all leases serves to tell which of them end soon.
_LOOK_AHEAD = 1.0
#: Leases that are evaluated in one call, at most: a few milliseconds.
_EVALUATED_AT_ONCE = 300


class LiveView:
    """Leases by id, by name, by type, and by deadline, evaluated at one moment.

    A renewal moves a lease's deadline and leaves the heap alone: the lease is found at its old
    place there and put back. So a look for what lapsed costs what is due, not what is registered.
    """

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._types = TypeIndex()
        self._names: LeaseIndex[str] = LeaseIndex()
        #: Those of a name that no other may have.
        self._exclusive: LeaseIndex[str] = LeaseIndex()
        self._addresses = Addresses()
        #: What each address registered.
        self.shares = Shares()
        self._deadlines: list[tuple[float, str]] = []
        #: What may end before the horizon: all that does, and what was renewed or removed since.
        self._ending: list[Lease] = []
        self._horizon = -math.inf
        #: Those that lapsed, in the order in which they were found so.
        self._lapsed: dict[str, Lease] = {}
        #: Those whose health is another than the announced one.
        self._unannounced: dict[str, Lease] = {}
        self._evaluated_until = -math.inf
        self._maintenance = MaintenanceIndex()

    def __len__(self) -> int:
        return len(self._leases)

    def get(self, service_id: str) -> Lease | None:
        """Return the lease of a service, or None."""
        return self._leases.get(service_id)

    def all(self) -> Collection[Lease]:
        """Return every lease, in the order of registration."""
        return self._leases.values()

    def of_type(self, service_type: str) -> Collection[Lease]:
        """Return the leases of the services of a type, in the order of registration."""
        return self._types.at(service_type)

    def named(self, name: str) -> Collection[Lease]:
        """Return the leases of the services of a name, in the order of registration."""
        return self._names.at(name)

    def exclusive(self, name: str) -> Collection[Lease]:
        """Return those of them that let no other have the name."""
        return self._exclusive.at(name)

    def rivals(self, service: Service) -> list[Lease]:
        """Return the leases of other living processes at the addresses of a service."""
        return self._addresses.rivals(service)

    def service_types(self) -> Iterable[str]:
        """Return all that services are found under."""
        return self._types

    def names(self) -> Iterable[str]:
        """Return the names of all services."""
        return self._names

    def discoverable(self, service_type: str, mode: str | None = None) -> Sequence[Lease]:
        """Return those of a type that may be discovered, in no order; see TypeIndex."""
        return self._types.discoverable(service_type, mode)

    def lapsed(self, limit: int) -> list[Lease]:
        """Return at most `limit` leases that ended, the longest lapsed first."""
        return list(islice(self._lapsed.values(), limit))

    @property
    def all_announced(self) -> bool:
        """Whether subscribers know the health of every service."""
        return not self._unannounced

    def unannounced(self, limit: int) -> list[Lease]:
        """Return at most `limit` leases whose health subscribers don't know yet."""
        return list(islice(self._unannounced.values(), limit))

    def put(self, lease: Lease) -> None:
        """Take in a lease, in the place of another of the same id."""
        service = lease.service
        if (current := self._leases.get(service.id)) is not None:
            self.remove(current)
        self._leases[service.id] = lease
        self._names.add(service.name, lease)
        if service.exclusive:
            self._exclusive.add(service.name, lease)
        lease.lapsed = lease.deadline <= self._evaluated_until
        lease.maintenance = self._maintenance.covering(service)
        lease.health = NOT_EVALUATED
        self._types.add(lease)
        self.shares.add(lease)
        self._reindex(lease)
        if lease.lapsed:
            self._lapsed[service.id] = lease
        else:
            self._reschedule(lease)
        if lease.deadline < self._horizon:
            self._ending.append(lease)

    def put_back(self, before: Mapping[str, Lease | None]) -> None:
        """Have those ids again as they were before some changes; None: not in."""
        for service_id, lease in before.items():
            if (current := self._leases.get(service_id)) is not None:
                self.remove(current)
            if lease is not None:
                self.put(lease)
        if any(lease is not None and lease.lapsed for lease in before.values()):
            in_order = sorted(self._lapsed.items(), key=lambda item: (item[1].deadline, item[0]))
            self._lapsed = dict(in_order)

    def remove(self, lease: Lease) -> None:
        """Take out a lease that is in."""
        service = lease.service
        del self._leases[service.id]
        self._lapsed.pop(service.id, None)
        self._unannounced.pop(service.id, None)
        self._names.remove(service.name, lease)
        if service.exclusive:
            self._exclusive.remove(service.name, lease)
        self._types.remove(lease)
        self.shares.remove(lease)
        self._place_at_addresses(lease, alive=False)

    def ending(self, before: float) -> list[Lease]:
        """Return the leases that end before a moment; looks at all once a second at most."""
        if before > self._horizon:
            self._horizon = before + _LOOK_AHEAD
            self._ending = [each for each in self._leases.values() if each.deadline < self._horizon]
        return [
            lease
            for lease in self._ending
            if lease.deadline < before and self._leases.get(lease.service.id) is lease
        ]

    def renew(
        self, lease: Lease, deadline: float, last_heartbeat: int, report: Report | None = None
    ) -> None:
        """Move the end of a lease that is in, lapsed or not. A report replaces its last one."""
        doubted = lease.doubt is not None
        lease.renew(deadline, last_heartbeat)
        if report is not None:
            lease.report, lease.report_until = report, deadline
        if lease.lapsed:
            self._recover(lease)
        elif doubted or report is not None:
            self._reindex(lease)

    def doubt(self, lease: Lease, reason: str | None) -> None:
        """Take the process of a lease for dead; None: no longer."""
        lease.doubt = reason
        if self._leases.get(lease.service.id) is lease:
            self._reindex(lease)

    def extend(self, now: float) -> None:
        """Give every lease that has not ended at least its whole ttl from `now`."""
        for lease in self._leases.values():
            if not lease.lapsed:
                lease.deadline = max(lease.deadline, now + lease.service.ttl)

    def evaluate(self, moment: float) -> bool:
        """Let leases that ended by `moment` lapse; return False if some are left."""
        self._evaluated_until = moment
        for _ in range(_EVALUATED_AT_ONCE):
            if not self._deadlines or self._deadlines[0][0] > moment:
                return True
            due, service_id = heapq.heappop(self._deadlines)
            lease = self._leases.get(service_id)
            if lease is None or lease.due != due or lease.lapsed:
                continue
            if lease.deadline > due:
                self._reschedule(lease)
            else:
                lease.lapsed = True
                self._lapsed[service_id] = lease
                self._reindex(lease)
        return False

    @property
    def maintenance(self) -> list[Maintenance]:
        """What is in maintenance, whether it should be over or not."""
        return self._maintenance.entries

    def maintain(self, maintenance: list[Maintenance]) -> None:
        """Have just these in maintenance from now on, and who comes under them later."""
        before, self._maintenance = self._maintenance, MaintenanceIndex(maintenance)
        for entry in before.differing(self._maintenance):
            for lease in list(self.covered(entry)):
                covered = self._maintenance.covering(lease.service)
                if covered is not lease.maintenance:
                    lease.maintenance = covered
                    self._reindex(lease)

    def covered(self, entry: Maintenance) -> Collection[Lease]:
        """Return the leases of all services that an entry of maintenance is about."""
        if entry.service is not None:
            by_id = self._leases.get(entry.service)
            return [*self.named(entry.service), *((by_id,) if by_id else ())]
        if entry.service_type is not None:
            return self.of_type(entry.service_type)
        host = (entry.host or "").lower()
        return [one for one in self._leases.values() if one.service.host.lower() == host]

    def set_announced(self, lease: Lease, health: str) -> None:
        """Set the health that subscribers know of."""
        lease.announced = health
        if self._leases.get(lease.service.id) is lease:
            self._track_unannounced(lease)

    def _reindex(self, lease: Lease) -> None:
        """Bring everything up to date after a change that its health may depend on."""
        self._place_at_addresses(lease, alive=lease.alive)
        self._evaluate(lease)

    def _place_at_addresses(self, lease: Lease, *, alive: bool) -> None:
        """Add it to its addresses, or remove it, and tell its neighbours there."""
        if lease.at_addresses == alive:
            return
        lease.at_addresses = alive
        lease.rival = None
        if not (self._addresses.add if alive else self._addresses.remove)(lease):
            return
        if alive:
            for rival in self._addresses.rivals(lease.service):
                lease.rival = lease.rival or rival.service.name
                if rival.rival is None:
                    rival.rival = lease.service.name
                    self._evaluate(rival)
        else:
            for neighbour in self._addresses.neighbours(lease.service):
                if neighbour.rival == lease.service.name:
                    rivals = self._addresses.rivals(neighbour.service)
                    neighbour.rival = rivals[0].service.name if rivals else None
                    self._evaluate(neighbour)

    def _evaluate(self, lease: Lease) -> None:
        before = lease.discoverable
        lease.evaluate()
        if lease.discoverable != before:
            (self._types.exclude if before else self._types.admit)(lease)
        self._track_unannounced(lease)

    def _track_unannounced(self, lease: Lease) -> None:
        if lease.health_to_announce != lease.announced:
            self._unannounced[lease.service.id] = lease
        else:
            self._unannounced.pop(lease.service.id, None)

    def _recover(self, lease: Lease) -> None:
        lease.lapsed = False
        del self._lapsed[lease.service.id]
        self._reschedule(lease)
        self._reindex(lease)

    def _reschedule(self, lease: Lease) -> None:
        lease.due = lease.deadline
        heapq.heappush(self._deadlines, (lease.due, lease.service.id))
        if len(self._deadlines) > _HEAP_SLACK * (len(self._leases) + 1_000):
            self._deadlines = [(lease.due, key) for key, lease in self._leases.items()]
            heapq.heapify(self._deadlines)


def joined(leases: Iterable[Lease]) -> msgspec.Raw:
    """Return the records of leases as one JSON array."""
    return msgspec.Raw(b"[%s]" % b",".join([lease.record() for lease in leases]))
