"""The examples of the documents run, and show what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from rsreg import RegistryClient
from tests.helpers import ROOT, killed_at_the_end, register_simulator, wait_until

EXAMPLES = ROOT / "docs" / "examples"


@contextmanager
def example(
    name: str, *args: str, endpoint: str = "", mode: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """An example program, running."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *args],
        env={**os.environ, "RSREG_ENDPOINT": endpoint, "RSREG_MODE": mode},
        stdout=subprocess.PIPE,
        text=True,
    )
    with killed_at_the_end(process):
        yield process


def output(process: subprocess.Popen[str]) -> str:
    """All that it prints; it has to end well."""
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return printed


def test_a_driver_a_command_and_a_follower(endpoint: str, client: RegistryClient) -> None:
    with example("follow", "2", endpoint=endpoint) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "listening\n"
        with example("driver", "1", endpoint=endpoint) as driver:
            with example("command", "home", endpoint=endpoint) as command:
                assert output(command) == "puna_cs says done: home\n"
            assert output(driver) == ""
        assert client.list_services() == []
        assert output(follower) == "puna_cs is here\npuna_cs left\n"


def test_a_driver_in_one_line(endpoint: str, client: RegistryClient) -> None:
    with example("registered", "1", endpoint=endpoint) as driver:
        with example("command", "home", endpoint=endpoint) as command:
            assert output(command) == "puna_cs says done: home\n"
        assert output(driver) == ""
    assert client.list_services() == []


def test_a_driver_that_says_what_it_does(endpoint: str, client: RegistryClient) -> None:
    def status() -> dict[str, object]:
        (service,) = client.list_services()
        said: dict[str, object] = service.get("status", {})
        return said

    with example("busy", "2", endpoint=endpoint) as driver:
        with example("command", "cool 180", endpoint=endpoint) as command:
            assert output(command) == "puna_cs says done: cool\n"
        wait_until(lambda: status().get("text") == "cooling to 180 K")
        with example("command", "home 3", endpoint=endpoint) as command:
            wait_until(lambda: status().get("text") == "homing")
            assert status()["max"] == 300
            assert output(command) == "puna_cs says done: home\n"
        assert output(driver) == ""
    assert client.list_services() == []


def test_a_driver_that_is_not_ready_at_once(endpoint: str, client: RegistryClient) -> None:
    with example("warmup", "1", "0.5", endpoint=endpoint) as driver:
        wait_until(lambda: [one.health for one in client.list_services()] == ["starting"])
        with example("command", "home", endpoint=endpoint) as command:
            assert output(command) == "puna_cs says done: home\n"
        assert output(driver) == ""
    types = [event["type"] for event in client.events_since(0)["events"]]
    assert types == ["register", "update", "deregister"]


def test_a_driver_whose_sdk_keeps_the_lock(endpoint: str, client: RegistryClient) -> None:
    with example("sdk", "1", endpoint=endpoint) as driver:
        with example("command", "3", endpoint=endpoint) as command:
            assert output(command) == "puna_cs says done: 3 s\n"
        assert output(driver) == ""
    types = [event["type"] for event in client.events_since(0)["events"]]
    assert types == ["register", "deregister"]


def test_a_driver_that_crashes_and_starts_again(endpoint: str, client: RegistryClient) -> None:
    with example("restart", endpoint=endpoint) as lives:
        assert output(lives) == (
            "first life: the registry knows its port alone\n"
            "second life: the registry knows its port alone\n"
        )
    journal = client.events_since(0)["events"]
    assert [event["type"] for event in journal] == ["register", "replace", "register"]


def test_an_asyncio_program(endpoint: str, client: RegistryClient) -> None:
    client.register("puna_cs", "10.0.0.5", 5000, "PUNA")
    with example("asyncio_app", endpoint=endpoint) as app:
        assert output(app) == (
            "the hexapod is tcp://10.0.0.5:5000\n"
            "PUNA puna_cs passing\n"
            "SCHEDULER scheduler passing\n"
        )


def test_watching_goes_on_where_it_was(
    endpoint: str, client: RegistryClient, tmp_path: Path
) -> None:
    position = str(tmp_path / "position")
    with example("watching", "PUNA", position, "2", endpoint=endpoint) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "watching\n"
        client.register("camera", "egse3", 5001, "CAMERA")
        client.register("puna_cs", "egse3", 5000, "PUNA", ttl=60)
        client.deregister()
        assert output(watching) == "register puna_cs\nderegister puna_cs\n"
    client.register("brief", "egse3", 5000, "PUNA", ttl=1)
    wait_until(lambda: client.list_services("PUNA") == [])
    with example("watching", "PUNA", position, "3", endpoint=endpoint) as watching:
        assert output(watching) == "watching\nregister brief\ncritical brief\nexpire brief\n"


