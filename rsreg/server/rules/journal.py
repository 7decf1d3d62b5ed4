"""Journal: changes the live view; what was changed is committed, or undone. No sockets.

A change is applied to the live view at once, its event is staged, and how to undo it is added to a
list. `commit` makes the events durable, and only then they are published. If the store refuses
them, the list is run backwards, and the view is as it was at the last commit.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Generic, NamedTuple, TypeVar

import msgspec

from rsreg.errors import StoreError, StoreLost, Unavailable
from rsreg.protocol import wire
from rsreg.protocol.event_types import ENDINGS
from rsreg.protocol.health import CRITICAL, HEALTH_EVENTS, SILENT
from rsreg.protocol.records import COMPUTED
from rsreg.protocol.wire import RequestNumber
from rsreg.server.backends.base import MAX_ANSWERED, RegistryBackend, Tended
from rsreg.server.backends.stored import AnnouncedHealth, Event, Maintenance, Position, Service
from rsreg.server.rules.ownership import ITSELF, Requester
from rsreg.server.view.lease import Lease
from rsreg.server.view.live_view import LiveView
from rsreg.timing import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Changes of health that are announced in one transaction.
_ANNOUNCED_AT_ONCE = 100
#: Services whose last heartbeat is stored to see whether a store that failed can be written again.
_PROBED = 100


class Cause(NamedTuple):
    """What a change was made for: who asked for it, and by which request.

    `token` and `request_number` name the request, see `wire.fingerprint` and `wire.RequestNumber`.
    """

    who: Requester = ITSELF
    token: str | None = None
    request_number: RequestNumber | None = None


#: What the registry does by itself.
BY_ITSELF = Cause()


class Journal:
    """Changes a live view, and keeps its store and journal in step.

    `seq` is the number of the last event, staged ones included; `trouble` what is wrong with the
    store, or None. Raises StoreError from `load` and `commit`.
    """

    def __init__(self, backend: RegistryBackend, view: LiveView, wall: Clock) -> None:
        self.epoch = ""
        self.seq = 0
        #: The mark of the last event; none before the first.
        self.mark: str | None = None
        self.trouble: StoreError | None = None
        self._backend = backend
        self._view = view
        self._wall = wall
        #: Token of a request in the journal -> the service it was about.
        self._answered = _Memory[str]()
        #: Id of a service -> the number of the last request that changed it.
        self._request_numbers = _Memory[RequestNumber]()
        #: Id -> who changed the maintenance of a service, which is still to be announced.
        self._causes: dict[str, Requester] = {}
        self._begin()

    def _begin(self) -> None:
        """Begin to collect what the next commit makes durable."""
        self._staged: list[Event] = []
        #: The mark of all events of the next commit.
        self._next_mark = secrets.token_hex(8)
        #: Where the journal stands in the store.
        self._committed = self.position
        #: How to undo the changes, in the order in which they were made.
        self._undo: list[Callable[[], object]] = []
        #: Id -> what the live view held before the first staged change of it.
        self._before: dict[str, Lease | None] = {}
        self._maintenance_changed = False

    # -- the store

    def load(self, now: float) -> None:
        """Take in what is stored; every service has a whole ttl from `now`."""
        self._backend.initialize()
        try:
            stored = self._backend.load()
            newest = self._backend.events(stored.seq - 1, 1) if stored.seq else []
        except StoreError:
            self._backend.close()
            raise
        self.epoch, self.seq = stored.epoch, stored.seq
        self.mark = newest[0].mark if newest else None
        self._committed = self.position
        self._answered = _Memory(stored.answered)
        numbers = {id_: wire.read_request_number(it) for id_, it in stored.request_numbers.items()}
        self._request_numbers = _Memory({id_: it for id_, it in numbers.items() if it is not None})
        self._view.maintain(stored.maintenance)
        for service in map(_without_computed, stored.services):
            announced = stored.announced.get(service.id, AnnouncedHealth())
            # Who was critical stays so until it is heard of: a restart makes nobody well.
            doubt = (announced.reason or SILENT) if announced.health == CRITICAL else None
            lease = Lease(service, now + service.ttl, service.last_heartbeat, doubt=doubt)
            self._view.put(lease)
            self._view.set_announced(lease, announced.health)

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
            self._set_trouble(error)
        else:
            self._set_trouble(None)

    def tend(self) -> None:
        """Look after the store; it is in trouble as long as it is not where it was."""
        if not isinstance(self._backend, Tended):
            return
        try:
            self._backend.tend()
        except StoreError as error:
            self._set_trouble(error)
        else:
            if isinstance(self.trouble, StoreLost):
                self.check_store()

    @property
    def position(self) -> Position:
        """Where the journal stands, staged events included."""
        return Position(self.epoch, self.seq, self.mark)

    def events_since(self, since: int, mark: str | None, limit: int) -> list[Event] | None:
        """Return at most `limit` events after `since`, staged ones too.

        None if the journal can't tell: it does not reach back that far, or its event `since` has
        another mark than `mark`, where one is given. Raises Unavailable.
        """
        if since == self.seq:
            return [] if mark in (None, self.mark) else None
        if since == 0 or mark is None:
            events = self._journal(since, limit)
        else:
            events = self._journal(since - 1, limit + 1)
            events = events[1:] if events and events[0].mark == mark else []
        return events or None

    def _journal(self, since: int, limit: int) -> list[Event]:
        """Return the events right after `since`, none if the first of them is gone."""
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

    def _heartbeats(self, most: int | None = None) -> dict[str, int]:
        leases = islice(self._view.all(), most)
        return {lease.service.id: lease.last_heartbeat for lease in leases}

    def _set_trouble(self, trouble: StoreError | None) -> None:
        """Note whether the store works; an outage is two lines in the log."""
        if trouble is not None and self.trouble is None:
            log.error("the store failed, changes are refused: %s", trouble)
        elif trouble is None and self.trouble is not None:
            log.warning("the store takes changes again")
        self.trouble = trouble

    # -- requests that came before

    def answered(self, token: str | None) -> str | None:
        """Return the service that a request with this token was about, if the journal knows it."""
        return None if token is None else self._answered.get(token)

    def overtaken(self, service_id: str | None, request_number: RequestNumber | None) -> bool:
        """Return whether the sender of a request has changed the service by a later one."""
        last = self._request_numbers.get(service_id) if service_id is not None else None
        return bool(
            last
            and request_number
            and last.sender == request_number.sender
            and request_number.number < last.number
        )

    # -- changing

    def put(self, event_type: str, lease: Lease, cause: Cause) -> None:
        """Take a lease in, in the place of another of its id; its event has the health too."""
        self._remember(lease.service.id)
        lease.changed = cause.who.address, cause.who.says
        self._view.put(lease)
        self._view.set_announced(lease, lease.health_to_announce)
        self._stage(event_type, lease, cause)

    def take_out(self, event_type: str, lease: Lease, cause: Cause) -> None:
        """Take a lease out."""
        self._remember(lease.service.id)
        self._view.remove(lease)
        self._stage(event_type, lease, cause)

    def doubt(self, lease: Lease, reason: str, who: Requester) -> None:
        """Take the process of a lease for dead, and announce that."""
        self._undo.append(partial(self._view.doubt, lease, lease.doubt))
        self._view.doubt(lease, reason)
        self.announce(lease, who)

    def announce(self, lease: Lease, who: Requester = ITSELF) -> None:
        """Stage an event of the health of a service, if subscribers know of another one."""
        if lease.health_to_announce == lease.announced:
            return
        self._undo.append(partial(self._view.set_announced, lease, lease.announced))
        self._stage(HEALTH_EVENTS[lease.health_to_announce], lease, Cause(who))
        self._view.set_announced(lease, lease.health_to_announce)

    def maintain(self, maintenance: list[Maintenance], who: Requester) -> None:
        """Replace the maintenance entries, and begin to announce which services that changes."""
        self._undo.append(partial(self._view.maintain, self._view.maintenance))
        self._maintenance_changed = True
        others = {lease.service.id for lease in self._view.unannounced(len(self._view))}
        self._view.maintain(maintenance)
        for lease in self._view.unannounced(len(self._view)):
            if lease.service.id not in others:
                self._causes[lease.service.id] = who
        self.announce_some()

    def announce_some(self) -> None:
        """Stage events of the health of some services of which subscribers know another one."""
        for lease in self._view.unannounced(_ANNOUNCED_AT_ONCE):
            self.announce(lease, self._causes.get(lease.service.id, ITSELF))
        if self._view.all_announced:
            self._causes.clear()

    def _remember(self, service_id: str) -> None:
        """Note what the view holds under an id, before that is changed."""
        if not self._before:
            # All together: what lapsed is sorted again, which takes long if it is much.
            self._undo.append(partial(self._view.put_back, self._before))
        self._before.setdefault(service_id, self._view.get(service_id))

    def _stage(self, event_type: str, lease: Lease, cause: Cause) -> None:
        who, token, request_number = cause
        self.seq += 1
        service_id = lease.service.id
        body = {
            "type": event_type,
            "timestamp": int(self._wall()),
            "data": {"service_id": service_id, "service_info": msgspec.Raw(lease.record())},
            "seq": self.seq,
            "epoch": self.epoch,
            "mark": self._next_mark,
            "after": self.mark,
            **who.named(),
        }
        self.mark = self._next_mark
        self._staged.append(
            Event(
                seq=self.seq,
                type=event_type,
                service_id=service_id,
                body=wire.encode(body),
                token=token,
                request_number=None if request_number is None else str(request_number),
                announced=None
                if event_type in ENDINGS
                else AnnouncedHealth(lease.health_to_announce, lease.reason),
            )
        )
        if token is not None:
            self._undo.append(self._answered.put(token, service_id))
        if request_number is not None:
            self._undo.append(self._request_numbers.put(service_id, request_number))

    # -- committing

    def commit(self) -> list[Event]:
        """Make all that is staged durable; the events to publish.

        On a StoreError nothing of it has happened, in the store and in the live view alike.
        """
        if not self._staged and not self._maintenance_changed:
            return []
        changes = {
            service_id: lease.service if (lease := self._view.get(service_id)) else None
            for service_id in self._before
        }
        maintenance = self._view.maintenance if self._maintenance_changed else None
        try:
            self._backend.commit(changes, self._staged, maintenance)
        except StoreError as error:
            self._roll_back()
            self._set_trouble(error)
            raise
        self._set_trouble(None)
        events = self._staged
        self._answered.forget_oldest()
        self._request_numbers.forget_oldest()
        self._begin()
        return events

    def _roll_back(self) -> None:
        """Undo all changes since the last commit, the last one first."""
        for undo in reversed(self._undo):
            undo()
        self._causes.clear()
        _, self.seq, self.mark = self._committed
        self._begin()


class _Memory(Generic[T]):
    """What the last 10,000 requests did."""

    def __init__(self, entries: Mapping[str, T] = MappingProxyType({})) -> None:
        self._entries = dict(entries)

    def get(self, key: str) -> T | None:
        """Return what is known, or None."""
        return self._entries.get(key)

    def put(self, key: str, value: T) -> Callable[[], None]:
        """Know something from now on, as the newest; return how to undo that."""
        before = self._entries.pop(key, None)
        self._entries[key] = value
        return partial(self._put_back, key, before)

    def _put_back(self, key: str, before: T | None) -> None:
        del self._entries[key]
        if before is not None:
            self._entries[key] = before

    def forget_oldest(self) -> None:
        """Forget what is too much, the oldest first."""
        while len(self._entries) > MAX_ANSWERED:
            del self._entries[next(iter(self._entries))]


def _without_computed(service: Service) -> Service:
    """Return the service without fields that the registry itself now fills in."""
    if COMPUTED.isdisjoint(service.extra):
        return service
    extra = {field: value for field, value in service.extra.items() if field not in COMPUTED}
    return msgspec.structs.replace(service, extra=extra)


def unavailable(error: StoreError) -> Unavailable:
    """Return the error that a client gets when the store has failed."""
    todo = "try again" if error.hint is None else error.hint
    return Unavailable(f"The registry's store failed: {error}", hint=f"nothing was changed; {todo}")
