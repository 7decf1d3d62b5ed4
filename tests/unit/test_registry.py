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
from rsreg.protocol.wire import Turn
from rsreg.server.backends.stored import Event, Service
from rsreg.server.rules import journal
from rsreg.server.rules.registry import Registry
from rsreg.server.view.lease import Lease
from tests.helpers import LIMIT_FILES, python_process
from tests.house import House


def seqs(answer: tuple[list[Event], bool]) -> tuple[list[int], bool]:
    """The numbers of replayed events, and whether to list anew."""
    return [event.seq for event in answer[0]], answer[1]


# -- registering


def test_a_registration_is_seen_at_once(house: House) -> None:
    service_id = house.register("a", 30, type="A", tags=["x"], metadata={"v": 1}, protocol="udp")
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
    assert house.get(service_id) == record
    assert house.list() == house.list("A") == house.list("x") == {service_id: record}
    assert house.discover("A") == house.discover("x") == service_id
    assert len(house.registry) == 1
    assert house.events == [
        {
            "type": "register",
            "timestamp": 1_700_000_000,
            "data": {"service_id": service_id, "service_info": record},
            "seq": 1,
            "epoch": house.registry.epoch,
            "mark": house.registry.position.mark,
            "after": None,
            "by": None,
        }
    ]


def test_an_id_is_the_name_and_something_random(house: House) -> None:
    ids = {house.register("Puna CS"), house.register("Puna CS")}
    assert len(ids) == 2
    assert all(re.fullmatch(r"puna-cs-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", i) for i in ids)


def test_a_known_id_is_updated_in_place(house: House) -> None:
    assert house.register("a", 30, id="mine", type="A", tags=["old"], more=1) == "mine"
    house.register("b", id="other")
    house.pass_time(20)
    assert house.register("b", 40, id="mine", type="B", tags=["new"]) == "mine"
    assert len(house.registry) == 2
    assert (house.list("A"), house.list("old")) == ({}, {})
    assert list(house.list("B")) == list(house.list("new")) == ["mine"]
    updated = house.get("mine")
    assert (updated["name"], updated["ttl"], "more" in updated) == ("b", 40, False)
    house.pass_time(39)
    assert house.health("mine") == "passing"
    assert house.expire() == ["other"]
    house.pass_time(1)
    assert house.expire() == ["mine"]
    assert [event["type"] for event in house.events] == ["register"] * 3 + [
        "critical",
        "expire",
    ] * 2


def test_a_service_is_found_under_type_tags_and_metadata_type(house: House) -> None:
    service_id = house.register("a", type="A", tags=["t", "A"], metadata={"type": "m"})
    for kind in ("A", "t", "m"):
        assert list(house.list(kind)) == [service_id]
        assert house.discover(kind) == service_id
    assert house.list("a") == {}
    house.registry.deregister(service_id, None)
    assert [house.list(kind) for kind in ("A", "t", "m")] == [{}, {}, {}]


def test_deregister(house: House) -> None:
    service_id = house.register(type="A")
    house.register("b", type="A")
    house.registry.deregister(service_id, None)
    (event,) = house.commit()
    assert (event["type"], event["data"]["service_id"]) == ("deregister", service_id)
    assert event["data"]["service_info"]["health"] == "passing"
    assert service_id not in house.list()
    assert service_id not in house.list("A")
    for question in (
        lambda: house.registry.get(service_id),
        lambda: house.registry.renew(service_id),
        lambda: house.registry.deregister(service_id, None),
    ):
        with pytest.raises(UnknownService):
            question()
    assert house.commit() == []


def test_a_critical_service_may_leave(house: House) -> None:
    service_id = house.register(ttl=10)
    house.pass_time(10)
    house.registry.deregister(service_id, None)
    (event,) = house.commit()
    assert event["type"] == "deregister"
    assert event["data"]["service_info"]["health"] == "critical"
    assert house.expire() == []


def test_nothing_is_found_where_nothing_is(house: House) -> None:
    assert house.list() == {}
    assert house.list("A") == {}
    with pytest.raises(NoService, match=r"^No healthy service of type A found$"):
        house.registry.discover("A")


# -- leases


def test_a_lease_holds_for_its_ttl_and_no_longer(house: House) -> None:
    service_id = house.register(ttl=30, type="A")
    house.pass_time(29.999)
    assert house.health(service_id) == "passing"
    assert house.discover("A") == service_id
    assert house.expire() == []
    house.pass_time(0.001)
    assert house.health(service_id) == "critical"
    assert house.list("A")[service_id]["health"] == "critical"
    with pytest.raises(NoService):
        house.discover("A")
    assert house.expire() == [service_id]
    assert house.events[-1]["data"]["service_info"]["health"] == "critical"
    with pytest.raises(UnknownService):
        house.registry.renew(service_id)


