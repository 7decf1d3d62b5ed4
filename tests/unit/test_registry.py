"""The rules of the registry, with the clocks in the hand and real stores."""

from __future__ import annotations

import json
import re
import sqlite3
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rsreg import InMemoryBackend, SQLiteBackend
from rsreg.errors import (
    DuplicateName,
    DuplicateServiceType,
    InvalidRequest,
    NoService,
    ServerError,
    StoreError,
    Unavailable,
    UnknownService,
)
from rsreg.protocol import messages
from rsreg.protocol.wire import RequestNumber
from rsreg.server.backends.stored import Event, Service
from rsreg.server.rules import journal
from rsreg.server.rules.registry import Registry
from rsreg.server.view.lease import Lease
from tests.harness import RegistryHarness
from tests.helpers import start_program


def seqs(answer: tuple[list[Event], bool]) -> tuple[list[int], bool]:
    """The numbers of replayed events, and whether to list anew."""
    return [event.seq for event in answer[0]], answer[1]


# -- registering


def test_a_registration_is_seen_at_once(harness: RegistryHarness) -> None:
    service_id = harness.register("a", 30, type="A", tags=["x"], metadata={"v": 1}, protocol="udp")
    record = {
        "id": service_id,
        "name": "a",
        "host": "10.0.0.5",
        "port": 5000,
        "type": "A",
        "tags": ["x"],
        "metadata": {"v": 1},
        "protocol": "udp",
        "ttl": 30,
        "registered_by": None,
        "last_heartbeat": 1_700_000_000,
        "health": "passing",
    }
    assert harness.get(service_id) == record
    assert harness.list() == harness.list("A") == harness.list("x") == {service_id: record}
    assert harness.discover("A") == harness.discover("x") == service_id
    assert len(harness.registry) == 1
    assert harness.events == [
        {
            "type": "register",
            "timestamp": 1_700_000_000,
            "data": {"service_id": service_id, "service_info": record},
            "seq": 1,
            "epoch": harness.registry.epoch,
            "mark": harness.registry.position.mark,
            "after": None,
            "by": None,
        }
    ]


def test_an_id_is_the_name_and_something_random(harness: RegistryHarness) -> None:
    ids = {harness.register("Puna CS"), harness.register("Puna CS")}
    assert len(ids) == 2
    assert all(re.fullmatch(r"puna-cs-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", i) for i in ids)


def test_a_known_id_is_updated_in_place(harness: RegistryHarness) -> None:
    assert harness.register("a", 30, id="mine", type="A", tags=["old"], more=1) == "mine"
    harness.register("b", id="other")
    harness.pass_time(20)
    assert harness.register("b", 40, id="mine", type="B", tags=["new"]) == "mine"
    assert len(harness.registry) == 2
    assert (harness.list("A"), harness.list("old")) == ({}, {})
    assert list(harness.list("B")) == list(harness.list("new")) == ["mine"]
    updated = harness.get("mine")
    assert (updated["name"], updated["ttl"], "more" in updated) == ("b", 40, False)
    harness.pass_time(39)
    assert harness.health("mine") == "passing"
    assert harness.expire() == ["other"]
    harness.pass_time(1)
    assert harness.expire() == ["mine"]
    assert [event["type"] for event in harness.events] == ["register"] * 3 + [
        "critical",
        "expire",
    ] * 2


def test_a_service_is_found_under_type_tags_and_metadata_type(harness: RegistryHarness) -> None:
    service_id = harness.register("a", type="A", tags=["t", "A"], metadata={"type": "m"})
    for kind in ("A", "t", "m"):
        assert list(harness.list(kind)) == [service_id]
        assert harness.discover(kind) == service_id
    assert harness.list("a") == {}
    harness.registry.deregister(service_id, None)
    assert [harness.list(kind) for kind in ("A", "t", "m")] == [{}, {}, {}]


def test_deregister(harness: RegistryHarness) -> None:
    service_id = harness.register(type="A")
    harness.register("b", type="A")
    harness.registry.deregister(service_id, None)
    (event,) = harness.commit()
    assert (event["type"], event["data"]["service_id"]) == ("deregister", service_id)
    assert event["data"]["service_info"]["health"] == "passing"
    assert service_id not in harness.list()
    assert service_id not in harness.list("A")
    for question in (
        lambda: harness.registry.get(service_id),
        lambda: harness.registry.renew(service_id),
        lambda: harness.registry.deregister(service_id, None),
    ):
        with pytest.raises(UnknownService):
            question()
    assert harness.commit() == []


def test_a_critical_service_may_leave(harness: RegistryHarness) -> None:
    service_id = harness.register(ttl=10)
    harness.pass_time(10)
    harness.registry.deregister(service_id, None)
    (event,) = harness.commit()
    assert event["type"] == "deregister"
    assert event["data"]["service_info"]["health"] == "critical"
    assert harness.expire() == []


def test_nothing_is_found_where_nothing_is(harness: RegistryHarness) -> None:
    assert harness.list() == {}
    assert harness.list("A") == {}
    with pytest.raises(NoService, match=r"^No healthy service of type A found$"):
        harness.registry.discover("A")


