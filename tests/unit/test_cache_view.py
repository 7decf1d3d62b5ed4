"""The picture that a cache answers from, against a real registry and a network held in the hand."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rsreg import InMemoryBackend
from rsreg.client.cache.view import STALE_AFTER, CacheView
from rsreg.errors import RequestTimeout, UnknownService
from rsreg.protocol import wire
from rsreg.protocol.calls import Record
from rsreg.protocol.messages import read_change, read_report, read_service_info
from rsreg.server.backends.stored import Event, Maintenance
from rsreg.server.dispatch import Dispatcher
from rsreg.server.rules.ownership import Requester
from rsreg.server.rules.registry import LEASES_WITHIN, Registry
from tests.helpers import ManualClock, Sender, present

KINDS = ("A", "B")
#: What no event tells: what reports say, and from which of two reasons to be critical to which.
UNTOLD = ("status", "load", "reason")
#: Who may change any of them.
FORCED = Requester(force=True)
#: Leases are told in milliseconds.
ROUNDED = 0.0011


class ForgetfulStore(InMemoryBackend):
    """A journal that reaches back only as far as it is told."""

    forgotten = 0

    def events(self, since: int, limit: int) -> list[Event]:
        return [event for event in super().events(since, limit) if event.seq > self.forgotten]


class CacheHarness:
    """A registry, a mirror of it, and the events that are on their way."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.mirror = CacheView(self.clock)
        #: The answer that is on its way.
        self.reply: Any = None
        #: Id -> when the registry last changed it, which the mirror may not have heard of.
        self.changed: dict[str, float] = {}
        self.open()

    def open(self) -> None:
        """A server on a new store."""
        self.close()
        self.store = ForgetfulStore()
        self.registry = Registry(self.store, clock=self.clock)
        self.registry.open()
        self.dispatcher = Dispatcher(self.registry, self.clock, dict, pytest.fail)
        self.waiting: list[Record] = []

    def close(self) -> None:
        """Close the store, if there is one."""
        if hasattr(self, "store"):
            self.store.close()

    def register(
        self,
        service_id: str | None,
        kinds: tuple[str, ...] = ("A",),
        ttl: float = 30,
        replaces: Sequence[str] = (),
        **said: Any,
    ) -> None:
        """Register it; its type is the first kind, the others are tags."""
        said = {"owner": {"pid": 1}, **said}
        info = {
            "name": "svc",
            "host": "lab",
            "port": 1,
            "type": kinds[0],
            "tags": kinds[1:],
            **said,
        }
        if service_id is not None:
            info["id"] = service_id
        self.registry.register(
            *read_service_info(json.loads(json.dumps(info))),
            ttl,
            None,
            replaces=dict.fromkeys(replaces, info["owner"]),
            who=FORCED,
        )
        self.commit()

    def update(self, service_id: str, **said: Any) -> None:
        """Change fields of its record."""
        self.registry.update(service_id, *read_change(said), None, who=FORCED)
        self.commit()

    def maintain(self, service_id: str, on: bool) -> None:
        """Begin or end its maintenance."""
        entry = Maintenance(service=service_id, since=0)
        (self.registry.maintenance.start if on else self.registry.maintenance.end)(entry)
        self.commit()

    def commit(self) -> None:
        """Send the events of what was changed on their way."""
        self.registry.announce_health()
        for event in self.registry.commit():
            self.changed[event.service_id] = self.clock.now
            self.waiting.append(json.loads(event.body))

    def judge(self) -> None:
        """All requests so far are read; what has lapsed is critical."""
        self.registry.evaluate_leases(self.clock.now)
        self.commit()

    def deliver(self) -> None:
        """All events arrive."""
        while self.waiting:
            self.mirror.on_event(self.waiting.pop(0))

    def ask(self, on_the_way: float = 0.0, limit: int = 1_000) -> list[Record]:
        """The mirror's question is answered, `on_the_way` seconds later."""
        self.send(on_the_way, limit)
        self.clock.advance(on_the_way)
        return self.take()

    def send(self, on_the_way: float = 0.0, limit: int = 1_000) -> None:
        """The mirror's question reaches the registry; its answer is on its way."""
        call = self.mirror.next_request()
        self.clock.advance(on_the_way)
        self.commit()
        request = {"action": call.action, **call.params, "limit": limit}
        body = self.dispatcher.answer(json.dumps(request).encode(), Sender())
        assert isinstance(body, dict)
        self.reply = call.read(json.loads(wire.encode(body)))

    def take(self) -> list[Record]:
        """The answer arrives."""
        reply, self.reply = self.reply, None
        return self.mirror.on_reply(reply)

    def catch_up(self) -> None:
        """The mirror asks until it has no question left for now."""
        self.judge()
        self.ask()
        while not self.mirror.seconds_until_next_request:
            self.ask()

    def services(self, kind: str | None = None) -> list[Record]:
        """The registry's own list."""
        records: list[Record] = json.loads(bytes(self.registry.list_services(kind)))
        return records


