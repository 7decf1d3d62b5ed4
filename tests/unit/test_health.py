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
from rsreg.protocol.wire import RequestNumber
from rsreg.server.backends.stored import Maintenance
from tests.harness import RegistryHarness
from tests.helpers import FAR

OWNER = {"host": "lab1", "boot": "b1", "pid": 611, "namespace": "n1", "started": 1_700_000_000.5}


def kinds(harness: RegistryHarness) -> list[str]:
    """The types of all events."""
    return [event["type"] for event in harness.events]


def maintain(harness: RegistryHarness, seconds: float | None = 3600, **target: Any) -> None:
    """Start a maintenance, and commit."""
    since = int(harness.wall.now)
    until = None if seconds is None else since + int(seconds)
    harness.registry.maintenance.start(
        Maintenance(reason="new disk", says="rik", since=since, until=until, **target)
    )
    harness.commit()


# -- silence


def test_a_lapse_is_told_once_and_so_is_the_recovery(harness: RegistryHarness) -> None:
    service_id = harness.register("a", 10, type="A")
    harness.pass_time(10)
    assert harness.tell() == [("critical", service_id)]
    assert harness.events[-1]["data"]["service_info"]["reason"] == "no heartbeat"
    assert harness.tell() == []
    harness.registry.renew(service_id)
    assert harness.tell() == [("recovered", service_id)]
    assert harness.events[-1]["data"]["service_info"] == harness.get(service_id)
    assert harness.get(service_id)["health"] == "passing"


def test_what_was_over_before_it_was_told_is_not_told(harness: RegistryHarness) -> None:
    service_id = harness.register("a", 10)
    harness.pass_time(10)
    harness.registry.renew(service_id)
    assert harness.tell() == []


def test_many_changes_of_health_are_told_in_slices(harness: RegistryHarness) -> None:
    for number in range(250):
        harness.stage(f"s{number}", 10)
    harness.commit()
    harness.pass_time(10)
    turns = []
    more = True
    while more:
        more = harness.registry.announce_health()
        turns.append(len(harness.commit()))
    assert turns == [100, 100, 50]


@pytest.mark.parametrize("killed", [False, True])
def test_a_restart_makes_nobody_well(on_file: RegistryHarness, killed: bool) -> None:
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


def test_who_was_critical_before_a_restart_has_a_whole_ttl_to_come_back(
    on_file: RegistryHarness,
) -> None:
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


def test_maintenance_that_ended_while_the_registry_was_away_is_told(
    on_file: RegistryHarness,
) -> None:
    service_id = on_file.register("a", type="A")
    since = int(on_file.wall.now)
    on_file.registry.maintenance.start(Maintenance(service="a", since=since, until=since + 60))
    on_file.commit()
    on_file.restart(killed=True)
    assert (on_file.health(service_id), on_file.tell()) == ("maintenance", [])
    on_file.wall.advance(61)
    on_file.restart(killed=True)
    assert on_file.tell() == [("recovered", service_id)]


def test_a_store_in_trouble_is_told_later_and_only_what_is_still_so(
    harness: RegistryHarness,
) -> None:
    one, two = harness.register("a", 10), harness.register("b", 10)
    harness.pass_time(10)
    harness.store.writes_fail = True
    harness.registry.announce_health()
    with pytest.raises(StoreError):
        harness.registry.commit()
    assert (harness.health(one), harness.health(two)) == ("critical", "critical")
    assert not harness.registry.announce_health(), "it does not try again by itself"
    assert harness.commit() == []
    harness.store.writes_fail = False
    harness.registry.renew(one)
    harness.registry.check_store()
    assert harness.tell() == [("critical", two)]
    assert harness.registry.seq == 3


# -- reports


def test_a_main_loop_that_stands_still_is_critical_though_it_beats(
    harness: RegistryHarness,
) -> None:
    service_id = harness.register("a", type="A")
    harness.report(service_id, fed=10, watchdog=60)
    assert harness.health(service_id) == "passing"
    harness.report(service_id, fed=30.1, watchdog=60)
    assert harness.health(service_id) == "warning"
    assert harness.discover("A") == service_id, "it is only late"
    harness.report(service_id, fed=60.1, watchdog=60)
    record = harness.get(service_id)
    assert (record["health"], record["reason"]) == ("critical", "stalled")
    with pytest.raises(NoService):
        harness.discover("A")
    harness.report(service_id, fed=0.1, watchdog=60)
    assert harness.discover("A") == service_id
    assert kinds(harness) == ["register", "critical", "recovered"]


