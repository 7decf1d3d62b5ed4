"""The client side without what Windows does not have.

There is no Windows here: a Python that lacks its modules and functions (windows/sitecustomize.py)
stands for one, against a server elsewhere. What only the system itself can show is not shown.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rsreg import RegistryClient
from tests.helpers import ROOT, printed, wait_until

WHERE = f"{ROOT / 'tests' / 'windows'}:{ROOT}"


def windows(*words: str, code: str | None = None, **variables: str) -> subprocess.Popen[str]:
    """A Python that takes itself for one on Windows: some code, or words of `rs_cs`."""
    command = ["-c", f"import sys\n{code}"] if code else ["-m", "rsreg"]
    return subprocess.Popen(
        [sys.executable, *command, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": WHERE, "NO_COLOR": "1", **variables},
    )


def said(process: subprocess.Popen[str], text: str = "") -> str:
    """All that it prints until it ends as it should."""
    out, err = process.communicate(text, timeout=60)
    assert process.returncode == 0, err
    return out


def test_it_stands_for_a_windows() -> None:
    code = """
import os
assert sys.platform == "win32" and not hasattr(os, "fork")
for name in ("pwd", "fcntl", "resource"):
    try:
        __import__(name)
    except ImportError:
        print(name)
sys.stdout.flush()
os.kill(os.getpid(), 0)
"""
    process = windows(code=code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.split()) == (99, ["pwd", "fcntl", "resource"])
    assert "would have ended it" in err


@pytest.mark.parametrize("heartbeat", ["thread", "process"])
def test_a_driver(client: RegistryClient, endpoint: str, heartbeat: str) -> None:
    code = """
from rsreg import RegistryClient
client = RegistryClient(sys.argv[1], timeout=10)
with client.registered("puna_cs", port=5000, service_type="PUNA", ttl=4, watchdog=60,
                       heartbeat=sys.argv[2]) as puna:
    print("up", flush=True)
    sys.stdin.readline()
    puna.status("homing", progress=0.5)
    sys.stdin.readline()
print("left", flush=True)
"""
    process = windows(endpoint, heartbeat, code=code)
    try:
        printed(process)
        service = client.list_services()[0]
        assert service.owner["pid"] == process.pid
        assert set(service.owner) >= {"host", "user", "program", "pid"}
        first = service.last_heartbeat
        wait_until(lambda: client.list_services()[0].last_heartbeat > first, 30)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        wait_until(lambda: client.list_services()[0].get("status", {}).get("progress") == 0.5)
        assert said(process, "\n") == "left\n"
    finally:
        process.kill()
        process.communicate()
    assert client.list_services() == []


def test_a_heartbeat_process_ends_with_its_driver(client: RegistryClient, endpoint: str) -> None:
    code = """
from rsreg import RegistryClient
import psutil
client = RegistryClient(sys.argv[1], timeout=10)
client.registered("puna_cs", port=5000, ttl=3, heartbeat="process").__enter__()
while not (children := psutil.Process().children()):
    pass
print(children[0].pid, flush=True)
sys.stdin.readline()
"""
    process = windows(endpoint, code=code)
    helper = Path(f"/proc/{printed(process)}")
    assert helper.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not helper.exists() or " Z " in (helper / "stat").read_text())
    wait_until(lambda: client.list_services() == [])


def test_an_owner_that_is_gone_is_replaced(client: RegistryClient, endpoint: str) -> None:
    """And one that lives is not: what the other way to ask says of both."""
    code = """
import uuid
uuid.getnode = lambda: 0x0242AC110002  # Not made up, whatever network this machine has.
from rsreg import RegistryClient
client = RegistryClient(sys.argv[1], timeout=10)
print(client.register("puna_cs", "lab1", int(sys.argv[2]), "PUNA"), flush=True)
sys.stdin.readline()
"""
    first, second = (windows(endpoint, port, code=code) for port in ("5000", "5001"))
    ids = {printed(first), printed(second)}
    assert {service.id for service in client.list_services()} == ids
    owners = [service.owner for service in client.list_services()]
    assert [owner["namespace"] for owner in owners] == ["win32", "win32"]
    assert all(owner["started"] > 1e9 for owner in owners)
    for process in (first, second):
        said(process, "\n")
    third = windows(endpoint, "5002", code=code)
    assert printed(third) in ids
    assert [service.port for service in client.list_services()] == [5002]
    said(third, "\n")


def test_questions_a_cache_and_events(client: RegistryClient, endpoint: str) -> None:
    client.register("puna_cs", "lab1", 5000, "PUNA")
    code = """
import asyncio
from rsreg import AsyncRegistryClient, RegistryClient, ServiceCache
with RegistryClient(sys.argv[1], timeout=10) as client, ServiceCache(sys.argv[1]) as cache:
    events = client.watch(since=0, epoch=client.events_since()["epoch"])
    print(next(events)["type"], client.get_endpoint("PUNA"), client.health_check())
    near = client.discover_service("PUNA", strategy="same-host")
    print(near.name, cache.discover_service("PUNA").name)

async def main():
    async with AsyncRegistryClient(sys.argv[1], timeout=10) as client:
        async with client.registered("stage", port=5001, service_type="STAGE"):
            print([one.name for one in await client.list_services("STAGE")])

asyncio.run(main())
"""
    assert said(windows(endpoint, code=code)) == (
        "register tcp://lab1:5000 True\npuna_cs puna_cs\n['stage']\n"
    )


def test_the_commands(client: RegistryClient, endpoint: str, tmp_path: Path) -> None:
    here = {"RSREG_ENDPOINT": endpoint}
    client.register("puna_cs", "lab1", 5000, "PUNA")
    assert said(windows("discover", "PUNA", "--endpoint", **here)) == "tcp://lab1:5000\n"
    assert "puna_cs" in said(windows("list", **here))
    assert "puna_cs" in said(windows("wait", "PUNA", **here))
    assert endpoint.rpartition(":")[2] in said(windows("status", **here))
    program = "import socket\nsocket.create_server(('127.0.0.1', int(__import__('sys').argv[1])))"
    script = tmp_path / "program.py"
    script.write_text(f"{program}.accept()[0].recv(1)\n")
    words = ["run", "--name", "cam", "--type", "CAM", "--port", "0", "--", sys.executable]
    words[words.index("0")] = port = _free_port()
    running = windows(*words, str(script), port, **here)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err


def test_a_server_is_refused_in_a_sentence() -> None:
    for words in (["start", "--dev"], ["start", "--background"]):
        process = windows(*words)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        assert err.startswith("error: the server of the registry runs on Linux and macOS")
        assert "Traceback" not in err
    code = """
from rsreg import RegistryServer
from rsreg.errors import ConfigurationError
try:
    RegistryServer(0, 0)
except ConfigurationError as error:
    print(error.hint)
"""
    assert "set RSREG_ENDPOINT" in said(windows(code=code))


def _free_port() -> str:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])
