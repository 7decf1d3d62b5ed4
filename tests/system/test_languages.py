"""The drivers in other languages in docs/examples, where there are tools to run them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from rsreg import RegistryClient
from tests.helpers import (
    ROOT,
    ServerProcess,
    killed_at_the_end,
    need,
    present,
    raw_socket,
    received,
    wait_until,
)

EXAMPLES = ROOT / "docs" / "examples"
#: Where Debian has what Java programs use.
JARS = [Path("/usr/share/java/jeromq.jar"), Path("/usr/share/java/gson.jar")]


def missing(what: str) -> None:
    """Skip, or with CI set fail, since a library is not there."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {what}: see .ci/run")


def c(folder: Path) -> list[str]:
    """The command that runs the driver in C."""
    need("cc")
    headers = ["-include", "zmq.h", "-include", "cjson/cJSON.h"]
    found = subprocess.run(
        ["cc", "-E", *headers, "-x", "c", "/dev/null"], capture_output=True, check=False
    )
    if found.returncode:
        missing("libzmq3-dev and libcjson-dev")
    options = ["-Wall", "-Wextra", "-Werror", "-lzmq", "-lcjson"]
    subprocess.run(
        ["cc", EXAMPLES / "driver.c", "-o", folder / "driver", *options], check=True, timeout=60
    )
    return [str(folder / "driver")]


def javascript(folder: Path) -> list[str]:
    """The command that runs the driver in JavaScript."""
    need("node")
    modules = Path(os.environ.get("NODE_PATH", "nowhere"))
    if not (modules / "zeromq").is_dir():
        missing("the npm package zeromq@6 in NODE_PATH")
    # Modules are looked for beside the program.
    (folder / "node_modules").symlink_to(modules)
    return ["node", str(shutil.copy(EXAMPLES / "driver.mjs", folder))]


def java(_folder: Path) -> list[str]:
    """The command that runs the driver in Java."""
    if shutil.which("javac") is None or not all(jar.exists() for jar in JARS):
        pytest.skip("needs javac, libjeromq-java and libgoogle-gson-java")
    return ["java", "-cp", ":".join(map(str, JARS)), str(EXAMPLES / "Driver.java")]


def octave(folder: Path) -> list[str]:
    """The command that runs the driver for MATLAB in Octave."""
    machine = shutil.which("java")
    if shutil.which("octave-cli") is None or machine is None or not JARS[0].exists():
        pytest.skip("needs octave, java and libjeromq-java")
    script = folder / "octave"
    script.write_text(
        f"#!/bin/sh\ncd {folder}\nJAVA_HOME={Path(machine).resolve().parents[1]} exec octave-cli -q"
        f' --eval "javaaddpath {JARS[0]}; addpath {EXAMPLES}; driver $*"\n'
    )
    script.chmod(0o755)
    return [str(script)]


Language = Callable[[Path], list[str]]
every_language = pytest.mark.parametrize("language", [c, javascript, java, octave])


@contextmanager
def driver(command: list[str], endpoint: str) -> Iterator[subprocess.Popen[bytes]]:
    """A driver `psu_cs` with a ttl of 3 s, running."""
    environment = {**os.environ, "RSREG_ENDPOINT": endpoint}
    environment.pop("RSREG_ADVERTISE", None)
    process = subprocess.Popen([*command, "psu_cs", "PSU", "3"], env=environment)
    with killed_at_the_end(process):
        yield process


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    """One with a store that is empty after each start."""
    with ServerProcess() as server:
        yield server


@every_language
def test_a_driver_in_another_language(
    language: Language, server: ServerProcess, tmp_path: Path
) -> None:
    command = language(tmp_path)
    with (
        RegistryClient(server.endpoint, timeout=10) as client,
        driver(command, server.endpoint.removeprefix("tcp://")) as process,
    ):
        first = present(wait_until(lambda: client.discover_service("PSU")))
        with raw_socket(zmq.REQ, f"tcp://{first['host']}:{first['port']}") as socket:
            socket.send(b"home")
            assert received(socket)[0].startswith(b"done")
        beat = first["last_heartbeat"]
        wait_until(lambda: client.list_services()[0]["last_heartbeat"] > beat)
        server.kill()
        asked = swallowed(server.endpoint)
        assert asked[0] == asked[1], "the same request is sent again"
        server.start()
        again = present(wait_until(lambda: client.discover_service("PSU")))
        assert (again["id"], again["port"]) == (first["id"], first["port"])
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        events = [event["type"] for event in client.events_since(0)["events"]]
        assert events == ["register", "deregister"]


@every_language
def test_a_driver_in_another_language_ends_without_a_registry(
    language: Language, server: ServerProcess, tmp_path: Path
) -> None:
    """What was given up is not waited for."""
    with (
        RegistryClient(server.endpoint, timeout=10) as client,
        driver(language(tmp_path), server.endpoint) as process,
    ):
        present(wait_until(lambda: client.discover_service("PSU")))
        server.kill()
        swallowed(server.endpoint)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        process.wait(20)
        assert time.monotonic() - started < 10


def swallowed(endpoint: str) -> list[object]:
    """Two requests that come to where the registry was, and get no answer."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    with socket:
        socket.linger = 0
        wait_until(lambda: bound(socket, endpoint))
        messages = [received(socket) for _ in range(2)]
    assert messages[0][0] != messages[1][0], "on a connection of its own, nothing else queued"
    return [json.loads(message[-1]) for message in messages]


def bound(socket: zmq.Socket[bytes], endpoint: str) -> bool:
    """Whether a socket could be bound."""
    try:
        socket.bind(endpoint)
    except zmq.ZMQError:
        return False
    return True
