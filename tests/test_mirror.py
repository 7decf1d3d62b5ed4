"""The picture that a cache answers from, against a real registry and a network held in the hand."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from helpers import HandClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rsreg import InMemoryBackend, wire
from rsreg.calls import Record
from rsreg.dispatch import Dispatcher
from rsreg.errors import NoService, RequestTimeout, UnknownService
from rsreg.mirror import STALE_AFTER, Mirror
from rsreg.records import Event, ServiceInfo
from rsreg.registry import LEASES_WITHIN, Registry

KINDS = ("A", "B")
#: Leases are told in milliseconds.
ROUNDED = 0.0011


class ForgetfulStore(InMemoryBackend):
    """A journal that reaches back only as far as it is told."""

    forgotten = 0

    def events(self, since: int, limit: int) -> list[Event]:
        return [event for event in super().events(since, limit) if event.seq > self.forgotten]


class World:
    """A registry, a mirror of it, and the events that are on their way."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.mirror = Mirror(self.clock)
        #: Id -> when the registry last changed it, which the mirror may not have heard of.
        self.changed: dict[str, float] = {}
        self.open()

    def open(self) -> None:
        """A server on a new store."""
        self.store = ForgetfulStore()
        self.registry = Registry(self.store, clock=self.clock)
        self.registry.open()
        self.dispatcher = Dispatcher(self.registry, self.clock, dict, pytest.fail)
        self.waiting: list[Record] = []

    def register(self, service_id: str, kinds: tuple[str, ...] = ("A",), ttl: float = 30) -> None:
        """Register it; its type is the first kind, the others are tags."""
        info = ServiceInfo(
            id=service_id, name=service_id, host="lab", port=1, type=kinds[0], tags=list(kinds[1:])
        )
        self.registry.register(info, {}, ttl, None)
        self.commit()

    def commit(self) -> None:
        """Send the events of what was changed on their way."""
        for event in self.registry.commit():
            self.changed[event.service_id] = self.clock.now
            self.waiting.append(json.loads(event.body))

    def judge(self) -> None:
        """All requests so far are read; what has lapsed is critical."""
        self.registry.caught_up(self.clock.now)

    def deliver(self) -> None:
        """All events arrive."""
        while self.waiting:
            self.mirror.published(self.waiting.pop(0))

    def ask(self, on_the_way: float = 0.0, limit: int = 1_000) -> list[Record]:
        """The mirror's question is answered, `on_the_way` seconds later."""
        call = self.mirror.question()
        self.clock.advance(on_the_way)
        request = {"action": call.action, **call.params, "limit": limit}
        body = self.dispatcher.answer(json.dumps(request).encode(), str)
        reply = json.loads(wire.encode(body))
        self.clock.advance(on_the_way)
        return self.mirror.answered(call.read(reply))

    def catch_up(self) -> None:
        """The mirror asks until it has no question left for now."""
        self.judge()
        self.ask()
        while not self.mirror.silence:
            self.ask()

    def services(self, kind: str | None = None) -> list[Record]:
        """The registry's own list."""
        records: list[Record] = json.loads(bytes(self.registry.list_services(kind)))
        return records


def ids(services: list[Record], health: str = "passing") -> list[str]:
    """The ids of the services with this health."""
    return [service["id"] for service in services if service["health"] == health]


def without_heartbeat(services: list[Record]) -> list[Record]:
    """The records, but for what heartbeats change and events don't tell."""
    return [{**service, "last_heartbeat": 0} for service in services]