def test_one_expire_event_each(house: House) -> None:
    ids = {house.register(ttl=ttl) for ttl in (1, 2, 2, 3)}
    for _ in range(10):
        house.pass_time(0.5)
        house.expire()
    expired = [e["data"]["service_id"] for e in house.events if e["type"] == "expire"]
    assert sorted(expired) == sorted(ids)
    assert len(house.registry) == 0


def test_a_renewal_starts_the_ttl_again(house: House) -> None:
    service_id = house.register(ttl=10)
    for _ in range(10):
        house.pass_time(9)
        house.registry.renew(service_id)
        assert house.expire() == []
    assert house.get(service_id)["last_heartbeat"] == 1_700_000_090
    assert house.commit() == []
    house.pass_time(10)
    assert house.expire() == [service_id]


def test_a_renewal_revives_a_critical_service(house: House) -> None:
    service_id = house.register(ttl=10, type="A")
    house.pass_time(15)
    assert house.health(service_id) == "critical"
    house.registry.renew(service_id)
    assert house.health(service_id) == "passing"
    assert house.discover("A") == service_id
    assert house.expire() == []
    house.pass_time(9.9)
    assert house.expire() == []
    house.pass_time(0.1)
    assert house.expire() == [service_id]


def test_a_service_is_judged_when_the_sockets_were_last_empty(house: House) -> None:
    """A heartbeat that waits in the queue counts, however late it is read."""
    service_id = house.register(ttl=10, type="A")
    house.clock.advance(60)
    assert house.health(service_id) == "passing"
    assert house.expire() == []
    house.registry.renew(service_id)
    house.registry.caught_up(house.clock.now)
    assert house.health(service_id) == "passing"
    assert house.expire() == []


def test_the_longest_overdue_go_first_and_not_too_many(house: House) -> None:
    early = house.register("early", ttl=10)
    late = house.register("late", ttl=30)
    renewed = house.register("renewed", ttl=10)
    house.pass_time(9)
    house.registry.renew(renewed)
    house.pass_time(5)
    house.registry.renew(renewed)
    house.register("living", ttl=1_000)
    house.pass_time(100)
    assert [house.expire(1) for _ in range(4)] == [[early], [renewed], [late], []]


def test_no_more_expire_than_are_asked_for(house: House) -> None:
    for _ in range(5):
        house.register(ttl=1)
    house.pass_time(1)
    assert [len(house.expire(2)) for _ in range(4)] == [2, 2, 1, 0]


def test_after_a_stall_every_lease_starts_afresh(house: House) -> None:
    short, long = house.register(ttl=10), house.register(ttl=50)
    lapsed = house.register(ttl=1)
    house.pass_time(9)
    assert house.health(lapsed) == "critical"
    house.registry.grant_grace()
    house.pass_time(9.9)
    assert house.health(short) == "passing"
    house.pass_time(0.1)
    assert sorted(house.expire()) == sorted([short, lapsed])
    house.pass_time(39.9)
    assert house.expire() == []
    house.pass_time(0.1)
    assert house.expire() == [long]


@pytest.mark.parametrize("step", [86_400.0, -86_400.0])
def test_a_step_of_the_wall_clock_changes_no_lease(house: House, step: float) -> None:
    service_id = house.register(ttl=10)
    house.wall.advance(step)
    house.registry.caught_up(house.clock.now)
    assert house.health(service_id) == "passing"
    house.registry.renew(service_id)
    assert house.get(service_id)["last_heartbeat"] == 1_700_000_000 + step
    house.pass_time(9.9)
    assert house.expire() == []
    house.pass_time(0.1)
    assert house.expire() == [service_id]


def test_services_that_come_and_go_leave_nothing_behind(house: House) -> None:
    for name, ttl in (("third", 30), ("second", 20), ("first", 10)):
        house.register(name, ttl=ttl, id=name, type=name)
    for n in range(9_000):
        house.stage("last", ttl=40, id="last", tags=[str(n)])
    house.commit()
    assert len(house.registry._view._deadlines) < 5_000
    for name in ("first", "second", "third", "last"):
        house.pass_time(10)
        assert house.expire() == [name]
    assert house.registry._view._deadlines == []
    assert list(house.registry._view.kinds()) == []


