"""Who asks for a change, and whose it is to make: the rules, and what strangers send."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from rsreg import InMemoryBackend, RegistryClient, RegistryServer, SQLiteBackend
from rsreg.client.registration import owner
from rsreg.errors import DuplicateName, OwnedByOther, StoreError, UnknownService
from rsreg.protocol.messages import read_service_info
from rsreg.protocol.records import COMPUTED
from rsreg.protocol.wire import RequestNumber
from rsreg.server.backends.stored import Maintenance
from rsreg.server.rules.ownership import Requester
from tests.harness import RegistryHarness
from tests.helpers import ManualClock, printed, raw_socket, received, serving, start_program

HERE, ELSEWHERE = "10.0.0.7", "10.0.0.66"
#: A process, and others that differ from it in one thing each.
OWNER = {"host": "lab1", "boot": "b1", "namespace": "n1", "pid": 611, "started": 7.5, "user": "rik"}
OTHERS = [
    None,
    {},
    {"user": "rik", "host": "lab1"},
    *({**OWNER, field: 9 if field in ("pid", "started") else "x"} for field in list(OWNER)[:5]),
]
ITS = Requester(HERE, "pid 611 of rik on lab1", OWNER)


def registered(harness: RegistryHarness, **said: Any) -> str:
    """An entry of OWNER, from HERE."""
    return harness.register(**{"name": "puna", "id": "puna", "owner": OWNER, "who": ITS, **said})


Change = Callable[[RegistryHarness, Requester], object]


def _register(harness: RegistryHarness, who: Requester) -> object:
    info = {"name": "x", "host": "66.6.6.6", "port": 6, "id": "puna"}
    extra = {} if who.owner is None else {"owner": who.owner}
    known = read_service_info({**info, **extra})
    return harness.registry.register(*known, 30, None, who=who)


CHANGES: dict[str, Change] = {
    "register": _register,
    "update": lambda harness, who: harness.registry.update(
        "puna", {"host": "66.6.6.6"}, {}, None, who=who
    ),
    "deregister": lambda harness, who: harness.registry.deregister("puna", None, who=who),
}
every_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


# -- the rule


@every_change
@pytest.mark.parametrize("address", [HERE, ELSEWHERE])
@pytest.mark.parametrize("other", OTHERS)
def test_the_entry_of_a_living_process_is_its_own(
    harness: RegistryHarness, change: Change, other: Any, address: str
) -> None:
    registered(harness)
    before = harness.picture()
    with pytest.raises(OwnedByOther) as refusal:
        change(harness, Requester(address, None, other))
    assert harness.commit() == []
    assert harness.picture() == before
    assert str(refusal.value).startswith(
        "puna on 10.0.0.5:5000 belongs to pid 611 of rik on lab1, since"
    )
    assert str(refusal.value).endswith(f"registered from {HERE}")
    assert "--force" in str(refusal.value.hint)
    assert refusal.value.details["owner"] == OWNER
    change(harness, Requester(ELSEWHERE, "me", other, force=True))
    (event,) = harness.commit()
    assert (event["by"], event["says"]) == (ELSEWHERE, "me")


@every_change
def test_its_own_process_changes_it_from_wherever(harness: RegistryHarness, change: Change) -> None:
    registered(harness)
    change(harness, Requester(ELSEWHERE, None, {**OWNER, "program": "another word for it"}))
    assert len(harness.commit()) == 1


@every_change
def test_who_names_no_process_has_an_entry_that_is_anybodys(
    harness: RegistryHarness, change: Change
) -> None:
    registered(harness, owner={"user": "rik", "host": "lab1"})
    change(harness, Requester(ELSEWHERE))
    assert len(harness.commit()) == 1


@every_change
def test_who_is_silent_or_doubted_has_lost_it(harness: RegistryHarness, change: Change) -> None:
    registered(harness)
    harness.pass_time(30)
    change(harness, Requester(ELSEWHERE))
    harness.commit()
    registered(harness, who=ITS._replace(force=True))
    harness.register("heater", owner={**OWNER, "pid": 9}, who=Requester(HERE))
    assert harness.health("puna") == "critical"
    change(harness, Requester(ELSEWHERE))
    assert len(harness.commit()) == 1


def test_a_request_that_comes_again_is_no_change(harness: RegistryHarness) -> None:
    """Its entry may be another's by then."""
    request_number = RequestNumber("me", 1)
    harness.registry.deregister(registered(harness), "t1", request_number, ITS)
    harness.commit()
    registered(harness, owner={**OWNER, "pid": 9})
    harness.registry.deregister("puna", "t1", request_number, ITS)
    assert harness.commit() == []