# -- leases


def test_a_lease_holds_for_its_ttl_and_no_longer(harness: RegistryHarness) -> None:
    service_id = harness.register(ttl=30, type="A")
    harness.pass_time(29.999)
    assert harness.health(service_id) == "passing"
    assert harness.discover("A") == service_id
    assert harness.expire() == []
    harness.pass_time(0.001)
    assert harness.health(service_id) == "critical"
    assert harness.list("A")[service_id]["health"] == "critical"
    with pytest.raises(NoService):
        harness.discover("A")
    assert harness.expire() == [service_id]
    assert harness.events[-1]["data"]["service_info"]["health"] == "critical"
    with pytest.raises(UnknownService):
        harness.registry.renew(service_id)


def test_one_expire_event_each(harness: RegistryHarness) -> None:
    ids = {harness.register(ttl=ttl) for ttl in (1, 2, 2, 3)}
    for _ in range(10):
        harness.pass_time(0.5)
        harness.expire()
    expired = [e["data"]["service_id"] for e in harness.events if e["type"] == "expire"]
    assert sorted(expired) == sorted(ids)
    assert len(harness.registry) == 0


def test_a_renewal_starts_the_ttl_again(harness: RegistryHarness) -> None:
    service_id = harness.register(ttl=10)
    for _ in range(10):
        harness.pass_time(9)
        harness.registry.renew(service_id)
        assert harness.expire() == []
    assert harness.get(service_id)["last_heartbeat"] == 1_700_000_090
    assert harness.commit() == []
    harness.pass_time(10)
    assert harness.expire() == [service_id]


def test_a_renewal_revives_a_critical_service(harness: RegistryHarness) -> None:
    service_id = harness.register(ttl=10, type="A")
    harness.pass_time(15)
    assert harness.health(service_id) == "critical"
    harness.registry.renew(service_id)
    assert harness.health(service_id) == "passing"
    assert harness.discover("A") == service_id
    assert harness.expire() == []
    harness.pass_time(9.9)
    assert harness.expire() == []
    harness.pass_time(0.1)
    assert harness.expire() == [service_id]


def test_a_service_is_judged_when_the_sockets_were_last_empty(harness: RegistryHarness) -> None:
    """A heartbeat that waits in the queue counts, however late it is read."""
    service_id = harness.register(ttl=10, type="A")
    harness.clock.advance(60)
    assert harness.health(service_id) == "passing"
    assert harness.expire() == []
    harness.registry.renew(service_id)
    harness.registry.evaluate_leases(harness.clock.now)
    assert harness.health(service_id) == "passing"
    assert harness.expire() == []


def test_the_longest_overdue_go_first_and_not_too_many(harness: RegistryHarness) -> None:
    early = harness.register("early", ttl=10)
    late = harness.register("late", ttl=30)
    renewed = harness.register("renewed", ttl=10)
    harness.pass_time(9)
    harness.registry.renew(renewed)
    harness.pass_time(5)
    harness.registry.renew(renewed)
    harness.register("living", ttl=1_000)
    harness.pass_time(100)
    assert [harness.expire(1) for _ in range(4)] == [[early], [renewed], [late], []]


def test_no_more_expire_than_are_asked_for(harness: RegistryHarness) -> None:
    for _ in range(5):
        harness.register(ttl=1)
    harness.pass_time(1)
    assert [len(harness.expire(2)) for _ in range(4)] == [2, 2, 1, 0]


def test_after_a_stall_every_lease_starts_afresh(harness: RegistryHarness) -> None:
    short, long = harness.register(ttl=10), harness.register(ttl=50)
    lapsed = harness.register(ttl=1)
    harness.pass_time(9)
    assert harness.health(lapsed) == "critical"
    harness.registry.grant_grace()
    harness.pass_time(9.9)
    assert harness.health(short) == "passing"
    harness.pass_time(0.1)
    assert sorted(harness.expire()) == sorted([short, lapsed])
    harness.pass_time(39.9)
    assert harness.expire() == []
    harness.pass_time(0.1)
    assert harness.expire() == [long]


@pytest.mark.parametrize("step", [86_400.0, -86_400.0])
def test_a_step_of_the_wall_clock_changes_no_lease(harness: RegistryHarness, step: float) -> None:
    service_id = harness.register(ttl=10)
    harness.wall.advance(step)
    harness.registry.evaluate_leases(harness.clock.now)
    assert harness.health(service_id) == "passing"
    harness.registry.renew(service_id)
    assert harness.get(service_id)["last_heartbeat"] == 1_700_000_000 + step
    harness.pass_time(9.9)
    assert harness.expire() == []
    harness.pass_time(0.1)
    assert harness.expire() == [service_id]


def test_services_that_come_and_go_leave_nothing_behind(harness: RegistryHarness) -> None:
    for name, ttl in (("third", 30), ("second", 20), ("first", 10)):
        harness.register(name, ttl=ttl, id=name, type=name)
    for n in range(9_000):
        harness.stage("last", ttl=40, id="last", tags=[str(n)])
    harness.commit()
    assert len(harness.registry._view._deadlines) < 5_000
    for name in ("first", "second", "third", "last"):
        harness.pass_time(10)
        assert harness.expire() == [name]
    assert harness.registry._view._deadlines == []
    assert list(harness.registry._view.service_types()) == []