def ids(services: Iterable[Mapping[str, Any]], health: str = "passing") -> list[str]:
    """The ids of the services with this health."""
    return [service["id"] for service in services if service["health"] == health]


def without_heartbeat(services: Iterable[Mapping[str, Any]]) -> list[Record]:
    """The records, but for what heartbeats change and events don't tell."""
    return [
        {
            **{
                field: told
                for field, told in service.items()
                if field not in UNTOLD
                and (field != "maintenance" or service["health"] == "maintenance")
            },
            "last_heartbeat": 0,
            "health": "passing" if service["health"] == "warning" else service["health"],
        }
        for service in services
    ]


class CacheMachine(RuleBasedStateMachine):
    """Whatever happens to the services, the registry, and the messages, and in what order."""

    IDS = st.sampled_from("abcd")

    def __init__(self) -> None:
        super().__init__()
        self.harness = CacheHarness()
        self.mirror = self.harness.mirror

    def teardown(self) -> None:
        self.harness.close()

    @rule(
        service_id=IDS,
        kinds=st.lists(st.sampled_from(KINDS), min_size=1, unique=True).map(tuple),
        ttl=st.sampled_from([1, 2.5, 14, 30]),
        mode=st.sampled_from(["hardware", "simulator"]),
        ready=st.booleans(),
        replaces=st.lists(IDS, max_size=2, unique=True),
    )
    def register(
        self,
        service_id: str,
        kinds: tuple[str, ...],
        ttl: float,
        mode: str,
        ready: bool,
        replaces: list[str],
    ) -> None:
        self.harness.register(service_id, kinds, ttl, replaces, mode=mode, ready=ready)

    @rule(replaces=st.lists(IDS, min_size=1, max_size=3, unique=True))
    def take_over(self, replaces: list[str]) -> None:
        """The new one has the id of the first that there is, or else goes at once."""
        known = {service["id"] for service in self.harness.services()}
        if known.intersection(replaces):
            self.harness.register(None, ("A",), 14, replaces)

    @rule(
        service_id=IDS,
        said=st.sampled_from(
            [
                {"tags": ["B"]},
                {"metadata": {"type": "B"}, "port": 2},
                {"ready": True},
                {"ready": False},
            ]
        ),
    )
    def update(self, service_id: str, said: dict[str, Any]) -> None:
        with contextlib.suppress(UnknownService):
            self.harness.update(service_id, **said)

    @rule(service_id=IDS, on=st.booleans())
    def maintain(self, service_id: str, on: bool) -> None:
        with contextlib.suppress(UnknownService):
            self.harness.maintain(service_id, on)

    @rule(service_id=IDS, fed=st.sampled_from([0, 6, 60]))
    def report(self, service_id: str, fed: float) -> None:
        said = {"fed": fed, "watchdog": 10, "load": fed, "status": {"text": f"fed {fed}"}}
        with contextlib.suppress(UnknownService):
            self.harness.registry.renew(service_id, read_report(said, 0))
        self.harness.commit()

    @rule(service_id=IDS)
    def deregister(self, service_id: str) -> None:
        try:
            self.harness.registry.deregister(service_id, None, who=FORCED)
        except UnknownService:
            return
        self.harness.commit()

    @rule(service_id=IDS)
    def renew(self, service_id: str) -> None:
        with contextlib.suppress(UnknownService):
            self.harness.registry.renew(service_id)
        self.harness.commit()

    @rule(seconds=st.sampled_from([0.1, 0.4, 2, 9, 16]), reaped=st.booleans())
    def time(self, seconds: float, reaped: bool) -> None:
        self.harness.clock.advance(seconds)
        if reaped:
            self.harness.judge()
            self.harness.registry.expire(10)
            self.harness.commit()

    @rule()
    def grace(self) -> None:
        self.harness.registry.grant_grace()
        self.harness.commit()

    @rule()
    def deliver(self) -> None:
        self.harness.deliver()

    @rule()
    def lose(self) -> None:
        self.harness.waiting.clear()

    @rule()
    def forget(self) -> None:
        self.harness.store.forgotten = self.harness.registry.seq

    @rule()
    def another_registry(self) -> None:
        for service in self.harness.services():
            self.harness.changed[service["id"]] = self.harness.clock.now
        self.harness.open()

    @rule(on_the_way=st.sampled_from([0.0, 0.2, 3]), limit=st.sampled_from([1, 1_000]))
    def ask(self, on_the_way: float, limit: int) -> None:
        self.take()
        self.harness.ask(on_the_way, limit)

    @rule(on_the_way=st.sampled_from([0.0, 0.2, 3]), limit=st.sampled_from([1, 1_000]))
    def send(self, on_the_way: float, limit: int) -> None:
        """What happens next may be told before the answer is there."""
        self.take()
        self.harness.send(on_the_way, limit)

    @rule()
    def take(self) -> None:
        if self.harness.reply is not None:
            self.harness.take()

    @rule()
    def ask_in_vain(self) -> None:
        self.take()
        self.mirror.next_request()
        self.mirror.on_failure(RequestTimeout("away"))

    @rule()
    def catch_up(self) -> None:
        """Then the two are equal, health included."""
        self.take()
        harness, mirror = self.harness, self.mirror
        harness.catch_up()
        assert mirror.stale() is None
        assert mirror.as_of == harness.clock.now
        for kind in (None, *KINDS, "C"):
            told = harness.services(kind)
            assert without_heartbeat(mirror.list_services(kind)) == without_heartbeat(told)
            if kind is not None:
                self.discover_alike(kind)
        for service_id in "abcd":
            known = mirror.get(service_id)
            expected = [one for one in harness.services() if one["id"] == service_id]
            assert without_heartbeat([known] if known else []) == without_heartbeat(expected)

    def discover_alike(self, kind: str) -> None:
        """Both find one of the same services, or both none, whatever the mode."""
        for mode in (None, "hardware", "simulator"):
            leases = self.harness.registry._view.discoverable(kind, mode)
            answers = [self.mirror.discover(kind, mode) for _ in range(3)]
            found = {None if one is None else one["id"] for one in answers}
            assert found <= {lease.service.id for lease in leases} or found == {None}
            listed = ids(self.mirror.list_services(kind, mode))
            assert mode is None or set(listed) == {lease.service.id for lease in leases}

    @invariant()
    def what_passes_is_alive(self) -> None:
        """Or else it changed since the mirror last heard, which is not long ago."""
        if self.mirror.stale() is not None:
            return
        now = self.harness.clock.now
        assert now - self.mirror.as_of <= STALE_AFTER
        self.harness.judge()
        alive = ids(self.harness.services())
        for service_id in ids(self.mirror.list_services(None)):
            if service_id not in alive and not self.just_over(service_id):
                assert self.harness.changed[service_id] >= self.mirror.as_of

    def just_over(self, service_id: str) -> bool:
        """Its lease ended, or the registry still said that it is passing, within the rounding."""
        just = self.harness.clock.now - ROUNDED
        lease = self.harness.registry._view.get(service_id)
        return self.mirror.as_of > just or (lease is not None and lease.deadline > just)

    @invariant()
    def it_asks_in_time(self) -> None:
        assert 0 <= self.mirror.seconds_until_next_request < STALE_AFTER / 2 + 0.001

    @invariant()
    def the_registry_names_each_lease_that_ends_soon(self) -> None:
        now, leases = self.harness.clock.now, self.harness.registry._view.all()
        soon = {one.service.id for one in leases if one.deadline < now + LEASES_WITHIN}
        assert set(self.harness.registry.ending_leases()) == soon


