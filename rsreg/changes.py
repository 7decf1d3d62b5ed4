"""The changes since the last commit: durable together, or put back together. No sockets.

A change is applied to the live view at once, and staged with its event. Nobody hears of it before
`commit` has made it durable.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import islice

import msgspec

from rsreg import wire
from rsreg.backend import MAX_ANSWERED, RegistryBackend, Tended
from rsreg.errors import StoreError, StoreLost, Unavailable
from rsreg.lease import Lease
from rsreg.live import LiveView
from rsreg.records import CRITICAL, MAINTENANCE, Event, Maintenance, news
from rsreg.timing import Clock
from rsreg.wire import Turn

log = logging.getLogger(__name__)

#: Events read at once, of the whole journal.
_EVENTS_AT_ONCE = 1_000
#: Services whose last heartbeat is stored to see whether a store that failed can be written again.
_PROBED = 100
#: The event that tells of a service's new health; of any other it has recovered.
_HEALTH_EVENTS = {CRITICAL: "critical", MAINTENANCE: "maintenance"}
_RECOVERED = "recovered"
#: Events that say nothing of a service's health after them.
_NO_HEALTH = frozenset({"replace", "deregister", "expire"})


class Changes:
    """Changes a live view, and keeps its store and journal in step.

    `seq` is the number of the last event, staged ones included; `trouble` what is wrong with the
    store, or None. Raises StoreError from `load` and `commit`.
    """

    def __init__(self, backend: RegistryBackend, view: LiveView, wall: Clock) -> None:
        self.epoch = ""
        self.seq = 0
        self.trouble: StoreError | None = None
        self._backend = backend
        self._view = view
        self._wall = wall
        #: Token of a request in the journal -> the service it was about.
        self._answered: dict[str, str] = {}
        #: Id of a service that left -> the turn of the request that took it out.
        self._left: dict[str, Turn] = {}
        self._forget_staged()

    def _forget_staged(self) -> None:
        self._staged: list[Event] = []
        #: Id -> what the live view held before the first staged change of it.
        self._before: dict[str, Lease | None] = {}
        #: The leases that staged events tell the health of, and what was known of it before.
        self._telling: list[tuple[Lease, str]] = []
        #: What the maintenance was before its first staged change.
        self._maintenance_before: list[Maintenance] | None = None

    # -- the store

    def load(self, now: float) -> None:
        """Take in what is stored; every service has a whole ttl from `now`."""
        self._backend.initialize()
        try:
            stored = self._backend.load()
            heard = self._last_heard({service.id for service in stored.services})
        except StoreError:
            self._backend.close()
            raise
        self.epoch, self.seq, self._answered = stored.epoch, stored.seq, stored.answered
        self._view.maintain(stored.maintenance)
        for service in stored.services:
            lease = Lease(service, now + service.ttl, service.last_heartbeat)
            self._view.put(lease)
            self._view.tell(lease, lease.news)
        self._remember_told(heard)

    def close(self) -> None:
        """Store the times of the last heartbeats, and close the store.

        One that is lost is closed as it is: that it is lost was said.
        """
        try:
            if not isinstance(self.trouble, StoreLost):
                self._backend.touch(self._heartbeats())
        finally:
            self._backend.close()

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

    def tend(self) -> None:
        """Look after the store; it is in trouble as long as it is not where it was."""
        if not isinstance(self._backend, Tended):
            return
        try:
            self._backend.tend()
        except StoreError as error:
            self._note(error)
        else:
            if isinstance(self.trouble, StoreLost):
                self.check_store()

    def events_since(self, since: int, limit: int) -> list[Event]:
        """The events after `since`, staged ones too; none if the journal does not reach back.

        Raises Unavailable.
        """
        events: list[Event] = []
        stored = self.seq - len(self._staged)
        if since < stored:
            try:
                events = self._backend.events(since, limit)
            except StoreError as error:
                raise unavailable(error) from error
            if not events or events[0].seq != since + 1:
                return []
            if events[-1].seq < stored:
                return events
        events += [event for event in self._staged if event.seq > since]
        return events[:limit]

    def _last_heard(self, living: set[str]) -> dict[str, Event]:
        """The last event of each of these services that says how it is."""
        return {
            event.service_id: event
            for event in self._journal()
            if event.service_id in living and event.type not in _NO_HEALTH
        }

    def _journal(self) -> Iterator[Event]:
        """All of it, a part at a time: it may be long."""
        since = 0
        while events := self._backend.events(since, _EVENTS_AT_ONCE):
            yield from events
            since = events[-1].seq

    def _remember_told(self, heard: Mapping[str, Event]) -> None:
        """Know what subscribers last heard of each service's health.

        Who was critical is passing after a restart, and they have to be told.
        """
        for service_id, event in heard.items():
            if (lease := self._view.get(service_id)) is not None:
                health = msgspec.json.decode(event.body)["data"]["service_info"]["health"]
                self._view.tell(lease, news(health))

    def _heartbeats(self, most: int | None = None) -> dict[str, int]:
        leases = islice(self._view.all(), most)
        return {lease.service.id: lease.last_heartbeat for lease in leases}

    def _note(self, trouble: StoreError | None) -> None:
        """An outage of the store is two lines in the log, however many changes are refused."""
        if trouble is not None and self.trouble is None:
            log.error("the store failed, changes are refused: %s", trouble)
        elif trouble is None and self.trouble is not None:
            log.warning("the store takes changes again")
        self.trouble = trouble

    # -- requests that came before

    def answered(self, token: str | None) -> str | None:
        """The service that a request with this token was about, if the journal knows it."""
        return None if token is None else self._answered.get(token)

    def taken_back(self, service_id: str | None, turn: Turn | None) -> bool:
        """Whether the sender has ended this service by a request that came after `turn`."""
        left = self._left.get(service_id) if service_id is not None else None
        return bool(left and turn and left.sender == turn.sender and turn.number < left.number)

    # -- changing

    def put(self, event_type: str, lease: Lease, token: str | None) -> None:
        """Take a lease in, in the place of another of its id; the event tells how it is."""
        self._remember(lease.service.id)
        self._view.put(lease)
        self._view.tell(lease, lease.news)
        self._stage(event_type, lease, token)

    def take_out(
        self, event_type: str, lease: Lease, token: str | None = None, turn: Turn | None = None
    ) -> None:
        """Take a lease out; `turn` is that of the request that wants it."""
        self._remember(lease.service.id)
        self._view.remove(lease)
        self._stage(event_type, lease, token)
        if turn is not None:
            self._left[lease.service.id] = turn

    def tell(self, lease: Lease) -> None:
        """Tell subscribers how a service is, if they don't know."""
        if lease.news == lease.told:
            return
        self._telling.append((lease, lease.told))
        self._stage(_HEALTH_EVENTS.get(lease.news, _RECOVERED), lease, None)
        self._view.tell(lease, lease.news)

    def maintain(self, maintenance: list[Maintenance]) -> None:
        """Have just these in maintenance, and tell who is affected."""
        if self._maintenance_before is None:
            self._maintenance_before = self._view.maintenance
        self._view.maintain(maintenance)
        for lease in self._view.untold(len(self._view)):
            self.tell(lease)

    def _remember(self, service_id: str) -> None:
        self._before.setdefault(service_id, self._view.get(service_id))

    def _stage(self, event_type: str, lease: Lease, token: str | None) -> None:
        self.seq += 1
        service_id = lease.service.id
        body = {
            "type": event_type,
            "timestamp": int(self._wall()),
            "data": {"service_id": service_id, "service_info": msgspec.Raw(lease.record())},
            "seq": self.seq,
            "epoch": self.epoch,
        }
        self._staged.append(
            Event(
                seq=self.seq,
                type=event_type,
                service_id=service_id,
                body=wire.encode(body),
                token=token,
            )
        )
        if token is not None:
            self._answered[token] = service_id

    # -- committing

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
        maintenance = None if self._maintenance_before is None else self._view.maintenance
        try:
            self._backend.commit(changes, self._staged, maintenance)
        except StoreError as error:
            self._roll_back()
            self._note(error)
            raise
        self._note(None)
        events = self._staged
        self._forget_staged()
        for remembered in (self._answered, self._left):
            while len(remembered) > MAX_ANSWERED:
                del remembered[next(iter(remembered))]
        return events

    def _roll_back(self) -> None:
        if self._maintenance_before is not None:
            self._view.maintain(self._maintenance_before)
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
        self._forget_staged()


def unavailable(error: StoreError) -> Unavailable:
    """What a client is told of a store that failed."""
    todo = "try again" if error.hint is None else error.hint
    return Unavailable(f"The registry's store failed: {error}", hint=f"nothing was changed; {todo}")