def test_a_tag_of_its_own_costs_little(harness: RegistryHarness) -> None:
    """A service with 64 tags that nobody else has costs no more than 16 kB (it was 55 kB)."""
    harness.register("warm", tags=["up"])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(100):
            harness.stage("a", id=f"s{number}", tags=[f"t{number}-{tag}" for tag in range(64)])
        harness.commit()
        assert (tracemalloc.get_traced_memory()[0] - before) / 100 < 16_000
    finally:
        tracemalloc.stop()


def test_a_registration_looks_through_no_namesakes(harness: RegistryHarness) -> None:
    """Thousands may have a name, if the server is told so: each registration costs the same."""
    for number in range(500):
        harness.stage("a", id=f"s{number}")
    harness.commit()
    looked_at: set[str] = set()
    alive = vars(Lease)["alive"].fget

    def noting(lease: Lease) -> bool:
        looked_at.add(lease.service.id)
        return bool(alive(lease))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lease, "alive", property(noting))
        harness.register("a", id="new")
    assert looked_at == {"new"}
    with pytest.raises(DuplicateName):
        harness.register("a", id="exclusive", exclusive=True)


def test_many_leases_that_end_at_once_are_judged_in_slices(harness: RegistryHarness) -> None:
    """The oldest first; those that are not looked at yet are passing, and may still be renewed."""
    ids = [harness.stage(f"s{n}", ttl=10, type="A") for n in range(1_000)]
    harness.commit()
    harness.clock.advance(10)
    critical, slices = 0, 0
    while not harness.registry.evaluate_leases(harness.clock.now):
        slices += 1
        healths = [record["health"] for record in harness.list("A").values()]
        assert critical < healths.count("critical") <= critical + 400
        critical = healths.count("critical")
        assert harness.health(harness.discover("A")) == "passing"
        for service_id in ids[:10]:
            harness.registry.renew(service_id)
    assert slices >= 2
    assert {key for key, one in harness.list().items() if one["health"] == "passing"} == set(
        ids[:10]
    )
    assert set(harness.expire(2_000)) == set(ids[10:])


def test_a_heartbeat_that_comes_late_brings_a_lapsed_service_back(harness: RegistryHarness) -> None:
    late = harness.register("late", ttl=10, type="A", tags=["x"])
    harness.pass_time(10)
    for kind in ("A", "x"):
        with pytest.raises(NoService):
            harness.discover(kind)
    harness.registry.renew(late)
    assert harness.health(late) == "passing"
    assert harness.discover("A") == harness.discover("x") == late
    assert harness.expire() == []
    harness.pass_time(10)
    assert harness.health(late) == "critical"
    assert harness.expire() == [late]


def test_the_grace_after_a_stall_revives_no_lease_that_had_ended(harness: RegistryHarness) -> None:
    ended, holds = harness.register("ended", ttl=10, type="A"), harness.register("holds", type="A")
    harness.pass_time(10)
    harness.registry.grant_grace()
    assert (harness.health(ended), harness.discover("A")) == ("critical", holds)
    assert harness.tell() == [("critical", ended)]
    harness.registry.renew(ended)
    assert harness.tell() == [("recovered", ended)]


# -- restarts


@pytest.mark.parametrize("killed", [True, False])
def test_a_restart_keeps_everything_and_gives_a_fresh_ttl(
    on_file: RegistryHarness, killed: bool
) -> None:
    harness = on_file
    one = harness.register("one", ttl=10, type="A", id="x", extra_field=[1])
    two = harness.register("two", ttl=20.5, tags=["B"])
    gone = harness.register("gone")
    harness.registry.deregister(gone, None)
    harness.commit()
    harness.pass_time(9)
    harness.registry.renew(two)
    before, epoch = harness.list(), harness.registry.epoch
    harness.clock.advance(3_600)
    harness.restart(killed=killed)
    if killed:
        before[two]["last_heartbeat"] -= 9
    assert harness.list() == before
    assert {record["health"] for record in before.values()} == {"passing"}
    assert (harness.registry.seq, harness.registry.epoch) == (4, epoch)
    assert seqs(harness.registry.events_since(0, epoch, 10)) == ([1, 2, 3, 4], False)
    harness.pass_time(9.9)
    assert harness.expire() == []
    harness.pass_time(0.1)
    assert harness.expire() == [one]
    harness.pass_time(10.4)
    assert harness.expire() == []
    harness.pass_time(0.1)
    assert harness.expire() == [two]
    assert harness.events[-1]["seq"] == 8


def test_an_uncommitted_change_does_not_survive_a_kill(on_file: RegistryHarness) -> None:
    kept = on_file.register("kept")
    on_file.stage("lost")
    on_file.registry.deregister(kept, None)
    on_file.restart(killed=True)
    assert list(on_file.list()) == [kept]
    assert on_file.registry.seq == 1


