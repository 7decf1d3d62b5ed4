"""The client side without what Windows does not have.

There is no Windows here: a Python that lacks its modules and functions (windows/sitecustomize.py)
stands for one, against a server elsewhere. What only the system itself can show is not shown.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rsreg import RegistryClient
from tests.helpers import ROOT, printed, program, program_environment, wait_until

WHERE = f"{ROOT / 'tests' / 'windows'}:{ROOT}"


RS_CS = [sys.executable, "-m", "rsreg"]


def windows(command: list[str], **variables: str) -> subprocess.Popen[str]:
    """Start a Python that takes itself for one on Windows."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=program_environment(PYTHONPATH=WHERE, NO_COLOR="1", **variables),
    )


def said(process: subprocess.Popen[str], text: str = "") -> str:
    """All that it prints until it ends as it should."""
    out, err = process.communicate(text, timeout=60)
    assert process.returncode == 0, err
    return out


def test_it_stands_for_a_windows() -> None:
    process = windows(program("lacking_on_windows"))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.split()) == (99, ["pwd", "fcntl", "resource"])
    assert "would have ended it" in err


@pytest.mark.parametrize("heartbeat", ["thread", "process"])
def test_a_driver(client: RegistryClient, endpoint: str, heartbeat: str) -> None:
    process = windows(program("driver_in_steps", endpoint, heartbeat))
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
    process = windows(program("driver_that_names_its_helper", endpoint))
    helper = Path(f"/proc/{printed(process)}")
    assert helper.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not helper.exists() or " Z " in (helper / "stat").read_text())
    wait_until(lambda: client.list_services() == [])


def test_an_owner_that_is_gone_is_replaced(client: RegistryClient, endpoint: str) -> None:
    """And one that lives is not: what the other way to ask says of both."""
    first, second = (
        windows(program("register_with_known_node", endpoint, port)) for port in ("5000", "5001")
    )
    ids = {printed(first), printed(second)}
    assert {service.id for service in client.list_services()} == ids
    owners = [service.owner for service in client.list_services()]
    assert [owner["namespace"] for owner in owners] == ["win32", "win32"]
    assert all(owner["started"] > 1e9 for owner in owners)
    for process in (first, second):
        said(process, "\n")
    third = windows(program("register_with_known_node", endpoint, 5002))
    assert printed(third) in ids
    assert [service.port for service in client.list_services()] == [5002]
    said(third, "\n")


def test_questions_a_cache_and_events(client: RegistryClient, endpoint: str) -> None:
    client.register("puna_cs", "lab1", 5000, "PUNA")
    assert said(windows(program("questions_and_events", endpoint))) == (
        "register tcp://lab1:5000 True\npuna_cs puna_cs\n['stage']\n"
    )


def test_the_commands(client: RegistryClient, endpoint: str) -> None:
    here = {"RSREG_ENDPOINT": endpoint}
    client.register("puna_cs", "lab1", 5000, "PUNA")
    assert said(windows([*RS_CS, "discover", "PUNA", "--endpoint"], **here)) == "tcp://lab1:5000\n"
    assert "puna_cs" in said(windows([*RS_CS, "list"], **here))
    assert "puna_cs" in said(windows([*RS_CS, "wait", "PUNA"], **here))
    assert endpoint.rpartition(":")[2] in said(windows([*RS_CS, "status"], **here))
    port = _free_port()
    words = ["run", "--name", "cam", "--type", "CAM", "--port", port, "--"]
    running = windows([*RS_CS, *words, *program("accept_once", port)], **here)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err


def test_a_server_is_refused_in_a_sentence() -> None:
    for words in (["start", "--dev"], ["start", "--background"]):
        process = windows([*RS_CS, *words])
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        assert err.startswith("error: the server of the registry runs on Linux and macOS")
        assert "Traceback" not in err
    assert "set RSREG_ENDPOINT" in said(windows(program("refused_server")))


def _free_port() -> str:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])
