"""What the command line shows of modes, health and conditions; maintenance."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from rsreg import InMemoryBackend, RegistryClient
from tests.commands import Running, data, rs_cs
from tests.helpers import serving, wait_until


def lines(*words: str, **variables: Any) -> list[str]:
    """What a command that has to succeed prints."""
    done = rs_cs(*words, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# -- maintenance


def test_maintenance_of_a_service(endpoint: str, client: RegistryClient) -> None:
    here: dict[str, Any] = {"RSREG_ENDPOINT": endpoint}
    client.register("puna_cs", "egse3", 5000, "PUNA")
    done = rs_cs("maintenance", "on", "pun", "--for", "2h", "--reason", "mirror swap", **here)
    assert done.stderr == "out of discovery: puna_cs\n"
    header, entry = done.stdout.splitlines()
    assert header.split() == ["OF", "BY", "FROM", "UNTIL", "REASON"]
    assert entry.startswith("service puna_cs")
    assert entry.endswith("mirror swap")
    (service,) = data("list", **here)["services"]
    assert service["health"] == "maintenance"
    assert service["maintenance"]["until"] - service["maintenance"]["since"] == 7200
    row = lines("list", **here)[1]
    assert re.search(r" maintenance +\d+ s +\S+@\S+ until [\d: -]+: mirror swap$", row)
    done = rs_cs("discover", "PUNA", **here)
    assert done.returncode == 4
    assert re.search(
        r"hint:  puna_cs \(hardware\) is in maintenance: \S+ until .*: mirror swap",
        done.stderr,
    )
    status = rs_cs("status", **here).stdout
    assert "services      1, 1 in maintenance\n" in status
    assert re.search(r"maintenance   service puna_cs \S+@\S+ until .*: mirror swap\n", status)
    assert len(lines("maintenance", "list", **here)) == 2
    done = rs_cs("maintenance", "off", "puna_cs", **here)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing is in maintenance\n")
    assert lines("discover", "PUNA", "--endpoint", **here) == ["tcp://egse3:5000"]
    done = rs_cs("maintenance", "off", "puna_cs", **here)
    assert (done.returncode, done.stderr) == (4, "error: There is no such maintenance\n")


def test_maintenance_of_a_host_and_a_type_for_ever(endpoint: str, client: RegistryClient) -> None:
    here: dict[str, Any] = {"RSREG_ENDPOINT": endpoint}
    host = data("maintenance", "on", "--host", "egse3", "--forever", **here)
    assert host["maintenance"][0]["until"] is None
    both = data("maintenance", "on", "--type", "PUNA", **here)["maintenance"]
    assert both[1]["until"] - both[1]["since"] == 8 * 3600
    client.register("one", "egse3", 5000, "TEMP")
    client.register("two", "egse4", 5000, "PUNA")
    assert {one["health"] for one in client.list_services()} == {"maintenance"}
    assert "for good" in rs_cs("maintenance", "list", **here).stdout
    assert data("maintenance", "list", **here)["maintenance"] == both


def test_maintenance_of_nobody_yet(endpoint: str, client: RegistryClient) -> None:
    done = rs_cs("maintenance", "on", "later", RSREG_ENDPOINT=endpoint)
    assert (done.returncode, done.stderr) == (0, "no service is affected now\n")
    client.register("later", "egse3", 5000)
    assert client.list_services()[0].health == "maintenance"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give exactly one of service, service_type, host, not none of them"),
        (["puna", "--type", "PUNA"], "not service and service_type"),
        (["puna", "--for", "1h", "--forever"], "forever, or for some seconds, not both"),
        (["puna", "--for", "0"], "'0' is not a time, such as 30min, 2h or 1d, up to a year."),
        (["puna", "--for", "2y"], "'2y' is not a time"),
        (["puna", "--for", "366d"], "'366d' is not a time"),
        (["puna", "--reason", ""], "reason is a text of 1 to 256 characters"),
    ],
)
def test_wrong_maintenance_is_refused(
    endpoint: str, client: RegistryClient, words: list[str], said: str
) -> None:
    done = rs_cs("maintenance", "on", *words, RSREG_ENDPOINT=endpoint)
    assert done.returncode == 2
    assert said in done.stderr
    assert "maintenance" not in client.server_status()


# -- modes and conditions


def test_lists_show_modes_and_what_services_do(endpoint: str, client: RegistryClient) -> None:
    here: dict[str, Any] = {"RSREG_ENDPOINT": endpoint, "RSREG_MODE": "hardware"}
    with (
        client.registered("hex", "egse3", 5000, "PUNA") as hexapod,
        client.registered("sim", "egse4", 5001, "PUNA", mode="simulator"),
        client.registered("cam", "egse4", 5002, "CAM", ready=False),
        hexapod.busy("homing", max=300),
    ):
        wait_until(lambda: any("status" in one for one in client.list_services()))
        rows = {line.split()[1]: line for line in lines("list", **here)}
        assert re.search(r" hardware +passing +\d s +homing, \d+ s of 300$", rows["hex"])
        assert re.search(r" simulator +passing ", rows["sim"])
        assert re.search(r" hardware +starting ", rows["cam"])
        assert set(rows) == {"NAME", "hex", "sim", "cam"}, "who looks after them sees all"
        assert len(lines("list", "--mode", "simulator", **here)) == 2
        facts = rs_cs("get", "hex", **here).stdout
        assert re.search(r"^doing +homing, \d+ s of 300$", facts, re.MULTILINE)
        assert re.search(r"^owner +pid \d+ of \S+ on \S+ since ", facts, re.MULTILINE)
        status = rs_cs("status", **here).stdout
        assert "services   3, 2 passing, 1 starting, 1 simulator\n" in status
        assert "starting   CAM cam: it said that it is not ready yet\n" in status


def test_a_simulator_is_discovered_only_by_who_wants_one(
    endpoint: str, client: RegistryClient
) -> None:
    here: dict[str, Any] = {"RSREG_ENDPOINT": endpoint}
    client.register("hex", "egse3", 5000, "PUNA")
    client.register("sim", "egse4", 5001, "PUNA", mode="simulator")
    ask = ("discover", "PUNA", "--endpoint")
    assert lines(*ask, **here) == ["tcp://egse3:5000"]
    assert lines(*ask, "--mode", "simulator", **here) == ["tcp://egse4:5001"]
    assert lines(*ask, RSREG_MODE="simulator", **here) == ["tcp://egse4:5001"]
    assert lines(*ask, "--mode", "hardware", RSREG_MODE="simulator", **here) == ["tcp://egse3:5000"]
    assert lines("wait", "PUNA", RSREG_MODE="simulator", **here)[1].split()[1] == "sim"
    done = rs_cs("discover", "PUNA", RSREG_MODE="fake", **here)
    assert (done.returncode, "RSREG_MODE" in done.stderr or "mode" in done.stderr) == (2, True)


def test_conditions(endpoint: str, client: RegistryClient) -> None:
    here: dict[str, Any] = {"RSREG_ENDPOINT": endpoint}
    for number, version in enumerate(("1.9", "1.10")):
        client.register(
            f"cam{number}",
            "egse3",
            6000 + number,
            "CAM",
            {"version": version},
            tags=["spare"] if number else [],
            endpoints={"monitoring": 7000 + number},
        )

    def named(*words: str) -> list[str]:
        return [one["name"] for one in data("list", "CAM", *words, **here)["services"]]

    assert named("--where", "version=>=1.10") == ["cam1"]
    assert named("--where", "version=1.9", "--where", "host=egse3") == ["cam0"]
    assert named("--tag", "spare") == ["cam1"]
    assert named("--tag", "!spare") == ["cam0"]
    ask = ("discover", "CAM", "--where", "version=>=1.10", "--strategy", "round-robin")
    assert lines(*ask, "--endpoint", **here) == ["tcp://egse3:6001"]
    assert lines(*ask, "--named", "monitoring", **here) == ["tcp://egse3:7001"]
    done = rs_cs(*ask, "--named", "log", **here)
    assert (done.returncode, "its endpoints are: 'monitoring'" in done.stderr) == (2, True)
    done = rs_cs("discover", "CAM", "--strategy", "best", **here)
    assert (done.returncode, "Invalid strategy: 'best' is unknown" in done.stderr) == (1, True)
    done = rs_cs("list", "--where", "version", **here)
    assert (done.returncode, "'version' is not KEY=VALUE." in done.stderr) == (2, True)


def test_discover_waits_as_long_as_it_is_told(endpoint: str, client: RegistryClient) -> None:
    ask = ["discover", "PUNA", "--endpoint", "--wait"]
    with Running(*ask, "30", RSREG_ENDPOINT=endpoint) as running:
        time.sleep(0.5)  # That it is waiting already can't be seen from outside.
        client.register("hex", "egse3", 5000, "PUNA")
        assert running.line() == "tcp://egse3:5000"
    client.deregister()
    started = time.monotonic()
    assert rs_cs(*ask, "1", RSREG_ENDPOINT=endpoint).returncode == 4
    assert time.monotonic() - started > 1


def test_a_stalled_service_is_said_to_be(endpoint: str, client: RegistryClient) -> None:
    with client.registered("hex", "egse3", 5000, "PUNA", watchdog=1):
        wait_until(lambda: client.list_services()[0].health == "critical")
        here: dict[str, Any] = {"RSREG_ENDPOINT": endpoint}
        assert lines("list", **here)[1].endswith("stalled")
        status = rs_cs("status", **here).stdout
        assert "critical   PUNA hex: its main loop stands still\n" in status


def test_watch_tells_of_health_and_of_one_type_if_asked() -> None:
    with (
        serving(backend=InMemoryBackend(), cleanup_interval=60) as server,
        RegistryClient(server.endpoint, timeout=10) as client,
        Running("watch", "PUNA", RSREG_ENDPOINT=server.endpoint) as running,
    ):
        running.remark()
        client.register("cam", "egse3", 6000, "CAM")
        service_id = client.register("hex", "egse3", 5000, "PUNA", ttl=1)
        assert running.line().split()[2:4] == ["register", "hex"]
        said = running.line()
        assert said.split()[2:4] == ["critical", "hex"]
        assert said.endswith("no heartbeat"), "nobody did it"
        client.renew(service_id)
        assert running.line().split()[2:4] == ["recovered", "hex"]
        client.maintenance(True, service="hex", by="rik", reason="mirror swap")
        said = running.line()
        assert said.split()[2:4] == ["maintenance", "hex"]
        assert re.search(r"rik until [\d: -]+: mirror swap  from 127\.0\.0\.1$", said)


def test_register_knows_all_that_there_is(endpoint: str, client: RegistryClient) -> None:
    words = ["--name", "sim", "--type", "PUNA", "--port", "5000", "--host", "egse3"]
    more = ["--mode", "simulator", "--also", "log=5001", "--exclusive"]
    said = data("register", *words, *more, RSREG_ENDPOINT=endpoint)
    service: Any = client.get_service(said["service_id"])
    assert (service.mode, service.endpoints, service.exclusive) == (
        "simulator",
        {"log": 5001},
        True,
    )
    done = rs_cs("register", *words, "--json", RSREG_ENDPOINT=endpoint)
    assert done.returncode == 5
    assert json.loads(done.stdout)["code"] == "duplicate-name"