def test_a_refusal_leaves_no_turn_and_no_token(harness: RegistryHarness) -> None:
    registered(harness)
    other = Requester(ELSEWHERE)
    with pytest.raises(OwnedByOther):
        harness.registry.deregister("puna", "t", RequestNumber("x", 7), other)
    harness.registry.deregister("puna", "t2", RequestNumber("x", 6), other._replace(force=True))
    with pytest.raises(UnknownService):
        harness.registry.deregister("puna", "t", RequestNumber("x", 7), other)


# -- who came back, and who says so


FRESH = {**OWNER, "pid": 702, "started": 99.0}


def test_a_driver_that_came_back_replaces_its_entry_from_its_own_address(
    harness: RegistryHarness,
) -> None:
    registered(harness, exclusive=True)
    who = Requester(HERE, None, FRESH)
    assert harness.replace({"puna": OWNER}, name="puna", owner=FRESH, who=who) == "puna"
    assert harness.get("puna")["owner"] == FRESH


def test_an_owner_that_anybody_can_read_replaces_nothing_from_elsewhere(
    harness: RegistryHarness,
) -> None:
    registered(harness)
    who = Requester(ELSEWHERE, None, FRESH)
    made = harness.replace({"puna": OWNER}, name="puna", owner=FRESH, who=who)
    assert made != "puna"
    assert (harness.get("puna")["port"], harness.health("puna")) == (5000, "passing")
    with pytest.raises(OwnedByOther):
        harness.replace({"puna": OWNER}, name="puna", id="puna", owner=FRESH, who=who)
    forced = who._replace(force=True)
    assert harness.replace({"puna": OWNER}, name="puna", owner=FRESH, who=forced) == "puna"


def test_an_exclusive_name_is_not_got_by_the_owner_of_its_holder(harness: RegistryHarness) -> None:
    registered(harness, exclusive=True)
    with pytest.raises(DuplicateName) as refusal:
        harness.replace(
            {"puna": OWNER}, name="puna", exclusive=True, owner=FRESH, who=Requester(ELSEWHERE)
        )
    assert f"registered from {HERE}" in str(refusal.value.hint)


def test_of_an_entry_of_an_earlier_store_nobody_knows_from_where_it_came(
    harness: RegistryHarness,
) -> None:
    registered(harness, who=Requester(None, None, OWNER))
    who = Requester(ELSEWHERE, None, FRESH)
    assert harness.replace({"puna": OWNER}, name="puna", owner=FRESH, who=who) == "puna"


def test_who_lapsed_is_replaced_from_anywhere(harness: RegistryHarness) -> None:
    registered(harness)
    harness.pass_time(30)
    who = Requester(ELSEWHERE, None, FRESH)
    assert harness.replace({"puna": OWNER}, name="puna", owner=FRESH, who=who) == "puna"


def test_only_its_own_address_takes_a_process_for_dead(harness: RegistryHarness) -> None:
    registered(harness)
    other = {**OWNER, "pid": 9}
    harness.register("thief", id="thief", owner=other, who=Requester(ELSEWHERE, None, other))
    assert harness.get("puna")["reason"] == "thief has the same address"
    assert harness.health("puna") == harness.health("thief") == "warning"
    harness.registry.deregister("thief", None, who=Requester(owner=other))
    harness.commit()
    who = Requester(HERE, "pid 9 of rik on lab1", other)
    harness.register("heater", owner=other, who=who)
    assert harness.health("puna") == "critical"
    told = next(event for event in harness.events if event["type"] == "critical")
    assert (told["by"], told["says"]) == (HERE, "pid 9 of rik on lab1")


# -- who did it