class MirrorMachine(RuleBasedStateMachine):
    """Whatever happens to the services, the registry, and the messages, and in what order."""

    IDS = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.mirror = self.world.mirror

    @rule(
        service_id=IDS,
        kinds=st.lists(st.sampled_from(KINDS), min_size=1, unique=True).map(tuple),
        ttl=st.sampled_from([1, 2.5, 14, 30]),
    )
    def register(self, service_id: str, kinds: tuple[str, ...], ttl: float) -> None:
        self.world.register(service_id, kinds, ttl)

    @rule(service_id=IDS)
    def deregister(self, service_id: str) -> None:
        try:
            self.world.registry.deregister(service_id, None)
        except UnknownService:
            return
        self.world.commit()

    @rule(service_id=IDS)
    def renew(self, service_id: str) -> None:
        with contextlib.suppress(UnknownService):
            self.world.registry.renew(service_id)

    @rule(seconds=st.sampled_from([0.1, 0.4, 2, 9, 16]), reaped=st.booleans())
    def time(self, seconds: float, reaped: bool) -> None:
        self.world.clock.advance(seconds)
        if reaped:
            self.world.judge()
            self.world.registry.expire(10)
            self.world.commit()

    @rule()
    def grace(self) -> None:
        self.world.registry.grant_grace()

    @rule()
    def deliver(self) -> None:
        self.world.deliver()

    @rule()
    def lose(self) -> None:
        self.world.waiting.clear()

    @rule()
    def forget(self) -> None:
        self.world.store.forgotten = self.world.registry.seq

    @rule()
    def another_registry(self) -> None:
        for service in self.world.services():
            self.world.changed[service["id"]] = self.world.clock.now
        self.world.open()

    @rule(on_the_way=st.sampled_from([0.0, 0.2, 3]), limit=st.sampled_from([1, 1_000]))
    def ask(self, on_the_way: float, limit: int) -> None:
        self.world.ask(on_the_way, limit)

    @rule()
    def ask_in_vain(self) -> None:
        self.mirror.question()
        self.mirror.unanswered(RequestTimeout("away"))

    @rule()
    def catch_up(self) -> None:
        """Then the two are equal, health included."""
        world, mirror = self.world, self.mirror
        world.catch_up()
        assert mirror.stale() is None
        assert mirror.as_of == world.clock.now
        for kind in (None, *KINDS, "C"):
            told = world.services(kind)
            assert without_heartbeat(mirror.list_services(kind)) == without_heartbeat(told)
            if kind is not None:
                self.discover_alike(kind)
        for service_id in "abcd":
            known = mirror.get(service_id)
            expected = [one for one in world.services() if one["id"] == service_id]
            assert without_heartbeat([known] if known else []) == without_heartbeat(expected)

    def discover_alike(self, kind: str) -> None:
        """Both find one of the passing services, or both none."""
        found = self.mirror.discover(kind)
        try:
            self.world.registry.discover(kind)
        except NoService:
            assert found is None
        else:
            assert found is not None
            assert found["id"] in ids(self.world.services(kind))

    @invariant()
    def what_passes_is_alive(self) -> None:
        """Or else it changed since the mirror last heard, which is not long ago."""
        if self.mirror.stale() is not None:
            return
        now = self.world.clock.now
        assert now - self.mirror.as_of <= STALE_AFTER
        self.world.judge()
        alive = ids(self.world.services())
        for service_id in ids(self.mirror.list_services(None)):
            if service_id not in alive and not self.just_over(service_id):
                assert self.world.changed[service_id] >= self.mirror.as_of

    def just_over(self, service_id: str) -> bool:
        """Its lease ended, or the registry still said that it is passing, within the rounding."""
        just = self.world.clock.now - ROUNDED
        lease = self.world.registry._view.get(service_id)
        return self.mirror.as_of > just or (lease is not None and lease.deadline > just)

    @invariant()
    def it_asks_in_time(self) -> None:
        assert 0 <= self.mirror.silence <= STALE_AFTER / 2

    @invariant()
    def the_registry_names_each_lease_that_ends_soon(self) -> None:
        now, leases = self.world.clock.now, self.world.registry._view.all()
        soon = {one.service.id for one in leases if one.deadline < now + LEASES_WITHIN}
        assert set(self.world.registry.ending_leases()) == soon


TestMirror = MirrorMachine.TestCase
TestMirror.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.fixture
def world() -> World:
    """A mirror that has listed a service with a ttl of 30, and one with a ttl of 1."""
    world = World()
    world.register("slow", ttl=30)
    world.register("quick", ttl=1)
    world.catch_up()
    return world


def test_the_first_question_is_a_list_and_then_come_events(world: World) -> None:
    assert Mirror(world.clock).question().action == "list"
    assert world.mirror.question().params == {
        "since": 2,
        "epoch": world.registry.epoch,
        "leases": True,
    }


def test_what_is_not_sure_any_more_is_critical_until_it_is_told(world: World) -> None:
    mirror = world.mirror
    assert ids(mirror.list_services(None)) == ["slow", "quick"]
    world.clock.advance(0.9)
    world.registry.renew("quick")
    world.clock.advance(0.1)
    assert ids(mirror.list_services(None), "critical") == ["quick"]
    assert mirror.get("quick") == {**world.services()[1], "health": "critical"}
    assert mirror.silence == 0.0
    world.catch_up()
    assert ids(mirror.list_services(None)) == ["slow", "quick"]


def test_a_lease_counts_from_before_the_question(world: World) -> None:
    world.registry.renew("quick")
    world.ask(on_the_way=0.4)
    assert ids(world.mirror.list_services(None)) == ["slow"], "0.6 s were left, 0.4 s ago"


