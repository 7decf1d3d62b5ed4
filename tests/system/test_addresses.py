"""One address, one service: who takes an address, and who shares one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from rsreg import RegistryClient
from rsreg.errors import NoService, StoreError
from rsreg.protocol import messages
from rsreg.protocol.calls import Call
from rsreg.server.backends.stored import Maintenance, Service
from rsreg.server.rules.ownership import Requester
from tests.harness import RegistryHarness
from tests.helpers import ServerProcess, printed, start_program, wait_until


def owner(pid: int, **said: Any) -> dict[str, Any]:
    """A process of one machine."""
    return {"host": "lab1", "boot": "b1", "namespace": "n1", "pid": pid, "started": 7.5, **said}


def put(harness: RegistryHarness, name: str, pid: int | None, **said: Any) -> str:
    """Register a service of a type of its own, at one address unless told otherwise."""
    said = {"type": name.upper(), "id": name, **said}
    if pid is not None:
        said["owner"] = owner(pid)
    return harness.register(name, **said)


def kinds(harness: RegistryHarness) -> list[tuple[str, str]]:
    """What happened, to whom."""
    return [(event["type"], event["data"]["service_id"]) for event in harness.events]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({"host": "Lab1"}, {"host": "lab1."}),
        ({"host": "::1"}, {"host": "[0:0:0:0:0:0:0:1]"}),
        ({"host": "localhost"}, {"host": "127.0.0.1"}),
        ({"port": 6000, "endpoints": {"command": 6000, "data": 5000}}, {}),
        ({}, {"port": 6000, "endpoints": {"command": 6000, "data": 5000}}),
        ({"endpoints": {"a": 7}}, {"port": 6000, "endpoints": {"b": 7}}),
    ],
)
def test_who_registers_an_address_has_it(
    harness: RegistryHarness, first: dict[str, Any], second: dict[str, Any]
) -> None:
    puna = put(harness, "puna", 1, **first)
    heater = put(harness, "heater", 2, **second)
    with pytest.raises(NoService) as none:
        harness.discover("PUNA")
    assert none.value.hint is not None
    assert harness.discover("HEATER") == heater
    record = harness.get(puna)
    assert (record["health"], record["reason"]) == (
        "critical",
        "heater has registered its address",
    )
    assert kinds(harness) == [("register", puna), ("critical", puna), ("register", heater)]
    assert harness.events[1]["data"]["service_info"]["reason"] == record["reason"]
    assert harness.health(heater) == "passing"
    harness.pass_time(29)
    assert harness.expire() == [], "it may still say that it lives"
    harness.pass_time(1)
    harness.registry.renew(heater)
    harness.registry.expire(9)
    assert [event["type"] for event in harness.commit()] == ["expire"]


@pytest.mark.parametrize(
    ("pids", "second"),
    [
        ((1, 2), {"port": 5001}),
        ((1, 2), {"host": "lab2"}),
        ((1, 1), {}),
        ((1, None), {}),
        ((None, 2), {}),
        ((None, None), {}),
    ],
)
def test_nobody_is_pushed_out_where_it_is_not_sure(
    harness: RegistryHarness, pids: tuple[int | None, int | None], second: dict[str, Any]
) -> None:
    put(harness, "puna", pids[0])
    put(harness, "heater", pids[1], **second)
    assert harness.discover("PUNA") == "puna"
    assert harness.discover("HEATER") == "heater"
    assert [record["health"] for record in harness.list().values()] == ["passing"] * 2


def test_a_loopback_address_is_one_on_each_machine(harness: RegistryHarness) -> None:
    harness.register("a", host="127.0.0.1", owner=owner(1), type="A")
    harness.register("b", host="localhost", owner=owner(1, boot="b2", host="lab2"), type="B")
    assert harness.discover("A")
    assert harness.discover("B")


def test_an_update_takes_an_address_too(harness: RegistryHarness) -> None:
    put(harness, "puna", 1)
    put(harness, "heater", 2, port=6000)
    harness.registry.update("heater", {"port": 5000}, {}, None, who=Requester(owner=owner(2)))
    harness.commit()
    assert harness.get("puna")["reason"] == "heater has registered its address"
    assert harness.health("heater") == "passing"


def test_two_that_both_live_are_both_shown_and_neither_goes_in_turns(
    on_file: RegistryHarness,
) -> None:
    """Machines behind a gateway, for example."""
    harness = on_file
    put(harness, "puna", 1)
    put(harness, "heater", 2)
    harness.registry.renew("puna")
    assert harness.tell() == [("recovered", "puna")]

    def shown() -> dict[str, tuple[str, str | None]]:
        return {key: (one["health"], one.get("reason")) for key, one in harness.list().items()}

    both = {
        "puna": ("warning", "heater has the same address"),
        "heater": ("warning", "puna has the same address"),
    }
    assert shown() == both
    for _ in range(3):
        put(harness, "puna", 1, metadata={"n": 1})
        harness.registry.update(
            "heater", {"metadata": {"n": 2}}, {}, None, who=Requester(owner=owner(2))
        )
        harness.commit()
        for one in both:
            harness.registry.renew(one)
        harness.pass_time(20)
        assert (harness.tell(), shown()) == ([], both)
    harness.restart(killed=True)
    assert (harness.tell(), shown()) == ([], both)
    third = put(harness, "third", 3)
    assert harness.health(third) == "warning"
    assert (harness.tell(), harness.health("puna")) == ([], "warning"), "they share it already"
    harness.registry.deregister("third", None, who=Requester(owner=owner(3)))
    harness.registry.deregister("heater", None, who=Requester(owner=owner(2)))
    harness.commit()
    assert shown() == {"puna": ("passing", None)}


def test_one_of_two_that_dies_leaves_the_other_without_a_warning(harness: RegistryHarness) -> None:
    put(harness, "puna", 1)
    put(harness, "heater", 2)
    harness.registry.renew("puna")
    assert harness.health("heater") == "warning"
    harness.pass_time(29)
    harness.registry.renew("heater")
    harness.pass_time(1)
    assert (harness.health("puna"), harness.health("heater")) == ("critical", "passing")


def test_a_driver_that_comes_back_takes_its_address_again(harness: RegistryHarness) -> None:
    put(harness, "puna", 1)
    put(harness, "heater", 2)
    put(harness, "puna", 3)
    assert (harness.health("puna"), harness.health("heater")) == ("passing", "critical")


def test_who_is_pushed_out_stays_so_over_a_restart(on_file: RegistryHarness) -> None:
    put(on_file, "puna", 1)
    put(on_file, "heater", 2)
    on_file.restart(killed=True)
    assert on_file.tell() == []
    assert on_file.get("puna")["reason"] == "heater has registered its address"
    on_file.registry.renew("puna")
    assert on_file.tell() == [("recovered", "puna")]


def test_an_exclusive_name_of_one_that_is_pushed_out_is_free(harness: RegistryHarness) -> None:
    put(harness, "puna", 1, exclusive=True)
    put(harness, "heater", 2)
    assert harness.register("puna", id="other", port=7000, owner=owner(3)) == "other"


def test_a_refused_registration_pushes_nobody_out(harness: RegistryHarness) -> None:
    put(harness, "puna", 1)
    before = harness.picture()
    harness.store.writes_fail = True
    for _ in range(2):
        harness.stage("heater", id="heater", owner=owner(2))
        with pytest.raises(StoreError):
            harness.commit()
        assert harness.picture() == before
    harness.store.writes_fail = False
    assert harness.discover("PUNA") == "puna"
    put(harness, "heater", 2)
    assert harness.health("puna") == "critical"


@pytest.mark.parametrize("order", [*permutations(range(4))])
def test_refused_changes_of_every_kind_leave_no_trace(
    harness: RegistryHarness, order: tuple[int, ...]
) -> None:
    """They are undone in the reverse order, whatever they were."""
    put(harness, "puna", 1)
    put(harness, "lamp", 3, port=7000)
    put(harness, "old", 4, port=8000, ttl=10)
    harness.pass_time(15)
    harness.tell()
    changes: list[Callable[[], object]] = [
        lambda: harness.stage("heater", id="heater", owner=owner(2)),
        lambda: harness.stage("lamp", id="lamp", owner=owner(3), port=7001),
        lambda: harness.registry.maintenance.start(Maintenance(host="10.0.0.5", by="x")),
        lambda: harness.registry.expire(5),
    ]
    before = harness.picture()
    harness.store.writes_fail = True
    for number in order:
        changes[number]()
    with pytest.raises(StoreError):
        harness.commit()
    assert harness.picture() == before
    assert harness.registry.maintenance.entries == []
    assert harness.commit() == []
    harness.store.writes_fail = False
    harness.registry.check_store()
    assert harness.registry.expire(5) == 1
    assert harness.tell() == [("expire", "old")]
    assert (harness.discover("PUNA"), harness.discover("LAMP")) == ("puna", "lamp")


def test_many_at_one_address_cost_little_each(harness: RegistryHarness) -> None:
    """A thousand behind one gateway: nobody looks through all of them for each."""
    looked_at = 0
    original = Service.is_of_another_process

    def counted(self: Service, other: Service) -> bool:
        nonlocal looked_at
        looked_at += 1
        return original(self, other)

    for pid in range(1, 1_001):
        put(harness, f"s{pid}", pid)
        if pid % 2:
            harness.registry.renew(f"s{pid - 1}") if pid > 1 else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Service, "is_of_another_process", counted)
        put(harness, "last", 5_000)
    assert looked_at < 20_000


def test_addresses_are_the_port_and_the_endpoints_not_the_metadata() -> None:
    info, extra = messages.read_service_info(
        {
            "name": "a",
            "host": "Lab1.",
            "port": 5000,
            "metadata": {"broker_port": 1883},
            "endpoints": {"data": 5001},
        }
    )
    service = Service(
        id="a",
        name="a",
        host=info.host,
        port=info.port,
        type=None,
        tags=[],
        metadata=info.metadata or {},
        ttl=30,
        extra=extra,
        last_heartbeat=0,
    )
    assert set(service.addresses()) == {("lab1", 5000), ("lab1", 5001)}


# -- with real drivers


def test_a_killed_drivers_port_leads_to_no_other_instrument(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        first = start_program("driver_that_listens", "puna", 0, process.endpoint)
        second = None
        try:
            port = printed(first)
            assert client.get_endpoint("PUNA") == f"tcp://127.0.0.1:{port}"
            heard: list[str] = []
            client.on("critical", lambda data: heard.append(data["service_info"]["reason"]))
            first.send_signal(signal.SIGKILL)
            first.wait(20)
            assert client.discover_service("PUNA") is not None, "its ttl is not over"
            second = start_program("driver_that_listens", "heater", port, process.endpoint)
            assert printed(second) == port
            assert client.discover_service("PUNA") is None
            assert client.get_endpoint("HEATER") == f"tcp://127.0.0.1:{port}"
            wait_until(lambda: heard == ["heater has registered its address"])
        finally:
            for driver in filter(None, (first, second)):
                driver.kill()
                driver.communicate()


def test_what_shares_an_address_is_shown_to_people(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        for name, pid in (("puna", 1), ("heater", 2)):
            info = {"name": name, "host": "gateway", "port": 5000, "id": name, "type": name}
            ask(client, {**info, "owner": owner(pid)})
        client.renew("puna")

        def shown(*words: str) -> str:
            command = [sys.executable, "-m", "rsreg", "-e", process.endpoint, *words]
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout

        for words in (("list",), ("get", "puna"), ("status",)):
            assert "heater has the same address" in shown(*words), words
        assert "puna has the same address" in shown("list")


def ask(client: RegistryClient, info: dict[str, Any]) -> None:
    """Register as a client in any language does."""
    client._connection.run(Call("register", {"service_info": info, "ttl": 60}, dict, {}))