TestCache = CacheMachine.TestCase
TestCache.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@pytest.fixture
def harness() -> Iterator[CacheHarness]:
    """A mirror that has listed a service with a ttl of 30, and one with a ttl of 1."""
    harness = CacheHarness()
    harness.register("slow", ttl=30)
    harness.register("quick", ttl=1)
    harness.deliver()
    harness.catch_up()
    yield harness
    harness.close()


def test_the_first_question_is_a_list_and_then_come_events(harness: CacheHarness) -> None:
    assert CacheView(harness.clock).next_request().action == "list"
    assert harness.mirror.next_request().params == {
        "since": 2,
        "epoch": harness.registry.epoch,
        "mark": harness.registry.position.mark,
        "leases": True,
    }


def test_what_is_not_sure_any_more_is_critical_until_it_is_told(harness: CacheHarness) -> None:
    mirror = harness.mirror
    assert ids(mirror.list_services(None)) == ["slow", "quick"]
    harness.clock.advance(0.9)
    harness.registry.renew("quick")
    harness.clock.advance(0.1)
    assert ids(mirror.list_services(None), "critical") == ["quick"]
    unsure = {**harness.services()[1], "health": "critical", "reason": "no heartbeat"}
    assert mirror.get("quick") == unsure
    assert mirror.seconds_until_next_request == 0.0
    harness.catch_up()
    assert ids(mirror.list_services(None)) == ["slow", "quick"]