def test_a_tag_of_its_own_costs_little(house: House) -> None:
    """A service with 64 tags that nobody else has costs no more than 16 kB (it was 55 kB)."""
    house.register("warm", tags=["up"])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(100):
            house.stage("a", id=f"s{number}", tags=[f"t{number}-{tag}" for tag in range(64)])
        house.commit()
        assert (tracemalloc.get_traced_memory()[0] - before) / 100 < 16_000
    finally:
        tracemalloc.stop()


def test_a_registration_looks_through_no_namesakes(house: House) -> None:
    """Thousands may have a name, if the server is told so: each registration costs the same."""
    for number in range(500):
        house.stage("a", id=f"s{number}")
    house.commit()
    looked_at: set[str] = set()
    alive = Lease.alive.fget
    assert alive is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Lease, "alive", property(lambda one: looked_at.add(one.service.id) or alive(one))
        )
        house.register("a", id="new")
    assert looked_at == {"new"}
    with pytest.raises(DuplicateName):
        house.register("a", id="exclusive", exclusive=True)


def test_many_leases_that_end_at_once_are_judged_in_slices(house: House) -> None:
    """The oldest first; those that are not looked at yet are passing, and may still be renewed."""
    ids = [house.stage(f"s{n}", ttl=10, type="A") for n in range(1_000)]
    house.commit()
    house.clock.advance(10)
    critical, slices = 0, 0
    while not house.registry.caught_up(house.clock.now):
        slices += 1
        healths = [record["health"] for record in house.list("A").values()]
        assert critical < healths.count("critical") <= critical + 400
        critical = healths.count("critical")
        assert house.health(house.discover("A")) == "passing"
        for service_id in ids[:10]:
            house.registry.renew(service_id)
    assert slices >= 2
    assert {key for key, one in house.list().items() if one["health"] == "passing"} == set(ids[:10])
    assert set(house.expire(2_000)) == set(ids[10:])


def test_a_heartbeat_that_comes_late_brings_a_lapsed_service_back(house: House) -> None:
    late = house.register("late", ttl=10, type="A", tags=["x"])
    house.pass_time(10)
    for kind in ("A", "x"):
        with pytest.raises(NoService):
            house.discover(kind)
    house.registry.renew(late)
    assert house.health(late) == "passing"
    assert house.discover("A") == house.discover("x") == late
    assert house.expire() == []
    house.pass_time(10)
    assert house.health(late) == "critical"
    assert house.expire() == [late]


def test_the_grace_after_a_stall_revives_no_lease_that_had_ended(house: House) -> None:
    ended, holds = house.register("ended", ttl=10, type="A"), house.register("holds", type="A")
    house.pass_time(10)
    house.registry.grant_grace()
    assert (house.health(ended), house.discover("A")) == ("critical", holds)
    assert house.tell() == [("critical", ended)]
    house.registry.renew(ended)
    assert house.tell() == [("recovered", ended)]


# -- restarts


@pytest.mark.parametrize("killed", [True, False])
def test_a_restart_keeps_everything_and_gives_a_fresh_ttl(on_file: House, killed: bool) -> None:
    house = on_file
    one = house.register("one", ttl=10, type="A", id="x", extra_field=[1])
    two = house.register("two", ttl=20.5, tags=["B"])
    gone = house.register("gone")
    house.registry.deregister(gone, None)
    house.commit()
    house.pass_time(9)
    house.registry.renew(two)
    before, epoch = house.list(), house.registry.epoch
    house.clock.advance(3_600)
    house.restart(killed=killed)
    if killed:
        before[two]["last_heartbeat"] -= 9
    assert house.list() == before
    assert {record["health"] for record in before.values()} == {"passing"}
    assert (house.registry.seq, house.registry.epoch) == (4, epoch)
    assert seqs(house.registry.events_since(0, epoch, 10)) == ([1, 2, 3, 4], False)
    house.pass_time(9.9)
    assert house.expire() == []
    house.pass_time(0.1)
    assert house.expire() == [one]
    house.pass_time(10.4)
    assert house.expire() == []
    house.pass_time(0.1)
    assert house.expire() == [two]
    assert house.events[-1]["seq"] == 8


def test_an_uncommitted_change_does_not_survive_a_kill(on_file: House) -> None:
    kept = on_file.register("kept")
    on_file.stage("lost")
    on_file.registry.deregister(kept, None)
    on_file.restart(killed=True)
    assert list(on_file.list()) == [kept]
    assert on_file.registry.seq == 1


