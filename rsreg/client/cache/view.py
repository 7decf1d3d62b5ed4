"""The picture of all services that a cache answers from, and how sure it is of it. No I/O."""

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
from rsreg.transport.subscription import SILENCE_MOST, Subscription

#: Seconds after the last answer from which a picture is stale: two questions were in vain.
STALE_AFTER = 2 * SILENCE_MOST
#: Fields that change with heartbeats, of which no event tells.
_UNTOLD = frozenset({"status", "load"})
#: What services are found under: nothing (all are), a kind, or a kind and a mode.
Key = str | tuple[str, str] | None
#: Seconds between two questions, at least, and from one to the end of a lease that it asks about.
_PAUSE = 0.25


class Entry:
    """A service in a picture. Its record is kept as JSON, so that each answer is a fresh object.

    `health` is what events tell of: that of a service whose lease holds. A warning counts as
    passing. `keys` are what it is found under: of each kind all, and those of its mode.
    """

    __slots__ = ("_json", "health", "id", "keys")

    def __init__(self, told: Record) -> None:
        record = {field: value for field, value in told.items() if field not in _UNTOLD}
        self.id: str = record["id"]
        self.health = record["health"] = announced(record["health"])
        if self.health != MAINTENANCE:
            # Of one that is critical, no event tells when its maintenance begins or ends.
            record.pop("maintenance", None)
        if self.health == PASSING:
            # Nor of a warning, why it is one.
            record.pop("reason", None)
        kinds = records.kinds_of(record["type"], record["tags"], record["metadata"])
        mode = records.mode_of(record)
        self.keys: frozenset[Key] = frozenset([None, *kinds, *((kind, mode) for kind in kinds)])
        self._json = msgspec.json.encode(record)

    def record(self, sure: bool) -> ServiceRecord:
        """The record, for the caller to keep; `sure`: its lease holds."""
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
        found: dict[Key, list[Entry]] = {}
        for entry in map(Entry, services):
            self._by_id[entry.id] = entry
            for key in entry.keys:
                found.setdefault(key, []).append(entry)
        self._by_key.update({key: tuple(entries) for key, entries in found.items()})

    def get(self, service_id: str) -> Entry | None:
        """The service with an id, or None."""
        return self._by_id.get(service_id)

    def under(self, key: Key) -> tuple[Entry, ...]:
        """The services found under a kind, under a kind and of a mode, or all."""
        return self._by_key.get(key, ())

    def put(self, record: Record) -> None:
        """Take in a service; one that is in moves to the end, as in the registry's list."""
        entry = Entry(record)
        before = self._by_id.get(entry.id)
        self._by_id[entry.id] = entry
        for key in entry.keys:
            self._by_key[key] = (*self._others(before, key), entry)
        if before is not None:
            self._take_out(before, before.keys - entry.keys)

    def change(self, record: Record) -> None:
        """Put another record in the place of a service that is found under the same."""
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
        """Take out a service, if it is in."""
        entry = self._by_id.pop(service_id, None)
        if entry is not None:
            self._take_out(entry, entry.keys)

    def _take_out(self, entry: Entry, keys: Iterable[Key]) -> None:
        for key in keys:
            left = self._others(entry, key)
            if left:
                self._by_key[key] = left
            else:
                del self._by_key[key]

    def _others(self, entry: Entry | None, key: Key) -> tuple[Entry, ...]:
        entries = self.under(key)
        return entries if entry is None else tuple(each for each in entries if each is not entry)


class LeaseBounds:
    """Until when each service surely is passing, by what was asked at the moment `asked`.

    `ends` has the services of which less or more is known than that they hold until `others`.
    """

    def __init__(self, asked: float, within: float, left: Mapping[str, float]) -> None:
        self.asked = asked
        self.others = asked + within
        self.ends = {service_id: asked + seconds for service_id, seconds in left.items()}

    def until(self, service_id: str) -> float:
        """The moment from which a service may have lapsed."""
        return self.ends.get(service_id, self.others)

    def first_end(self) -> float:
        """When the first service that was passing may have lapsed."""
        return min((end for end in self.ends.values() if end > self.asked), default=self.others)


