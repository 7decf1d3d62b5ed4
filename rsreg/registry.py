"""The rules of the registry, over its live view. No sockets.

Every question is answered from memory. A change is applied to the live view at once and staged;
`commit` makes all that is staged durable in one transaction, or puts the live view back.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import msgspec

from rsreg import records, wire
from rsreg.backend import RegistryBackend
from rsreg.errors import (
    DuplicateServiceType,
    InvalidRequest,
    NoService,
    StoreError,
    Unavailable,
    UnknownService,
)
from rsreg.live import Lease, LiveView, joined
from rsreg.records import Event, Service, ServiceInfo
from rsreg.timing import Clock

log = logging.getLogger(__name__)

#: A discovery strategy: chooses one of the passing services of a type; never called with none.
Strategy = Callable[[Sequence[Service]], Service]

#: Requests remembered, so that a resend is no second one; as many as the journal keeps events.
_MAX_ANSWERED = 10_000
#: Seconds that a lease still holds, unless `ending_leases` names it.
LEASES_WITHIN = 15
#: Seconds told of a lease that has run out, but counts until the waiting requests are read.
_LAST_MOMENT = 0.001
#: Services whose last heartbeat is stored to see whether a store that failed can be written again.
_PROBED = 100


def random_choice(services: Sequence[Service]) -> Service:
    """The default strategy: any of them."""
    return random.choice(services)


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
        strategy: Strategy = random_choice,
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
        self._strategy = strategy
        self._view = LiveView()
        #: Token of a request in the journal -> the service it was about.
        self._answered: dict[str, str] = {}
        self._staged: list[Event] = []
        #: Id -> what the live view held before the first staged change of it.
        self._before: dict[str, Lease | None] = {}

    def __len__(self) -> int:
        return len(self._view)

    # -- opening and closing

    def open(self) -> None:
        """Load what is stored; every service gets a fresh ttl."""
        self._backend.initialize()
        try:
            stored = self._backend.load()
        except StoreError:
            self._backend.close()
            raise
        self.epoch, self.seq, self._answered = stored.epoch, stored.seq, stored.answered
        now = self._clock()
        for service in stored.services:
            self._view.put(Lease(service, now + service.ttl, service.last_heartbeat))

    def close(self) -> None:
        """Store the times of the last heartbeats, and close the store."""
        try:
            self._backend.touch(self._heartbeats())
        finally:
            self._backend.close()

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

    def list_services(self, kind: str | None = None) -> msgspec.Raw:
        """The records of all services, or of those found under `kind`, as one array."""
        return joined(self._view.all() if kind is None else self._view.of_kind(kind))

    def discover(self, kind: str) -> msgspec.Raw:
        """The record of one passing service of `kind`, by the strategy; raises NoService."""
        passing = self._view.passing(kind)
        if not passing:
            raise NoService(f"No healthy service of type {kind} found")
        return self.get(self._strategy(passing).id)

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
            lease.service.id: max(_LAST_MOMENT, round(lease.deadline - now, 3))
            if lease.passing
            else 0
            for lease in self._view.ending(now + LEASES_WITHIN)
        }

    # -- changes

    def renew(self, service_id: str) -> None:
        """Start a lease's ttl again; raises UnknownService. Nothing is stored."""
        lease = self._view.get(service_id)
        if lease is None:
            raise UnknownService("Service not found or could not be renewed")
        self._view.renew(lease, self._clock() + lease.service.ttl, int(self._wall()))

    def register(
        self, info: ServiceInfo, extra: dict[str, Any], ttl: float, token: str | None
    ) -> str:
        """Register a service, or update the one that has `info.id`; its id.

        A `token` that the journal knows is a request that came again: it gets its first answer, and
        nothing changes. Raises InvalidRequest, DuplicateServiceType.
        """
        if token is not None and (known := self._answered.get(token)) is not None:
            return known
        service = Service(
            id=info.id or f"{records.slug(info.name)}-{uuid.uuid4()}",
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
        self._check_policy(info, service)
        self._remember(service.id)
        lease = Lease(service, self._clock() + ttl, service.last_heartbeat)
        self._view.put(lease)
        self._stage("register", lease, token)
        return service.id

    def deregister(self, service_id: str, token: str | None) -> None:
        """Remove a service; raises UnknownService, but not to a request that came again."""
        if token is not None and self._answered.get(token) == service_id:
            return
        lease = self._view.get(service_id)
        if lease is None:
            raise UnknownService("Service not found or could not be deregistered")
        self._take_out("deregister", lease, token)

    def expire(self, limit: int) -> int:
        """Remove at most `limit` services whose lease lapsed, longest overdue first; how many."""
        lapsed = self._view.lapsed(limit)
        for lease in lapsed:
            self._take_out("expire", lease, None)
        return len(lapsed)

    def commit(self) -> list[Event]:
        """Make all that is staged durable; the events to publish.

        On a StoreError nothing of it has happened, in the store and in the live view alike.
        """
        if not self._staged:
            return []
        changes = {
            service_id: lease.service if (lease := self._view.get(service_id)) else None
            for service_id in self._before
        }
        try:
            self._backend.commit(changes, self._staged)
        except StoreError as error:
            self._roll_back()
            self._note(error)
            raise
        self._note(None)
        events = self._staged
        self._staged, self._before = [], {}
        while len(self._answered) > _MAX_ANSWERED:
            del self._answered[next(iter(self._answered))]
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

    def _check_policy(self, info: ServiceInfo, service: Service) -> None:
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
        for holder in self._view.passing(kind):
            if holder.id != service.id:
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
        self._view.put_back(self._before)
        for event in self._staged:
            if event.token is not None:
                self._answered.pop(event.token, None)
        self.seq -= len(self._staged)
        self._staged, self._before = [], {}


def unavailable(error: StoreError) -> Unavailable:
    """What a client is told of a store that failed."""
    return Unavailable(
        f"The registry's store failed: {error}", hint="nothing was changed; try again"
    )


def bodies(events: Iterable[Event]) -> list[msgspec.Raw]:
    """The events as the protocol shows them, as JSON."""
    return [msgspec.Raw(event.body) for event in events]