def test_a_lease_counts_from_before_the_question(harness: CacheHarness) -> None:
    harness.registry.renew("quick")
    harness.ask(on_the_way=0.4)
    assert ids(harness.mirror.list_services(None)) == ["slow"], "0.6 s were left, 0.4 s ago"


def test_it_asks_again_before_a_lease_ends_but_not_all_the_time(harness: CacheHarness) -> None:
    mirror = harness.mirror
    for _ in range(8):
        harness.catch_up()
        harness.registry.renew("quick")
    assert mirror.seconds_until_next_request == 0.75, "its lease ends in a second"
    harness.clock.advance(0.7)
    assert mirror.seconds_until_next_request == pytest.approx(0.05)
    harness.catch_up()
    assert mirror.seconds_until_next_request == 0.25, "0.3 s are left"
    harness.clock.advance(1)
    harness.catch_up()
    for _ in range(8):
        harness.catch_up()
    assert mirror.seconds_until_next_request == 5.0, "there is nothing to lose any more"


def test_events_do_not_put_off_the_next_question(harness: CacheHarness) -> None:
    for number in range(60):
        harness.registry.renew("quick")
        harness.register(f"one of {number}")
        harness.deliver()
        harness.clock.advance(0.1)
        if not harness.mirror.seconds_until_next_request:
            harness.catch_up()
        assert harness.clock.now - harness.mirror.as_of < 5.2
        harness.registry.renew("slow")
    assert len(harness.mirror.list_services(None)) == 62


def test_the_lease_of_a_new_service_counts_from_the_last_answer(harness: CacheHarness) -> None:
    """The event may have been on its way for as long as that."""
    harness.clock.advance(3)
    harness.register("brief", ttl=2)
    harness.register("lasting", ttl=20)
    harness.clock.advance(1.5)
    harness.deliver()
    assert ids(harness.mirror.list_services(None)) == ["slow", "lasting"]
    assert harness.mirror.seconds_until_next_request == 0.0
    harness.catch_up()
    assert ids(harness.mirror.list_services(None)) == ["slow", "brief", "lasting"]


