"""The picture of all services that a cache answers from, and how sure it is of it. No I/O."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from rsreg import calls, records
from rsreg.calls import Record
from rsreg.errors import RegistryError
from rsreg.exchange import Call
from rsreg.follower import SILENCE_MOST, Follower
from rsreg.records import ServiceList, ServiceRecord
from rsreg.timing import Clock

#: Seconds after the last answer from which a picture is stale: two questions were in vain.
STALE_AFTER = 2 * SILENCE_MOST
#: Seconds between two questions, at least, and from one to the end of a lease that it asks about.
_PAUSE = 0.25


class Entry:
    """A service in a picture. Its record is kept as JSON, so that each answer is a fresh object."""

    __slots__ = ("_json", "id", "kinds")

    def __init__(self, record: Record) -> None:
        self.id: str = record["id"]
        self.kinds = records.kinds_of(record["type"], record["tags"], record["metadata"])
        self._json = msgspec.json.encode(record)

    def record(self, passing: bool) -> ServiceRecord:
        """The record, for the caller to keep."""
        record = ServiceRecord(msgspec.json.decode(self._json))
        record["health"] = "passing" if passing else "critical"
        return record


class Picture:
    """Services by id and by kind, in the order of the registry's own list.

    One thread changes it while others read: what they get is one value, in which no service is
    missing that is only being updated.
    """

    def __init__(self, services: Iterable[Record]) -> None:
        self._by_id: dict[str, Entry] = {}
        self._by_kind: dict[str | None, tuple[Entry, ...]] = {}
        found: dict[str | None, list[Entry]] = {}
        for entry in map(Entry, services):
            self._by_id[entry.id] = entry
            for kind in (None, *entry.kinds):
                found.setdefault(kind, []).append(entry)
        self._by_kind.update({kind: tuple(entries) for kind, entries in found.items()})

    def get(self, service_id: str) -> Entry | None:
        """The service with an id, or None."""
        return self._by_id.get(service_id)

    def of_kind(self, kind: str | None) -> tuple[Entry, ...]:
        """The services found under `kind`, or all."""
        return self._by_kind.get(kind, ())

    def put(self, record: Record) -> None:
        """Take in a service; one that is in moves to the end, as in the registry's list."""
        entry = Entry(record)
        before = self._by_id.get(entry.id)
        self._by_id[entry.id] = entry
        for kind in (None, *entry.kinds):
            self._by_kind[kind] = (*self._others(before, kind), entry)
        if before is not None:
            self._take_out(before, before.kinds - entry.kinds)

    def remove(self, service_id: str) -> None:
        """Take out a service, if it is in."""
        entry = self._by_id.pop(service_id, None)
        if entry is not None:
            self._take_out(entry, (None, *entry.kinds))

    def _take_out(self, entry: Entry, kinds: Iterable[str | None]) -> None:
        for kind in kinds:
            left = self._others(entry, kind)
            if left:
                self._by_kind[kind] = left
            else:
                del self._by_kind[kind]

    def _others(self, entry: Entry | None, kind: str | None) -> tuple[Entry, ...]:
        entries = self.of_kind(kind)
        return entries if entry is None else tuple(each for each in entries if each is not entry)


class Certainty:
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


class Mirror(Follower):
    """A Follower that keeps the picture; it lists anew where the journal does not reach back.

    One thread tells it what arrives, others may read. `clock` is monotonic. A service counts as
    passing only as long as that is sure: a lease runs from before the question whose answer told
    of it, and that of a service registered since runs from no earlier.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._picture = Picture(())
        self._sure = Certainty(-math.inf, 0.0, {})
        self._asked = self._due = -math.inf

    # -- following

    @property
    def silence(self) -> float:
        """Seconds to wait for the next event before asking: leases need news even without a gap."""
        return max(0.0, min(self._silence, self._due - self._clock()))

    def question(self) -> Call[Record]:
        """What to ask after a silence."""
        self._asked = self._clock()
        return calls.picture() if self._seq is None else calls.news(self._seq, self._epoch)

    def answered(self, reply: Mapping[str, Any]) -> list[Record]:
        """Take in an answer to the last question; the events in it that are new."""
        if reply.get("reset"):
            self._back()
            self._seq = None
            self._silence = 0.0
            return []
        if self._seq is None:
            # Who reads between these lines takes nobody of the new picture for passing yet.
            self._sure = Certainty(self._sure.asked, 0.0, {})
            self._picture = Picture(reply["services"])
        events = super().answered(reply)
        for event in events:
            self._apply(event)
        if self._silence:
            leases = reply["leases"]
            self._sure = Certainty(self._asked, leases["within"], leases["ends"])
            self._due = self._asked + SILENCE_MOST
            self._ask_before(self._sure.first_end())
        return events

    def unanswered(self, error: RegistryError) -> None:
        """The question got no answer: wait, then ask again."""
        super().unanswered(error)
        self._due = self._clock() + self._silence

    def published(self, event: Record) -> list[Record]:
        """Take in an event if it is the next one; a gap or another epoch is asked for first."""
        events = super().published(event)
        for each in events:
            self._apply(each)
        return events

    def _apply(self, event: Record) -> None:
        service_id = event["data"]["service_id"]
        if event["type"] == "register":
            record = event["data"]["service_info"]
            # How long it was on its way, nobody knows; but it was not there at the last answer.
            self._sure.ends[service_id] = end = self._sure.asked + record["ttl"]
            self._picture.put(record)
            self._ask_before(end)
        elif event["type"] in ("deregister", "expire"):
            self._picture.remove(service_id)

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
        return None if entry is None else entry.record(self._passing(entry, self._clock()))

    def list_services(self, kind: str | None) -> ServiceList:
        """All services, or those found under a kind, in the registry's order."""
        now = self._clock()
        entries = self._picture.of_kind(kind)
        return ServiceList([entry.record(self._passing(entry, now)) for entry in entries])

    def discover(self, kind: str) -> ServiceRecord | None:
        """Any of the services found under a kind that surely are passing, or None."""
        entries = self._picture.of_kind(kind)
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
        return now < self._sure.until(entry.id)