def test_a_new_store_is_a_new_epoch(harness: RegistryHarness, on_file: RegistryHarness) -> None:
    assert harness.registry.epoch
    assert harness.registry.epoch != on_file.registry.epoch


# -- a request that comes again


def test_a_resent_register_is_one_registration(harness: RegistryHarness) -> None:
    first = harness.register("a", token="t")
    assert harness.register("a", token="t") == first
    assert len(harness.registry) == len(harness.events) == 1
    assert harness.register("a", token="u") != first
    assert harness.register("a") != first
    assert harness.register("a") != first
    assert len(harness.registry) == 4


def test_a_resend_in_the_same_batch_is_one_registration(harness: RegistryHarness) -> None:
    assert harness.stage("a", token="t") == harness.stage("a", token="t")
    assert len(harness.commit()) == 1


def test_a_resent_deregister_is_answered_as_before(harness: RegistryHarness) -> None:
    service_id = harness.register("a")
    harness.registry.deregister(service_id, "t")
    harness.registry.deregister(service_id, "t")
    assert len(harness.commit()) == 1
    harness.registry.deregister(service_id, "t")
    assert harness.commit() == []
    with pytest.raises(UnknownService):
        harness.registry.deregister(service_id, "u")
    with pytest.raises(UnknownService):
        harness.registry.deregister("other", "t")


@pytest.mark.parametrize("restarted", [False, True])
def test_a_resend_does_not_undo_what_came_after(on_file: RegistryHarness, restarted: bool) -> None:
    """Its sender numbers its requests, so it never sends two requests that are the same."""
    info = {"name": "a", "host": "h", "port": 1, "id": "mine"}
    old, new = (messages.read_service_info({**info, "type": kind}) for kind in ("old", "new"))

    def ask(number: int, asked: Any = old) -> str:
        if restarted:
            on_file.restart(killed=True)
        request_number = RequestNumber("driver", number)
        service_id = on_file.registry.register(
            asked[0], asked[1], 30, f"token {number}", request_number=request_number
        )
        on_file.commit()
        return service_id

    assert ask(1) == ask(2, new) == ask(1) == "mine"
    assert list(on_file.list("new")) == ["mine"]
    on_file.registry.update("mine", {"port": 2}, {}, "token 3", RequestNumber("driver", 3))
    on_file.commit()
    for late in (1, 2):
        assert ask(late) == "mine"
        on_file.registry.update("mine", {"port": 2}, {}, "token 3", RequestNumber("driver", 3))
        assert on_file.commit() == []
    assert on_file.get("mine")["port"] == 2
    on_file.registry.deregister("mine", "token 4", RequestNumber("driver", 4))
    on_file.commit()
    for late in (1, 2):
        with pytest.raises(UnknownService):
            ask(late)
    on_file.registry.deregister("mine", "token 4", RequestNumber("driver", 4))
    assert (on_file.commit(), on_file.list()) == ([], {})


@pytest.mark.parametrize("overtaken", ["register", "update", "deregister"])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_later_request_of_its_sender_overtook_is_refused(
    on_file: RegistryHarness, overtaken: str, restarted: bool
) -> None:
    """It was never read before: it waited on a connection that its sender has given up."""
    info = messages.read_service_info({"name": "a", "host": "h", "port": 1, "id": "mine"})
    on_file.registry.register(*info, 30, "token 5", request_number=RequestNumber("driver", 5))
    on_file.commit()
    if restarted:
        on_file.restart(killed=True)
    before = on_file.list()
    asked: dict[str, Sequence[Any]] = {
        "register": (*info, 30),
        "update": ("mine", {"port": 2}, {}),
        "deregister": ("mine",),
    }
    late = getattr(on_file.registry, overtaken)
    with pytest.raises(UnknownService, match="after a later"):
        late(*asked[overtaken], token="token 4", request_number=RequestNumber("driver", 4))
    assert (on_file.commit(), on_file.list()) == ([], before)


def test_a_sender_that_counts_from_one_again_is_no_resend(harness: RegistryHarness) -> None:
    """The second run of a program sends the very requests of the first."""
    for _ in range(3):
        service_id = harness.register("a", token="1", port=5000)
        assert list(harness.list()) == [service_id]
        assert harness.register("a", token="1", port=5000) == service_id
        harness.registry.update(service_id, {"port": 6000}, {}, "2")
        harness.commit()
        assert harness.get(service_id)["port"] == 6000
        harness.registry.deregister(service_id, "3")
        harness.commit()
        assert harness.list() == {}


def test_a_known_id_is_what_its_registration_says_also_if_that_was_said_before(
    harness: RegistryHarness,
) -> None:
    for _ in range(2):
        harness.register("a", token="1", id="mine", port=5000)
        assert harness.get("mine")["port"] == 5000
        harness.register("a", token="2", id="mine", port=6000)
        assert harness.get("mine")["port"] == 6000
    harness.registry.deregister("mine", "3")
    harness.register("a", token="1", id="mine", port=5000)
    harness.registry.deregister("mine", "3")
    harness.commit()
    assert harness.list() == {}