def test_leases_are_taken_in_only_with_all_events(harness: CacheHarness) -> None:
    """A service that is gone already is named in no lease, which would mean that it holds."""
    harness.registry.deregister("quick", None, who=FORCED)
    harness.register("other")
    harness.clock.advance(2)
    harness.ask(limit=0)
    assert not harness.mirror.seconds_until_next_request
    assert ids(harness.mirror.list_services(None)) == ["slow"]
    harness.ask(limit=1)
    assert not harness.mirror.seconds_until_next_request
    harness.ask(limit=1)
    assert harness.mirror.seconds_until_next_request
    assert ids(harness.mirror.list_services(None)) == ["slow", "other"]


def test_stale_is_what_got_no_answer_for_two_intervals(harness: CacheHarness) -> None:
    mirror = harness.mirror
    for _ in range(2):
        harness.clock.advance(5)
        assert mirror.seconds_until_next_request == 0.0
        assert mirror.stale() is None
        mirror.next_request()
        mirror.on_failure(RequestTimeout("away"))
        assert mirror.seconds_until_next_request == 5.0
    harness.clock.advance(0.5)
    assert mirror.stale() == 10.5
    harness.catch_up()
    assert mirror.stale() is None


def test_nothing_is_known_before_the_first_answer(harness: CacheHarness) -> None:
    assert CacheView(harness.clock).stale() == float("inf")