def test_what_happens_by_itself_is_by_nobody(harness: RegistryHarness) -> None:
    registered(harness, type="A")
    entry = Maintenance(service="puna", by=HERE, says="rik", until=int(harness.wall.now) + 5)
    harness.registry.maintenance.start(entry)
    harness.commit()
    harness.pass_time(6)
    harness.tell()
    harness.pass_time(30)
    harness.tell()
    harness.registry.expire(9)
    harness.commit()
    said = [(event["type"], event["by"], event.get("says")) for event in harness.events]
    assert said == [
        ("register", HERE, "pid 611 of rik on lab1"),
        ("maintenance", HERE, "rik"),
        ("recovered", None, None),
        ("critical", None, None),
        ("expire", None, None),
    ]


def test_a_maintenance_is_not_said_to_have_done_what_was_before(harness: RegistryHarness) -> None:
    registered(harness)
    registered(harness, id="other", name="b", port=9)
    harness.pass_time(29)
    harness.registry.renew("other")
    harness.pass_time(1)
    harness.registry.maintenance.start(Maintenance(service="other", by=HERE, says="rik"))
    events = {event["type"]: event["by"] for event in harness.commit()}
    assert events == {"critical": None, "maintenance": HERE}


def test_all_that_a_maintenance_covers_is_told_by_who_began_it(harness: RegistryHarness) -> None:
    """Many are told in several commits."""
    for number in range(250):
        harness.register(f"s{number}", port=number + 1, type="A")
    entry = Maintenance(service_type="A", by=HERE, says="rik")
    for change in (harness.registry.maintenance.start, harness.registry.maintenance.end):
        change(entry)
        told = harness.commit()
        while harness.registry.announce_health() or not harness.registry.trouble:
            if not (more := harness.commit()):
                break
            told += more
        assert {(one["by"], one["says"]) for one in told} == {(HERE, "rik")}
        assert len(told) == 250
    harness.pass_time(31)
    assert {one["by"] for one in told_by_time(harness)} == {None}


def told_by_time(harness: RegistryHarness) -> list[dict[str, Any]]:
    """What is told of health now."""
    harness.registry.announce_health()
    return harness.commit()


def test_a_maintenance_that_the_store_refused_caused_nothing(harness: RegistryHarness) -> None:
    for number in range(250):
        harness.register(f"s{number}", port=number + 1, type="A")
    harness.store.writes_fail = True
    harness.registry.maintenance.start(Maintenance(service_type="A", by=HERE, says="rik"))
    with pytest.raises(StoreError):
        harness.commit()
    harness.store.writes_fail = False
    harness.registry.check_store()
    harness.pass_time(31)
    assert {one["by"] for one in told_by_time(harness)} == {None}


def test_who_registered_survives_a_restart_and_updates(on_file: RegistryHarness) -> None:
    harness = on_file
    registered(harness)
    harness.registry.update("puna", {"port": 7}, {}, None, who=Requester(ELSEWHERE, None, OWNER))
    harness.commit()
    before = harness.get("puna"), harness.registry.entry("puna")
    assert before[0]["registered_by"] == HERE
    harness.restart(killed=True)
    assert (harness.get("puna"), harness.registry.entry("puna")) == before


def test_what_earlier_versions_kept_of_a_computed_field_is_forgotten(
    on_file: RegistryHarness,
) -> None:
    harness = on_file
    registered(harness)
    lease = harness.registry._view.get("puna")
    assert lease is not None
    lease.service.extra.update(dict.fromkeys(COMPUTED, "forged"), rack=12)
    harness.store.commit({"puna": lease.service}, [])
    harness.restart(killed=True)
    assert harness.get("puna")["rack"] == 12
    assert "forged" not in harness.get("puna").values()


def test_the_fingerprint_is_of_all_that_was_said_and_of_nothing_else(
    harness: RegistryHarness,
) -> None:
    def entry(**said: Any) -> str:
        registered(harness, **{"who": ITS._replace(force=True), **said})
        return harness.registry.entry("puna")

    first = entry()
    others: list[dict[str, Any]] = [
        {"host": "h"},
        {"port": 1},
        {"endpoints": {"data": 1}},
        {"owner": FRESH},
        {"owner": None},
        {"protocol": "ipc"},
        {"metadata": {"data_port": 1}},
        {"tags": ["x"]},
        {"type": "X"},
        {"ready": False},
    ]
    found = [first, *(entry(**said) for said in others)]
    assert len(set(found)) == len(found)
    assert entry(who=Requester(ELSEWHERE, None, OWNER, force=True)) == first
    assert harness.registry.renew("puna") == first
    harness.pass_time(20)
    assert harness.registry.renew("puna") == first


