"""`rs_cs run`: any program as a service, whatever ends it."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsreg import InMemoryBackend, RegistryClient
from tests.commands import MODULE, Running, Terminal, rs_cs
from tests.helpers import ServerProcess, need, program, serving, wait_until


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def instrument(port: int) -> list[str]:
    """The command of a program on that port."""
    return program("instrument", port)


@pytest.fixture
def quick() -> Iterator[RegistryClient]:
    """A client of a server that looks for the dead five times a second."""
    with (
        serving(backend=InMemoryBackend(), cleanup_interval=0.2) as server,
        RegistryClient(server.endpoint, timeout=10) as client,
    ):
        yield client


def words(port: int, *more: str) -> list[str]:
    """What a TEMP on that port is run with."""
    return ["run", "--name", "ls336", "--type", "TEMP", "--port", str(port), *more, "--"]


def alive(pid: int) -> bool:
    """Whether a process runs."""
    return Path(f"/proc/{pid}").exists()


def test_a_program_is_a_service_while_it_runs(
    quick: RegistryClient, port: int, instrument: list[str]
) -> None:
    options = ["--tag", "cryo", "--meta", "site=leuven", "--also", "log=6001", "--ttl", "5"]
    here: dict[str, Any] = {"RSREG_ENDPOINT": quick.settings.req_endpoint}
    with Running(*words(port, *options), *instrument, "--json", "-x", **here) as running:
        pid, *rest = running.line().split()
        assert rest == ["--json", "-x"], "what stands after -- is the program's"
        service = quick.discover_service("TEMP", wait=20)
        assert service is not None
        assert (service.name, service.host, service.port) == ("ls336", "127.0.0.1", port)
        assert (service.tags, service.metadata) == (["cryo"], {"site": "leuven"})
        assert (service.ttl, service.endpoints, service.get("mode")) == (5, {"log": 6001}, None)
        assert service.owner["pid"] == running.process.pid, "it is this one that beats"
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
            running.process.send_signal(number)
            assert running.line() == number.name
        code, out, _ = running.end(signal.SIGTERM)
    assert (code, out) == (7, "ends\n")
    assert not alive(int(pid))
    assert quick.list_services() == []
    kinds = [event["type"] for event in quick.events_since(0)["events"]]
    assert kinds == ["register", "deregister"]


def test_a_program_that_is_killed_is_deregistered_at_once(
    quick: RegistryClient, port: int, instrument: list[str]
) -> None:
    here: dict[str, Any] = {"RSREG_ENDPOINT": quick.settings.req_endpoint}
    with Running(*words(port), *instrument, **here) as running:
        pid = int(running.line())
        assert quick.discover_service("TEMP", wait=20)
        os.kill(pid, signal.SIGKILL)
        assert running.process.wait(20) == 128 + signal.SIGKILL
    assert quick.list_services() == []


def test_a_run_that_is_killed_leaves_no_entry_behind_longer_than_its_ttl(
    quick: RegistryClient, port: int, instrument: list[str]
) -> None:
    here: dict[str, Any] = {"RSREG_ENDPOINT": quick.settings.req_endpoint}
    with Running(*words(port, "--ttl", "1"), *instrument, **here) as running:
        pid = int(running.line())
        assert quick.discover_service("TEMP", wait=20)
        running.process.kill()
        wait_until(lambda: quick.list_services() == [], timeout=5)
        assert alive(pid), "who controls an instrument is not to be killed in passing"
        os.kill(pid, signal.SIGKILL)


def test_a_program_that_is_run_again_after_that_takes_its_entry_over(
    quick: RegistryClient, port: int, instrument: list[str]
) -> None:
    here: dict[str, Any] = {"RSREG_ENDPOINT": quick.settings.req_endpoint}
    with Running(*words(port), *instrument, **here) as running:
        pid = int(running.line())
        before = quick.discover_service("TEMP", wait=20)
        assert before is not None
        running.process.kill()
        running.process.wait(20)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid))
    with Running(*words(port), *instrument, **here) as running:
        running.line()
        wait_until(lambda: len(quick.events_since(0)["events"]) == 3)
        kinds = [event["type"] for event in quick.events_since(0)["events"]]
        assert kinds == ["register", "replace", "register"]
        (service,) = quick.list_services()
        assert service.id == before.id
        running.end(signal.SIGTERM)


def test_it_is_registered_when_its_port_answers_and_not_before(
    quick: RegistryClient, port: int, instrument: list[str], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    late = ["sh", "-c", f'read line < {gate}; exec "$@"', "sh", *instrument]
    here: dict[str, Any] = {"RSREG_ENDPOINT": quick.settings.req_endpoint}
    with Running(*words(port), *late, **here) as running:
        with gate.open("w") as go:
            assert quick.list_services() == []
            go.write("now\n")
        running.line()
        assert quick.discover_service("TEMP", wait=20)
        running.end(signal.SIGTERM)


def test_the_registry_may_come_later(tmp_path: Path, port: int, instrument: list[str]) -> None:
    later = ServerProcess(tmp_path / "registry.db")
    with ServerProcess(tmp_path / "first.db") as first:
        later.ports = first.ports
    with Running(*words(port), *instrument, RSREG_ENDPOINT=later.endpoint) as running:
        running.line()
        with later, RegistryClient(later.endpoint, timeout=10) as client:
            assert client.discover_service("TEMP", wait=20)
            assert running.end(signal.SIGTERM)[0] == 7
            assert client.list_services() == []


def test_a_start_script_that_leaves_its_program_in_the_background(
    quick: RegistryClient, port: int, instrument: list[str], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = f'"$@" & read line < {gate}'
    here: dict[str, Any] = {"RSREG_ENDPOINT": quick.settings.req_endpoint}
    with Running(*words(port), "sh", "-c", script, "sh", *instrument, **here) as running:
        pid = int(running.line())
        try:
            assert quick.discover_service("TEMP", wait=20)
            gate.write_text("end\n")
            assert running.process.wait(20) == 0
            said = running.remark()
            assert said.startswith(
                f"sh ended but port {port} still answers: a program that it left"
            )
            assert 'with "exec"' in said
            assert alive(pid)
            assert quick.list_services() == []
        finally:
            os.kill(pid, signal.SIGKILL)


def test_the_first_process_of_a_container_reaps_what_is_left_to_it(
    quick: RegistryClient, port: int
) -> None:
    need("unshare", root=True)
    space = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    here: dict[str, Any] = {"RSREG_ENDPOINT": quick.settings.req_endpoint}
    command = program("instrument_with_orphans", port)
    with Running(*words(port), *command, command=[*space, *MODULE], **here) as running:
        assert running.line() == "1 0"
        running.line()
        assert quick.discover_service("TEMP", wait=20)
        unshare = running.process.pid
        first = int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text())
        for number in (signal.SIGHUP, signal.SIGUSR1):
            os.kill(first, number)
            assert running.line() == number.name
        os.kill(first, signal.SIGTERM)
        assert running.line() == "ends"
        assert running.process.wait(20) == 7
    assert quick.list_services() == []


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (["sh", "-c", "sleep 0.5 &"], 0, "sh ended before port {port} answered: a program that"),
        (["sh", "-c", "exit 3"], 3, "sh ended before port"),
        (["sh", "-c", "kill -9 $$"], 137, "sh ended before port"),
        (["/no/such/program"], 127, "error: can't run /no/such/program: No such file"),
        ([os.devnull], 126, "error: can't run /dev/null: Permission denied"),
    ],
)
def test_a_program_that_does_not_get_that_far(
    endpoint: str, client: RegistryClient, port: int, command: list[str], code: int, said: str
) -> None:
    done = rs_cs(*words(port), *command, RSREG_ENDPOINT=endpoint)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(said.format(port=port))
    assert client.events_since()["seq"] == 0


def test_a_port_that_answers_already_is_no_program_of_ours(
    endpoint: str, client: RegistryClient, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        started = tmp_path / "started"
        done = rs_cs(*words(taken), "touch", str(started), RSREG_ENDPOINT=endpoint)
    assert done.returncode == 5
    assert f"something answers on port {taken} before the program is started" in done.stderr
    assert not started.exists()
    assert client.events_since()["seq"] == 0


def test_a_refused_registration_ends_the_program(
    endpoint: str, client: RegistryClient, port: int, instrument: list[str]
) -> None:
    client.register("ls336", "egse3", 6000, "TEMP", exclusive=True)
    with Running(*words(port), *instrument, RSREG_ENDPOINT=endpoint) as running:
        pid = int(running.line())
        out, err = running.process.communicate(timeout=30)
        assert running.process.returncode == 5
    assert out == "ends\n"
    assert err.startswith("error: ls336 is registered already\n")
    assert not alive(pid)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ttl", "0.5"], "Invalid ttl"),
        (["--also", "log=0"], "log=0 is not NAME=PORT"),
        (["--also", "log"], "'log' is not KEY=VALUE."),
        (["--mode", "fake"], "Invalid value for '--mode'"),
        (["--port", "0"], "Invalid value for '--port'"),
    ],
)
def test_wrong_options_start_nothing(
    port: int, options: list[str], said: str, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    done = rs_cs(*words(port, *options), "touch", str(started), RSREG_ENDPOINT="127.0.0.1:1")
    assert done.returncode == 2
    assert said in done.stderr
    assert not started.exists()


def test_a_key_reaches_the_program_once(
    endpoint: str, client: RegistryClient, port: int, instrument: list[str]
) -> None:
    """Ctrl-C goes to all in the foreground; it is not passed on a second time."""
    with Terminal(*words(port), *instrument, RSREG_ENDPOINT=endpoint) as terminal:
        assert client.discover_service("TEMP", wait=20)
        terminal.type("\x03")
        terminal.until("SIGINT")
        terminal.process.send_signal(signal.SIGTERM)
        code, shown = terminal.end()
    assert code == 7
    assert shown.count("SIGINT") == 1
    assert json.loads(rs_cs("list", "--json", RSREG_ENDPOINT=endpoint).stdout)["services"] == []
