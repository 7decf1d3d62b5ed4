"""Programs in which `sys.executable` is no Python: packed ones, embedded ones, wrappers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rsreg import RegistryClient
from tests.helpers import printed, python_process, wait_until
from tests.usage import children

PACKED = "sys.frozen = True"
COMPILED = "__compiled__ = True"
EMBEDDED = "sys.executable = '/usr/bin/uwsgi'"
NAMELESS = "sys.executable = ''"
#: What each of them asks for that needs a Python.
HEARTBEAT = """
from rsreg import RegistryClient
RegistryClient(sys.argv[1]).registered("puna_cs", port=5000, heartbeat="process").__enter__()
"""
BACKGROUND = """
from rsreg.admin.server_process import start_in_background
from rsreg.server.settings import ServerSettings
start_in_background(ServerSettings(0, 0, bind="127.0.0.1", db=":memory:"))
"""
ASKING = """
import os
from rsreg.errors import ConfigurationError
try:
{wanted}
except ConfigurationError as error:
    print(error, "-", error.hint, flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("wanted", [HEARTBEAT, BACKGROUND], ids=["heartbeat", "server"])
@pytest.mark.parametrize(
    ("program", "why"),
    [
        (PACKED, "this program is packed"),
        (COMPILED, "this program is packed"),
        (EMBEDDED, "sys.executable is '/usr/bin/uwsgi'"),
        (NAMELESS, "sys.executable is ''"),
    ],
)
def test_what_would_start_the_program_again_is_refused(
    endpoint: str, client: RegistryClient, program: str, why: str, wanted: str
) -> None:
    body = ASKING.format(wanted="\n".join(f"    {line}" for line in wanted.splitlines()))
    process = python_process(f"{program}\n{body}", endpoint)
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
    code = "from rsreg import config\nprint(config.python_program('this'))"
    process = python_process(f"sys.executable = '/opt/bin/{name}'\n{code}")
    assert process.communicate(timeout=60)[0] == f"/opt/bin/{name}\n"


#: Whatever it is asked to do, it starts the program again, and notes that.
WRAPPER = """#!/bin/sh
echo started >> {log}
exec {python} {program} {endpoint} 2>/dev/null
"""
DRIVER = """
import logging, os, sys, time
logging.basicConfig(format="%(message)s")
sys.executable = {wrapper!r}
from rsreg import RegistryClient
client = RegistryClient(sys.argv[1], timeout=10)
with client.registered("puna_cs", port=5000, ttl=60, heartbeat="process"):
    print("up", flush=True)
    sys.stdin.readline()
"""


def test_a_wrapper_that_starts_the_program_again_is_found_out(
    client: RegistryClient, endpoint: str, tmp_path: Path
) -> None:
    """Named like a Python, it is tried; then a thread beats, and one line says so."""
    log, wrapper, program = (tmp_path / name for name in ("log", "python", "driver.py"))
    names = {"log": log, "python": sys.executable, "program": program, "endpoint": endpoint}
    wrapper.write_text(WRAPPER.format(**names))
    wrapper.chmod(0o755)
    program.write_text(DRIVER.format(wrapper=str(wrapper)))
    process = subprocess.Popen(
        [sys.executable, str(program), endpoint],
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