def test_a_new_store_is_a_new_epoch(house: House, on_file: House) -> None:
    assert house.registry.epoch
    assert house.registry.epoch != on_file.registry.epoch


# -- a request that comes again


def test_a_resent_register_is_one_registration(house: House) -> None:
    first = house.register("a", token="t")
    assert house.register("a", token="t") == first
    assert len(house.registry) == len(house.events) == 1
    assert house.register("a", token="u") != first
    assert house.register("a") != first
    assert house.register("a") != first
    assert len(house.registry) == 4


def test_a_resend_in_the_same_batch_is_one_registration(house: House) -> None:
    assert house.stage("a", token="t") == house.stage("a", token="t")
    assert len(house.commit()) == 1


def test_a_resent_deregister_is_answered_as_before(house: House) -> None:
    service_id = house.register("a")
    house.registry.deregister(service_id, "t")
    house.registry.deregister(service_id, "t")
    assert len(house.commit()) == 1
    house.registry.deregister(service_id, "t")
    assert house.commit() == []
    with pytest.raises(UnknownService):
        house.registry.deregister(service_id, "u")
    with pytest.raises(UnknownService):
        house.registry.deregister("other", "t")


@pytest.mark.parametrize("restarted", [False, True])
def test_a_resend_does_not_undo_what_came_after(on_file: House, restarted: bool) -> None:
    """Its sender counts in turns, so it never sends two requests that are the same."""
    info = {"name": "a", "host": "h", "port": 1, "id": "mine"}
    old, new = (messages.read_service_info({**info, "type": kind}) for kind in ("old", "new"))

    def ask(number: int, asked: Any = old) -> str:
        if restarted:
            on_file.restart(killed=True)
        turn = Turn("driver", number)
        service_id = on_file.registry.register(*asked, 30, f"token {number}", turn=turn)
        on_file.commit()
        return service_id

    assert ask(1) == ask(2, new) == ask(1) == "mine"
    assert list(on_file.list("new")) == ["mine"]
    on_file.registry.update("mine", {"port": 2}, {}, "token 3", Turn("driver", 3))
    on_file.commit()
    for late in (1, 2):
        assert ask(late) == "mine"
        on_file.registry.update("mine", {"port": 2}, {}, "token 3", Turn("driver", 3))
        assert on_file.commit() == []
    assert on_file.get("mine")["port"] == 2
    on_file.registry.deregister("mine", "token 4", Turn("driver", 4))
    on_file.commit()
    for late in (1, 2):
        with pytest.raises(UnknownService):
            ask(late)
    on_file.registry.deregister("mine", "token 4", Turn("driver", 4))
    assert (on_file.commit(), on_file.list()) == ([], {})


@pytest.mark.parametrize("overtaken", ["register", "update", "deregister"])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_later_request_of_its_sender_overtook_is_refused(
    on_file: House, overtaken: str, restarted: bool
) -> None:
    """It was never read before: it waited on a connection that its sender has given up."""
    info = messages.read_service_info({"name": "a", "host": "h", "port": 1, "id": "mine"})
    on_file.registry.register(*info, 30, "token 5", turn=Turn("driver", 5))
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
        late(*asked[overtaken], token="token 4", turn=Turn("driver", 4))
    assert (on_file.commit(), on_file.list()) == ([], before)


def test_a_sender_that_counts_from_one_again_is_no_resend(house: House) -> None:
    """The second run of a program sends the very requests of the first."""
    for _ in range(3):
        service_id = house.register("a", token="1", port=5000)
        assert list(house.list()) == [service_id]
        assert house.register("a", token="1", port=5000) == service_id
        house.registry.update(service_id, {"port": 6000}, {}, "2")
        house.commit()
        assert house.get(service_id)["port"] == 6000
        house.registry.deregister(service_id, "3")
        house.commit()
        assert house.list() == {}


def test_a_known_id_is_what_its_registration_says_also_if_that_was_said_before(
    house: House,
) -> None:
    for _ in range(2):
        house.register("a", token="1", id="mine", port=5000)
        assert house.get("mine")["port"] == 5000
        house.register("a", token="2", id="mine", port=6000)
        assert house.get("mine")["port"] == 6000
    house.registry.deregister("mine", "3")
    house.register("a", token="1", id="mine", port=5000)
    house.registry.deregister("mine", "3")
    house.commit()
    assert house.list() == {}


