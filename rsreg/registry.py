"""The rules of the registry, over its live view. No sockets.

Every question is answered from memory. A change is applied to the live view at once and staged;
`commit` makes all that is staged durable in one transaction, or puts the live view back.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec

from rsreg import records, wire
from rsreg.backend import JOURNAL_LIMIT, RegistryBackend
from rsreg.choosing import EVERYTHING, Asker, Chooser, Filter, Strategy
from rsreg.errors import (
    DuplicateName,
    DuplicateServiceType,
    InvalidRequest,
    NoService,
    StoreError,
    Unavailable,
    UnknownService,
)
from rsreg.live import CRITICAL, MAINTENANCE, Lease, LiveView, joined, news
from rsreg.records import (
    NO_REPORT,
    Event,
    Maintenance,
    Report,
    Service,
    ServiceChange,
    ServiceInfo,
)
from rsreg.timing import Clock
from rsreg.wire import Turn

log = logging.getLogger(__name__)

#: Requests remembered, so that a resend is no second one; as many as the journal keeps events.
_MAX_ANSWERED = 10_000
#: Seconds that a lease still holds, unless `ending_leases` names it.
LEASES_WITHIN = 15
#: Seconds told of a lease that has run out, but counts until the waiting requests are read.
_LAST_MOMENT = 0.001
#: Services whose last heartbeat is stored to see whether a store that failed can be written again.
_PROBED = 100
#: Services that an answer explains itself with.
_MENTIONED = 3
#: Changes of health that are told in one transaction.
_TOLD_AT_ONCE = 100
#: The event that tells of a service's new health; of any other it has recovered.
_HEALTH_EVENTS = {CRITICAL: "critical", MAINTENANCE: "maintenance"}
_RECOVERED = "recovered"
#: Events that say nothing of a service's health after them.
_NO_HEALTH = frozenset({"replace", "deregister", "expire"})


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
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        strategy: Strategy | str = "random",
        strategies: Mapping[str, Strategy] | None = None,
        unique_service_types: bool = False,
    ) -> None:
        self.epoch = ""
        self.seq = 0
        #: What is wrong with the store, or None.
        self.trouble: StoreError | None = None
        self.unique_service_types = unique_service_types
        self._backend = backend
        self._clock = clock
        self._wall = wall
        self._chooser = Chooser(strategy, strategies or {})
        self._view = LiveView()
        #: Token of a request in the journal -> the service it was about.
        self._answered: dict[str, str] = {}
        #: Id of a service that left -> the turn of the request that took it out.
        self._left: dict[str, Turn] = {}
        self._staged: list[Event] = []
        #: Id -> what the live view held before the first staged change of it.
        self._before: dict[str, Lease | None] = {}
        #: The leases that staged events tell the health of, and what was known of it before.
        self._telling: list[tuple[Lease, str]] = []
        self._maintenance: list[Maintenance] = []
        #: What the maintenance was before it was changed and staged.
        self._maintenance_before: list[Maintenance] | None = None
        self._next_end = math.inf

    def __len__(self) -> int:
        return len(self._view)

    # -- opening and closing

    def open(self) -> None:
        """Load what is stored; every service gets a fresh ttl."""
        self._backend.initialize()
        try:
            stored = self._backend.load()
            journal = self._backend.events(max(0, stored.seq - JOURNAL_LIMIT), JOURNAL_LIMIT)
        except StoreError:
            self._backend.close()
            raise
        self.epoch, self.seq, self._answered = stored.epoch, stored.seq, stored.answered
        self._maintain([each for each in stored.maintenance if not self._is_over(each)])
        now = self._clock()
        for service in stored.services:
            self._put(Lease(service, now + service.ttl, service.last_heartbeat))
        self._remember_told(journal)

    def close(self) -> None:
        """Store the times of the last heartbeats, and close the store."""
        try:
            self._backend.touch(self._heartbeats())
        finally:
            self._backend.close()

    def _remember_told(self, journal: Iterable[Event]) -> None:
        """Find in the journal what subscribers last heard of each service's health.

        Who was critical is passing after a restart, and they have to be told.
        """
        heard: dict[str, Event] = {}
        for event in journal:
            if event.type not in _NO_HEALTH:
                heard[event.service_id] = event
        for service_id, event in heard.items():
            if (lease := self._view.get(service_id)) is not None:
                health = msgspec.json.decode(event.body)["data"]["service_info"]["health"]
                self._view.tell(lease, news(health))

    def _heartbeats(self, most: int | None = None) -> dict[str, int]:
        leases = islice(self._view.all(), most)
        return {lease.service.id: lease.last_heartbeat for lease in leases}

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
        asker: Asker | None = None,
    ) -> msgspec.Raw:
        """The record of one service of `kind` that is well and wanted, chosen by the strategy.

        Raises NoService, which says why those that are registered are none; InvalidRequest for a
        strategy that nobody knows.
        """
        self._chooser.check(strategy)
        found = self._view.discovered(kind, wanted.mode)
        if wanted.narrows:
            found = [lease for lease in found if wanted.fits(lease.service)]
        if not found:
            raise NoService(f"No healthy service of type {kind} found", hint=self._why_none(kind))
        return msgspec.Raw(self._chooser.choose(found, strategy, asker).record())

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
        return [each for each in self._maintenance if not self._is_over(each)]

    def events_since(self, since: int, epoch: str | None, limit: int) -> tuple[list[Event], bool]:
        """Events after `since`, and whether the subscriber has to list anew.

        It has to where `since` is of another epoch, ahead of us, or behind the journal. Raises
        Unavailable.
        """
        if since > self.seq or epoch not in (None, self.epoch):
            return [], True
        if since == self.seq or limit == 0:
            return [], False
        events: list[Event] = []
        if since < self.seq - len(self._staged):
            try:
                events = self._backend.events(since, limit)
            except StoreError as error:
                raise unavailable(error) from error
            if not events or events[0].seq != since + 1:
                return [], True
        events += [event for event in self._staged if event.seq > since]
        return events[:limit], False

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
    ) -> str:
        """Register a service, or update the one that has `info.id`; its id.

        A `token` that the journal knows is a request that came again: it gets its first answer, and
        nothing changes. `replaces` maps the ids of entries of the same name to their owners, which
        are known to be dead: those that still are so go, and the first gives its id. Raises
        InvalidRequest, DuplicateName, DuplicateServiceType; UnknownService if it was overtaken by a
        later request of the same sender that took it back.
        """
        if token is not None and (known := self._answered.get(token)) is not None:
            return known
        left = self._left.get(info.id) if info.id else None
        if left and turn and turn.sender == left.sender and turn.number < left.number:
            raise UnknownService("This registration came after it was taken back")
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
        self._check_name(service, gone)
        self._check_policy(info, service, gone)
        for lease in dead:
            self._take_out("replace", lease, None)
        self._remember(service.id)
        lease = Lease(service, self._clock() + ttl, service.last_heartbeat, report or NO_REPORT)
        self._put(lease)
        self._stage("register", lease, token)
        return service.id

    def update(
        self, service_id: str, change: ServiceChange, extra: dict[str, Any], token: str | None
    ) -> None:
        """Change what is said about a service, and leave its lease; raises UnknownService.

        Of a request that came again nothing changes.
        """
        if token is not None and self._answered.get(token) == service_id:
            return
        lease = self._view.get(service_id)
        if lease is None:
            raise UnknownService("Service not found or could not be updated")
        said = {
            name: value
            for name, value in msgspec.structs.asdict(change).items()
            if value is not None
        }
        service = msgspec.structs.replace(
            lease.service, **said, extra={**lease.service.extra, **extra}
        )
        self._remember(service_id)
        changed = Lease(service, lease.deadline, lease.last_heartbeat, lease.report)
        self._put(changed)
        self._stage("update", changed, token)

    def deregister(self, service_id: str, token: str | None, turn: Turn | None = None) -> None:
        """Remove a service; raises UnknownService, but not to a request that came again."""
        if token is not None and self._answered.get(token) == service_id:
            return
        lease = self._view.get(service_id)
        if lease is None:
            raise UnknownService("Service not found or could not be deregistered")
        self._take_out("deregister", lease, token)
        if turn is not None:
            self._left[service_id] = turn

    def expire(self, limit: int) -> int:
        """Remove at most `limit` services whose lease lapsed, longest overdue first; how many."""
        lapsed = self._view.lapsed(limit)
        for lease in lapsed:
            if lease.news != lease.told:
                self._tell(lease)
            self._take_out("expire", lease, None)
        return len(lapsed)

    def start_maintenance(self, wanted: Maintenance) -> None:
        """Take what it covers out of discovery, what registers later too, until it is over.

        It takes the place of one of the same service, type or host.
        """
        others = [each for each in self.maintenance if each.target != wanted.target]
        self._change_maintenance([*others, wanted])

    def end_maintenance(self, target: Maintenance) -> None:
        """End the maintenance of the same service, type or host; raises UnknownService."""
        left = [each for each in self.maintenance if each.target != target.target]
        if len(left) == len(self.maintenance):
            raise UnknownService("There is no such maintenance")
        self._change_maintenance(left)

    def tell_health(self) -> bool:
        """Stage events of what has become of services' health; True if more is to be told.

        Not while the store is in trouble: it is told when that is over, if it still is so.
        """
        if self._wall() >= self._next_end:
            self._maintain(self.maintenance)
        if self.trouble is not None:
            return False
        for lease in self._view.untold(_TOLD_AT_ONCE):
            self._tell(lease)
        return bool(self._view.untold(1))

    def commit(self) -> list[Event]:
        """Make all that is staged durable; the events to publish.

        On a StoreError nothing of it has happened, in the store and in the live view alike.
        """
        if not self._staged and self._maintenance_before is None:
            return []
        changes = {
            service_id: lease.service if (lease := self._view.get(service_id)) else None
            for service_id in self._before
        }
        try:
            self._backend.commit(
                changes,
                self._staged,
                None if self._maintenance_before is None else self._maintenance,
            )
        except StoreError as error:
            self._roll_back()
            self._note(error)
            raise
        self._note(None)
        events = self._staged
        self._forget_staged()
        for remembered in (self._answered, self._left):
            while len(remembered) > _MAX_ANSWERED:
                del remembered[next(iter(remembered))]
        return events

    def check_store(self) -> None:
        """See whether a store in trouble can be written again; it tells no one by itself."""
        if self.trouble is None:
            return
        try:
            self._backend.touch(self._heartbeats(_PROBED))
        except StoreError as error:
            self._note(error)
        else:
            self._note(None)

    def _note(self, trouble: StoreError | None) -> None:
        """An outage of the store is two lines in the log, however many changes are refused."""
        if trouble is not None and self.trouble is None:
            log.error("the store failed, changes are refused: %s", trouble)
        elif trouble is None and self.trouble is not None:
            log.warning("the store takes changes again")
        self.trouble = trouble

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

    def _check_name(self, service: Service, gone: set[str]) -> None:
        """Refuse a second live service of a name that is exclusive."""
        for lease in self._view.named(service.name):
            holder = lease.service
            exclusive = service.exclusive or holder.exclusive
            if exclusive and holder.id not in gone and not lease.lapsed:
                raise DuplicateName(
                    f"{service.name} is registered already",
                    hint=f"{_who(holder)} has it on {holder.host}:{holder.port}; "
                    "stop that one, or register under another name",
                    details={"existing_service_id": holder.id},
                )

    def _check_policy(self, info: ServiceInfo, service: Service, gone: set[str]) -> None:
        if info.singleton and info.allow_duplicate_service_type:
            raise InvalidRequest(
                "invalid_service_type_policy",
                details={
                    "message": "singleton and allow_duplicate_service_type cannot both be true."
                },
            )
        unique = info.singleton or (
            self.unique_service_types and not info.allow_duplicate_service_type
        )
        kind = service.effective_type
        if not unique or kind is None:
            return
        for lease in self._view.of_kind(kind):
            holder = lease.service
            if holder.id not in gone and not lease.lapsed:
                raise DuplicateServiceType(
                    "duplicate_service_type",
                    hint=f"{holder.name} holds it on {holder.host}:{holder.port}",
                    details={
                        "message": f"Service type '{kind}' is already registered by "
                        f"service_id '{holder.id}'.",
                        "service_type": kind,
                        "existing_service_id": holder.id,
                    },
                )

    def _take_out(self, event_type: str, lease: Lease, token: str | None) -> None:
        self._remember(lease.service.id)
        self._view.remove(lease)
        self._stage(event_type, lease, token)

    # -- health and maintenance

    def _put(self, lease: Lease) -> None:
        """Take a lease in; the event of the change tells how it is."""
        lease.maintenance = self._maintenance_of(lease.service)
        self._view.put(lease)
        self._view.tell(lease, lease.news)

    def _tell(self, lease: Lease) -> None:
        self._telling.append((lease, lease.told))
        self._stage(_HEALTH_EVENTS.get(lease.news, _RECOVERED), lease, None)
        self._view.tell(lease, lease.news)

    def _change_maintenance(self, maintenance: list[Maintenance]) -> None:
        if self._maintenance_before is None:
            self._maintenance_before = self.maintenance
        self._maintain(maintenance)
        # Told before the request is answered, as other changes are.
        for lease in self._view.untold(len(self)):
            self._tell(lease)

    def _maintain(self, maintenance: list[Maintenance]) -> None:
        """Have just these from now on."""
        self._maintenance = maintenance
        ends = [each.until for each in maintenance if each.until is not None]
        self._next_end = min(ends, default=math.inf)
        for lease in self._view.all():
            covered = self._maintenance_of(lease.service)
            if covered is not lease.maintenance:
                lease.maintenance = covered
                self._view.settle(lease)

    def _is_over(self, maintenance: Maintenance) -> bool:
        return maintenance.until is not None and maintenance.until <= self._wall()

    def _maintenance_of(self, service: Service) -> Maintenance | None:
        return next((each for each in self._maintenance if each.covers(service)), None)

    # -- staging

    def _remember(self, service_id: str) -> None:
        self._before.setdefault(service_id, self._view.get(service_id))

    def _stage(self, event_type: str, lease: Lease, token: str | None) -> None:
        self.seq += 1
        body = {
            "type": event_type,
            "timestamp": int(self._wall()),
            "data": {"service_id": lease.service.id, "service_info": msgspec.Raw(lease.record())},
            "seq": self.seq,
            "epoch": self.epoch,
        }
        event = Event(
            seq=self.seq,
            type=event_type,
            service_id=lease.service.id,
            body=wire.encode(body),
            token=token,
        )
        self._staged.append(event)
        if token is not None:
            self._answered[token] = lease.service.id

    def _roll_back(self) -> None:
        for lease, told in reversed(self._telling):
            lease.told = told
        self._view.put_back(self._before)
        for lease, _ in self._telling:
            self._view.tell(lease, lease.told)
        for event in self._staged:
            if event.token is not None:
                self._answered.pop(event.token, None)
        for service_id in self._before:
            self._left.pop(service_id, None)
        self.seq -= len(self._staged)
        before = self._maintenance_before
        self._forget_staged()
        if before is not None:
            self._maintain(before)

    def _forget_staged(self) -> None:
        self._staged, self._before, self._telling = [], {}, []
        self._maintenance_before = None


def unavailable(error: StoreError) -> Unavailable:
    """What a client is told of a store that failed."""
    return Unavailable(
        f"The registry's store failed: {error}", hint="nothing was changed; try again"
    )


def bodies(events: Iterable[Event]) -> list[msgspec.Raw]:
    """The events as the protocol shows them, as JSON."""
    return [msgspec.Raw(event.body) for event in events]


def _new_id(info: ServiceInfo) -> str:
    return f"{records.slug(info.name)}-{uuid.uuid4()}"


def _who(service: Service) -> str:
    """Who registered a service, as far as it said so."""
    owner = service.owner or {}
    who = f"pid {owner['pid']}" if "pid" in owner else "another program"
    if owner.get("user"):
        who += f" of {owner['user']}"
    if owner.get("host"):
        who += f" on {owner['host']}"
    if owner.get("started"):
        who += time.strftime(", since %Y-%m-%d %H:%M:%S,", time.localtime(owner["started"]))
    return who