def test_another_registry_is_listed_anew(
    harness: CacheHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.open()
    harness.register("new")
    harness.deliver()
    assert harness.mirror.seconds_until_next_request == 0.0
    assert ids(harness.mirror.list_services(None)) == ["slow", "quick"], "until it is known better"
    harness.catch_up()
    assert ids(harness.mirror.list_services(None)) == ["new"]
    assert caplog.records == [], "nothing was missed"


def test_an_outage_with_another_registry_at_its_end_is_two_lines(
    harness: CacheHarness, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        harness.mirror.on_failure(RequestTimeout("away"))
    harness.open()
    for _ in range(3):
        harness.catch_up()
    assert [record.getMessage()[:24] for record in caplog.records] == [
        "lost the event stream, r",
        "the registry answers aga",
    ]


def test_answers_are_the_callers(harness: CacheHarness) -> None:
    def all_of_it() -> list[Record | None]:
        mirror = harness.mirror
        return [mirror.get("slow"), mirror.discover("A"), *mirror.list_services("A")]

    before = all_of_it()
    for answer in all_of_it():
        assert answer is not None
        answer["tags"].append("changed")
        answer.clear()
    assert len(before) == len(all_of_it())
    assert harness.mirror.get("slow") == before[0]


def test_any_of_the_passing_services_is_discovered(harness: CacheHarness) -> None:
    for number in range(4):
        harness.register(f"slow {number}")
    harness.deliver()
    harness.clock.advance(1.5)
    found = Counter(str(present(harness.mirror.discover("A"))["id"]) for _ in range(1_000))
    assert set(found) == {"slow", "slow 0", "slow 1", "slow 2", "slow 3"}
    assert min(found.values()) > 100


def test_a_simulator_is_found_only_where_no_hardware_is_registered(harness: CacheHarness) -> None:
    mirror = harness.mirror
    harness.register("sim", mode="simulator", kinds=("A", "S"))
    harness.deliver()
    assert {present(mirror.discover("A"))["id"] for _ in range(50)} == {"slow", "quick"}
    assert present(mirror.discover("A", "simulator"))["id"] == "sim"
    assert present(mirror.discover("S"))["id"] == "sim"
    assert mirror.discover("S", "hardware") is None
    harness.clock.advance(60)
    assert mirror.discover("A") is None, "hardware is registered, though it may have lapsed"
    for hardware in ("slow", "quick"):
        harness.registry.deregister(hardware, None, who=FORCED)
    harness.register("sim", mode="simulator", kinds=("A", "S"), ttl=120)
    harness.catch_up()
    assert present(mirror.discover("A"))["id"] == "sim"


def test_health_is_followed_by_events_and_in_place(harness: CacheHarness) -> None:
    mirror = harness.mirror
    harness.maintain("slow", True)
    harness.deliver()
    slow, quick = mirror.list_services(None)
    assert (slow["id"], slow["health"], quick["id"]) == ("slow", "maintenance", "quick")
    assert slow["maintenance"]["until"] is None
    assert {present(mirror.discover("A"))["id"] for _ in range(50)} == {"quick"}
    harness.maintain("slow", False)
    harness.registry.renew("quick", read_report({"fed": 20, "watchdog": 10, "load": 1}, 0))
    harness.commit()
    harness.deliver()
    slow, quick = mirror.list_services(None)
    assert (slow["health"], quick["health"], quick["reason"]) == ("passing", "critical", "stalled")
    assert "load" not in quick, "it changes, and no event tells"
    harness.registry.renew("quick", read_report({}, 0))
    harness.commit()
    harness.deliver()
    assert without_heartbeat(mirror.list_services(None)) == without_heartbeat(harness.services())


def test_a_service_that_recovers_is_passing_at_once(harness: CacheHarness) -> None:
    mirror = harness.mirror
    harness.clock.advance(1.1)
    harness.judge()
    harness.deliver()
    assert mirror.get("quick") == harness.services()[1]
    assert harness.services()[1]["health"] == "critical"
    harness.clock.advance(0.4)
    harness.registry.renew("quick")
    harness.register("slow", ttl=30)
    harness.catch_up()
    harness.clock.advance(1.1)
    harness.judge()
    harness.registry.renew("quick")
    harness.commit()
    harness.deliver()
    assert mirror.seconds_until_next_request < 1, "how long it stays so has to be asked soon"
    harness.catch_up()
    assert ids(mirror.list_services(None)) == ["quick", "slow"]


def test_an_event_that_overtakes_an_answer_is_no_news_to_it(harness: CacheHarness) -> None:
    """The answer knows nothing of the lease that began after it was given."""
    harness.catch_up()
    harness.send()
    harness.register("brief", ttl=2)
    harness.deliver()
    assert harness.mirror.get("brief") == harness.services()[-1]
    harness.take()
    assert "brief" in ids(harness.mirror.list_services(None))
    harness.clock.advance(2.1)
    assert "brief" not in ids(harness.mirror.list_services(None))


def test_an_update_leaves_the_lease(harness: CacheHarness) -> None:
    harness.clock.advance(0.9)
    harness.update("quick", port=7, tags=["B"])
    harness.deliver()
    assert present(harness.mirror.discover("B"))["port"] == 7
    assert ids(harness.mirror.list_services(None)) == ["slow", "quick"]
    harness.clock.advance(0.2)
    assert harness.mirror.discover("B") is None


def test_what_was_replaced_is_gone_when_the_new_one_comes(harness: CacheHarness) -> None:
    harness.register(None, ("A",), 30, ["quick", "slow"])
    for left in (["slow", "quick"], ["slow", "quick"], ["quick"]):
        harness.mirror.on_event(harness.waiting.pop(0))
        assert ids(harness.mirror.list_services(None)) == left
    assert harness.waiting == []
    assert without_heartbeat(harness.mirror.list_services(None)) == without_heartbeat(
        harness.services()
    )


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_a_service_is_never_missing_while_it_is_updated(harness: CacheHarness) -> None:
    harness.register("slow", kinds=("T", "U"))
    harness.deliver()
    event = {"type": "register", "epoch": harness.registry.epoch}
    data = {"service_id": "slow", "service_info": harness.mirror.get("slow")}
    over, missing = threading.Event(), []

    def read() -> None:
        while not over.is_set():
            if not (harness.mirror.get("slow") and harness.mirror.list_services("U")):
                missing.append("slow")

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for seq in range(harness.registry.seq + 1, 10_000):
        harness.mirror.on_event({**event, "seq": seq, "data": data})
    over.set()
    for thread in threads:
        thread.join(20)
    assert missing == []
    assert harness.mirror.next_request().params["since"] == 9_999