def test_a_second_run_while_the_entry_of_the_first_is_there_has_a_whole_ttl(
    harness: RegistryHarness,
) -> None:
    first = harness.register("a", 10, token="1")
    harness.pass_time(9)
    assert harness.register("a", 10, token="1") == first
    harness.pass_time(9)
    assert harness.health(first) == "passing"


@pytest.mark.parametrize("killed", [True, False])
def test_a_resend_after_a_restart_is_recognised(on_file: RegistryHarness, killed: bool) -> None:
    first = on_file.register("a", token="t")
    gone = on_file.register("b", token="u")
    on_file.registry.deregister(gone, "v")
    on_file.commit()
    on_file.restart(killed=killed)
    assert on_file.register("a", token="t") == first
    on_file.registry.deregister(gone, "v")
    assert on_file.commit() == []
    assert list(on_file.list()) == [first]


def test_a_refused_request_may_come_again_and_then_counts(harness: RegistryHarness) -> None:
    gone = harness.register("b")
    harness.store.writes_fail = True
    refused = harness.stage("a", token="t")
    harness.registry.deregister(gone, "u")
    with pytest.raises(StoreError):
        harness.registry.commit()
    harness.store.writes_fail = False
    again = harness.register("a", token="t")
    harness.registry.deregister(gone, "u")
    assert [event["type"] for event in harness.commit()] == ["deregister"]
    assert again != refused
    assert list(harness.list()) == [again]


