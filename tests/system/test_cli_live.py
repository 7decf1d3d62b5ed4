"""The commands that change a registry or wait for it: register, deregister, watch, wait."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from rsreg import InMemoryBackend, RegistryClient
from rsreg.errors import Unavailable
from tests.commands import Running, data, rs_cs
from tests.helpers import ServerProcess, UnreliableStore, bound_endpoint, received, serving


@pytest.fixture
def silent() -> Iterator[zmq.Socket[bytes]]:
    """A registry that takes requests and never answers."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.bind("tcp://127.0.0.1:*")
        yield socket


def test_register_and_deregister(endpoint: str, client: RegistryClient) -> None:
    here: dict[str, Any] = {"RSREG_ENDPOINT": endpoint}
    words = ["--name", "puna_cs", "--type", "PUNA", "--port", "5000", "--host", "egse3"]
    more = ["--tag", "optics", "--tag", "spare", "--meta", "version=1.4.2", "--meta", "a=b=c"]
    done = rs_cs("register", *words, *more, "--ttl", "7.5", **here)
    service_id = done.stdout.strip()
    assert "without heartbeats the registration ends after 7.5 s" in done.stderr
    service = client.get_service(service_id)
    assert service is not None
    del service["last_heartbeat"]
    assert service == {
        "id": service_id,
        "name": "puna_cs",
        "type": "PUNA",
        "host": "egse3",
        "port": 5000,
        "tags": ["optics", "spare"],
        "metadata": {"version": "1.4.2", "a": "b=c"},
        "ttl": 7.5,
        "registered_by": "127.0.0.1",
        "health": "passing",
    }
    done = rs_cs("deregister", "puna_c", "--yes", **here)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{service_id}\n", "")
    assert client.list_services() == []


def test_what_a_living_process_registered_is_removed_by_force(
    endpoint: str, client: RegistryClient
) -> None:
    service_id = client.register("puna_cs", "egse3", 5000)
    here: dict[str, Any] = {"RSREG_ENDPOINT": endpoint}
    for words in (
        ("deregister", "puna_cs", "--yes"),
        ("register", "--name", "x", "--port", "1", "--id", service_id),
    ):
        done = rs_cs(*words, **here)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"puna_cs on egse3:5000 belongs to pid {os.getpid()} of " in done.stderr
        assert "--force" in done.stderr
        assert client.get_service(service_id) is not None
    shown = rs_cs("get", "puna_cs", **here).stdout
    assert re.search("^registered +from 127.0.0.1$", shown, re.MULTILINE)
    assert data("deregister", "puna_cs", "--yes", "--force", **here)["service_id"] == service_id
    assert client.list_services() == []


def test_the_maintenance_of_somebody_else_takes_force(
    endpoint: str, client: RegistryClient
) -> None:
    client.maintenance(True, host="egse3", by="kim", reason="people")
    here: dict[str, Any] = {"RSREG_ENDPOINT": endpoint}
    done = rs_cs("maintenance", "off", "--host", "egse3", **here)
    assert done.returncode == 1
    assert "belongs to kim on 127.0.0.1, until 20" in done.stderr
    assert data("maintenance", "off", "--host", "egse3", "--force", **here)["maintenance"] == []


def test_register_in_short(endpoint: str, client: RegistryClient) -> None:
    said = data("register", "--name", "ls336", "--port", "6000", RSREG_ENDPOINT=endpoint)
    service = client.get_service(said["service_id"])
    assert service is not None
    assert (service["host"], service["ttl"]) == (socket.gethostname(), 30)
    gone = data("deregister", "ls336", "--yes", RSREG_ENDPOINT=endpoint)
    assert gone == {"success": True, "service_id": said["service_id"]}


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_register_with_a_heartbeat_stays_and_then_leaves(
    endpoint: str, client: RegistryClient, number: signal.Signals, seconds: float
) -> None:
    words = ["register", "--name", "puna_cs", "--type", "PUNA", "--port", "1", "--ttl", "1"]
    with Running(*words, "--heartbeat", RSREG_ENDPOINT=endpoint) as running:
        service_id = running.line()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert client.discover_service("PUNA") is not None
            time.sleep(0.1)
        code, out, err = running.end(number)
    assert (code, out) == (130, "")
    assert "Traceback" not in err
    journal = client.events_since(0)["events"]
    assert [(one["type"], one["data"]["service_id"]) for one in journal] == [
        ("register", service_id),
        ("deregister", service_id),
    ]