def test_a_stalled_service_does_not_expire_while_it_beats(harness: RegistryHarness) -> None:
    service_id = harness.register("a", 10)
    for _ in range(5):
        harness.report(service_id, fed=99, watchdog=60)
        harness.pass_time(9)
        assert harness.expire() == []
    harness.pass_time(1)
    harness.registry.announce_health()
    assert harness.get(service_id)["reason"] == "no heartbeat"
    assert harness.registry.expire(10) == 1
    assert [event["type"] for event in harness.commit()] == ["expire"], "critical was told"


def test_a_report_is_in_the_record_until_the_next_takes_its_place(harness: RegistryHarness) -> None:
    service_id = harness.register("a")
    status = {"text": "cooling to 180 K", "progress": 0.4, "since": 1_700_000_000}
    harness.report(service_id, status=status, load=0.5)
    record = harness.get(service_id)
    assert (record["status"], record["load"]) == (status, 0.5)
    harness.registry.renew(service_id)
    assert harness.get(service_id)["status"] == status, "a plain heartbeat says nothing of it"
    harness.report(service_id, load=0)
    assert "status" not in harness.get(service_id)
    assert harness.get(service_id)["load"] == 0
    harness.report(service_id)
    assert "load" not in harness.get(service_id)
    assert kinds(harness) == ["register"]


def test_an_update_keeps_lease_and_report(harness: RegistryHarness) -> None:
    service_id = harness.register("a", 10, type="A", metadata={"v": 1}, endpoints={"m": 6000})
    harness.report(service_id, load=2)
    harness.pass_time(9)
    change = messages.read_change({"host": "10.0.0.9", "metadata": {"v": 2}, "rack": 7})
    harness.registry.update(service_id, *change, None)
    (event,) = harness.commit()
    assert event["type"] == "update"
    record = harness.get(service_id)
    assert event["data"]["service_info"] == record
    assert (record["host"], record["metadata"], record["rack"]) == ("10.0.0.9", {"v": 2}, 7)
    assert (record["endpoints"], record["load"], record["port"]) == ({"m": 6000}, 2, 5000)
    harness.pass_time(1)
    assert harness.health(service_id) == "critical", "an update is no heartbeat"
    harness.registry.update(service_id, *messages.read_change({"ready": True}), None)
    assert harness.health(service_id) == "critical"
    with pytest.raises(UnknownService):
        harness.registry.update("nobody", *change, None)


def test_an_update_that_comes_again_changes_nothing(harness: RegistryHarness) -> None:
    service_id = harness.register("a")
    for _ in range(2):
        request_number = RequestNumber("driver", 1)
        harness.registry.update(
            service_id, *messages.read_change({"port": 6}), "token", request_number
        )
        harness.commit()
        harness.registry.update(service_id, *messages.read_change({"port": 7}), None)
        harness.commit()
    assert kinds(harness) == ["register", "update", "update", "update"]
    assert harness.get(service_id)["port"] == 7


def test_starting_is_not_discovered_until_ready(on_file: RegistryHarness) -> None:
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
def test_maintenance_covers_who_is_there_and_who_comes(
    harness: RegistryHarness, target: Any
) -> None:
    first = harness.register("a", type="A", host="egse3", id="mine")
    other = harness.register("b", type="B", host="egse4")
    maintain(harness, **target)
    assert kinds(harness)[2:] == ["maintenance"]
    terms: dict[str, Any] = {"reason": "new disk", "by": None, "says": "rik"}
    terms |= {"since": 1_700_000_000, "until": 1_700_003_600}
    assert harness.get(first)["maintenance"] == terms
    assert (harness.health(first), harness.health(other)) == ("maintenance", "passing")
    with pytest.raises(NoService):
        harness.discover("A")
    assert harness.discover("B") == other
    harness.registry.deregister(first, None)
    harness.commit()
    again = harness.register("a", type="A", host="egse3", id="mine")
    assert harness.health(again) == "maintenance"
    assert kinds(harness)[3:] == ["deregister", "register"], "its own event says how it is"
    harness.registry.maintenance.end(Maintenance(**target))
    harness.commit()
    assert kinds(harness)[5:] == ["recovered"]
    assert harness.discover("A") == again