def test_the_newest_requests_are_remembered(
    harness: RegistryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MAX_ANSWERED", 3)
    first = {token: harness.register("a", token=token) for token in "pqrs"}
    assert {token: harness.register("a", token=token) for token in "qrs"} == {
        token: first[token] for token in "qrs"
    }
    assert harness.register("a", token="p") != first["p"]


def test_refused_requests_push_no_other_out_of_memory(
    harness: RegistryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MAX_ANSWERED", 3)
    first = {token: harness.register("a", token=token) for token in "pqr"}
    harness.store.writes_fail = True
    for token in "stuvw":
        harness.stage("a", token=token)
    with pytest.raises(StoreError):
        harness.registry.commit()
    assert {token: harness.register("a", token=token) for token in "pqr"} == first


# -- a store that fails


def new(harness: RegistryHarness) -> None:
    harness.stage("new", type="new", tags=["A"])


def new_with_token(harness: RegistryHarness) -> None:
    harness.stage("new", type="new", token="t")


def update(harness: RegistryHarness) -> None:
    harness.stage("new", ttl=500, id="one", type="new", tags=["b"])


def leave(harness: RegistryHarness) -> None:
    harness.registry.deregister("one", None)


def expire(harness: RegistryHarness) -> None:
    harness.registry.expire(10)


def come_and_go(harness: RegistryHarness) -> None:
    harness.stage("new", id="new", type="new")
    harness.registry.deregister("new", None)


def leave_and_come_back(harness: RegistryHarness) -> None:
    harness.registry.deregister("one", None)
    harness.stage("new", id="one", type="new")


def expire_and_come_back(harness: RegistryHarness) -> None:
    harness.registry.expire(10)
    harness.stage("old", id="lapsed", type="old", ttl=300)


def everything(harness: RegistryHarness) -> None:
    for change in (update, leave, new, come_and_go, expire_and_come_back, update, new_with_token):
        change(harness)


CHANGES = [
    *(new, new_with_token, update, leave, expire, come_and_go),
    *(leave_and_come_back, expire_and_come_back, everything),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_refused_change_leaves_no_trace(
    harness: RegistryHarness, change: Callable[[RegistryHarness], None]
) -> None:
    harness.register("one", ttl=100, id="one", type="A", tags=["a"])
    harness.register("two", ttl=200, id="two", type="A", tags=["b"])
    harness.register("lapsed", ttl=50, id="lapsed", type="old")
    harness.pass_time(60)
    before = harness.picture()

    harness.store.writes_fail = True
    change(harness)
    with pytest.raises(StoreError, match="the disk is full"):
        harness.registry.commit()
    assert harness.picture() == before
    assert harness.registry.commit() == []

    harness.store.writes_fail = False
    change(harness)
    events = harness.commit()
    assert [event["seq"] for event in events] == list(range(4, 4 + len(events)))
    assert events
    after = harness.picture()
    assert after != before
    assert harness.store.load().seq == harness.registry.seq
    assert {service.id for service in harness.store.load().services} == set(harness.list())


@pytest.mark.parametrize("change", CHANGES)
def test_a_refused_change_changes_no_lease(
    harness: RegistryHarness, change: Callable[[RegistryHarness], None]
) -> None:
    harness.register("one", ttl=100, id="one", type="A")
    harness.register("lapsed", ttl=50, id="lapsed", type="old")
    harness.pass_time(60)
    harness.store.writes_fail = True
    change(harness)
    with pytest.raises(StoreError):
        harness.registry.commit()
    harness.store.writes_fail = False
    assert harness.health("lapsed") == "critical"
    assert harness.expire() == ["lapsed"]
    harness.pass_time(39.9)
    assert harness.expire() == []
    harness.pass_time(0.1)
    assert harness.expire() == ["one"]
    assert harness.expire() == []


def test_a_renewal_between_changes_that_are_refused_is_not_lost(harness: RegistryHarness) -> None:
    """It is on the lease of before, and was never staged."""
    harness.register("one", ttl=100, id="one")
    harness.pass_time(60)
    harness.store.writes_fail = True
    harness.registry.renew("one")
    harness.registry.deregister("one", None)
    with pytest.raises(StoreError):
        harness.registry.commit()
    harness.pass_time(99)
    assert harness.health("one") == "passing"


def refuse_one(harness: RegistryHarness) -> None:
    """A change that the store refuses."""
    harness.store.writes_fail = True
    harness.stage("refused")
    with pytest.raises(StoreError):
        harness.registry.commit()


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged."""
    return [(record.levelname, record.getMessage()) for record in caplog.records]


FAILED = ("ERROR", "the store failed, changes are refused: the disk is full")
WORKS = ("WARNING", "the store takes changes again")


def test_trouble_with_the_store_is_said_when_it_begins_and_when_it_is_over(
    harness: RegistryHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.register()
    assert harness.registry.trouble is None
    for _ in range(3):
        refuse_one(harness)
        assert str(harness.registry.trouble) == "the disk is full"
    assert said(caplog) == [FAILED]
    harness.store.writes_fail = False
    harness.register()
    assert harness.registry.trouble is None
    harness.register()
    assert said(caplog) == [FAILED, WORKS]


def test_a_store_in_trouble_is_tried_without_a_change(
    on_file: RegistryHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness = on_file
    service_id = harness.register()
    harness.pass_time(5)
    harness.registry.renew(service_id)
    refuse_one(harness)
    harness.registry.check_store()
    assert harness.registry.trouble is not None
    harness.store.writes_fail = False
    harness.registry.check_store()
    assert harness.registry.trouble is None
    assert said(caplog) == [FAILED, WORKS]
    (stored,) = harness.store.load().services
    assert (stored.id, stored.last_heartbeat) == (service_id, 1_700_000_005)


def test_a_store_that_is_well_is_not_written_for_nothing(harness: RegistryHarness) -> None:
    harness.register()
    harness.store.writes_fail = True
    harness.registry.check_store()
    assert harness.registry.trouble is None


def test_a_locked_file_refuses_and_later_works_again(
    on_file: RegistryHarness, tmp_path: Path
) -> None:
    harness = on_file
    kept = harness.register("kept", type="A")
    before = harness.picture()
    with closing(sqlite3.connect(tmp_path / "registry.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        harness.stage("refused", type="A")
        harness.registry.deregister(kept, None)
        with pytest.raises(StoreError, match="database is locked"):
            harness.registry.commit()
        assert harness.picture() == before
        assert other.execute("SELECT id FROM service").fetchall() == [(kept,)]
        other.execute("ROLLBACK")
    again = harness.register("again", type="A")
    harness.restart(killed=True)
    assert set(harness.list()) == {kept, again}
    assert harness.registry.seq == 2


def test_a_full_disk_refuses_and_later_works_again(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with start_program("registry_on_full_disk", path) as process:
        *errors, acknowledged = process.communicate()[0].splitlines()
    assert [error.partition(": ")[0] for error in errors] == [f"can't write {path}"] * 2
    assert int(acknowledged) > 1
    assert process.returncode == 0


def test_a_store_in_trouble_is_tried_with_a_part_of_the_services(
    harness: RegistryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of 100,000 would keep everybody waiting for seconds, at each pass of the reaper."""
    for number in range(300):
        harness.stage(f"s{number}")
    harness.commit()
    harness.store.writes_fail = True
    harness.stage("refused")
    with pytest.raises(StoreError):
        harness.registry.commit()
    harness.store.writes_fail = False
    touched: list[int] = []
    touch = harness.store.touch

    def counting(heartbeats: Mapping[str, int]) -> None:
        touched.append(len(heartbeats))
        touch(heartbeats)

    monkeypatch.setattr(harness.store, "touch", counting)
    harness.registry.check_store()
    assert 1 <= touched[0] <= 100
    assert harness.registry.trouble is None


def test_a_stop_that_cannot_store_heartbeats_says_so_and_frees_the_file(
    on_file: RegistryHarness,
) -> None:
    service_id = on_file.register()
    on_file.store.writes_fail = True
    with pytest.raises(StoreError, match="the disk is full"):
        on_file.registry.close()
    on_file.registry = on_file._open()
    assert list(on_file.list()) == [service_id]


def test_a_store_that_cannot_be_opened_is_no_empty_registry(tmp_path: Path) -> None:
    (tmp_path / "registry.db").touch()
    with pytest.raises(StoreError, match="is empty"):
        Registry(SQLiteBackend(tmp_path / "registry.db")).open()


def test_a_store_that_cannot_be_read_is_an_error_and_let_go(
    on_file: RegistryHarness, tmp_path: Path
) -> None:
    on_file.store.close()
    with closing(sqlite3.connect(tmp_path / "registry.db")) as other:
        other.execute("DROP TABLE event")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"^can't read .*: no such table: event$"):
            Registry(SQLiteBackend(tmp_path / "registry.db")).open()


# -- the journal


def test_events_are_numbered_in_order_of_commit(harness: RegistryHarness) -> None:
    one = harness.register("a")
    two = harness.stage("b")
    harness.registry.deregister(one, None)
    harness.registry.renew(two)
    harness.commit()
    harness.pass_time(30)
    harness.expire()
    assert [(e["seq"], e["type"], e["data"]["service_id"]) for e in harness.events] == [
        (1, "register", one),
        (2, "register", two),
        (3, "deregister", one),
        (4, "critical", two),
        (5, "expire", two),
    ]
    assert {e["epoch"] for e in harness.events} == {harness.registry.epoch}
    replayed, _ = harness.registry.events_since(0, None, 10)
    assert [json.loads(event.body) for event in replayed] == harness.events


def test_events_since(harness: RegistryHarness) -> None:
    for _ in range(5):
        harness.register()
    since = harness.registry.events_since
    epoch = harness.registry.epoch
    assert seqs(since(0, None, 10)) == ([1, 2, 3, 4, 5], False)
    assert seqs(since(3, epoch, 10)) == ([4, 5], False)
    assert seqs(since(1, epoch, 2)) == ([2, 3], False)
    assert seqs(since(5, epoch, 10)) == ([], False)
    assert seqs(since(1, epoch, 0)) == ([], False)
    assert seqs(since(6, epoch, 10)) == ([], True)
    assert seqs(since(10**30, None, 10)) == ([], True)
    assert seqs(since(3, "another", 10)) == ([], True)
    assert seqs(since(5, "another", 10)) == ([], True)


def test_large_events_are_no_reason_to_leave_some_out(harness: RegistryHarness) -> None:
    """A part of them is an answer, a gap is none; also with a batch under way."""
    for number in range(6):
        harness.register(f"a{number}", metadata={"text": "x" * 400_000})
    harness.stage("staged")
    got: list[int] = []
    while got[-1:] != [7]:
        events, reset = harness.registry.events_since(got[-1] if got else 0, None, 1_000)
        assert not reset
        got += [event.seq for event in events]
    assert got == [1, 2, 3, 4, 5, 6, 7]


def test_events_of_a_batch_under_way_are_there_too(harness: RegistryHarness) -> None:
    """Its questions are answered after its commit."""
    for _ in range(3):
        harness.register()
    harness.stage("a")
    harness.stage("b")
    since = harness.registry.events_since
    assert seqs(since(2, None, 10)) == ([3, 4, 5], False)
    assert seqs(since(3, None, 10)) == ([4, 5], False)
    assert seqs(since(4, None, 10)) == ([5], False)
    assert seqs(since(5, None, 10)) == ([], False)
    assert seqs(since(1, None, 2)) == ([2, 3], False)
    assert seqs(since(2, None, 2)) == ([3, 4], False)
    harness.commit()
    assert seqs(since(2, None, 10)) == ([3, 4, 5], False)


def test_a_journal_that_does_not_reach_back_says_so(harness: RegistryHarness) -> None:
    for _ in range(11_000):
        harness.stage(id="a")
    harness.commit()
    since = harness.registry.events_since
    assert seqs(since(1_000, None, 3)) == ([1_001, 1_002, 1_003], False)
    assert [seqs(since(lost, None, 3)) for lost in (0, 998, 999)] == [([], True)] * 3


def test_a_journal_that_cannot_be_read_is_an_error(harness: RegistryHarness) -> None:
    harness.register()
    harness.store.reads_fail = True
    with pytest.raises(Unavailable, match=r"^The registry's store failed: the disk is gone$"):
        harness.registry.events_since(0, None, 10)
    assert seqs(harness.registry.events_since(1, None, 10)) == ([], False)


def test_a_journal_that_was_emptied_says_so(harness: RegistryHarness) -> None:
    harness.register()
    harness.store.close()
    harness.store.store = InMemoryBackend()
    harness.store.initialize()
    assert seqs(harness.registry.events_since(0, None, 10)) == ([], True)


# -- policies and strategies


@pytest.mark.parametrize(
    ("unique", "held", "asked", "taken"),
    [
        (False, {"type": "A"}, {"type": "A"}, False),
        (False, {"type": "A"}, {"type": "A", "singleton": True}, True),
        (False, {"type": "A", "singleton": True}, {"type": "A"}, False),
        (True, {"type": "A"}, {"type": "A"}, True),
        (True, {"type": "A"}, {"type": "B"}, False),
        (True, {"type": "A"}, {"type": "A", "singleton": True}, True),
        (True, {"type": "A"}, {"type": "A", "allow_duplicate_service_type": True}, False),
        (True, {"type": "A"}, {"type": "A", "allow_duplicate_service_type": False}, True),
        (True, {"type": "A"}, {"metadata": {"type": "A"}}, True),
        (True, {"metadata": {"type": "A"}}, {"type": "A"}, True),
        (True, {"tags": ["A"]}, {"type": "A"}, True),
        (True, {"type": "A"}, {"tags": ["A"]}, False),
        (True, {}, {}, False),
        (True, {"type": "A"}, {"type": "A", "id": "one"}, False),
    ],
)
def test_duplicate_policies(
    unique: bool, held: dict[str, Any], asked: dict[str, Any], taken: bool
) -> None:
    harness = RegistryHarness(InMemoryBackend, unique_service_types=unique)
    harness.register("holder", id="one", **held)
    before = harness.picture()
    if taken:
        with pytest.raises(DuplicateServiceType, match=r"^duplicate_service_type$") as caught:
            harness.stage("second", **asked)
        assert caught.value.hint == "holder holds it on 10.0.0.5:5000"
        assert caught.value.details == {
            "message": "Service type 'A' is already registered by service_id 'one'.",
            "service_type": "A",
            "existing_service_id": "one",
        }
        assert harness.commit() == []
        assert harness.picture() == before
    else:
        harness.stage("second", **asked)
        assert len(harness.commit()) == 1
    harness.store.close()


def test_a_lapsed_service_holds_no_type(harness: RegistryHarness) -> None:
    harness.register("first", ttl=10, type="A")
    harness.pass_time(10)
    harness.register("second", type="A", singleton=True)
    assert len(harness.list("A")) == 2


def test_a_policy_that_contradicts_itself_is_refused(harness: RegistryHarness) -> None:
    with pytest.raises(InvalidRequest, match=r"^invalid_service_type_policy$") as caught:
        harness.stage("a", type="A", singleton=True, allow_duplicate_service_type=True)
    assert caught.value.details == {
        "message": "singleton and allow_duplicate_service_type cannot both be true."
    }
    assert harness.commit() == []
    assert harness.list() == {}


def test_discovery_spreads_over_the_passing(harness: RegistryHarness) -> None:
    ids = {harness.register("a", type="A") for _ in range(3)}
    lapsed = harness.register("lapsed", ttl=1, type="A")
    other = harness.register("other", type="B")
    harness.pass_time(1)
    found = {harness.discover("A") for _ in range(300)}
    assert found == ids
    assert lapsed not in found
    assert other not in found


def test_a_strategy_chooses_among_the_passing() -> None:
    asked: list[list[str]] = []

    def by_weight(services: Sequence[Service]) -> Service:
        asked.append([service.name for service in services])
        return max(services, key=lambda service: int(service.metadata["weight"]))

    harness = RegistryHarness(InMemoryBackend, strategy=by_weight)
    harness.register("light", type="A", metadata={"weight": 1})
    heavy = harness.register("heavy", type="A", metadata={"weight": 5})
    harness.register("heaviest", ttl=1, type="A", metadata={"weight": 9})
    harness.pass_time(1)
    assert harness.discover("A") == heavy
    assert asked == [["light", "heavy"]]
    with pytest.raises(NoService):
        harness.discover("B")
    assert len(asked) == 1
    harness.store.close()


def test_errors_are_of_the_tree(harness: RegistryHarness) -> None:
    for question in (
        lambda: harness.registry.get("x"),
        lambda: harness.registry.renew("x"),
        lambda: harness.registry.deregister("x", None),
        lambda: harness.registry.discover("x"),
    ):
        with pytest.raises(ServerError):
            question()


# -- requests that overtake


def test_a_registration_that_comes_after_it_was_taken_back_is_refused(
    harness: RegistryHarness,
) -> None:
    """It waited on another connection, given up on, while the later request got through."""
    info = messages.read_service_info({"name": "a", "host": "h", "port": 1, "id": "mine"})
    harness.registry.register(*info, 30, None, request_number=RequestNumber("driver", 1))
    harness.commit()
    harness.registry.deregister("mine", None, RequestNumber("driver", 3))
    harness.commit()
    with pytest.raises(UnknownService, match="after a later request"):
        harness.registry.register(*info, 30, None, request_number=RequestNumber("driver", 2))
    assert harness.commit() == []
    for request_number in (RequestNumber("driver", 6), RequestNumber("another driver", 1), None):
        harness.registry.register(*info, 30, None, request_number=request_number)
        assert list(harness.list()) == ["mine"]
        harness.registry.deregister("mine", None, RequestNumber("driver", 9))
        harness.commit()


def test_a_refused_goodbye_keeps_nobody_out(harness: RegistryHarness) -> None:
    info = messages.read_service_info({"name": "a", "host": "h", "port": 1, "id": "mine"})
    harness.registry.register(*info, 30, None, request_number=RequestNumber("driver", 1))
    harness.commit()
    harness.registry.deregister("mine", None, RequestNumber("driver", 3))
    harness.store.writes_fail = True
    with pytest.raises(StoreError):
        harness.registry.commit()
    harness.store.writes_fail = False
    harness.registry.register(*info, 30, None, request_number=RequestNumber("driver", 2))
    assert [event["type"] for event in harness.commit()] == ["register"]
