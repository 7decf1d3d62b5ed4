"""The rules of the registry: questions over its live view, and what may be changed. No sockets."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from rsreg import display, timing
from rsreg.config import SIMULATOR
from rsreg.errors import NoService, StoreError, UnknownService
from rsreg.protocol import event_types
from rsreg.protocol.messages import NO_REPORT, Asker, Report, ServiceInfo
from rsreg.protocol.wire import RequestNumber
from rsreg.server.backends.base import Copied, Copyable, RegistryBackend
from rsreg.server.backends.stored import Event, Position, Service
from rsreg.server.limits import Limits
from rsreg.server.rules import policies, takeover
from rsreg.server.rules.hints import Hints
from rsreg.server.rules.journal import BY_ITSELF, Cause, Journal
from rsreg.server.rules.maintenance_rules import MaintenanceRules
from rsreg.server.rules.new_service import NewService
from rsreg.server.rules.ownership import ITSELF, Requester, check_entry
from rsreg.server.rules.rates import Rates
from rsreg.server.rules.selection import EVERYTHING, NOBODY, Filter, Strategies, Strategy
from rsreg.server.view.lease import Lease
from rsreg.server.view.live_view import LiveView, joined
from rsreg.timing import Clock

log = logging.getLogger(__name__)

#: Seconds that a lease still holds, unless `ending_leases` names it.
LEASES_WITHIN = 15
#: Seconds left of a lease that has run out, but counts until the waiting requests are read.
_LAST_MOMENT = 0.001


class Sender(Protocol):
    """Who sent a heartbeat; where it comes from is found out only if it matters."""

    @property
    def address(self) -> str:
        """Where its connection comes from."""


class Registry:
    """Knows who is registered, and by which rules that may change.

    `clock` is monotonic and rules the leases; `wall` is the time of day. A lease is evaluated not
    at "now" but at the moment at which the request sockets were last found empty, which
    `evaluate_leases` tells: a heartbeat that waits in the queue counts. Raises ServerErrors, and
    StoreError from `open` and `commit`.
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
        limits: Limits | None = None,
    ) -> None:
        self.rates = Rates(limits or Limits(), clock)
        self.unique_service_types = unique_service_types
        self._clock = clock
        self._wall = wall
        self._strategies = Strategies(strategy, strategies or {})
        self._view = LiveView()
        self._backend = backend
        self._hints = Hints(self._view)
        self._journal = Journal(backend, self._view, wall)
        self.maintenance = MaintenanceRules(self._view, self._journal, self.rates.limits, wall)

    def __len__(self) -> int:
        return len(self._view)

    @property
    def epoch(self) -> str:
        """The name of the numbering of events."""
        return self._journal.epoch

    @property
    def seq(self) -> int:
        """The number of the last event."""
        return self._journal.seq

    @property
    def position(self) -> Position:
        """Where the journal stands."""
        return self._journal.position

    @property
    def trouble(self) -> StoreError | None:
        """What is wrong with the store, or None."""
        return self._journal.trouble

    # -- the store

    def open(self) -> None:
        """Load what is stored; every service gets a fresh ttl."""
        self._journal.load(self._clock())
        self.maintenance.end_expired()

    def close(self) -> None:
        """Store the times of the last heartbeats, and close the store."""
        self._journal.close()

    def commit(self) -> list[Event]:
        """Make all changes since the last commit durable; the events to publish.

        On a StoreError nothing of it has happened, in the store and in the live view alike.
        """
        return self._journal.commit()

    def check_store(self) -> None:
        """See whether a store in trouble can be written again; it tells no one by itself."""
        self._journal.check_store()

    def tend_store(self) -> None:
        """Look after the store; call it every second."""
        self._journal.tend()

    def copy_store(self, target: Path, *, replace: bool) -> Copied:
        """Write a copy of what is committed to a file; in a thread of its own.

        Raises StoreError.
        """
        if not isinstance(self._backend, Copyable):
            raise StoreError("this kind of store can't be copied by the registry")
        return self._backend.copy(target, replace=replace)

    # -- time

    def evaluate_leases(self, until: float) -> bool:
        """Evaluate all leases at the moment `until`: those that ended before it have lapsed.

        All requests that came before it must be served. Returns False if there were too many
        to look at all of them: then it has to be called again soon.
        """
        return self._view.evaluate(until)

    def grant_grace(self) -> None:
        """Give every lease a fresh ttl: this server stood still, and its services waited for it."""
        self._view.extend(self._clock())

    # -- questions

    def get(self, service_id: str) -> msgspec.Raw:
        """Return the record of a service; raises UnknownService."""
        lease = self._view.get(service_id)
        if lease is None:
            raise UnknownService(
                "Service not found", hint=self._hints.unknown_id(service_id, self.seq)
            )
        return msgspec.Raw(lease.record())

    def last_change(self, service_id: str) -> dict[str, str | None] | None:
        """Return who registered or updated a service last, as events do; None: not known."""
        lease = self._view.get(service_id)
        return None if lease is None or lease.changed is None else Requester(*lease.changed).named()

    def list_services(
        self, service_type: str | None = None, conditions: Filter = EVERYTHING
    ) -> msgspec.Raw:
        """Return the records of all services, or of the wanted ones of a type, as one array."""
        leases: Iterable[Lease]
        if service_type is not None:
            leases = self._view.of_type(service_type)
        elif conditions.name is not None:
            leases = self._view.named(conditions.name)
        else:
            leases = self._view.all()
        if conditions is not EVERYTHING:
            leases = [
                lease
                for lease in leases
                if conditions.mode in (None, lease.service.mode)
                and (conditions.health is None or lease.health in conditions.health)
                and conditions.fits(lease.service)
            ]
        return joined(leases)

    def counts(self) -> dict[str, int]:
        """Return how many services there are, how many simulators, and how many of each health."""
        simulators = sum(lease.service.mode == SIMULATOR for lease in self._view.all())
        healths = Counter(lease.health for lease in self._view.all())
        return {"services": len(self), "simulators": simulators, **healths}

    def discover(
        self,
        service_type: str,
        conditions: Filter = EVERYTHING,
        strategy: str | None = None,
        asker: Asker = NOBODY,
    ) -> msgspec.Raw:
        """Return the record of one healthy service of a type, wanted and chosen by the strategy.

        Raises NoService, which says why those that are registered are none; InvalidRequest for a
        strategy that nobody knows.
        """
        choose = self._strategies.by(strategy)
        leases = self._view.discoverable(service_type, conditions.mode)
        if conditions.narrows:
            leases = [lease for lease in leases if conditions.fits(lease.service)]
        if not leases:
            raise NoService(
                f"No healthy service of type {service_type} found",
                hint=self._hints.none_found(service_type, conditions, self.seq),
            )
        return msgspec.Raw(choose(leases, asker).record())

    def events_since(
        self, since: int, epoch: str | None, limit: int, mark: str | None = None
    ) -> tuple[list[Event], bool]:
        """Return events after `since`, and whether the subscriber has to list anew.

        It has to where `since` is of another epoch, ahead of us, behind the journal, or another
        event than the one with its `mark`. Raises Unavailable.
        """
        if since > self.seq or epoch not in (None, self.epoch):
            return [], True
        events = self._journal.events_since(since, mark, max(1, limit))
        return ([], True) if events is None else (events[:limit], False)

    def ending_leases(self) -> dict[str, float]:
        """Return id -> seconds left, 0 if lapsed, of leases that end within LEASES_WITHIN."""
        now = self._clock()
        return {
            lease.service.id: 0
            if lease.lapsed
            else max(_LAST_MOMENT, round(lease.deadline - now, 3))
            for lease in self._view.ending(now + LEASES_WITHIN)
        }

    # -- changes

    def entry(self, service_id: str) -> str:
        """Return the fingerprint of what is said of a service that is registered."""
        lease = self._view.get(service_id)
        return "" if lease is None else lease.entry

    def renew(
        self,
        service_id: str,
        report: Report | None = None,
        sender: Sender | None = None,
    ) -> str:
        """Start a lease's ttl again; return its fingerprint. Nothing is stored.

        A `report` replaces the last one, which is over when it was not repeated for a ttl. A change
        of health is counted for the `sender`. Raises UnknownService, SlowDown.
        """
        lease = self._view.get(service_id)
        if lease is None:
            raise UnknownService("Service not found or could not be renewed")
        now, ttl = self._clock(), lease.service.ttl
        if report is None and now >= lease.report_until:
            report = NO_REPORT
        flips = report is not None and report.stalled != lease.report.stalled
        if sender is not None and (flips or lease.lapsed):
            self.rates.flap(sender.address, free=now >= lease.deadline - ttl * 2 / 3)
        self._view.renew(lease, now + ttl, int(self._wall()), report)
        return lease.entry

    def register(
        self,
        info: ServiceInfo,
        extra: dict[str, Any],
        ttl: float,
        token: str | None,
        *,
        request_number: RequestNumber | None = None,
        report: Report | None = None,
        replaces: Mapping[str, object] | None = None,
        judges: bool = False,
        who: Requester = ITSELF,
    ) -> str:
        """Register a service, or update the one that has `info.id`; return its id.

        A `token` that the journal knows is a request that came again: it gets its first answer, and
        nothing changes, as long as the service is registered as it asks. `replaces` maps the ids of
        entries of the same name to their owners, which are known to be dead: those that still are
        so go, and the first gives its id. Who has one of its addresses is taken for dead. Raises
        InvalidRequest, DuplicateName, DuplicateServiceType, OwnedByOther; UnknownService if it was
        overtaken by a later request of the same sender.
        """
        new, cause = NewService(info, extra, ttl), Cause(who, token, request_number)
        if (answered_id := self._answered_before(new, cause)) is not None:
            return answered_id
        if self._journal.overtaken(info.id, request_number):
            raise UnknownService("This registration came after a later request of its sender")
        if judges:
            takeover.check_judged(self._view, info, extra.get("owner"), replaces or {})
        replaced = takeover.replaced_leases(self._view, info, replaces or {}, who)
        service_id = info.id or (replaced[0].service.id if replaced else new.new_id())
        service = new.service(service_id, int(self._wall()), who.address)
        lease = Lease(service, self._clock() + ttl, service.last_heartbeat)
        self._check_policies(info, lease, {service_id, *(each.service.id for each in replaced)})
        before = self._view.get(service_id)
        if before in replaced:
            before = None
        elif before is not None:
            check_entry(before, who)
        for each in replaced:
            self._journal.take_out(event_types.REPLACE, each, Cause(who))
        self._doubt_rivals(service, before, who)
        self._carry_over(lease, before, report)
        self._journal.put(event_types.REGISTER, lease, cause)
        return service_id

    def update(
        self,
        service_id: str,
        change: dict[str, Any],
        extra: dict[str, Any],
        token: str | None,
        request_number: RequestNumber | None = None,
        who: Requester = ITSELF,
    ) -> None:
        """Change what is said about a service, and leave its lease.

        Raises OwnedByOther; UnknownService, also if it was overtaken by a later request of the same
        sender.
        """
        lease = self._view.get(service_id)
        if lease is None:
            raise UnknownService("Service not found or could not be updated")
        service = msgspec.structs.replace(
            lease.service, **change, extra={**lease.service.extra, **extra}
        )
        if self._journal.answered(token) == service_id and (
            request_number or service == lease.service
        ):
            return
        if self._journal.overtaken(service_id, request_number):
            raise UnknownService("This update came after a later request of its sender")
        check_entry(lease, who)
        changed = Lease(service, lease.deadline, lease.last_heartbeat, lease.report)
        policies.check_size(self.rates.limits, changed)
        policies.check_room(self._view, self.rates.limits, changed, {service_id})
        self._doubt_rivals(service, lease, who)
        changed.doubt, changed.last_chosen = lease.doubt, lease.last_chosen
        changed.report_until = lease.report_until
        self._journal.put(event_types.UPDATE, changed, Cause(who, token, request_number))

    def deregister(
        self,
        service_id: str,
        token: str | None,
        request_number: RequestNumber | None = None,
        who: Requester = ITSELF,
    ) -> None:
        """Remove a service.

        Raises OwnedByOther; UnknownService, but not to a request that came again; also if it was
        overtaken by a later request of the same sender.
        """
        lease = self._view.get(service_id)
        if self._journal.answered(token) == service_id and (request_number or lease is None):
            return
        if lease is None:
            raise UnknownService("Service not found or could not be deregistered")
        if self._journal.overtaken(service_id, request_number):
            raise UnknownService("This request came after a later one of its sender")
        check_entry(lease, who)
        self._journal.take_out(event_types.DEREGISTER, lease, Cause(who, token, request_number))

    def expire(self, limit: int) -> int:
        """Remove at most `limit` lapsed services, longest overdue first; return how many."""
        lapsed = self._view.lapsed(limit)
        for lease in lapsed:
            self._journal.announce(lease)
            self._journal.take_out(event_types.EXPIRE, lease, BY_ITSELF)
        return len(lapsed)

    def announce_health(self) -> bool:
        """Stage events of the changes of services' health; True if there are more.

        Not while the store is in trouble: they follow when that is over, if they still are so.
        """
        if self._view.maintenance:
            self.maintenance.end_expired()
        if self.trouble is not None or self._view.all_announced:
            return False
        self._journal.announce_some()
        return not self._view.all_announced

    # -- rules

    def _answered_before(self, new: NewService, cause: Cause) -> str | None:
        """Return the id under which an earlier copy of the request registered, if it did.

        A sender that numbers its requests never sends two that are the same. Of any other that
        may be so, after it was started again: then its service has to be registered as it asks.
        """
        answered_id = self._journal.answered(cause.token)
        if answered_id is None:
            return None
        lease = self._view.get(answered_id)
        if cause.request_number is not None:
            if lease is None:
                raise UnknownService("This registration has ended since it was first asked for")
            return answered_id
        if lease is None or lease.service != new.service(
            answered_id, lease.service.last_heartbeat, lease.service.registered_by
        ):
            return None
        self.renew(answered_id)
        return answered_id

    def _check_policies(self, info: ServiceInfo, lease: Lease, gone: set[str]) -> None:
        """Refuse a service that may not be registered, `gone` being the ids that it replaces."""
        limits, service = self.rates.limits, lease.service
        policies.check_size(limits, lease)
        policies.check_room(self._view, limits, lease, gone)
        policies.check_name(self._view, service, gone)
        policies.check_type(self._view, info, service, gone, unique=self.unique_service_types)

    def _carry_over(self, lease: Lease, before: Lease | None, report: Report | None) -> None:
        """Give a new lease what is known of its service: the report, and when it was chosen."""
        lease.last_chosen = self._strategies.choices if before is None else before.last_chosen
        if report is not None:
            lease.report, lease.report_until = report, lease.deadline
        elif before is not None and before.service.owner == lease.service.owner is not None:
            lease.report, lease.report_until = before.report, before.report_until

    def _doubt_rivals(self, service: Service, before: Lease | None, who: Requester) -> None:
        """Take the processes for dead that were at an address that a service now has."""
        for rival in takeover.dead_rivals(self._view, service, before, who):
            log.warning(
                "%s on %s:%d is critical: %s has registered its address",
                display.printable(rival.service.name),
                display.printable(rival.service.host),
                rival.service.port,
                display.printable(service.name),
            )
            self._journal.doubt(rival, f"{service.name} has registered its address", who)