def test_choosing(endpoint: str, client: RegistryClient) -> None:
    for name, version, tags in (("old", "1.3", ["cryo"]), ("new", "1.10", ["cryo", "spare"])):
        client.register(
            name, "egse3", 5000, "CAMERA", {"version": version, "site": "leuven"}, tags=tags
        )
    with example("choosing", endpoint=endpoint) as choosing:
        lines = output(choosing).splitlines()
    assert lines[:2] == ["new is recent, and here", "cold: old"]
    assert sorted(lines[2:4]) == ["next: new", "next: old"]
    assert lines[4] == lines[2]
    assert lines[5] == "near: tcp://egse3:5000"


def test_two_endpoints(endpoint: str, client: RegistryClient) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with context.socket(zmq.REP) as command, context.socket(zmq.PUB) as monitoring:
        ports = {
            "command_port": command.bind_to_random_port("tcp://127.0.0.1"),
            "monitoring_port": monitoring.bind_to_random_port("tcp://127.0.0.1"),
        }
        client.register("puna_cs", "127.0.0.1", ports["command_port"], "PUNA", ports)
        with example("endpoints", endpoint=endpoint) as endpoints:
            command.rcvtimeo = 20_000
            command.send_string(f"done: {command.recv_string()}")
            while endpoints.poll() is None:
                monitoring.send_string("23.5")
                time.sleep(0.02)
            assert output(endpoints) == (
                f"monitoring is on tcp://127.0.0.1:{ports['monitoring_port']}\n"
                "it says done: home\n"
                "it shows 23.5\n"
            )


def test_a_measurement_on_hardware_or_its_simulator(endpoint: str, client: RegistryClient) -> None:
    register_simulator(endpoint, "puna_sim", "PUNA")
    for mode, shown in (("", "dry run on puna_sim"), ("hardware", "no hexapod")):
        with example("simulator", endpoint=endpoint, mode=mode) as measurement:
            assert output(measurement) == f"{shown}\n1 simulated\n"
    client.register("puna_cs", "127.0.0.1", 1, "PUNA")
    for mode, shown in (("", "keep clear of puna_cs"), ("simulator", "dry run on puna_sim")):
        with example("simulator", endpoint=endpoint, mode=mode) as measurement:
            assert output(measurement) == f"{shown}\n1 simulated\n"


def test_a_maintenance(endpoint: str, client: RegistryClient) -> None:
    client.register("puna_cs", "egse3", 5000, "PUNA")
    with example("maintenance", "0", endpoint=endpoint) as maintenance:
        assert output(maintenance) == (
            "in maintenance: PUNA by rik\n"
            "puna_cs is not discovered: mirror swap\n"
            "discovered again: tcp://egse3:5000\n"
        )
    assert client.server_status().get("maintenance", []) == []


def test_what_is_typed_in_a_shell(endpoint: str, client: RegistryClient) -> None:
    client.register("puna_cs", "egse3", 5000, "PUNA")
    client.register("ls-336", "egse3", 5001, "TEMP", {"channels": 4})
    client.register("cam1", "egse4", 5000, "CAMERA", tags=["cryo"])
    client.register("cam2", "egse4", 5001, "CAMERA")
    with example("interactive", endpoint=endpoint) as bench:
        lines = output(bench).splitlines()
    assert lines[0] == f"registry {endpoint}, 4 services"
    assert lines[1].split()[:3] == ["TYPE", "NAME", "ENDPOINT"]
    assert len(lines[2:-3]) == 4
    assert lines[-3:] == ["tcp://egse3:5000", "4 channels", "cold: cam1"]


def test_a_backend_of_ones_own(tmp_path: Path) -> None:
    store = tmp_path / "registry.json"

    def port_of(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().split()[-1]

    with (
        example("json_backend", str(store)) as server,
        RegistryClient(f"localhost:{port_of(server)}", timeout=10) as client,
    ):
        kept = client.register("puna_cs", "egse3", 5000, "PUNA", {"version": "1.4"})
        client.deregister(client.register("gone", "egse3", 5001))
        server.kill()
    with (
        example("json_backend", str(store)) as server,
        RegistryClient(f"localhost:{port_of(server)}", timeout=10) as client,
    ):
        assert [service["id"] for service in client.list_services()] == [kept]
        assert [event["type"] for event in client.events_since(0)["events"]] == [
            "register",
            "register",
            "deregister",
        ]
        server.send_signal(signal.SIGINT)
        wait_until(lambda: server.poll() is not None)
        assert server.returncode == 0
    assert kept in json.loads(store.read_text())["services"]


def test_a_strategy_of_ones_own() -> None:
    with example("strategy", "0") as server:
        assert server.stdout is not None
        endpoint = server.stdout.readline().split()[-1]
        with RegistryClient(endpoint, timeout=10) as client:
            for name, version in (("older", "1.9"), ("newer", "1.10")):
                client.register(name, "egse3", 5000, "CAMERA", {"version": version})
            for _ in range(10):
                found = client.discover_service("CAMERA", strategy="newest")
                assert found is not None
                assert found.name == "newer"