def test_a_second_run_while_the_entry_of_the_first_is_there_has_a_whole_ttl(house: House) -> None:
    first = house.register("a", 10, token="1")
    house.pass_time(9)
    assert house.register("a", 10, token="1") == first
    house.pass_time(9)
    assert house.health(first) == "passing"


@pytest.mark.parametrize("killed", [True, False])
def test_a_resend_after_a_restart_is_recognised(on_file: House, killed: bool) -> None:
    first = on_file.register("a", token="t")
    gone = on_file.register("b", token="u")
    on_file.registry.deregister(gone, "v")
    on_file.commit()
    on_file.restart(killed=killed)
    assert on_file.register("a", token="t") == first
    on_file.registry.deregister(gone, "v")
    assert on_file.commit() == []
    assert list(on_file.list()) == [first]


def test_a_refused_request_may_come_again_and_then_counts(house: House) -> None:
    gone = house.register("b")
    house.store.writes_fail = True
    refused = house.stage("a", token="t")
    house.registry.deregister(gone, "u")
    with pytest.raises(StoreError):
        house.registry.commit()
    house.store.writes_fail = False
    again = house.register("a", token="t")
    house.registry.deregister(gone, "u")
    assert [event["type"] for event in house.commit()] == ["deregister"]
    assert again != refused
    assert list(house.list()) == [again]


