"""How services are: reports, maintenance, starting, and the events that tell of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsreg import InMemoryBackend
from rsreg.errors import (
    DuplicateName,
    DuplicateServiceType,
    InvalidRequest,
    NoService,
    StoreError,
    UnknownService,
)
from rsreg.protocol import messages
from rsreg.protocol.wire import Turn
from rsreg.server.backends.stored import Maintenance
from tests.helpers import FAR
from tests.house import House

OWNER = {"host": "lab1", "boot": "b1", "pid": 611, "namespace": "n1", "started": 1_700_000_000.5}


def kinds(house: House) -> list[str]:
    """The types of all events."""
    return [event["type"] for event in house.events]


def maintain(house: House, seconds: float | None = 3600, **target: Any) -> None:
    """Start a maintenance, and commit."""
    since = int(house.wall.now)
    until = None if seconds is None else since + int(seconds)
    house.registry.maintenance.start(
        Maintenance(reason="new disk", says="rik", since=since, until=until, **target)
    )
    house.commit()


# -- silence


def test_a_lapse_is_told_once_and_so_is_the_recovery(house: House) -> None:
    service_id = house.register("a", 10, type="A")
    house.pass_time(10)
    assert house.tell() == [("critical", service_id)]
    assert house.events[-1]["data"]["service_info"]["reason"] == "no heartbeat"
    assert house.tell() == []
    house.registry.renew(service_id)
    assert house.tell() == [("recovered", service_id)]
    assert house.events[-1]["data"]["service_info"] == house.get(service_id)
    assert house.get(service_id)["health"] == "passing"


def test_what_was_over_before_it_was_told_is_not_told(house: House) -> None:
    service_id = house.register("a", 10)
    house.pass_time(10)
    house.registry.renew(service_id)
    assert house.tell() == []


def test_many_changes_of_health_are_told_in_slices(house: House) -> None:
    for number in range(250):
        house.stage(f"s{number}", 10)
    house.commit()
    house.pass_time(10)
    turns = []
    more = True
    while more:
        more = house.registry.tell_health()
        turns.append(len(house.commit()))
    assert turns == [100, 100, 50]


@pytest.mark.parametrize("killed", [False, True])
def test_a_restart_makes_nobody_well(on_file: House, killed: bool) -> None:
    """A service is as it was last known, until it says otherwise."""
    lapsed, well = on_file.register("a", 10, type="A"), on_file.register("b", 100)
    hung = on_file.register("c", 100, type="A")
    on_file.report(hung, fed=9, watchdog=5)
    on_file.pass_time(10)
    assert on_file.tell() == [("critical", lapsed)]
    for _ in range(2):
        on_file.restart(killed=killed)
        assert on_file.tell() == []
        assert [on_file.get(one).get("reason") for one in (lapsed, hung, well)] == [
            "no heartbeat",
            "stalled",
            None,
        ]
        with pytest.raises(NoService):
            on_file.discover("A")
    on_file.report(hung, fed=12, watchdog=5)
    assert on_file.health(hung) == "critical"
    on_file.registry.renew(lapsed)
    on_file.registry.renew(hung, messages.read_report({"fed": 0, "watchdog": 5}, 0))
    assert on_file.tell() == [("recovered", lapsed), ("recovered", hung)]
    on_file.restart(killed=killed)
    assert {on_file.health(one) for one in (lapsed, hung, well)} == {"passing"}


def test_who_was_critical_before_a_restart_has_a_whole_ttl_to_come_back(on_file: House) -> None:
    lapsed = on_file.register("a", 10)
    on_file.pass_time(10)
    on_file.tell()
    on_file.restart()
    on_file.pass_time(9)
    assert on_file.expire() == []
    on_file.pass_time(1)
    on_file.registry.expire(100)
    assert [event["type"] for event in on_file.commit()] == ["expire"]
    assert on_file.list() == {}
    assert lapsed


def test_maintenance_that_ended_while_the_registry_was_away_is_told(on_file: House) -> None:
    service_id = on_file.register("a", type="A")
    since = int(on_file.wall.now)
    on_file.registry.maintenance.start(Maintenance(service="a", since=since, until=since + 60))
    on_file.commit()
    on_file.restart(killed=True)
    assert (on_file.health(service_id), on_file.tell()) == ("maintenance", [])
    on_file.wall.advance(61)
    on_file.restart(killed=True)
    assert on_file.tell() == [("recovered", service_id)]


def test_a_store_in_trouble_is_told_later_and_only_what_is_still_so(house: House) -> None:
    one, two = house.register("a", 10), house.register("b", 10)
    house.pass_time(10)
    house.store.writes_fail = True
    house.registry.tell_health()
    with pytest.raises(StoreError):
        house.registry.commit()
    assert (house.health(one), house.health(two)) == ("critical", "critical")
    assert not house.registry.tell_health(), "it does not try again by itself"
    assert house.commit() == []
    house.store.writes_fail = False
    house.registry.renew(one)
    house.registry.check_store()
    assert house.tell() == [("critical", two)]
    assert house.registry.seq == 3


# -- reports


def test_a_main_loop_that_stands_still_is_critical_though_it_beats(house: House) -> None:
    service_id = house.register("a", type="A")
    house.report(service_id, fed=10, watchdog=60)
    assert house.health(service_id) == "passing"
    house.report(service_id, fed=30.1, watchdog=60)
    assert house.health(service_id) == "warning"
    assert house.discover("A") == service_id, "it is only late"
    house.report(service_id, fed=60.1, watchdog=60)
    record = house.get(service_id)
    assert (record["health"], record["reason"]) == ("critical", "stalled")
    with pytest.raises(NoService):
        house.discover("A")
    house.report(service_id, fed=0.1, watchdog=60)
    assert house.discover("A") == service_id
    assert kinds(house) == ["register", "critical", "recovered"]


def test_a_stalled_service_does_not_expire_while_it_beats(house: House) -> None:
    service_id = house.register("a", 10)
    for _ in range(5):
        house.report(service_id, fed=99, watchdog=60)
        house.pass_time(9)
        assert house.expire() == []
    house.pass_time(1)
    house.registry.tell_health()
    assert house.get(service_id)["reason"] == "no heartbeat"
    assert house.registry.expire(10) == 1
    assert [event["type"] for event in house.commit()] == ["expire"], "critical was told"


def test_a_report_is_in_the_record_until_the_next_takes_its_place(house: House) -> None:
    service_id = house.register("a")
    status = {"text": "cooling to 180 K", "progress": 0.4, "since": 1_700_000_000}
    house.report(service_id, status=status, load=0.5)
    record = house.get(service_id)
    assert (record["status"], record["load"]) == (status, 0.5)
    house.registry.renew(service_id)
    assert house.get(service_id)["status"] == status, "a plain heartbeat says nothing of it"
    house.report(service_id, load=0)
    assert "status" not in house.get(service_id)
    assert house.get(service_id)["load"] == 0
    house.report(service_id)
    assert "load" not in house.get(service_id)
    assert kinds(house) == ["register"]


def test_an_update_keeps_lease_and_report(house: House) -> None:
    service_id = house.register("a", 10, type="A", metadata={"v": 1}, endpoints={"m": 6000})
    house.report(service_id, load=2)
    house.pass_time(9)
    change = messages.read_change({"host": "10.0.0.9", "metadata": {"v": 2}, "rack": 7})
    house.registry.update(service_id, *change, None)
    (event,) = house.commit()
    assert event["type"] == "update"
    record = house.get(service_id)
    assert event["data"]["service_info"] == record
    assert (record["host"], record["metadata"], record["rack"]) == ("10.0.0.9", {"v": 2}, 7)
    assert (record["endpoints"], record["load"], record["port"]) == ({"m": 6000}, 2, 5000)
    house.pass_time(1)
    assert house.health(service_id) == "critical", "an update is no heartbeat"
    house.registry.update(service_id, *messages.read_change({"ready": True}), None)
    assert house.health(service_id) == "critical"
    with pytest.raises(UnknownService):
        house.registry.update("nobody", *change, None)


def test_an_update_that_comes_again_changes_nothing(house: House) -> None:
    service_id = house.register("a")
    for _ in range(2):
        turn = Turn("driver", 1)
        house.registry.update(service_id, *messages.read_change({"port": 6}), "token", turn)
        house.commit()
        house.registry.update(service_id, *messages.read_change({"port": 7}), None)
        house.commit()
    assert kinds(house) == ["register", "update", "update", "update"]
    assert house.get(service_id)["port"] == 7


def test_starting_is_not_discovered_until_ready(on_file: House) -> None:
    service_id = on_file.register("a", type="A", ready=False)
    assert on_file.health(service_id) == "starting"
    with pytest.raises(NoService) as refusal:
        on_file.discover("A")
    assert refusal.value.hint == "a on 10.0.0.5:5000 is starting"
    on_file.registry.update(service_id, *messages.read_change({"ready": True}), None)
    on_file.commit()
    assert on_file.discover("A") == service_id
    assert kinds(on_file) == ["register", "update"]
    on_file.restart()
    assert on_file.discover("A") == service_id
    assert on_file.tell() == []


# -- maintenance


@pytest.mark.parametrize(
    "target", [{"service": "mine"}, {"service": "a"}, {"service_type": "A"}, {"host": "EGSE3"}]
)
def test_maintenance_covers_who_is_there_and_who_comes(house: House, target: Any) -> None:
    first = house.register("a", type="A", host="egse3", id="mine")
    other = house.register("b", type="B", host="egse4")
    maintain(house, **target)
    assert kinds(house)[2:] == ["maintenance"]
    terms = {"reason": "new disk", "by": None, "says": "rik"}
    terms |= {"since": 1_700_000_000, "until": 1_700_003_600}
    assert house.get(first)["maintenance"] == terms
    assert (house.health(first), house.health(other)) == ("maintenance", "passing")
    with pytest.raises(NoService):
        house.discover("A")
    assert house.discover("B") == other
    house.registry.deregister(first, None)
    house.commit()
    again = house.register("a", type="A", host="egse3", id="mine")
    assert house.health(again) == "maintenance"
    assert kinds(house)[3:] == ["deregister", "register"], "its own event says how it is"
    house.registry.maintenance.end(Maintenance(**target))
    house.commit()
    assert kinds(house)[5:] == ["recovered"]
    assert house.discover("A") == again


def test_maintenance_ends_by_itself_and_is_kept_over_restarts(on_file: House) -> None:
    service_id = on_file.register("a", ttl=7200, type="A")
    maintain(on_file, service_type="A")
    on_file.restart(killed=True)
    assert on_file.health(service_id) == "maintenance"
    assert on_file.tell() == [], "it was told before"
    on_file.pass_time(3599)
    assert on_file.tell() == []
    on_file.pass_time(1)
    assert on_file.tell() == [("recovered", service_id)]
    assert on_file.discover("A") == service_id
    assert on_file.registry.maintenance.entries == []
    on_file.restart(killed=True)
    assert on_file.discover("A") == service_id
    assert on_file.tell() == []


def test_maintenance_that_ended_while_the_server_was_away_is_told(on_file: House) -> None:
    service_id = on_file.register("a", type="A")
    maintain(on_file, service_type="A")
    on_file.wall.advance(4_000)
    on_file.restart()
    assert on_file.discover("A") == service_id
    assert on_file.tell() == [("recovered", service_id)]


def test_a_maintenance_of_many_is_told_in_slices(house: House) -> None:
    """One commit for thousands of services would keep everybody waiting."""
    for number in range(250):
        house.stage(f"s{number}", type="A")
    house.commit()
    turns = []
    for change, health in (
        (house.registry.maintenance.start, "passing"),
        (house.registry.maintenance.end, "maintenance"),
    ):
        change(Maintenance(service_type="A", until=2_000_000_000))
        turns.append(len(house.commit()))
        assert next(reversed(house.list("A").values()))["health"] != health
        more = True
        while more:
            more = house.registry.tell_health()
            turns.append(len(house.commit()))
    assert turns == [100, 100, 50, 100, 100, 50]
    assert {one["health"] for one in house.list().values()} == {"passing"}


def test_a_maintenance_that_was_told_in_part_is_told_on_after_a_restart(on_file: House) -> None:
    for number in range(150):
        on_file.stage(f"s{number}", ttl=7200, type="A")
    on_file.commit()
    on_file.registry.maintenance.start(Maintenance(service_type="A", until=2_000_000_000))
    assert len(on_file.commit()) == 100
    on_file.restart(killed=True)
    assert len(on_file.tell()) == 50
    assert on_file.tell() == []
    assert {one["health"] for one in on_file.list().values()} == {"maintenance"}


@given(st.data())
def test_each_service_is_covered_by_the_first_entry_that_is_about_it(data: st.DataObject) -> None:
    """Against the plain rule, whatever begins and ends."""
    house = House(InMemoryBackend, limits=FAR)
    names = st.sampled_from(["a", "b", "c"])
    targets = st.one_of(
        st.builds(lambda name: Maintenance(service=name), names),
        st.builds(lambda name: Maintenance(service_type=name), names),
        st.builds(lambda name: Maintenance(host=name), st.sampled_from(["a", "B", "b"])),
    )
    for number in range(data.draw(st.integers(0, 5))):
        named = data.draw(names)
        tags = data.draw(st.lists(names))
        host = data.draw(st.sampled_from(["A", "b"]))
        house.stage(named, id=data.draw(st.sampled_from([f"s{number}", "c"])), host=host, tags=tags)
    for entries in data.draw(st.lists(st.lists(targets, unique=True, max_size=4), max_size=4)):
        house.registry._view.maintain(entries)
        for lease in house.registry._view.all():
            service = lease.service
            about = [
                one
                for one in entries
                if one.service in (service.id, service.name)
                or one.service_type in service.kinds()
                or (one.host is not None and one.host.lower() == service.host.lower())
            ]
            assert lease.maintenance == (about[0] if about else None)


def test_maintenance_for_ever_and_of_nobody(on_file: House) -> None:
    maintain(on_file, None, service="later")
    on_file.wall.advance(10 * 365 * 86_400)
    on_file.restart(killed=True)
    assert on_file.tell() == []
    assert on_file.health(on_file.register("later")) == "maintenance"
    with pytest.raises(UnknownService):
        on_file.registry.maintenance.end(Maintenance(host="later"))


def test_the_second_maintenance_of_a_target_takes_the_place_of_the_first(house: House) -> None:
    service_id = house.register("a", host="egse3")
    maintain(house, 60, host="egse3")
    maintain(house, 600, host="egse3")
    assert len(house.registry.maintenance.entries) == 1
    assert house.get(service_id)["maintenance"]["until"] == 1_700_000_600
    assert kinds(house) == ["register", "maintenance"]


def test_a_critical_service_in_maintenance_is_critical(house: House) -> None:
    service_id = house.register("a", 10)
    maintain(house, service="a")
    house.pass_time(10)
    assert house.tell() == [("critical", service_id)]
    house.registry.renew(service_id)
    assert house.tell() == [("maintenance", service_id)]


def test_a_refused_maintenance_leaves_no_trace(house: House) -> None:
    service_id = house.register("a", type="A")
    house.store.writes_fail = True
    with pytest.raises(StoreError):
        maintain(house, service_type="A")
    assert house.discover("A") == service_id
    assert house.registry.maintenance.entries == []
    house.store.writes_fail = False
    maintain(house, service_type="A")
    house.store.writes_fail = True
    house.registry.maintenance.end(Maintenance(service_type="A"))
    with pytest.raises(StoreError):
        house.registry.commit()
    assert house.health(service_id) == "maintenance"
    assert kinds(house) == ["register", "maintenance"]


# -- coming back after a crash


def test_the_dead_entry_is_replaced_in_place(house: House) -> None:
    dead = house.register("a", type="A", owner=OWNER)
    fresh = {**OWNER, "pid": 702}
    assert house.replace({dead: OWNER}, type="A", owner=fresh) == dead
    assert kinds(house) == ["register", "replace", "register"]
    replaced, registered = house.events[1:]
    assert replaced["data"]["service_info"]["port"] == 5000
    assert registered["data"]["service_info"] == house.get(dead)
    assert (house.get(dead)["port"], len(house.list())) == (5001, 1)


def test_an_entry_is_replaced_only_if_it_is_still_that_owners(house: House) -> None:
    alive = house.register("a", owner={**OWNER, "pid": 702}, port=5002)
    other = house.register("b", owner=OWNER)
    silent = house.register("a")
    made = house.replace({alive: OWNER, other: OWNER, silent: OWNER, "nobody": OWNER}, owner=OWNER)
    assert made not in (alive, other, silent)
    assert len(house.list()) == 4
    assert kinds(house) == ["register"] * 4


def test_several_dead_entries_go_at_once(house: House) -> None:
    dead = [house.register("a", owner={**OWNER, "pid": pid}, port=pid) for pid in (1, 2)]
    owners = {
        service_id: {**OWNER, "pid": pid} for service_id, pid in zip(dead, (1, 2), strict=True)
    }
    assert house.replace(owners, owner=OWNER, id="chosen") == "chosen"
    assert list(house.list()) == ["chosen"]
    assert kinds(house)[2:] == ["replace", "replace", "register"]


def test_a_replacement_that_the_store_refuses_leaves_the_old_one(house: House) -> None:
    dead = house.register("a", owner=OWNER)
    before = house.picture()
    house.store.writes_fail = True
    with pytest.raises(StoreError):
        house.replace({dead: OWNER}, owner={**OWNER, "pid": 702})
    assert house.picture() == before


@pytest.mark.parametrize("first", [True, False])
def test_an_exclusive_name_has_one_live_service(house: House, first: bool) -> None:
    holder = house.register("a", 10, exclusive=first, owner={**OWNER, "user": "rik"})
    with pytest.raises(DuplicateName, match=r"^a is registered already$") as refusal:
        house.register("a", host="egse9", exclusive=not first)
    assert refusal.value.details == {"existing_service_id": holder}
    assert "pid 611 of rik on lab1, since 20" in str(refusal.value.hint)
    assert "10.0.0.5:5000" in str(refusal.value.hint)
    assert len(house.list()) == 1
    house.register("b", exclusive=not first)
    itself = {"id": holder, "exclusive": first, "owner": {**OWNER, "user": "rik"}}
    assert house.register("a", 10, **itself) == holder
    house.pass_time(10)
    house.register("a", host="egse9", exclusive=not first)


def test_a_dead_holder_of_an_exclusive_name_is_replaced(house: House) -> None:
    dead = house.register("a", exclusive=True, owner=OWNER)
    assert house.replace({dead: OWNER}, exclusive=True, owner={**OWNER, "pid": 702}) == dead


def test_a_singleton_that_starts_or_is_maintained_holds_its_type(house: House) -> None:
    house.register("a", type="A", ready=False)
    with pytest.raises(DuplicateServiceType):
        house.register("b", type="A", singleton=True)
    house.register("c", type="C")
    maintain(house, service_type="C")
    with pytest.raises(DuplicateServiceType):
        house.register("d", type="C", singleton=True)


# -- what is refused


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"mode": "simulated"}, "Invalid service_info.mode"),
        ({"endpoints": {}}, "Invalid service_info.endpoints"),
        ({"endpoints": {"m": 0}}, "Invalid service_info.endpoints"),
        ({"endpoints": {"": 5}}, "Invalid service_info.endpoints"),
        ({"endpoints": [5]}, "Invalid service_info.endpoints"),
        ({"ready": 1}, "Invalid service_info.ready"),
        ({"exclusive": "yes"}, "Invalid service_info.exclusive"),
        ({"owner": "rik"}, "Invalid service_info.owner"),
        ({"owner": {"pid": "1"}}, "Invalid service_info.owner.pid"),
        ({"owner": {"started": 1e300}}, "Invalid service_info.owner.started"),
    ],
)
def test_wrong_fields_are_named(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        messages.read_service_info({"name": "a", "host": "h", "port": 1, **asked})
    if next(iter(asked)) in ("endpoints", "ready"):
        with pytest.raises(InvalidRequest, match=text):
            messages.read_change(asked)


def test_null_is_left_out() -> None:
    asked = {"name": "a", "host": "h", "port": 1, "mode": None, "owner": None, "endpoints": None}
    assert messages.read_service_info(asked)[1] == {}


@pytest.mark.parametrize("field", ["id", "name", "type", "mode", "owner", "exclusive", "singleton"])
def test_an_update_can_not_change_who_it_is(field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"service_info.{field}: an update can't change it"):
        messages.read_change({field: "x"})


@pytest.mark.parametrize(
    "report",
    [
        "busy",
        {"fed": 1},
        {"watchdog": 60},
        {"fed": -1, "watchdog": 60},
        {"fed": 1, "watchdog": 0.5},
        {"load": -0.1},
        {"status": "busy"},
        {"status": {}},
        {"status": {"text": ""}},
        {"status": {"text": "x", "progress": 1.1}},
        {"status": {"text": "x", "max": 0}},
    ],
)
def test_wrong_reports_are_refused(report: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^Invalid report"):
        messages.read_report(report, 0)