# -- maintenance


def mine(**said: Any) -> Maintenance:
    """A maintenance of a host that HERE began."""
    return Maintenance(**{"host": "egse3", "by": HERE, "says": "rik", "reason": "laser", **said})


@pytest.mark.parametrize("other", [{"by": ELSEWHERE}, {"says": "kim"}, {"says": None}])
def test_a_maintenance_is_for_who_began_it_to_end_or_change(
    harness: RegistryHarness, other: Any
) -> None:
    harness.registry.maintenance.start(mine(until=int(harness.wall.now) + 60))
    harness.commit()
    before = harness.registry.maintenance.entries
    for change in (harness.registry.maintenance.start, harness.registry.maintenance.end):
        with pytest.raises(
            OwnedByOther, match=r"rik on 10\.0\.0\.7, until 20.*: laser$"
        ) as refusal:
            change(mine(reason="", **other))
        assert refusal.value.details["maintenance"]["says"] == "rik"
        assert (harness.commit(), harness.registry.maintenance.entries) == ([], before)
    harness.registry.maintenance.start(mine(reason="mine", **other), force=True)
    harness.registry.maintenance.start(mine(service="x", host=None, **other))
    harness.registry.maintenance.end(mine(**other), force=True)
    assert [one.service for one in harness.registry.maintenance.entries] == ["x"]


def test_who_began_a_maintenance_changes_and_ends_it(harness: RegistryHarness) -> None:
    harness.registry.maintenance.start(mine())
    harness.registry.maintenance.start(mine(reason="longer"))
    harness.registry.maintenance.end(mine())
    assert harness.registry.maintenance.entries == []


@pytest.mark.parametrize("unknown", [{"by": None}, {"says": None}])
def test_a_maintenance_of_nobody_known_is_anybodys(harness: RegistryHarness, unknown: Any) -> None:
    harness.registry.maintenance.start(mine(**unknown))
    harness.registry.maintenance.end(mine(by=ELSEWHERE, says="kim"))


def test_what_was_said_before_of_a_maintenance_is_kept_as_that(tmp_path: Path) -> None:
    """Until schema 3 its `by` was what they said of themselves."""
    path = tmp_path / "registry.db"
    store = SQLiteBackend(path)
    store.initialize()
    reason = 'the "by": of "says":'
    store.commit({}, [], [mine(reason=reason, by=None)])
    database = store._database
    (stored,) = database.execute_sql("SELECT value FROM meta WHERE key = 'maintenance'").fetchone()
    older = stored.replace('"says":"rik"', '"by":"rik"')
    assert older != stored
    database.execute_sql("UPDATE meta SET value = ? WHERE key = 'maintenance'", (older,))
    database.execute_sql("ALTER TABLE service DROP COLUMN registered_by")
    database.execute_sql("PRAGMA user_version = 2")
    store.close()
    store.initialize()
    assert store.load().maintenance == [mine(reason=reason, by=None)]
    store.close()


# -- what strangers send

Ask = Callable[..., dict[str, Any]]


@contextmanager
def raw(server: RegistryServer, address: str = "127.0.0.1") -> Iterator[Ask]:
    """Asks from an address of this machine, as a program does that knows only the protocol."""
    numbers = itertools.count()
    with raw_socket(zmq.DEALER, f"tcp://{address}:0;127.0.0.1:{server.req_port}") as socket:

        def ask(action: str, **said: Any) -> dict[str, Any]:
            said |= {"action": action, "request_id": f"{address}-{next(numbers)}"}
            socket.send_multipart([b"", json.dumps(said).encode()])
            return dict(json.loads(received(socket)[1]))

        yield ask


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    """A server in memory."""
    with serving(backend=InMemoryBackend(), wall=ManualClock(1_700_000_000)) as running:
        yield running


INFO = {"id": "puna", "name": "puna", "host": "lab1", "port": 5000, "type": "PUNA"}


