"""All services as a cache knows them, and for how long each surely passes. No I/O."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from rsreg.config import HARDWARE, SIMULATOR
from rsreg.errors import RegistryError
from rsreg.protocol import calls, event_types, records
from rsreg.protocol.calls import Call, Record
from rsreg.protocol.health import CRITICAL, HEALTH_EVENTS, MAINTENANCE, PASSING, SILENT, announced
from rsreg.protocol.records import ServiceList, ServiceRecord
from rsreg.timing import Clock
from rsreg.transport.subscription import PAUSE_MOST, Subscription

#: Seconds after the last answer from which a view is stale: two requests got no answer.
STALE_AFTER = 2 * PAUSE_MOST
#: Fields that change with heartbeats, without an event.
_WITHOUT_EVENTS = frozenset({"status", "load"})
#: What services are found under: None (all services), a type, or a type and a mode.
Key = str | tuple[str, str] | None
#: Seconds between two requests, at least, and from a request to the end of a lease it asks about.
_PAUSE = 0.25


class Entry:
    """A service in an index. Its record is kept as JSON, so that each answer is a fresh object.

    `health` is the last one that had an event, for a service whose lease holds; a warning counts as
    passing. `keys` are what it is found under: each of its types, alone and with its mode.
    """

    __slots__ = ("_json", "health", "id", "keys")

    def __init__(self, reported: Record) -> None:
        record = {field: value for field, value in reported.items() if field not in _WITHOUT_EVENTS}
        self.id: str = record["id"]
        self.health = record["health"] = announced(record["health"])
        if self.health != MAINTENANCE:
            # While a service is critical, its maintenance begins and ends without an event.
            record.pop("maintenance", None)
        if self.health == PASSING:
            # The reason of a warning has no event either.
            record.pop("reason", None)
        service_types = records.service_types_of(record["type"], record["tags"], record["metadata"])
        mode = records.mode_of(record)
        self.keys: frozenset[Key] = frozenset(
            [None, *service_types, *((service_type, mode) for service_type in service_types)]
        )
        self._json = msgspec.json.encode(record)

    def record(self, sure: bool) -> ServiceRecord:
        """Return the record, for the caller to keep; critical unless its lease surely holds."""
        record = ServiceRecord(msgspec.json.decode(self._json))
        if not sure:
            record.update(health=CRITICAL, reason=SILENT)
        return record


class ServiceIndex:
    """Services by id and by key, in the order of the registry's own list.

    One thread changes it while others read: what they get is one value, in which no service is
    missing that is only being updated.
    """

    def __init__(self, services: Iterable[Record]) -> None:
        self._by_id: dict[str, Entry] = {}
        self._by_key: dict[Key, tuple[Entry, ...]] = {}
        by_key: dict[Key, list[Entry]] = {}
        for entry in map(Entry, services):
            self._by_id[entry.id] = entry
            for key in entry.keys:
                by_key.setdefault(key, []).append(entry)
        self._by_key.update({key: tuple(entries) for key, entries in by_key.items()})

    def get(self, service_id: str) -> Entry | None:
        """Return the service with an id, or None."""
        return self._by_id.get(service_id)

    def under(self, key: Key) -> tuple[Entry, ...]:
        """Return the services found under a key."""
        return self._by_key.get(key, ())

    def put(self, record: Record) -> None:
        """Add a service; one that is there already moves to the end, as in the registry's list."""
        entry = Entry(record)
        before = self._by_id.get(entry.id)
        self._by_id[entry.id] = entry
        for key in entry.keys:
            self._by_key[key] = (*self._others(before, key), entry)
        if before is not None:
            self._take_out(before, before.keys - entry.keys)

    def change(self, record: Record) -> None:
        """Replace the record of a service; its place stays if it is found under the same keys."""
        entry = Entry(record)
        before = self._by_id.get(entry.id)
        if before is None or before.keys != entry.keys:
            self.put(record)
            return
        self._by_id[entry.id] = entry
        for key in entry.keys:
            self._by_key[key] = tuple(
                entry if each is before else each for each in self._by_key[key]
            )

    def remove(self, service_id: str) -> None:
        """Remove a service, if it is there."""
        entry = self._by_id.pop(service_id, None)
        if entry is not None:
            self._take_out(entry, entry.keys)

    def _take_out(self, entry: Entry, keys: Iterable[Key]) -> None:
        for key in keys:
            remaining = self._others(entry, key)
            if remaining:
                self._by_key[key] = remaining
            else:
                del self._by_key[key]

    def _others(self, entry: Entry | None, key: Key) -> tuple[Entry, ...]:
        entries = self.under(key)
        return entries if entry is None else tuple(each for each in entries if each is not entry)


class LeaseBounds:
    """Lower bounds for the end of each lease, from the answer to the request of `asked_at`.

    `ends` has the leases whose end is known; all others last at least until `default_end`.
    """

    def __init__(self, asked_at: float, within: float, ends: Mapping[str, float]) -> None:
        self.asked_at = asked_at
        self.default_end = asked_at + within
        self.ends = {service_id: asked_at + seconds for service_id, seconds in ends.items()}

    def until(self, service_id: str) -> float:
        """Return the moment from which a lease may have lapsed."""
        return self.ends.get(service_id, self.default_end)

    def first_end(self) -> float:
        """Return when the first of the leases that held then may lapse."""
        return min(
            (end for end in self.ends.values() if end > self.asked_at), default=self.default_end
        )