def test_a_heartbeat_tells_of_an_outage(process: ServerProcess) -> None:
    process.start()
    words = ["register", "--name", "puna_cs", "--port", "1", "--ttl", "1", "--timeout", "0.5"]
    with Running(*words, "--heartbeat", "--json", RSREG_ENDPOINT=process.endpoint) as running:
        service_id = json.loads(running.line())["service_id"]
        process.kill()
        assert "puna_cs: heartbeat failed, retrying" in running.remark()
        process.start()
        assert "puna_cs: the registry answers again" in running.remark()
        with RegistryClient(process.endpoint, timeout=10) as client:
            assert client.get_service(service_id) is not None
        process.kill()
        code, out, err = running.end(signal.SIGINT)
    assert code == 3, "it could not deregister"
    assert json.loads(out)["code"] == "unreachable"
    assert "Traceback" not in err


def test_watch_prints_each_event_as_it_comes(endpoint: str, client: RegistryClient) -> None:
    with Running("watch", RSREG_ENDPOINT=endpoint) as running:
        assert running.remark() == f"watching {endpoint}; Ctrl-C ends it"
        service_id = client.register("puna_cs", "egse3", 5000, "PUNA")
        at, *said = running.line().split()
        assert time.strptime(at, "%H:%M:%S")
        assert said[:4] == ["#1", "register", "puna_cs", "tcp://egse3:5000"]
        assert said[4:7] == ["by", "pid", str(os.getpid())]
        assert said[-2:] == ["from", "127.0.0.1"]
        client.deregister(service_id)
        assert running.line().split()[1:3] == ["#2", "deregister"]
        client.register("ls336", "egse3", 6000, "TEMP", ttl=1)
        assert running.line().split()[1:3] == ["#3", "register"]
        critical = ["#4", "critical", "ls336", "tcp://egse3:6000", "no", "heartbeat"]
        assert running.line().split()[1:] == critical
        assert running.line().split()[1:] == ["#5", "expire", "ls336", "tcp://egse3:6000"]
        assert running.end(signal.SIGINT)[:2] == (130, "")


def test_watch_in_json_is_the_journal(endpoint: str, client: RegistryClient) -> None:
    with Running("watch", "--json", RSREG_ENDPOINT=endpoint) as running:
        running.remark()
        for number in range(20):
            client.register(f"service {number}", "egse3", 5000, "PUNA")
        events = [json.loads(running.line()) for _ in range(20)]
        assert running.end(signal.SIGINT)[:2] == (130, "")
    assert events == client.events_since(0)["events"]


def test_wait_returns_when_all_are_there(endpoint: str, client: RegistryClient) -> None:
    client.register("puna_cs", "egse3", 5000, "PUNA")
    with Running("wait", "PUNA", "TEMP", RSREG_ENDPOINT=endpoint) as running:
        client.register("ls336", "egse3", 6000, "TEMP")
        out, err = running.process.communicate(timeout=30)
    assert (running.process.returncode, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["TYPE", "NAME", "ENDPOINT"],
        ["PUNA", "puna_cs", "tcp://egse3:5000"],
        ["TEMP", "ls336", "tcp://egse3:6000"],
    ]


def test_wait_waits_for_the_registry_too(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        client.register("puna_cs", "egse3", 5000, "PUNA")
    process.kill()
    with Running("wait", "PUNA", RSREG_ENDPOINT=process.endpoint) as running:
        process.start()
        assert running.process.wait(30) == 0


def test_interrupted_waiting_is_130(silent: zmq.Socket[bytes]) -> None:
    with Running("wait", "PUNA", RSREG_ENDPOINT=bound_endpoint(silent)) as running:
        received(silent)
        code, out, err = running.end(signal.SIGINT)
    assert (code, out, err.strip()) == (130, "", "")


def test_an_answer_without_sense_is_no_traceback(silent: zmq.Socket[bytes]) -> None:
    with Running("stop", "--yes", RSREG_ENDPOINT=bound_endpoint(silent)) as running:
        identity, empty, request = received(silent)
        answer = {"success": True, "request_id": json.loads(request)["request_id"]}
        silent.send_multipart([identity, empty, json.dumps(answer).encode()])
        out, err = running.process.communicate(timeout=30)
    assert (running.process.returncode, out) == (1, "")
    assert err.splitlines() == [
        "error: rs_cs itself failed: KeyError: 'pid'",
        'hint:  run "python -X dev -m rsreg" with the same arguments to see where',
    ]


def test_status_tells_of_a_store_in_trouble() -> None:
    store = UnreliableStore(InMemoryBackend())
    with (
        serving(0, 0, backend=store, cleanup_interval=60) as server,
        RegistryClient(server.endpoint, timeout=10) as client,
    ):
        store.writes_fail = True
        with pytest.raises(Unavailable):
            client.register("puna_cs", "egse3", 5000)
        done = rs_cs("status", "-e", server.endpoint)
        assert done.returncode == 1
        assert "degraded   changes are refused: the disk is full" in done.stdout
        store.writes_fail = False
        client.register("puna_cs", "egse3", 5000)
        assert rs_cs("status", "-e", server.endpoint).returncode == 0
