"""Programs in which `sys.executable` is no Python: packed ones, embedded ones, wrappers."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from rsreg import RegistryClient
from tests.helpers import printed, program, start_program, wait_until
from tests.usage import children


@pytest.mark.parametrize("what", ["heartbeat", "server"])
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("packed", "this program is packed"),
        ("compiled", "this program is packed"),
        ("embedded", "sys.executable is '/usr/bin/uwsgi'"),
        ("nameless", "sys.executable is ''"),
    ],
)
def test_what_would_start_the_program_again_is_refused(
    endpoint: str, client: RegistryClient, kind: str, why: str, what: str
) -> None:
    process = start_program("need_python", endpoint, kind, what)
    try:
        line = printed(process)
        assert "needs a Python interpreter to start, and none is known: " + why in line
        assert "heartbeat thread" in line
        assert children(process.pid) == []
    finally:
        process.kill()
        process.communicate()
    assert client.list_services() == []


@pytest.mark.parametrize(
    "name", ["python", "python3", "python3.13t", "pypy3.10", "pythonw.exe", "mayapy", "hython3.11"]
)
def test_what_is_called_like_a_python_is_one(name: str) -> None:
    process = start_program("python_of_a_name", f"/opt/bin/{name}")
    assert process.communicate(timeout=60)[0] == f"/opt/bin/{name}\n"


#: Whatever it is asked to do, it starts the program again, and notes that.
WRAPPER = """#!/bin/sh
echo started >> {log}
exec {command} 2>/dev/null
"""


def test_a_wrapper_that_starts_the_program_again_is_found_out(
    client: RegistryClient, endpoint: str, tmp_path: Path
) -> None:
    """Named like a Python, it is tried; then a thread beats, and one line says so."""
    log, wrapper = tmp_path / "log", tmp_path / "python"
    command = program("wrapped_driver", endpoint, wrapper)
    wrapper.write_text(WRAPPER.format(log=log, command=shlex.join(command)))
    wrapper.chmod(0o755)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        printed(process)
        (service,) = client.list_services()
        assert process.stderr is not None
        said = process.stderr.readline()
        wait_until(lambda: client.list_services()[0].last_heartbeat > service.last_heartbeat, 40)
        _, err = process.communicate("\n", timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert "can't start a heartbeat process, a thread sends the heartbeats instead: " in said
    assert f"{wrapper} does not start one" in said
    assert err == "", "one line is enough"
    assert log.read_text().split() == ["started"] * 3
    assert [event["type"] for event in client.events_since(0)["events"]] == [
        "register",
        "deregister",
    ]
