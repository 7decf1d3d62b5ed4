"""A heartbeat in a process of its own: it beats when its driver can't, and ends with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from rsreg import RegistryClient
from tests.helpers import ROOT, ServerProcess, printed, python_process, scripted_server, wait_until
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
    endpoint: str, code: str, *, ttl: float = 1.5, before: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """A driver whose heartbeat is a process; `code` runs in its block, once its helper beats."""
    body = "\n".join(f"    {line}" for line in code.strip().splitlines())
    process = python_process(
        f"""
{before}
import ctypes, os, time
from rsreg import RegistryClient
client = RegistryClient(sys.argv[1], timeout=10)
with client.registered("puna_cs", port=5000, service_type="PUNA", ttl=float(sys.argv[2]),
                       heartbeat="process") as puna:
    print("up", flush=True)
{body}
""",
        endpoint,
        ttl,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


WAIT = "sys.stdin.read()"
#: `usleep` by a library that does not let go of the interpreter's lock.
HOLD = """
sys.stdin.readline()
ctypes.PyDLL(None).usleep(6_000_000)
print("back", flush=True)
"""


@pytest.mark.parametrize("before", ["", "from gevent import monkey; monkey.patch_all()"])
def test_it_beats_while_c_code_holds_the_interpreter(
    client: RegistryClient, endpoint: str, before: str
) -> None:
    # A helper that is about to start has no time to lose on a loaded machine.
    with driver(endpoint, HOLD, ttl=2, before=before) as process:
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


FORKED = """
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("code", [f"print(0)\n{WAIT}", FORKED], ids=["alone", "forked"])
def test_it_ends_with_its_driver(client: RegistryClient, endpoint: str, code: str) -> None:
    with driver(endpoint, code, ttl=60) as process:
        printed(process)
        (helper,) = wait_until(lambda: helpers_of(process.pid))
        process_group = [helper]
        child = int(printed(process)) if code is FORKED else 0
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
        code = """
import os, subprocess
module = "rsreg.client.registration.heartbeat_process"
helper = subprocess.Popen([sys.executable, "-m", module, str(os.getpid())],
                          stdin=0, stdout=subprocess.DEVNULL)
print(helper.pid, flush=True)
os._exit(0)
"""
        starter = subprocess.run(
            [sys.executable, "-c", f"import sys\n{code}"],
            stdin=there.fileno(),
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
        wait_until(lambda: not runs(int(starter.stdout)))


def test_it_is_gone_when_the_block_is_left(client: RegistryClient, endpoint: str) -> None:
    code = """
sys.stdin.readline()
puna.__exit__()
print("left", flush=True)
sys.stdin.readline()
"""
    with driver(endpoint, code) as process:
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
    with driver(endpoint, WAIT, ttl=4) as process:
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
    code = """
try:
    print("waiting", flush=True)
    while True:
        time.sleep(0.05)
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.read()
"""
    with driver(endpoint, code) as process:
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
    before = "import os\nfd = os.open('/dev/zero', os.O_RDONLY)\nos.set_inheritable(fd, True)"
    with driver(endpoint, WAIT, before=before) as process:
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
    code = """
puna.status("cooling", progress=0.4)
sys.stdin.readline()
puna.update(metadata={"version": "2"})
with puna.busy("homing", max=60):
    sys.stdin.readline()
sys.stdin.readline()
"""

    def record() -> dict[str, Any]:
        (service,) = client.list_services()
        return service

    with driver(endpoint, code, ttl=60) as process:
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
    program = """
import logging, os, socket
from rsreg.client.registration.heartbeat_process import _ToParent
said = os.dup(1)
here, there = socket.socketpair()
os.dup2(there.fileno(), 1)
handler = _ToParent()
for _ in range(10_000):
    handler.emit(logging.makeLogRecord({"msg": 100 * "x"}))
os.write(said, b"done\\n")
"""
    process = python_process(program)
    try:
        assert printed(process) == "done"
    finally:
        process.kill()
        process.communicate()