def test_it_asks_again_before_a_lease_ends_but_not_all_the_time(world: World) -> None:
    mirror = world.mirror
    for _ in range(8):
        world.catch_up()
        world.registry.renew("quick")
    assert mirror.silence == 0.75, "its lease ends in a second"
    world.clock.advance(0.7)
    assert mirror.silence == pytest.approx(0.05)
    world.catch_up()
    assert mirror.silence == 0.25, "0.3 s are left"
    world.clock.advance(1)
    world.catch_up()
    for _ in range(8):
        world.catch_up()
    assert mirror.silence == 5.0, "there is nothing to lose any more"


def test_events_do_not_put_off_the_next_question(world: World) -> None:
    for number in range(60):
        world.registry.renew("quick")
        world.register(f"one of {number}")
        world.deliver()
        world.clock.advance(0.1)
        if not world.mirror.silence:
            world.catch_up()
        assert world.clock.now - world.mirror.as_of < 5.2
        world.registry.renew("slow")
    assert len(world.mirror.list_services(None)) == 62


def test_the_lease_of_a_new_service_counts_from_the_last_answer(world: World) -> None:
    """The event may have been on its way for as long as that."""
    world.clock.advance(3)
    world.register("brief", ttl=2)
    world.register("lasting", ttl=20)
    world.clock.advance(1.5)
    world.deliver()
    assert ids(world.mirror.list_services(None)) == ["slow", "lasting"]
    assert world.mirror.silence == 0.0
    world.catch_up()
    assert ids(world.mirror.list_services(None)) == ["slow", "brief", "lasting"]


def test_leases_are_taken_in_only_with_all_events(world: World) -> None:
    """A service that is gone already is named in no lease, which would mean that it holds."""
    world.registry.deregister("quick", None)
    world.register("other")
    world.clock.advance(2)
    world.ask(limit=0)
    assert not world.mirror.silence
    assert ids(world.mirror.list_services(None)) == ["slow"]
    world.ask(limit=1)
    assert not world.mirror.silence
    world.ask(limit=1)
    assert world.mirror.silence
    assert ids(world.mirror.list_services(None)) == ["slow", "other"]


def test_stale_is_what_got_no_answer_for_two_intervals(world: World) -> None:
    mirror = world.mirror
    for _ in range(2):
        world.clock.advance(5)
        assert mirror.silence == 0.0
        assert mirror.stale() is None
        mirror.question()
        mirror.unanswered(RequestTimeout("away"))
        assert mirror.silence == 5.0
    world.clock.advance(0.5)
    assert mirror.stale() == 10.5
    world.catch_up()
    assert mirror.stale() is None


def test_nothing_is_known_before_the_first_answer(world: World) -> None:
    assert Mirror(world.clock).stale() == float("inf")


def test_another_registry_is_listed_anew(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.open()
    world.register("new")
    world.deliver()
    assert world.mirror.silence == 0.0
    assert ids(world.mirror.list_services(None)) == ["slow", "quick"], "until it is known better"
    world.catch_up()
    assert ids(world.mirror.list_services(None)) == ["new"]
    assert caplog.records == [], "nothing was missed"


def test_an_outage_with_another_registry_at_its_end_is_two_lines(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        world.mirror.unanswered(RequestTimeout("away"))
    world.open()
    for _ in range(3):
        world.catch_up()
    assert [record.getMessage()[:24] for record in caplog.records] == [
        "no events for now, tryin",
        "the registry answers aga",
    ]


def test_answers_are_the_callers(world: World) -> None:
    def all_of_it() -> list[Record | None]:
        mirror = world.mirror
        return [mirror.get("slow"), mirror.discover("A"), *mirror.list_services("A")]

    before = all_of_it()
    for answer in all_of_it():
        assert answer is not None
        answer["tags"].append("changed")
        answer.clear()
    assert len(before) == len(all_of_it())
    assert world.mirror.get("slow") == before[0]


def test_any_of_the_passing_services_is_discovered(world: World) -> None:
    for number in range(4):
        world.register(f"slow {number}")
    world.deliver()
    world.clock.advance(1.5)
    found = Counter(str((world.mirror.discover("A") or {})["id"]) for _ in range(1_000))
    assert set(found) == {"slow", "slow 0", "slow 1", "slow 2", "slow 3"}
    assert min(found.values()) > 100


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_a_service_is_never_missing_while_it_is_updated(world: World) -> None:
    world.register("slow", kinds=("T", "U"))
    world.deliver()
    event = {"type": "register", "epoch": world.registry.epoch}
    data = {"service_id": "slow", "service_info": world.mirror.get("slow")}
    over, missing = threading.Event(), []

    def read() -> None:
        while not over.is_set():
            if not (world.mirror.get("slow") and world.mirror.list_services("U")):
                missing.append("slow")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for seq in range(world.registry.seq + 1, 10_000):
        world.mirror.published({**event, "seq": seq, "data": data})
    over.set()
    for thread in threads:
        thread.join(20)
    assert missing == []
    assert world.mirror.question().params["since"] == 9_999
