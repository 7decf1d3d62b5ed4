"""The rules of the registry: questions over its live view, and what may be changed. No sockets."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec

from rsreg import policies, records, timing
from rsreg.backend import RegistryBackend
from rsreg.changes import Changes
from rsreg.choosing import EVERYTHING, NOBODY, Asker, Chooser, Filter, Strategy
from rsreg.errors import JudgeFirst, NoService, StoreError, UnknownService
from rsreg.lease import Lease
from rsreg.live import LiveView, joined
from rsreg.records import (
    NO_REPORT,
    Event,
    Maintenance,
    Report,
    Service,
    ServiceInfo,
)
from rsreg.timing import Clock
from rsreg.wire import Turn

#: Seconds that a lease still holds, unless `ending_leases` names it.
LEASES_WITHIN = 15
#: Seconds told of a lease that has run out, but counts until the waiting requests are read.
_LAST_MOMENT = 0.001
#: Services that an answer explains itself with.
_MENTIONED = 3
#: Changes of health that are told in one transaction.
_TOLD_AT_ONCE = 100


class Registry:
    """Who is registered, who is passing, and what happened.

    `clock` is monotonic and rules the leases; `wall` is what people read. A lease is judged not at
    "now" but at the moment the request sockets were last found empty, which `caught_up` tells: a
    heartbeat that waits in the queue counts. Raises ServerErrors, and StoreError from `open` and
    `commit`.
    """

    def __init__(
        self,
        backend: RegistryBackend,
        *,
        clock: Clock = timing.steady,
        wall: Clock = time.time,
        strategy: Strategy | str = "random",
        strategies: Mapping[str, Strategy] | None = None,
        unique_service_types: bool = False,
    ) -> None:
        self.unique_service_types = unique_service_types
        self._clock = clock
        self._wall = wall
        self._chooser = Chooser(strategy, strategies or {})
        self._view = LiveView()
        self._changes = Changes(backend, self._view, wall)

    def __len__(self) -> int:
        return len(self._view)

    @property
    def epoch(self) -> str:
        """The name of the numbering of events."""
        return self._changes.epoch

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self._changes.seq

    @property
    def trouble(self) -> StoreError | None:
        """What is wrong with the store, or None."""
        return self._changes.trouble

    # -- the store

    def open(self) -> None:
        """Load what is stored; every service gets a fresh ttl."""
        self._changes.load(self._clock())
        self._end_maintenance()

    def close(self) -> None:
        """Store the times of the last heartbeats, and close the store."""
        self._changes.close()

    def commit(self) -> list[Event]:
        """Make all changes since the last commit durable; the events to publish.

        On a StoreError nothing of it has happened, in the store and in the live view alike.
        """
        return self._changes.commit()

    def check_store(self) -> None:
        """See whether a store in trouble can be written again; it tells no one by itself."""
        self._changes.check_store()

    # -- time

    def caught_up(self, moment: float) -> bool:
        """All requests up to `moment` are served: a lease that ended before it has lapsed.

        False if there were too many to look at all of them: then it wants to be called again soon.
        """
        return self._view.judge(moment)

    def grant_grace(self) -> None:
        """Give every lease a fresh ttl: this server stood still, and its services waited for it."""
        self._view.extend(self._clock())

    # -- questions

    def get(self, service_id: str) -> msgspec.Raw:
        """The record of a service; raises UnknownService."""
        lease = self._view.get(service_id)
        if lease is None:
            raise UnknownService("Service not found")
        return msgspec.Raw(lease.record())

    def list_services(self, kind: str | None = None, wanted: Filter = EVERYTHING) -> msgspec.Raw:
        """The records of all services, or of those found under `kind` and wanted, as one array."""
        leases: Iterable[Lease]
        if kind is not None:
            leases = self._view.of_kind(kind)
        elif wanted.name is not None:
            leases = self._view.named(wanted.name)
        else:
            leases = self._view.all()
        if wanted is not EVERYTHING:
            leases = [
                lease
                for lease in leases
                if wanted.mode in (None, lease.service.mode) and wanted.fits(lease.service)
            ]
        return joined(leases)

    def discover(
        self,
        kind: str,
        wanted: Filter = EVERYTHING,
        strategy: str | None = None,
        asker: Asker = NOBODY,
    ) -> msgspec.Raw:
        """The record of one service of `kind` that is well and wanted, chosen by the strategy.

        Raises NoService, which says why those that are registered are none; InvalidRequest for a
        strategy that nobody knows.
        """
        choose = self._chooser.by(strategy)
        found = self._view.discovered(kind, wanted.mode)
        if wanted.narrows:
            found = [lease for lease in found if wanted.fits(lease.service)]
        if not found:
            raise NoService(f"No healthy service of type {kind} found", hint=self._why_none(kind))
        return msgspec.Raw(choose(found, asker).record())

    def _why_none(self, kind: str) -> str | None:
        """What is to be said of those that are registered under a kind, and not handed out."""
        said = []
        for lease in islice(self._view.of_kind(kind), _MENTIONED):
            service = lease.service
            what = f"a {service.mode}" if lease.discovered else lease.health
            said.append(f"{service.name} on {service.host}:{service.port} is {what}")
        return "; ".join(said) or None

    @property
    def maintenance(self) -> list[Maintenance]:
        """What is in maintenance now."""
        now = self._wall()
        return [each for each in self._view.maintenance if each.until is None or each.until > now]

    def events_since(self, since: int, epoch: str | None, limit: int) -> tuple[list[Event], bool]:
        """Events after `since`, and whether the subscriber has to list anew.

        It has to where `since` is of another epoch, ahead of us, or behind the journal. Raises
        Unavailable.
        """
        if since > self.seq or epoch not in (None, self.epoch):
            return [], True
        if since == self.seq or limit == 0:
            return [], False
        events = self._changes.events_since(since, limit)
        return events, not events

    def ending_leases(self) -> dict[str, float]:
        """Id -> seconds left, 0 if lapsed, of the leases that end within LEASES_WITHIN."""
        now = self._clock()
        return {
            lease.service.id: 0
            if lease.lapsed
            else max(_LAST_MOMENT, round(lease.deadline - now, 3))
            for lease in self._view.ending(now + LEASES_WITHIN)
        }

    # -- changes

    def renew(self, service_id: str, report: Report | None = None) -> None:
        """Start a lease's ttl again; raises UnknownService. Nothing is stored.

        A `report` takes the place of the last one.
        """
        lease = self._view.get(service_id)
        if lease is None:
            raise UnknownService("Service not found or could not be renewed")
        deadline = self._clock() + lease.service.ttl
        self._view.renew(lease, deadline, int(self._wall()), report)

    def register(
        self,
        info: ServiceInfo,
        extra: dict[str, Any],
        ttl: float,
        token: str | None,
        *,
        turn: Turn | None = None,
        report: Report | None = None,
        replaces: Mapping[str, object] | None = None,
        judges: bool = False,
    ) -> str:
        """Register a service, or update the one that has `info.id`; its id.

        A `token` that the journal knows is a request that came again: it gets its first answer, and
        nothing changes. `replaces` maps the ids of entries of the same name to their owners, which
        are known to be dead: those that still are so go, and the first gives its id. Raises
        InvalidRequest, DuplicateName, DuplicateServiceType; UnknownService if it was overtaken by a
        later request of the same sender that took it back.
        """
        if (known := self._changes.answered(token)) is not None:
            return known
        if self._changes.taken_back(info.id, turn):
            raise UnknownService("This registration came after it was taken back")
        if judges:
            self._check_judged(info, extra.get("owner"), replaces or {})
        dead = self._dead_ones(info, replaces or {})
        service_id = info.id or (dead[0].service.id if dead else _new_id(info))
        service = Service(
            id=service_id,
            name=info.name,
            host=info.host,
            port=info.port,
            type=info.type,
            tags=info.tags or [],
            metadata=info.metadata or {},
            ttl=ttl,
            extra=extra,
            last_heartbeat=int(self._wall()),
        )
        gone = {service.id, *(lease.service.id for lease in dead)}
        policies.check_name(self._view, service, gone)
        policies.check_type(self._view, info, service, gone, unique=self.unique_service_types)
        for lease in dead:
            self._changes.take_out("replace", lease)
        lease = Lease(service, self._clock() + ttl, service.last_heartbeat, report or NO_REPORT)
        self._changes.put("register", lease, token)
        return service.id

    def update(
        self, service_id: str, change: dict[str, Any], extra: dict[str, Any], token: str | None
    ) -> None:
        """Change what is said about a service, and leave its lease; raises UnknownService.

        Of a request that came again nothing changes.
        """
        if self._changes.answered(token) == service_id:
            return
        lease = self._view.get(service_id)
        if lease is None:
            raise UnknownService("Service not found or could not be updated")
        service = msgspec.structs.replace(
            lease.service, **change, extra={**lease.service.extra, **extra}
        )
        changed = Lease(service, lease.deadline, lease.last_heartbeat, lease.report)
        self._changes.put("update", changed, token)

    def deregister(self, service_id: str, token: str | None, turn: Turn | None = None) -> None:
        """Remove a service; raises UnknownService, but not to a request that came again."""
        if self._changes.answered(token) == service_id:
            return
        lease = self._view.get(service_id)
        if lease is None:
            raise UnknownService("Service not found or could not be deregistered")
        self._changes.take_out("deregister", lease, token, turn)

    def expire(self, limit: int) -> int:
        """Remove at most `limit` services whose lease lapsed, longest overdue first; how many."""
        lapsed = self._view.lapsed(limit)
        for lease in lapsed:
            self._changes.tell(lease)
            self._changes.take_out("expire", lease)
        return len(lapsed)

    def start_maintenance(self, wanted: Maintenance) -> None:
        """Take what it covers out of discovery, what registers later too, until it is over.

        It takes the place of one of the same service, type or host.
        """
        self._end_maintenance()
        others = [each for each in self._view.maintenance if each.target != wanted.target]
        self._changes.maintain([*others, wanted])

    def end_maintenance(self, target: Maintenance) -> None:
        """End the maintenance of the same service, type or host; raises UnknownService."""
        self._end_maintenance()
        left = [each for each in self._view.maintenance if each.target != target.target]
        if len(left) == len(self._view.maintenance):
            raise UnknownService("There is no such maintenance")
        self._changes.maintain(left)

    def tell_health(self) -> bool:
        """Stage events of what has become of services' health; True if more is to be told.

        Not while the store is in trouble: it is told when that is over, if it still is so.
        """
        if self._view.maintenance:
            self._end_maintenance()
        if self.trouble is not None or self._view.all_told:
            return False
        for lease in self._view.untold(_TOLD_AT_ONCE):
            self._changes.tell(lease)
        return not self._view.all_told

    def _end_maintenance(self) -> None:
        """Maintenance whose time is over ends by itself; nothing of it has to be stored."""
        left = self.maintenance
        if len(left) != len(self._view.maintenance):
            self._view.maintain(left)

    # -- rules

    def _check_judged(
        self, info: ServiceInfo, owner: Mapping[str, Any] | None, judged: Mapping[str, object]
    ) -> None:
        """Raises JudgeFirst if there are others of its name that this boot may know to be dead."""
        boot = owner and owner.get("boot")
        namesakes = [
            lease
            for lease in (self._view.named(info.name) if boot else ())
            if lease.service.id != info.id
            and lease.service.id not in judged
            and (lease.service.owner or {}).get("boot") == boot
        ]
        if namesakes:
            records = [msgspec.Raw(lease.record()) for lease in namesakes]
            raise JudgeFirst(
                f"There are entries of the name {info.name}", details={"namesakes": records}
            )

    def _dead_ones(self, info: ServiceInfo, replaces: Mapping[str, object]) -> list[Lease]:
        """The leases that a registration replaces: of its name, and still of that owner."""
        found = [self._view.get(service_id) for service_id in replaces]
        return [
            lease
            for lease in found
            if lease is not None
            and lease.service.name == info.name
            and lease.service.owner is not None
            and lease.service.owner == replaces[lease.service.id]
        ]


def bodies(events: Iterable[Event]) -> list[msgspec.Raw]:
    """The events as the protocol shows them, as JSON."""
    return [msgspec.Raw(event.body) for event in events]


def _new_id(info: ServiceInfo) -> str:
    return f"{records.slug(info.name)}-{uuid.uuid4()}"