class CacheView(Subscription):
    """A Subscription that keeps all services, listed anew if the journal does not reach back.

    One thread hands it what arrives, others may read. `clock` is monotonic. A service counts as
    passing only as long as that is certain. A lease is counted from the moment of the request whose
    answer brought it, also that of a service which registered since: it can't have begun earlier.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._services = ServiceIndex(())
        self._leases = LeaseBounds(-math.inf, 0.0, {})
        self._asked_at = self._due = -math.inf
        #: The ttl of leases that began since the last request: its answer may be from before that.
        self._new_leases: dict[str, float] = {}
        #: Ids of replaced services; they are removed when their replacement arrives.
        self._replaced: set[str] = set()

    # -- following

    @property
    def seconds_until_next_request(self) -> float:
        """Seconds to wait for an event before the next request, for a gap or for leases."""
        return max(0.0, min(self._next_request_at, self._due) - self._clock())

    def next_request(self) -> Call[Record]:
        """Return the request for all services, or for what changed since the last answer."""
        self._asked_at = self._clock()
        self._new_leases.clear()
        if self._seq is None:
            return calls.snapshot()
        return calls.changes_since(self._seq, self._epoch, self._mark)

    def on_reply(self, reply: Mapping[str, Any]) -> list[Record]:
        """Take in the answer to the last request; returns the events in it that are new."""
        if reply.get("reset"):
            self._back()
            self._seq = None
            self._wait(-math.inf)
            return []
        if self._seq is None:
            # For who reads between these lines, no service of the new list passes yet.
            self._leases = LeaseBounds(self._leases.asked_at, 0.0, {})
            self._services = ServiceIndex(reply["services"])
            self._replaced.clear()
        events = super().on_reply(reply)
        for event in events:
            self._apply(event)
        if self._next_request_at > -math.inf:
            leases = reply["leases"]
            bounds = LeaseBounds(self._asked_at, leases["within"], leases["ends"])
            for service_id, ttl in self._new_leases.items():
                bounds.ends[service_id] = min(bounds.until(service_id), self._asked_at + ttl)
            self._leases = bounds
            self._due = self._asked_at + PAUSE_MOST
            self._request_before(self._leases.first_end())
        return events

    def on_failure(self, error: RegistryError) -> None:
        """The request got no answer: wait, then make it again."""
        super().on_failure(error)
        self._due = self._next_request_at

    def on_event(self, event: Record) -> list[Record]:
        """Take in an event if it is the next one; else a request is due, for what is missing."""
        events = super().on_event(event)
        for each in events:
            self._apply(each)
        return events

    def _apply(self, event: Record) -> None:
        event_type, service_id = event["type"], event["data"]["service_id"]
        record = event["data"]["service_info"]
        if event_type == event_types.REGISTER:
            self._lease_began(record)
            self._services.put(record)
            for replaced in self._replaced - {service_id}:
                self._services.remove(replaced)
            self._replaced.clear()
        elif event_type == event_types.UPDATE:
            self._services.put(record)
        elif event_type == event_types.REPLACE:
            self._replaced.add(service_id)
        elif event_type in event_types.ENDINGS:
            self._services.remove(service_id)
        elif event_type in HEALTH_EVENTS.values():
            if record["health"] != CRITICAL and self._lapsed(service_id):
                self._lease_began(record)
            self._services.change(record)

    def _lapsed(self, service_id: str) -> bool:
        """True if its lease had lapsed at the last answer, or an event since made it critical."""
        before = self._services.get(service_id)
        was_critical = before is not None and before.health == CRITICAL
        return was_critical or self._leases.until(service_id) <= self._leases.asked_at

    def _lease_began(self, record: Record) -> None:
        """Note that a lease began anew, after the last answer; when exactly is not known."""
        self._leases.ends[record["id"]] = end = self._leases.asked_at + record["ttl"]
        self._new_leases[record["id"]] = record["ttl"]
        self._request_before(end)

    def _request_before(self, end: float) -> None:
        self._due = min(self._due, max(end - _PAUSE, self._asked_at + _PAUSE))

    # -- answering

    @property
    def as_of(self) -> float:
        """All that happened before this moment is known; -inf before the first answer."""
        return self._leases.asked_at

    def stale(self) -> float | None:
        """Seconds since `as_of`, if they are too many to answer; else None."""
        age = self._clock() - self._leases.asked_at
        return age if age > STALE_AFTER else None

    def get(self, service_id: str) -> ServiceRecord | None:
        """Return one service by id, or None."""
        entry = self._services.get(service_id)
        return None if entry is None else entry.record(self._holds(entry, self._clock()))

    def list_services(self, service_type: str | None, mode: str | None = None) -> ServiceList:
        """Return all services, or those of a type, or of a mode, in the registry's order."""
        now = self._clock()
        services = (
            entry.record(self._holds(entry, now)) for entry in self._services.under(service_type)
        )
        return ServiceList(each for each in services if mode in (None, records.mode_of(each)))

    def discover(self, service_type: str, mode: str | None = None) -> ServiceRecord | None:
        """Return one of the services of a type that surely pass, at random, or None.

        Without a mode it is a simulator only if there is no hardware at all, passing or not.
        """
        services = self._services
        entries = services.under((service_type, mode or HARDWARE))
        if not entries and mode is None:
            entries = services.under((service_type, SIMULATOR))
        if not entries:
            return None
        now = self._clock()
        entry = random.choice(entries)
        if not self._passing(entry, now):
            # A choice among these is the same as choosing until one fits, and it ends.
            passing = [each for each in entries if self._passing(each, now)]
            if not passing:
                return None
            entry = random.choice(passing)
        return entry.record(True)

    def _passing(self, entry: Entry, now: float) -> bool:
        return entry.health == PASSING and now < self._leases.until(entry.id)

    def _holds(self, entry: Entry, now: float) -> bool:
        return now < self._leases.until(entry.id)