def test_maintenance_ends_by_itself_and_is_kept_over_restarts(on_file: RegistryHarness) -> None:
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


def test_maintenance_that_ended_while_the_server_was_away_is_told(on_file: RegistryHarness) -> None:
    service_id = on_file.register("a", type="A")
    maintain(on_file, service_type="A")
    on_file.wall.advance(4_000)
    on_file.restart()
    assert on_file.discover("A") == service_id
    assert on_file.tell() == [("recovered", service_id)]


def test_a_maintenance_of_many_is_told_in_slices(harness: RegistryHarness) -> None:
    """One commit for thousands of services would keep everybody waiting."""
    for number in range(250):
        harness.stage(f"s{number}", type="A")
    harness.commit()
    turns = []
    for change, health in (
        (harness.registry.maintenance.start, "passing"),
        (harness.registry.maintenance.end, "maintenance"),
    ):
        change(Maintenance(service_type="A", until=2_000_000_000))
        turns.append(len(harness.commit()))
        assert next(reversed(harness.list("A").values()))["health"] != health
        more = True
        while more:
            more = harness.registry.announce_health()
            turns.append(len(harness.commit()))
    assert turns == [100, 100, 50, 100, 100, 50]
    assert {one["health"] for one in harness.list().values()} == {"passing"}


def test_a_maintenance_that_was_told_in_part_is_told_on_after_a_restart(
    on_file: RegistryHarness,
) -> None:
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
    harness = RegistryHarness(InMemoryBackend, limits=FAR)
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
        harness.stage(
            named, id=data.draw(st.sampled_from([f"s{number}", "c"])), host=host, tags=tags
        )
    for entries in data.draw(st.lists(st.lists(targets, unique=True, max_size=4), max_size=4)):
        harness.registry._view.maintain(entries)
        for lease in harness.registry._view.all():
            service = lease.service
            about = [
                one
                for one in entries
                if one.service in (service.id, service.name)
                or one.service_type in service.service_types()
                or (one.host is not None and one.host.lower() == service.host.lower())
            ]
            assert lease.maintenance == (about[0] if about else None)


def test_maintenance_for_ever_and_of_nobody(on_file: RegistryHarness) -> None:
    maintain(on_file, None, service="later")
    on_file.wall.advance(10 * 365 * 86_400)
    on_file.restart(killed=True)
    assert on_file.tell() == []
    assert on_file.health(on_file.register("later")) == "maintenance"
    with pytest.raises(UnknownService):
        on_file.registry.maintenance.end(Maintenance(host="later"))


def test_the_second_maintenance_of_a_target_takes_the_place_of_the_first(
    harness: RegistryHarness,
) -> None:
    service_id = harness.register("a", host="egse3")
    maintain(harness, 60, host="egse3")
    maintain(harness, 600, host="egse3")
    assert len(harness.registry.maintenance.entries) == 1
    assert harness.get(service_id)["maintenance"]["until"] == 1_700_000_600
    assert kinds(harness) == ["register", "maintenance"]


def test_a_critical_service_in_maintenance_is_critical(harness: RegistryHarness) -> None:
    service_id = harness.register("a", 10)
    maintain(harness, service="a")
    harness.pass_time(10)
    assert harness.tell() == [("critical", service_id)]
    harness.registry.renew(service_id)
    assert harness.tell() == [("maintenance", service_id)]