def test_the_newest_requests_are_remembered(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_ANSWERED", 3)
    first = {token: house.register("a", token=token) for token in "pqrs"}
    assert {token: house.register("a", token=token) for token in "qrs"} == {
        token: first[token] for token in "qrs"
    }
    assert house.register("a", token="p") != first["p"]


def test_refused_requests_push_no_other_out_of_memory(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MAX_ANSWERED", 3)
    first = {token: house.register("a", token=token) for token in "pqr"}
    house.store.writes_fail = True
    for token in "stuvw":
        house.stage("a", token=token)
    with pytest.raises(StoreError):
        house.registry.commit()
    assert {token: house.register("a", token=token) for token in "pqr"} == first


# -- a store that fails


def new(house: House) -> None:
    house.stage("new", type="new", tags=["A"])


def new_with_token(house: House) -> None:
    house.stage("new", type="new", token="t")


def update(house: House) -> None:
    house.stage("new", ttl=500, id="one", type="new", tags=["b"])


def leave(house: House) -> None:
    house.registry.deregister("one", None)


def expire(house: House) -> None:
    house.registry.expire(10)


def come_and_go(house: House) -> None:
    house.stage("new", id="new", type="new")
    house.registry.deregister("new", None)


def leave_and_come_back(house: House) -> None:
    house.registry.deregister("one", None)
    house.stage("new", id="one", type="new")


def expire_and_come_back(house: House) -> None:
    house.registry.expire(10)
    house.stage("old", id="lapsed", type="old", ttl=300)


def everything(house: House) -> None:
    for change in (update, leave, new, come_and_go, expire_and_come_back, update, new_with_token):
        change(house)


CHANGES = [
    *(new, new_with_token, update, leave, expire, come_and_go),
    *(leave_and_come_back, expire_and_come_back, everything),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_refused_change_leaves_no_trace(house: House, change: Callable[[House], None]) -> None:
    house.register("one", ttl=100, id="one", type="A", tags=["a"])
    house.register("two", ttl=200, id="two", type="A", tags=["b"])
    house.register("lapsed", ttl=50, id="lapsed", type="old")
    house.pass_time(60)
    before = house.picture()

    house.store.writes_fail = True
    change(house)
    with pytest.raises(StoreError, match="the disk is full"):
        house.registry.commit()
    assert house.picture() == before
    assert house.registry.commit() == []

    house.store.writes_fail = False
    change(house)
    events = house.commit()
    assert [event["seq"] for event in events] == list(range(4, 4 + len(events)))
    assert events
    after = house.picture()
    assert after != before
    assert house.store.load().seq == house.registry.seq
    assert {service.id for service in house.store.load().services} == set(house.list())


@pytest.mark.parametrize("change", CHANGES)
def test_a_refused_change_changes_no_lease(house: House, change: Callable[[House], None]) -> None:
    house.register("one", ttl=100, id="one", type="A")
    house.register("lapsed", ttl=50, id="lapsed", type="old")
    house.pass_time(60)
    house.store.writes_fail = True
    change(house)
    with pytest.raises(StoreError):
        house.registry.commit()
    house.store.writes_fail = False
    assert house.health("lapsed") == "critical"
    assert house.expire() == ["lapsed"]
    house.pass_time(39.9)
    assert house.expire() == []
    house.pass_time(0.1)
    assert house.expire() == ["one"]
    assert house.expire() == []


def test_a_renewal_between_changes_that_are_refused_is_not_lost(house: House) -> None:
    """It is on the lease of before, and was never staged."""
    house.register("one", ttl=100, id="one")
    house.pass_time(60)
    house.store.writes_fail = True
    house.registry.renew("one")
    house.registry.deregister("one", None)
    with pytest.raises(StoreError):
        house.registry.commit()
    house.pass_time(99)
    assert house.health("one") == "passing"


def refuse_one(house: House) -> None:
    """A change that the store refuses."""
    house.store.writes_fail = True
    house.stage("refused")
    with pytest.raises(StoreError):
        house.registry.commit()


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What was logged."""
    return [(record.levelname, record.getMessage()) for record in caplog.records]


FAILED = ("ERROR", "the store failed, changes are refused: the disk is full")
WORKS = ("WARNING", "the store takes changes again")


def test_trouble_with_the_store_is_said_when_it_begins_and_when_it_is_over(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.register()
    assert house.registry.trouble is None
    for _ in range(3):
        refuse_one(house)
        assert str(house.registry.trouble) == "the disk is full"
    assert said(caplog) == [FAILED]
    house.store.writes_fail = False
    house.register()
    assert house.registry.trouble is None
    house.register()
    assert said(caplog) == [FAILED, WORKS]


def test_a_store_in_trouble_is_tried_without_a_change(
    on_file: House, caplog: pytest.LogCaptureFixture
) -> None:
    house = on_file
    service_id = house.register()
    house.pass_time(5)
    house.registry.renew(service_id)
    refuse_one(house)
    house.registry.check_store()
    assert house.registry.trouble is not None
    house.store.writes_fail = False
    house.registry.check_store()
    assert house.registry.trouble is None
    assert said(caplog) == [FAILED, WORKS]
    (stored,) = house.store.load().services
    assert (stored.id, stored.last_heartbeat) == (service_id, 1_700_000_005)


def test_a_store_that_is_well_is_not_written_for_nothing(house: House) -> None:
    house.register()
    house.store.writes_fail = True
    house.registry.check_store()
    assert house.registry.trouble is None


def test_a_locked_file_refuses_and_later_works_again(on_file: House, tmp_path: Path) -> None:
    house = on_file
    kept = house.register("kept", type="A")
    before = house.picture()
    with closing(sqlite3.connect(tmp_path / "registry.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        house.stage("refused", type="A")
        house.registry.deregister(kept, None)
        with pytest.raises(StoreError, match="database is locked"):
            house.registry.commit()
        assert house.picture() == before
        assert other.execute("SELECT id FROM service").fetchall() == [(kept,)]
        other.execute("ROLLBACK")
    again = house.register("again", type="A")
    house.restart(killed=True)
    assert set(house.list()) == {kept, again}
    assert house.registry.seq == 2


FULL_DISK = """
from tests.unit.test_registry import *

house = House(lambda: SQLiteBackend(sys.argv[1]))
acknowledged = []
def refused(change):
    before = house.picture()
    try:
        change()
        house.commit()
    except StoreError as error:
        assert house.picture() == before, "a refused change left a trace"
        print(error)
        return True

def register():
    acknowledged.append(house.stage("a", ttl=10, type="A"))

limit_files(100_000)
while not refused(register):
    pass
acknowledged.pop()
assert list(house.list()) == acknowledged
house.pass_time(10)
assert refused(lambda: house.registry.expire(200)), "the disk was not full"
assert {house.health(one) for one in acknowledged} == {"critical"}
limit_files(-1)
assert sorted(house.expire(1_000)) == sorted(acknowledged)
house.register("later", id="later")
house.restart(killed=True)
assert list(house.list()) == ["later"]
assert house.registry.seq == 3 * len(acknowledged) + 1
print(len(acknowledged))
"""


def test_a_full_disk_refuses_and_later_works_again(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with python_process(LIMIT_FILES + FULL_DISK, path) as process:
        *errors, acknowledged = process.communicate()[0].splitlines()
    assert [error.partition(": ")[0] for error in errors] == [f"can't write {path}"] * 2
    assert int(acknowledged) > 1
    assert process.returncode == 0


def test_a_store_in_trouble_is_tried_with_a_part_of_the_services(house: House) -> None:
    """All of 100,000 would keep everybody waiting for seconds, at each pass of the reaper."""
    for number in range(300):
        house.stage(f"s{number}")
    house.commit()
    house.store.writes_fail = True
    house.stage("refused")
    with pytest.raises(StoreError):
        house.registry.commit()
    house.store.writes_fail = False
    touched: list[int] = []
    touch = house.store.touch

    def counting(heartbeats: Mapping[str, int]) -> None:
        touched.append(len(heartbeats))
        touch(heartbeats)

    house.store.touch = counting
    house.registry.check_store()
    assert 1 <= touched[0] <= 100
    assert house.registry.trouble is None


def test_a_stop_that_cannot_store_heartbeats_says_so_and_frees_the_file(on_file: House) -> None:
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


def test_a_store_that_cannot_be_read_is_an_error_and_let_go(on_file: House, tmp_path: Path) -> None:
    on_file.store.close()
    with closing(sqlite3.connect(tmp_path / "registry.db")) as other:
        other.execute("DROP TABLE event")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"^can't read .*: no such table: event$"):
            Registry(SQLiteBackend(tmp_path / "registry.db")).open()


# -- the journal


def test_events_are_numbered_in_order_of_commit(house: House) -> None:
    one = house.register("a")
    two = house.stage("b")
    house.registry.deregister(one, None)
    house.registry.renew(two)
    house.commit()
    house.pass_time(30)
    house.expire()
    assert [(e["seq"], e["type"], e["data"]["service_id"]) for e in house.events] == [
        (1, "register", one),
        (2, "register", two),
        (3, "deregister", one),
        (4, "critical", two),
        (5, "expire", two),
    ]
    assert {e["epoch"] for e in house.events} == {house.registry.epoch}
    replayed, _ = house.registry.events_since(0, None, 10)
    assert [json.loads(event.body) for event in replayed] == house.events


def test_events_since(house: House) -> None:
    for _ in range(5):
        house.register()
    since = house.registry.events_since
    epoch = house.registry.epoch
    assert seqs(since(0, None, 10)) == ([1, 2, 3, 4, 5], False)
    assert seqs(since(3, epoch, 10)) == ([4, 5], False)
    assert seqs(since(1, epoch, 2)) == ([2, 3], False)
    assert seqs(since(5, epoch, 10)) == ([], False)
    assert seqs(since(1, epoch, 0)) == ([], False)
    assert seqs(since(6, epoch, 10)) == ([], True)
    assert seqs(since(10**30, None, 10)) == ([], True)
    assert seqs(since(3, "another", 10)) == ([], True)
    assert seqs(since(5, "another", 10)) == ([], True)


def test_large_events_are_no_reason_to_leave_some_out(house: House) -> None:
    """A part of them is an answer, a gap is none; also with a batch under way."""
    for number in range(6):
        house.register(f"a{number}", metadata={"text": "x" * 400_000})
    house.stage("staged")
    got: list[int] = []
    while got[-1:] != [7]:
        events, reset = house.registry.events_since(got[-1] if got else 0, None, 1_000)
        assert not reset
        got += [event.seq for event in events]
    assert got == [1, 2, 3, 4, 5, 6, 7]


def test_events_of_a_batch_under_way_are_there_too(house: House) -> None:
    """Its questions are answered after its commit."""
    for _ in range(3):
        house.register()
    house.stage("a")
    house.stage("b")
    since = house.registry.events_since
    assert seqs(since(2, None, 10)) == ([3, 4, 5], False)
    assert seqs(since(3, None, 10)) == ([4, 5], False)
    assert seqs(since(4, None, 10)) == ([5], False)
    assert seqs(since(5, None, 10)) == ([], False)
    assert seqs(since(1, None, 2)) == ([2, 3], False)
    assert seqs(since(2, None, 2)) == ([3, 4], False)
    house.commit()
    assert seqs(since(2, None, 10)) == ([3, 4, 5], False)


def test_a_journal_that_does_not_reach_back_says_so(house: House) -> None:
    for _ in range(11_000):
        house.stage(id="a")
    house.commit()
    since = house.registry.events_since
    assert seqs(since(1_000, None, 3)) == ([1_001, 1_002, 1_003], False)
    assert [seqs(since(lost, None, 3)) for lost in (0, 998, 999)] == [([], True)] * 3


def test_a_journal_that_cannot_be_read_is_an_error(house: House) -> None:
    house.register()
    house.store.reads_fail = True
    with pytest.raises(Unavailable, match=r"^The registry's store failed: the disk is gone$"):
        house.registry.events_since(0, None, 10)
    assert seqs(house.registry.events_since(1, None, 10)) == ([], False)


def test_a_journal_that_was_emptied_says_so(house: House) -> None:
    house.register()
    house.store.close()
    house.store.store = InMemoryBackend()
    house.store.initialize()
    assert seqs(house.registry.events_since(0, None, 10)) == ([], True)


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
    house = House(InMemoryBackend, unique_service_types=unique)
    house.register("holder", id="one", **held)
    before = house.picture()
    if taken:
        with pytest.raises(DuplicateServiceType, match=r"^duplicate_service_type$") as caught:
            house.stage("second", **asked)
        assert caught.value.hint == "holder holds it on 10.0.0.5:5000"
        assert caught.value.details == {
            "message": "Service type 'A' is already registered by service_id 'one'.",
            "service_type": "A",
            "existing_service_id": "one",
        }
        assert house.commit() == []
        assert house.picture() == before
    else:
        house.stage("second", **asked)
        assert len(house.commit()) == 1
    house.store.close()


def test_a_lapsed_service_holds_no_type(house: House) -> None:
    house.register("first", ttl=10, type="A")
    house.pass_time(10)
    house.register("second", type="A", singleton=True)
    assert len(house.list("A")) == 2


def test_a_policy_that_contradicts_itself_is_refused(house: House) -> None:
    with pytest.raises(InvalidRequest, match=r"^invalid_service_type_policy$") as caught:
        house.stage("a", type="A", singleton=True, allow_duplicate_service_type=True)
    assert caught.value.details == {
        "message": "singleton and allow_duplicate_service_type cannot both be true."
    }
    assert house.commit() == []
    assert house.list() == {}


def test_discovery_spreads_over_the_passing(house: House) -> None:
    ids = {house.register("a", type="A") for _ in range(3)}
    lapsed = house.register("lapsed", ttl=1, type="A")
    other = house.register("other", type="B")
    house.pass_time(1)
    found = {house.discover("A") for _ in range(300)}
    assert found == ids
    assert lapsed not in found
    assert other not in found


def test_a_strategy_chooses_among_the_passing() -> None:
    asked: list[list[str]] = []

    def by_weight(services: Sequence[Service]) -> Service:
        asked.append([service.name for service in services])
        return max(services, key=lambda service: int(service.metadata["weight"]))

    house = House(InMemoryBackend, strategy=by_weight)
    house.register("light", type="A", metadata={"weight": 1})
    heavy = house.register("heavy", type="A", metadata={"weight": 5})
    house.register("heaviest", ttl=1, type="A", metadata={"weight": 9})
    house.pass_time(1)
    assert house.discover("A") == heavy
    assert asked == [["light", "heavy"]]
    with pytest.raises(NoService):
        house.discover("B")
    assert len(asked) == 1
    house.store.close()


def test_errors_are_of_the_tree(house: House) -> None:
    for question in (
        lambda: house.registry.get("x"),
        lambda: house.registry.renew("x"),
        lambda: house.registry.deregister("x", None),
        lambda: house.registry.discover("x"),
    ):
        with pytest.raises(ServerError):
            question()


# -- requests that overtake


def test_a_registration_that_comes_after_it_was_taken_back_is_refused(house: House) -> None:
    """It waited on another connection, given up on, while the later request got through."""
    info = messages.read_service_info({"name": "a", "host": "h", "port": 1, "id": "mine"})
    house.registry.register(*info, 30, None, turn=Turn("driver", 1))
    house.commit()
    house.registry.deregister("mine", None, Turn("driver", 3))
    house.commit()
    with pytest.raises(UnknownService, match="after a later request"):
        house.registry.register(*info, 30, None, turn=Turn("driver", 2))
    assert house.commit() == []
    for turn in (Turn("driver", 6), Turn("another driver", 1), None):
        house.registry.register(*info, 30, None, turn=turn)
        assert list(house.list()) == ["mine"]
        house.registry.deregister("mine", None, Turn("driver", 9))
        house.commit()


def test_a_refused_goodbye_keeps_nobody_out(house: House) -> None:
    info = messages.read_service_info({"name": "a", "host": "h", "port": 1, "id": "mine"})
    house.registry.register(*info, 30, None, turn=Turn("driver", 1))
    house.commit()
    house.registry.deregister("mine", None, Turn("driver", 3))
    house.store.writes_fail = True
    with pytest.raises(StoreError):
        house.registry.commit()
    house.store.writes_fail = False
    house.registry.register(*info, 30, None, turn=Turn("driver", 2))
    assert [event["type"] for event in house.commit()] == ["register"]
