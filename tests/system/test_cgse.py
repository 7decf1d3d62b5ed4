"""CGSE's own clients, sync and async, of 2025 and 2026, really run against this registry.

`.ci/cgse` installs them. What they return is what they return with CGSE's own server, but for the
additions of docs/protocol.md, and for records: those are as the specification shows them (CGSE's
server leaves out `type`, and puts it into `metadata`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsreg import RegistryClient
from tests.helpers import ROOT, ServerProcess, present, wait_until

pytestmark = pytest.mark.cgse

SCRIPT = ROOT / "tests" / "cgse" / "remote.py"
#: The versions that .ci/cgse installs, and the options of a server for each.
VERSIONS: dict[str, dict[str, Any]] = {
    "0.9.2": {},
    "0.14.1": {"cgse_reply": "REP"},
    "0.16.3": {},
    "0.25.11": {},
}
KINDS = ("sync", "async")
#: The oldest sync client knows nothing of the server.
ABOUT_THE_SERVER = [
    (version, kind)
    for version in VERSIONS
    for kind in KINDS
    if (version, kind) != ("0.9.2", "sync")
]


def installed(version: str) -> Path:
    """Where a version is."""
    path = ROOT / ".ci" / f"cgse-{version}"
    if not path.is_dir():
        missing = f"{path} is not there: .ci/cgse installs it"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    return path


class Remote:
    """One of CGSE's clients, in a process of its own; its methods are those of the client."""

    def __init__(self, version: str, kind: str, server: ServerProcess) -> None:
        endpoints = [f"tcp://127.0.0.1:{port}" for port in server.ports]
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), kind, json.dumps(endpoints)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(installed(version))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __getattr__(self, name: str) -> Any:
        def method(**arguments: Any) -> Any:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write(json.dumps([name, arguments]) + "\n")
            line = self.process.stdout.readline()
            assert line, f"{name} failed"
            return json.loads(line)

        return method

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def process(version: str, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server process on a file, for a version."""
    with ServerProcess(tmp_path / "registry.db", **VERSIONS[version]) as server:
        yield server


@pytest.fixture
def client(process: ServerProcess) -> Iterator[RegistryClient]:
    """Our own client of the same server."""
    with RegistryClient(process.endpoint, timeout=10) as own:
        yield own


HEXAPOD = {
    "name": "Hexapod CS",
    "host": "lab1",
    "port": 5000,
    "service_type": "HEXAPOD",
    "metadata": {"service_port": 5001},
}


def record(service_id: str, last_heartbeat: int) -> dict[str, Any]:
    """HEXAPOD as the registry has it."""
    return {
        "id": service_id,
        "name": "Hexapod CS",
        "host": "lab1",
        "port": 5000,
        "type": "HEXAPOD",
        "tags": ["HEXAPOD"],
        "metadata": {"service_port": 5001},
        "ttl": 30,
        "registered_by": "127.0.0.1",
        "last_heartbeat": last_heartbeat,
        "health": "passing",
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_calls(version: str, kind: str, process: ServerProcess, client: RegistryClient) -> None:
    with Remote(version, kind, process) as cgse:
        assert cgse.health_check() is True
        assert cgse.list_services() == []
        service_id = cgse.register(**HEXAPOD)
        known = client.get_service(service_id)
        assert known is not None
        expected = record(service_id, known["last_heartbeat"])
        assert known == expected
        assert cgse.get_service(service_id=service_id) == expected
        assert cgse.list_services() == [expected]
        assert cgse.list_services(service_type="") == [expected]
        assert cgse.list_services(service_type="HEXAPOD") == [expected]
        assert cgse.list_services(service_type="STAGE") == []
        assert cgse.discover_service(service_type="HEXAPOD") == expected
        assert cgse.discover_service(service_type="STAGE") is None
        assert cgse.get_endpoint(service_type="HEXAPOD") == "tcp://lab1:5000"
        assert cgse.get_endpoint(service_type="STAGE") is None
        # It keeps its identity when it connects anew, and the answers reach it all the same.
        cgse.disconnect()
        cgse.connect()
        assert cgse.health_check() is True
        assert cgse.deregister(service_id="nobody") is False
        assert cgse.deregister() is True
        assert cgse.get_service(service_id=service_id) is None
        assert cgse.list_services() == []
        assert client.server_status()["dropped_replies"] == 0


@pytest.mark.parametrize(("version", "kind"), ABOUT_THE_SERVER)
def test_the_server_is_asked_about_and_stopped(
    version: str, kind: str, process: ServerProcess
) -> None:
    with Remote(version, kind, process) as cgse:
        cgse.register(**HEXAPOD)
        status = cgse.server_status()
        assert (status["success"], status["status"]) == (True, "ok")
        assert [status[name] for name in ("req_port", "pub_port", "hb_port")] == process.ports
        assert status["enforce_unique_service_types"] is False
        assert [(one["name"], one["health"]) for one in status["services"]] == [
            ("Hexapod CS", "passing")
        ]
        assert cgse.terminate_registry_server() is True
        assert process.wait() == 0


class Driver:
    """A service that one of CGSE's clients keeps registered."""

    def __init__(self, cgse: Remote, client: RegistryClient, kind: str, ttl: int) -> None:
        self.client = client
        self.kind = kind
        host = cgse.here()
        self.id = cgse.register(name=kind, host=host, port=5000, service_type=kind, ttl=ttl)
        cgse.start_heartbeat(interval=0.5)

    @property
    def last_heartbeat(self) -> int:
        service = self.client.get_service(self.id)
        assert service is not None
        heartbeat: int = service["last_heartbeat"]
        return heartbeat


def beat_for(seconds: int, drivers: list[Driver]) -> None:
    """Wait until all have sent heartbeats for so long."""
    until = {driver.id: driver.last_heartbeat + seconds for driver in drivers}
    wait_until(lambda: all(driver.last_heartbeat >= until[driver.id] for driver in drivers), 60)


@pytest.mark.parametrize("version", VERSIONS)
def test_heartbeats(version: str, process: ServerProcess, client: RegistryClient) -> None:
    with Remote(version, "sync", process) as one, Remote(version, "async", process) as other:
        beat_for(4, [Driver(one, client, "sync", 3), Driver(other, client, "async", 3)])
        # Nobody expired, and nobody had to register again.
        events = client.events_since(0)["events"]
        assert [event["type"] for event in events] == ["register", "register"]


@pytest.mark.parametrize("version", VERSIONS)
def test_restarts(version: str, process: ServerProcess, client: RegistryClient) -> None:
    with Remote(version, "sync", process) as one, Remote(version, "async", process) as other:
        drivers = [Driver(other, client, "async", 30)]
        # 0.14.1 waits for hours for the answer to a heartbeat that the kill below may prevent.
        if version != "0.14.1":
            drivers.append(Driver(one, client, "sync", 30))
        beat_for(1, drivers)
        known = client.list_services()
        process.kill()
        process.start()
        assert {service["id"] for service in client.list_services()} == {one.id for one in drivers}
        beat_for(2, drivers)
        assert client.server_status()["seq"] == len(drivers)

        if version in ("0.14.1", "0.16.3"):
            return  # These never register again by themselves.
        process.kill()
        process.store = present(process.store).with_name("another.db")
        process.start()
        wait_until(lambda: all(client.discover_service(driver.kind) for driver in drivers), 60)
        if version == "0.25.11":
            beat_for(2, drivers)
            for old in known:
                new = client.get_service(old["id"])
                assert new is not None
                assert new | {"last_heartbeat": 0} == old | {"last_heartbeat": 0}


@pytest.mark.parametrize("version", VERSIONS)
def test_events(version: str, process: ServerProcess, client: RegistryClient) -> None:
    with Remote(version, "async", process) as cgse:
        cgse.listen()

        def first_heard() -> bool:
            client.register("first", "lab1", 1, service_id="first")
            return bool(cgse.heard())

        wait_until(first_heard)
        client.deregister("first")
        stays = cgse.register(**HEXAPOD)
        goes = client.register("Stage", "lab1", 5001, "STAGE", ttl=1)
        cgse.deregister()

        def of_interest() -> list[tuple[str, str, str]]:
            return [
                (kind, data["service_id"], data["service_info"]["name"])
                for kind, data in cgse.heard()
                if data["service_id"] != "first"
            ]

        wait_until(lambda: len(of_interest()) == 4)
        assert of_interest() == [
            ("register", stays, "Hexapod CS"),
            ("register", goes, "Stage"),
            ("deregister", stays, "Hexapod CS"),
            ("expire", goes, "Stage"),
        ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["0.25.11"])
def test_singletons(version: str, kind: str, process: ServerProcess) -> None:
    with Remote(version, kind, process) as one, Remote(version, kind, process) as other:
        first = one.register(**HEXAPOD, singleton=True)
        assert first.startswith("hexapod-cs-")
        assert other.register(**HEXAPOD, singleton=True) is None
        assert other.register(**HEXAPOD).startswith("hexapod-cs-")
        assert one.register(**HEXAPOD, singleton=True, service_id=first) is None
        assert other.deregister() is True
        assert one.register(**HEXAPOD, singleton=True, service_id=first) == first


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_unique_service_types(version: str, kind: str, tmp_path: Path) -> None:
    with (
        ServerProcess(**VERSIONS[version], unique_service_types=True) as server,
        Remote(version, kind, server) as one,
        Remote(version, kind, server) as other,
    ):
        first = one.register(**HEXAPOD)
        assert first is not None
        assert other.register(**HEXAPOD) is None
        if version == "0.25.11":
            assert other.server_status()["enforce_unique_service_types"] is True
            assert other.register(**HEXAPOD, allow_duplicate_service_type=True) is not None
            assert other.deregister() is True
        assert one.deregister() is True
        assert other.register(**HEXAPOD) not in (None, first)
