"""A heartbeat in a process of its own: it beats when its driver can't, and ends with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from rsreg import RegistryClient
from tests.helpers import (
    PATCHED,
    ServerProcess,
    printed,
    program,
    program_environment,
    scripted_server,
    start_program,
    wait_until,
)
from tests.usage import children


def runs(pid: int) -> bool:
    """Whether there is such a process, that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def helpers_of(pid: int) -> list[int]:
    """The heartbeat processes of a driver."""
    found = []
    for child in children(pid):
        command = Path(f"/proc/{child}/cmdline")
        if (
            command.exists()
            and b"rsreg.client.registration.heartbeat_process" in command.read_bytes()
        ):
            found.append(child)
    return found


@contextmanager
def driver(
    endpoint: str, action: str, *, ttl: float = 1.5, options: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A driver whose heartbeat is a process; it does `action` once it is registered."""
    process = start_program("driver_with_heartbeat_process", endpoint, ttl, action, options=options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("options", [(), PATCHED], ids=["plain", "patched"])
def test_it_beats_while_c_code_holds_the_interpreter(
    client: RegistryClient, endpoint: str, options: Sequence[str]
) -> None:
    # A helper that is about to start has no time to lose on a loaded machine.
    with driver(endpoint, "hold", ttl=2, options=options) as process:
        printed(process)
        wait_until(lambda: helpers_of(process.pid))
        first = client.list_services()[0]["last_heartbeat"]
        wait_until(lambda: client.list_services()[0]["last_heartbeat"] > first)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert client.discover_service("PUNA") is not None
            time.sleep(0.05)
        assert printed(process) == "back"
        process.wait(20)
    kinds = [event["type"] for event in client.events_since(0)["events"]]
    assert kinds == ["register", "deregister"]


@pytest.mark.parametrize("action", ["wait", "fork"], ids=["alone", "forked"])
def test_it_ends_with_its_driver(client: RegistryClient, endpoint: str, action: str) -> None:
    with driver(endpoint, action, ttl=60) as process:
        printed(process)
        (helper,) = wait_until(lambda: helpers_of(process.pid))
        process_group = [helper]
        child = int(printed(process)) if action == "fork" else 0
        process.send_signal(signal.SIGKILL)
        process.wait()
        try:
            wait_until(lambda: not any(map(runs, process_group)))
        finally:
            if child:
                os.kill(child, signal.SIGKILL)
    assert len(client.list_services()) == 1, "that is the business of the ttl"


def test_it_ends_if_its_driver_ended_before_it_said_a_word() -> None:
    """The pipe is held by another, as by a forked child; nothing ever comes of it."""
    here, there = socket.socketpair()
    with here, there:
        starter = subprocess.run(
            program("starter_of_heartbeat_process"),
            stdin=there.fileno(),
            stdout=subprocess.PIPE,
            text=True,
            env=program_environment(),
            check=True,
        )
        wait_until(lambda: not runs(int(starter.stdout)))


def test_it_is_gone_when_the_block_is_left(client: RegistryClient, endpoint: str) -> None:
    with driver(endpoint, "leave") as process:
        printed(process)
        (helper,) = wait_until(lambda: helpers_of(process.pid))
        assert process.stdin is not None
        started = time.monotonic()
        process.stdin.write("\n")
        process.stdin.flush()
        assert printed(process) == "left"
        assert time.monotonic() - started < 5
        assert not runs(helper)
        assert client.list_services() == []


def test_another_starts_if_it_dies(client: RegistryClient, endpoint: str) -> None:
    with driver(endpoint, "wait", ttl=4) as process:
        printed(process)
        (helper,) = wait_until(lambda: helpers_of(process.pid))
        os.kill(helper, signal.SIGKILL)
        wait_until(lambda: helpers_of(process.pid) not in ([helper], []))
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert client.discover_service("PUNA") is not None
            time.sleep(0.05)
        assert len(helpers_of(process.pid)) == 1


def test_an_interrupt_is_for_the_driver(client: RegistryClient, endpoint: str) -> None:
    with driver(endpoint, "be interrupted") as process:
        printed(process)
        printed(process)
        (helper,) = wait_until(lambda: helpers_of(process.pid))
        # As from a terminal: to both.
        os.kill(helper, signal.SIGINT)
        os.kill(process.pid, signal.SIGINT)
        assert printed(process) == "interrupted"
        time.sleep(0.5)
        assert helpers_of(process.pid) == [helper]
        process.communicate("", timeout=20)
        assert client.list_services() == []


def test_it_holds_nothing_of_the_drivers(endpoint: str) -> None:
    with driver(endpoint, "wait") as process:
        printed(process)
        (helper,) = wait_until(lambda: helpers_of(process.pid))

        def held() -> list[str]:
            found = []
            for path in Path(f"/proc/{helper}/fd").iterdir():
                with suppress(FileNotFoundError):
                    found.append(os.readlink(path))
            return found

        # Once it has a connection, it is past that.
        wait_until(lambda: any("eventfd" in path for path in held()))
        assert "/dev/zero" not in held()


def test_it_says_what_the_driver_says(client: RegistryClient, endpoint: str) -> None:

    def record() -> dict[str, Any]:
        (service,) = client.list_services()
        return service

    with driver(endpoint, "change", ttl=60) as process:
        printed(process)
        wait_until(lambda: record().get("status", {}).get("progress") == 0.4)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        wait_until(lambda: record()["status"].get("max") == 60)
        assert record()["metadata"] == {"version": "2"}
        process.stdin.write("\n")
        process.stdin.flush()
        wait_until(lambda: record()["status"]["text"] == "cooling")
        process.communicate("\n", timeout=20)
    kinds = [event["type"] for event in client.events_since(0)["events"]]
    assert kinds == ["register", "update", "deregister"]


def test_a_registry_that_is_away_is_waited_for(
    process: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rsreg")
    process.store = None
    process.start()
    process.kill()
    impatient = RegistryClient(process.endpoint, timeout=0.3)
    with impatient, impatient.registered("puna_cs", port=5000, ttl=1.5, heartbeat="process") as it:
        process.start()
        service_id = wait_until(lambda: it.service_id)
        wait_until(lambda: helpers_of(os.getpid()))
        with RegistryClient(process.endpoint, timeout=10) as client:
            assert client.get_service(service_id) is not None
            caplog.clear()
            process.kill()
            wait_until(lambda: "heartbeat failed" in caplog.text)
            process.start()
            # It is the helper that brings it back, to a registry that is empty.
            wait_until(lambda: client.get_service(service_id))
            wait_until(lambda: "the registry answers again" in caplog.text)
            assert len(caplog.records) == 2, caplog.text
        impatient.settings.timeout = 10
    assert helpers_of(os.getpid()) == []


def test_a_main_loop_that_feeds_costs_no_beats() -> None:
    asked: list[str] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request["action"])
        return {"success": True, "services": [], "service_id": "puna-1", "bind": "*"}

    with (
        scripted_server(answer) as endpoint,
        RegistryClient(endpoint, timeout=10) as client,
        client.registered("puna_cs", port=5000, ttl=60, watchdog=1, heartbeat="process") as puna,
    ):
        while "renew" not in asked:
            puna.feed()
            time.sleep(0.01)
        before = asked.count("renew")
        until = time.monotonic() + 2
        while time.monotonic() < until:
            puna.feed()
            time.sleep(0.01)
        assert asked.count("renew") - before <= 6


def test_what_its_driver_does_not_read_stops_no_beat() -> None:
    process = start_program("log_that_nobody_reads")
    try:
        assert printed(process) == "done"
    finally:
        process.kill()
        process.communicate()