def test_a_refused_maintenance_leaves_no_trace(harness: RegistryHarness) -> None:
    service_id = harness.register("a", type="A")
    harness.store.writes_fail = True
    with pytest.raises(StoreError):
        maintain(harness, service_type="A")
    assert harness.discover("A") == service_id
    assert harness.registry.maintenance.entries == []
    harness.store.writes_fail = False
    maintain(harness, service_type="A")
    harness.store.writes_fail = True
    harness.registry.maintenance.end(Maintenance(service_type="A"))
    with pytest.raises(StoreError):
        harness.registry.commit()
    assert harness.health(service_id) == "maintenance"
    assert kinds(harness) == ["register", "maintenance"]


# -- coming back after a crash


def test_the_dead_entry_is_replaced_in_place(harness: RegistryHarness) -> None:
    dead = harness.register("a", type="A", owner=OWNER)
    fresh = {**OWNER, "pid": 702}
    assert harness.replace({dead: OWNER}, type="A", owner=fresh) == dead
    assert kinds(harness) == ["register", "replace", "register"]
    replaced, registered = harness.events[1:]
    assert replaced["data"]["service_info"]["port"] == 5000
    assert registered["data"]["service_info"] == harness.get(dead)
    assert (harness.get(dead)["port"], len(harness.list())) == (5001, 1)


def test_an_entry_is_replaced_only_if_it_is_still_that_owners(harness: RegistryHarness) -> None:
    alive = harness.register("a", owner={**OWNER, "pid": 702}, port=5002)
    other = harness.register("b", owner=OWNER)
    silent = harness.register("a")
    made = harness.replace(
        {alive: OWNER, other: OWNER, silent: OWNER, "nobody": OWNER}, owner=OWNER
    )
    assert made not in (alive, other, silent)
    assert len(harness.list()) == 4
    assert kinds(harness) == ["register"] * 4


def test_several_dead_entries_go_at_once(harness: RegistryHarness) -> None:
    dead = [harness.register("a", owner={**OWNER, "pid": pid}, port=pid) for pid in (1, 2)]
    owners = {
        service_id: {**OWNER, "pid": pid} for service_id, pid in zip(dead, (1, 2), strict=True)
    }
    assert harness.replace(owners, owner=OWNER, id="chosen") == "chosen"
    assert list(harness.list()) == ["chosen"]
    assert kinds(harness)[2:] == ["replace", "replace", "register"]


def test_a_replacement_that_the_store_refuses_leaves_the_old_one(harness: RegistryHarness) -> None:
    dead = harness.register("a", owner=OWNER)
    before = harness.picture()
    harness.store.writes_fail = True
    with pytest.raises(StoreError):
        harness.replace({dead: OWNER}, owner={**OWNER, "pid": 702})
    assert harness.picture() == before


@pytest.mark.parametrize("first", [True, False])
def test_an_exclusive_name_has_one_live_service(harness: RegistryHarness, first: bool) -> None:
    holder = harness.register("a", 10, exclusive=first, owner={**OWNER, "user": "rik"})
    with pytest.raises(DuplicateName, match=r"^a is registered already$") as refusal:
        harness.register("a", host="egse9", exclusive=not first)
    assert refusal.value.details == {"existing_service_id": holder}
    assert "pid 611 of rik on lab1, since 20" in str(refusal.value.hint)
    assert "10.0.0.5:5000" in str(refusal.value.hint)
    assert len(harness.list()) == 1
    harness.register("b", exclusive=not first)
    itself: dict[str, Any] = {"id": holder, "exclusive": first, "owner": {**OWNER, "user": "rik"}}
    assert harness.register("a", 10, **itself) == holder
    harness.pass_time(10)
    harness.register("a", host="egse9", exclusive=not first)


def test_a_dead_holder_of_an_exclusive_name_is_replaced(harness: RegistryHarness) -> None:
    dead = harness.register("a", exclusive=True, owner=OWNER)
    assert harness.replace({dead: OWNER}, exclusive=True, owner={**OWNER, "pid": 702}) == dead


def test_a_singleton_that_starts_or_is_maintained_holds_its_type(harness: RegistryHarness) -> None:
    harness.register("a", type="A", ready=False)
    with pytest.raises(DuplicateServiceType):
        harness.register("b", type="A", singleton=True)
    harness.register("c", type="C")
    maintain(harness, service_type="C")
    with pytest.raises(DuplicateServiceType):
        harness.register("d", type="C", singleton=True)


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
