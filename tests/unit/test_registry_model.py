"""The registry against a plain model of its promises, whatever happens to it and in what order."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rsreg import SQLiteBackend
from rsreg.errors import NoService, StoreError, UnknownService
from rsreg.protocol import messages
from rsreg.protocol.messages import Report
from rsreg.server.backends.stored import Maintenance
from rsreg.server.rules.registry import Registry
from tests.helpers import ManualClock, UnreliableStore

KINDS = ("A", "B", "C")


class Request(NamedTuple):
    """One request of a batch. With a `nonce` it has a request_id, so it may come again."""

    action: str
    target: str | None
    kinds: tuple[str, ...] = ()
    ttl: float = 30
    nonce: int | None = None
    stalled: bool = False

    @property
    def token(self) -> str | None:
        """What tells a resend."""
        return None if self.nonce is None else repr(self)


@dataclass
class Known:
    """What the model knows of a service."""

    kinds: tuple[str, ...]
    ttl: float
    deadline: float
    last_heartbeat: int
    stored_heartbeat: int
    host: str
    told: str = "passing"
    #: Why it was told to be critical.
    reason: str | None = None
    stalled: bool = False
    #: When that is over, if it is not said again.
    report_until: float = math.inf
    #: Why it has been critical since before a restart.
    doubt: str | None = None


TARGETS = st.sampled_from(["a", "b", "c"])
NONCES = st.sampled_from([None, None, 1, 2])
REGISTERS = st.builds(
    Request,
    st.just("register"),
    st.none() | TARGETS,
    st.lists(st.sampled_from(KINDS), max_size=2, unique=True).map(tuple),
    st.sampled_from([1, 2.5, 8]),
    NONCES,
)
REQUESTS = st.one_of(
    REGISTERS,
    st.builds(Request, st.just("deregister"), TARGETS, nonce=NONCES),
    st.builds(Request, st.just("renew"), st.none() | TARGETS, stalled=st.booleans()),
)


class RegistryMachine(RuleBasedStateMachine):
    """A registry on a file, and beside it what it promised."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        path = Path(self.directory.name) / "registry.db"
        self.store = UnreliableStore(SQLiteBackend(path))
        self.clock = ManualClock()
        self.wall = ManualClock(1_700_000_000)
        self.registry = Registry(self.store, clock=self.clock, wall=self.wall)
        self.registry.open()
        self.epoch = self.registry.epoch
        self.judged = self.clock.now
        self.services: dict[str, Known] = {}
        self.answered: dict[str, str] = {}
        self.journal: list[tuple[str, str]] = []
        self.given: set[str] = set()
        self.asked: list[Request] = []
        #: What was registered, or how many there were -> a host of its own.
        self.hosts: dict[object, str] = {}
        #: Ids that a request which came again kept alive, and those that were registered before
        #: it in its batch.
        self.kept: list[str] = []
        self.fresh: set[str] = set()
        #: Kind -> the second in which its maintenance is over; and the same as it is stored.
        self.maintained: dict[str, float] = {}
        self.stored_maintenance: dict[str, float] = {}
        self.trouble = False

    def teardown(self) -> None:
        self.store.close()
        self.directory.cleanup()

    # -- what happens

    @initialize(batch=st.lists(REGISTERS, min_size=2, max_size=6))
    def begin(self, batch: list[Request]) -> None:
        """Some are there already."""
        self.serve(batch, 1)

    @rule(batch=st.lists(REQUESTS, min_size=1, max_size=5), fails=st.integers(0, 3))
    def serve(self, batch: list[Request], fails: int) -> None:
        """A batch comes; one in four times the store refuses it."""
        self.tell_health()
        promised = copy.deepcopy((self.services, self.answered, self.journal))
        self.kept.clear()
        self.fresh.clear()
        for request in batch:
            self.answer(request)
        assert not self.registry.announce_health()
        untold = set() if self.trouble else self.untold()
        if not self.commit(untold, fails=fails == 0):
            self.services, self.answered, self.journal = promised
            for request in batch:
                if request.action == "renew":
                    self.renew(request)
            # What was registered in the batch is gone; what it kept alive, it kept alive.
            for key in self.services.keys() & set(self.kept):
                self.heard_of(self.services[key])

    def commit(self, untold: set[str], *, fails: bool) -> bool:
        """Commit what is staged, events that tell the health of some last; whether it worked."""
        self.store.writes_fail = fails
        try:
            events = self.registry.commit()
        except StoreError:
            self.trouble = True
            return False
        finally:
            self.store.writes_fail = False
        if events:
            self.trouble = False
        told = [(event.type, event.service_id) for event in events][len(events) - len(untold) :]
        names = {"passing": "recovered"}
        assert sorted(told) == sorted(
            (names.get(health, health), key) for key in untold if (health := self.health(key))
        )
        self.journal += told
        for key in untold:
            self.note(key)
        return True

    def note(self, key: str) -> None:
        """Subscribers know how it is."""
        known = self.services[key]
        known.told, known.reason = self.health(key), self.more(key).get("reason")

    def end_maintenance(self) -> None:
        """What is over is over, in the model; the registry finds it when it tells of health."""
        over = {kind for kind, end in self.maintained.items() if end <= self.wall.now}
        if over:
            self.maintained = {k: end for k, end in self.maintained.items() if k not in over}

    def tell_health(self) -> None:
        """What became of it is told before anything else happens, as in the request loop."""
        self.end_maintenance()
        assert not self.registry.announce_health()
        self.commit(set() if self.trouble else self.untold(), fails=False)

    def untold(self) -> set[str]:
        """Whose health is another than subscribers were told."""
        return {key for key, known in self.services.items() if self.health(key) != known.told}

    @rule(
        kind=st.sampled_from(KINDS), seconds=st.sampled_from([1, 5, 100]), fails=st.integers(0, 3)
    )
    def start_maintenance(self, kind: str, seconds: int, fails: int) -> None:
        """All of a kind are out of discovery for a while."""
        self.tell_health()
        until = int(self.wall.now) + seconds
        self.registry.maintenance.start(
            Maintenance(service_type=kind, since=int(self.wall.now), until=until)
        )
        self.change_maintenance({**self.maintained, kind: until}, fails == 0)

    @rule(kind=st.sampled_from(KINDS), fails=st.integers(0, 3))
    def stop_maintenance(self, kind: str, fails: int) -> None:
        """Somebody ends it, or there is none."""
        self.tell_health()
        left = {each: end for each, end in self.maintained.items() if each != kind}
        if kind in self.maintained:
            self.registry.maintenance.end(Maintenance(service_type=kind))
            self.change_maintenance(left, fails == 0)
        else:
            with pytest.raises(UnknownService):
                self.registry.maintenance.end(Maintenance(service_type=kind))

    def change_maintenance(self, changed: dict[str, float], fails: bool) -> None:
        """The registry was told of a change: it is committed or refused."""
        before, self.maintained = self.maintained, changed
        if self.commit(self.untold(), fails=fails):
            self.stored_maintenance = changed
            self.trouble = False
        else:
            self.maintained = before

    @rule(which=st.integers(0, 1_000), fails=st.integers(0, 3))
    def resend(self, which: int, fails: int) -> None:
        """The reply to a request got lost, or it was refused: it comes again."""
        if self.asked:
            self.serve([self.asked[which % len(self.asked)]], fails)

    def answer(self, request: Request) -> None:
        """The registry and the model answer the same."""
        if request.token is not None:
            self.asked.append(request)
        getattr(self, request.action)(request)

    def register(self, request: Request) -> None:
        """A new service, an update, or a resend."""
        who = request.target or request.token or len(self.hosts)
        host = self.hosts.setdefault(who, f"host{len(self.hosts)}")
        asked = {"name": "s", "host": host, "port": 1, "id": request.target}
        info, extra = messages.read_service_info({**asked, "tags": list(request.kinds)})
        got = self.registry.register(info, extra, request.ttl, request.token)
        there = self.services.get(self.answered.get(str(request.token), ""))
        if there and (there.kinds, there.ttl, there.host) == (request.kinds, request.ttl, host):
            assert got == self.answered[str(request.token)]
            if got not in self.fresh:
                self.kept.append(got)
            self.heard_of(there)
            return
        if request.target is None:
            assert got not in self.given, "an id was given out twice"
            self.given.add(got)
        else:
            assert got == request.target
        now = int(self.wall.now)
        self.services[got] = Known(
            request.kinds, request.ttl, self.clock.now + request.ttl, now, now, host
        )
        self.fresh.add(got)
        self.note(got)
        self.happened("register", got, request)

    def deregister(self, request: Request) -> None:
        """It leaves, was not there, or had left already."""
        target = str(request.target)
        if self.answered.get(str(request.token)) == target and target not in self.services:
            self.registry.deregister(target, request.token)
        elif target in self.services:
            self.registry.deregister(target, request.token)
            del self.services[target]
            self.happened("deregister", target, request)
        else:
            with pytest.raises(UnknownService):
                self.registry.deregister(target, request.token)

    def renew(self, request: Request) -> None:
        """A heartbeat of one, or of everybody."""
        for target in [request.target] if request.target else list(self.services):
            known = self.services.get(target)
            if known is None:
                with pytest.raises(UnknownService):
                    self.registry.renew(target)
            else:
                fed = 31 if request.stalled else 0
                self.registry.renew(target, Report(fed=fed, watchdog=30))
                known.stalled = request.stalled
                known.report_until = self.clock.now + known.ttl
                self.heard_of(known)

    def heard_of(self, known: Known) -> None:
        """It has a whole ttl again, and is no longer doubted; its last report may be over."""
        if self.clock.now >= known.report_until:
            known.stalled = False
        known.deadline = self.clock.now + known.ttl
        known.last_heartbeat = int(self.wall.now)
        known.doubt = None

    def happened(self, event: str, service_id: str, request: Request) -> None:
        """The model notes an event."""
        self.journal.append((event, service_id))
        if request.token is not None:
            self.answered[request.token] = service_id

    @rule(seconds=st.sampled_from([0.5, 1, 4]), empty=st.booleans())
    def pass_time(self, seconds: float, empty: bool) -> None:
        """Time goes by; the sockets are found empty, or requests wait in them."""
        self.clock.advance(seconds)
        self.wall.advance(seconds)
        if empty:
            self.registry.evaluate_leases(self.clock.now)
            self.judged = self.clock.now

    @rule(seconds=st.sampled_from([-86_400, 3_600]))
    def set_the_wall_clock(self, seconds: float) -> None:
        """No lease may notice."""
        self.wall.advance(seconds)

    @rule(
        seconds=st.sampled_from([0, 1, 8]),
        limit=st.integers(1, 5),
        fails=st.integers(0, 3),
    )
    def reap(self, seconds: float, limit: int, fails: int) -> None:
        """After a while a pass of the reaper; one in four times the store refuses it."""
        self.pass_time(seconds, seconds > 0)
        lapsed = [key for key, known in self.services.items() if known.deadline <= self.judged]
        lapsed = sorted(lapsed, key=lambda key: (self.services[key].deadline, key))[:limit]
        assert self.registry.expire(limit) == len(lapsed)
        self.store.writes_fail = fails == 0
        try:
            events = self.registry.commit()
        except StoreError:
            self.trouble = True
            lapsed = []
        else:
            self.trouble = self.trouble and not events
        expected = [
            (event, key)
            for key in lapsed
            for event in ("critical", "expire")
            if event == "expire" or self.services[key].told != "critical"
        ]
        if lapsed:
            assert [(event.type, event.service_id) for event in events] == expected
        self.store.writes_fail = False
        self.journal += expected
        for key in lapsed:
            del self.services[key]

    @rule()
    def stand_still(self) -> None:
        """The server notices that it did not run for a while."""
        self.registry.grant_grace()
        self.fresh_leases(ended=self.judged)

    @rule(seconds=st.sampled_from([0, 3_600]), killed=st.booleans())
    def restart(self, seconds: float, killed: bool) -> None:
        """Stopped or killed, and started again."""
        if killed:
            self.store.close()
        else:
            self.registry.close()
        for known in self.services.values():
            if killed:
                known.last_heartbeat = known.stored_heartbeat
            else:
                known.stored_heartbeat = known.last_heartbeat
            known.stalled = False
            known.doubt = known.reason if known.told == "critical" else None
        self.clock.advance(seconds)
        self.registry = Registry(self.store, clock=self.clock, wall=self.wall)
        self.registry.open()
        self.judged = self.clock.now
        self.trouble = False
        self.maintained = self.stored_maintenance
        self.end_maintenance()
        self.fresh_leases()

    def fresh_leases(self, ended: float = -math.inf) -> None:
        """The model gives every lease a full ttl from now, if it had not ended."""
        for known in self.services.values():
            if known.deadline > ended:
                known.deadline = self.clock.now + known.ttl

    # -- what was promised

    def health(self, key: str) -> str:
        """How a service is."""
        known = self.services[key]
        if known.deadline <= self.judged or known.stalled or known.doubt:
            return "critical"
        return "maintenance" if self.maintained.keys() & known.kinds else "passing"

    def more(self, key: str) -> dict[str, Any]:
        """What its record says beside the usual."""
        known, said = self.services[key], {}
        if self.health(key) == "critical":
            lapsed = known.deadline <= self.judged
            said["reason"] = "no heartbeat" if lapsed else known.doubt or "stalled"
        return said

    def passing(self, kind: str) -> set[str]:
        """The ids that discovery may give."""
        return {
            key
            for key, known in self.services.items()
            if self.health(key) == "passing" and kind in known.kinds
        }

    @invariant()
    def what_is_listed_is_what_was_acknowledged(self) -> None:
        assert self.listed(None) == {
            key: {
                "id": key,
                "name": "s",
                "host": known.host,
                "port": 1,
                "type": None,
                "tags": list(known.kinds),
                "metadata": {},
                "ttl": known.ttl,
                "registered_by": None,
                "last_heartbeat": known.last_heartbeat,
                "health": self.health(key),
                **self.more(key),
            }
            for key, known in self.services.items()
        }
        assert len(self.registry) == len(self.services)
        for key, record in self.listed(None).items():
            one = json.loads(bytes(self.registry.get(key)))
            one.pop("maintenance", None)
            assert one == record

    @invariant()
    def the_indexes_agree_with_the_list(self) -> None:
        everything = self.listed(None)
        for kind in KINDS:
            of_kind = {key for key, known in self.services.items() if kind in known.kinds}
            assert self.listed(kind) == {key: everything[key] for key in of_kind}

    @invariant()
    def only_passing_services_are_discovered(self) -> None:
        for kind in KINDS:
            try:
                found = json.loads(bytes(self.registry.discover(kind)))
            except NoService:
                assert self.passing(kind) == set()
            else:
                assert found["id"] in self.passing(kind)
                assert found["health"] == "passing"

    @invariant()
    def the_store_holds_what_was_acknowledged(self) -> None:
        stored = self.store.load()
        assert {
            service.id: (tuple(service.tags), service.ttl, service.last_heartbeat)
            for service in stored.services
        } == {
            key: (known.kinds, known.ttl, known.stored_heartbeat)
            for key, known in self.services.items()
        }
        assert (stored.epoch, stored.seq) == (self.epoch, len(self.journal))
        assert stored.answered == self.answered

    @invariant()
    def every_change_is_one_event_in_order(self) -> None:
        assert (self.registry.epoch, self.registry.seq) == (self.epoch, len(self.journal))
        events, reset = self.registry.events_since(0, self.epoch, 10_000)
        assert not reset
        assert [(event.type, event.service_id) for event in events] == self.journal
        bodies = [json.loads(event.body) for event in events]
        assert [body["seq"] for body in bodies] == list(range(1, len(bodies) + 1))
        assert all(body["epoch"] == self.epoch for body in bodies)

    @invariant()
    def a_service_ends_once(self) -> None:
        there: set[str] = set()
        for event, service_id in self.journal:
            if event == "register":
                there.add(service_id)
            elif event in ("deregister", "expire"):
                there.remove(service_id)
            else:
                assert service_id in there
        assert there == set(self.services)

    def listed(self, kind: str | None) -> dict[str, Any]:
        """Records by id."""
        records = json.loads(bytes(self.registry.list_services(kind)))
        for record in records:
            terms = record.pop("maintenance", None)
            maintained = self.maintained.keys() & set(record["tags"])
            assert (terms is not None) == bool(maintained)
            assert terms is None or terms["until"] in map(self.maintained.get, maintained)
        return {record["id"]: record for record in records}


TestRegistryModel = RegistryMachine.TestCase
TestRegistryModel.settings = settings(max_examples=120, stateful_step_count=40)