def test_the_address_is_that_of_the_connection(server: RegistryServer) -> None:
    with raw(server) as here, raw(server, "127.0.0.2") as there:
        forged = {"registered_by": "6.6.6.6", "by": "6.6.6.6", "says": "the director"}
        made = there("register", service_info={**INFO, **forged}, **forged)
        assert made["entry"] == here("renew", service_id="puna")["entry"]
        record = here("get", service_id="puna")["service"]
        assert record["registered_by"] == "127.0.0.2"
        changed = here("update", service_id="puna", service_info={"rack": 1, **forged}, owner=OWNER)
        assert changed["entry"] == here("renew", service_id="puna")["entry"] != made["entry"]
        assert here("get", service_id="puna")["service"]["registered_by"] == "127.0.0.2"
        here("deregister", service_id="puna", **forged)
        events = here("events", since=0)["events"]
    assert [(one["type"], one["by"], one.get("says")) for one in events] == [
        ("register", "127.0.0.2", None),
        ("update", "127.0.0.1", "pid 611 of rik on lab1"),
        ("deregister", "127.0.0.1", None),
    ]


def test_the_owner_in_the_public_list_opens_nothing_from_elsewhere(server: RegistryServer) -> None:
    with raw(server) as here, raw(server, "127.0.0.2") as there:
        here("register", service_info={**INFO, "owner": OWNER})
        redirect = {**INFO, "host": "66.6.6.6"}
        nameless = {key: redirect[key] for key in redirect if key != "id"}
        for request in (
            {"action": "register", "service_info": redirect},
            {"action": "register", "service_info": {**redirect, "owner": FRESH}},
            {"action": "update", "service_id": "puna", "service_info": {"host": "66.6.6.6"}},
            {
                "action": "update",
                "service_id": "puna",
                "service_info": {"host": "6.6.6.6"},
                "force": None,
            },
            {"action": "deregister", "service_id": "puna", "force": False},
        ):
            reply = there(**request)
            assert reply["code"] == "owned-by-other", request
            assert reply["registered_by"] == "127.0.0.1"
        there("register", service_info={**nameless, "owner": FRESH}, replaces={"puna": OWNER})
        assert here("get", service_id="puna")["service"]["host"] == "lab1"
        refused = there("deregister", service_id="puna", force="yes")
        assert refused["error"].startswith("Invalid force")
        refused = there("deregister", service_id="puna", owner={"pid": "x"}, force=True)
        assert refused["error"].startswith("Invalid owner.pid")
        assert there("deregister", service_id="puna", force=True)["success"]


@pytest.mark.parametrize("name", ["puna", "another"])
def test_a_driver_with_an_id_of_its_own_comes_back_at_once(
    server: RegistryServer, name: str
) -> None:
    with RegistryClient(server.endpoint, timeout=10) as client:
        with start_program("register_and_wait", server.endpoint) as first:
            assert printed(first) == "registered"
            with pytest.raises(OwnedByOther, match=f"belongs to pid {first.pid} "):
                client.register(name, "127.0.0.1", 5001, service_id="puna")
            first.kill()
        assert client.register(name, "127.0.0.1", 5001, service_id="puna") == "puna"
        assert client.list_services()[0]["port"] == 5001
        events = [one["type"] for one in client.events_since(0)["events"]]
    assert events == ["register", "replace", "register"]


def test_a_living_process_is_replaced_by_force(server: RegistryServer) -> None:
    with RegistryClient(server.endpoint, timeout=10) as client, raw(server) as other:
        info = {**INFO, "owner": {**owner.this_process(), "pid": 1, "started": 1.5}}
        other("register", service_info=info)
        assert client.register("puna", "lab1", 5001, service_id="puna", force=True) == "puna"
        assert not client._session.own.of_last().registration.force, "that was once"
        other("register", service_info=info, force=True)
        with pytest.raises(OwnedByOther):
            client.deregister("puna")
        assert client.deregister("puna", force=True)


def test_the_maintenance_of_others_takes_force(server: RegistryServer) -> None:
    """People in the beam path."""
    with raw(server) as here, raw(server, "127.0.0.2") as there:
        target = {"host": "egse3", "by": "rik"}
        (entry,) = here("maintenance", on=True, reason="people", **target)["maintenance"]
        assert (entry["by"], entry["says"]) == ("127.0.0.1", "rik")
        for on in (True, False):
            reply = there("maintenance", on=on, **target)
            assert (reply["code"], reply["maintenance"]) == ("owned-by-other", entry)
        assert here("info")["maintenance"] == [entry]
        assert there("maintenance", on=False, force=True, **target)["maintenance"] == []