class CacheView(Subscription):
    """A Subscription that keeps the picture; it lists anew where the journal does not reach back.

    One thread tells it what arrives, others may read. `clock` is one that nobody sets. A service
    counts as passing only as long as that is sure: a lease runs from before the question whose
    answer told of it, and that of a service registered since runs from no earlier.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._picture = ServiceIndex(())
        self._sure = LeaseBounds(-math.inf, 0.0, {})
        self._asked = self._due = -math.inf
        #: Whose lease began since the last question, and the ttl: its answer may be from before.
        self._begun: dict[str, float] = {}
        #: Ids whose services were replaced; they go when the one in their place comes.
        self._replaced: set[str] = set()

    # -- following

    @property
    def seconds_until_next_request(self) -> float:
        """Seconds to wait for the next event before asking: leases need news even without a gap."""
        return max(0.0, min(self._ask_at, self._due) - self._clock())

    def next_request(self) -> Call[Record]:
        """What to ask after a silence."""
        self._asked = self._clock()
        self._begun.clear()
        if self._seq is None:
            return calls.snapshot()
        return calls.changes_since(self._seq, self._epoch, self._mark)

    def on_reply(self, reply: Mapping[str, Any]) -> list[Record]:
        """Take in an answer to the last question; the events in it that are new."""
        if reply.get("reset"):
            self._back()
            self._seq = None
            self._wait(-math.inf)
            return []
        if self._seq is None:
            # Who reads between these lines takes nobody of the new picture for passing yet.
            self._sure = LeaseBounds(self._sure.asked, 0.0, {})
            self._picture = ServiceIndex(reply["services"])
            self._replaced.clear()
        events = super().on_reply(reply)
        for event in events:
            self._apply(event)
        if self._ask_at > -math.inf:
            leases = reply["leases"]
            sure = LeaseBounds(self._asked, leases["within"], leases["ends"])
            for service_id, ttl in self._begun.items():
                sure.ends[service_id] = min(sure.until(service_id), self._asked + ttl)
            self._sure = sure
            self._due = self._asked + SILENCE_MOST
            self._ask_before(self._sure.first_end())
        return events

    def on_failure(self, error: RegistryError) -> None:
        """The question got no answer: wait, then ask again."""
        super().on_failure(error)
        self._due = self._ask_at

    def on_event(self, event: Record) -> list[Record]:
        """Take in an event if it is the next one; a gap or another epoch is asked for first."""
        events = super().on_event(event)
        for each in events:
            self._apply(each)
        return events

    def _apply(self, event: Record) -> None:
        event_type, service_id = event["type"], event["data"]["service_id"]
        record = event["data"]["service_info"]
        if event_type == event_types.REGISTER:
            self._heard_of(record)
            self._picture.put(record)
            for replaced in self._replaced - {service_id}:
                self._picture.remove(replaced)
            self._replaced.clear()
        elif event_type == event_types.UPDATE:
            self._picture.put(record)
        elif event_type == event_types.REPLACE:
            self._replaced.add(service_id)
        elif event_type in event_types.ENDINGS:
            self._picture.remove(service_id)
        elif event_type in HEALTH_EVENTS.values():
            if record["health"] != CRITICAL and self._lapsed(service_id):
                self._heard_of(record)
            self._picture.change(record)

    def _lapsed(self, service_id: str) -> bool:
        """Whether it had lapsed at the last answer, or has by what events told since."""
        before = self._picture.get(service_id)
        told = before is not None and before.health == CRITICAL
        return told or self._sure.until(service_id) <= self._sure.asked

    def _heard_of(self, record: Record) -> None:
        """Its lease began anew.

        How long the event was on its way, nobody knows; but it was not there at the last answer.
        """
        self._sure.ends[record["id"]] = end = self._sure.asked + record["ttl"]
        self._begun[record["id"]] = record["ttl"]
        self._ask_before(end)

    def _ask_before(self, end: float) -> None:
        self._due = min(self._due, max(end - _PAUSE, self._asked + _PAUSE))

    # -- answering

    @property
    def as_of(self) -> float:
        """All that happened before this moment is in the picture; -inf before the first answer."""
        return self._sure.asked

    def stale(self) -> float | None:
        """Seconds since `as_of`, if too many to answer from this picture."""
        age = self._clock() - self._sure.asked
        return age if age > STALE_AFTER else None

    def get(self, service_id: str) -> ServiceRecord | None:
        """One service by id, or None."""
        entry = self._picture.get(service_id)
        return None if entry is None else entry.record(self._holds(entry, self._clock()))

    def list_services(self, kind: str | None, mode: str | None = None) -> ServiceList:
        """All services, or those found under a kind, or of a mode, in the registry's order."""
        now = self._clock()
        services = (entry.record(self._holds(entry, now)) for entry in self._picture.under(kind))
        return ServiceList(each for each in services if mode in (None, records.mode_of(each)))

    def discover(self, kind: str, mode: str | None = None) -> ServiceRecord | None:
        """Any of the services found under a kind that surely are passing, or None.

        Without a mode it is a simulator only if there is no hardware at all, passing or not.
        """
        picture = self._picture
        entries = picture.under((kind, mode or HARDWARE))
        if not entries and mode is None:
            entries = picture.under((kind, SIMULATOR))
        if not entries:
            return None
        now = self._clock()
        chosen = random.choice(entries)
        if not self._passing(chosen, now):
            # A choice among these is the same as choosing until one fits, and it ends.
            passing = [entry for entry in entries if self._passing(entry, now)]
            if not passing:
                return None
            chosen = random.choice(passing)
        return chosen.record(True)

    def _passing(self, entry: Entry, now: float) -> bool:
        return entry.health == PASSING and now < self._sure.until(entry.id)

    def _holds(self, entry: Entry, now: float) -> bool:
        return now < self._sure.until(entry.id)
