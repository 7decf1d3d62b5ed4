"""Nobody has to read what we write: full pipes, full disks, closed descriptors, forks."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rsreg import RegistryClient
from rsreg.system.line_writer import MOST_LINES, Writer
from tests.commands import MODULE, Running, Terminal, environment
from tests.helpers import ServerProcess, free_port, wait_until

FULL = Path("/dev/full")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe with little room."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def left_out(count: int) -> str:
    return f"{count} are missing"


def lines_of(reading: int, last: str) -> list[str]:
    """All lines up to that one."""
    said = b""
    while not said.endswith(f"{last}\n".encode()):
        said += os.read(reading, 65536)
    return said.decode().splitlines()


@pytest.mark.unmeasured
def test_a_writer_never_waits_and_tells_what_is_missing(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = Writer(writing, left_out)
    for number in range(3 * MOST_LINES):
        writer.write(f"{number:040}")
    assert not writer.flush(0.05)
    said = ""
    while not said.endswith("are missing\n"):
        said += os.read(reading, 4096).decode()
    missing = int(said.splitlines()[-1].split()[0])
    assert MOST_LINES < missing <= 2 * MOST_LINES
    writer.write("it flows again")
    assert lines_of(reading, "it flows again") == ["it flows again"]
    assert writer.flush(10)


def test_a_line_that_can_t_be_written_harms_nobody() -> None:
    with FULL.open("wb") as full:
        writer = Writer(full.fileno(), left_out)
        writer.write("one")
        wait_until(lambda: writer.flush(0.1))
        writer.write("two")
        assert writer.flush(10)


def test_a_forked_child_writes_its_own_lines(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = Writer(writing, left_out)
    writer.write("of the parent")
    assert writer.flush(10)
    child = os.fork()
    if child == 0:
        writer.write("of the child")
        os._exit(0 if writer.flush(10) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert lines_of(reading, "of the child") == ["of the parent", "of the child"]


# -- the server


def start(**streams: Any) -> subprocess.Popen[bytes]:
    """A registry of its own, which logs each change."""
    return subprocess.Popen[bytes](
        [*MODULE, "start", "--dev", "--req-port", "0", "--pub-port", "0", "--json"],
        env=environment(),
        **streams,
    )


def serves_many(endpoint: str) -> None:
    """Make more changes than fit into any pipe; each is answered."""
    ids = [letter * 400 for letter in "abcde"]
    with RegistryClient(endpoint, timeout=10) as client:
        for number in range(2_000):
            client.register("n" * 200, "lab1", 5000, "T", service_id=ids[number % 5], owned=False)
        assert client.health_check()


def test_a_server_whose_log_nobody_reads_serves_on() -> None:
    process = start(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stderr
        serves_many(json.loads(process.stdout.readline())["endpoint"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, "it does not wait for its log at the end either"
    finally:
        process.kill()
        process.communicate()


def test_a_server_whose_log_is_read_late_says_how_much_is_missing() -> None:
    process = start(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stderr
        serves_many(json.loads(process.stdout.readline())["endpoint"])
        while b"lines are missing here" not in (line := process.stderr.readline()):
            assert line
    finally:
        process.kill()
        process.communicate()


def test_a_server_that_can_write_nothing_at_all_serves() -> None:
    """Its announcement stands in a pipe that is full already, its log on a full disk."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while os.write(writing, bytes(4096)):
            pass
    os.set_blocking(writing, True)
    port = free_port()
    with FULL.open("wb") as full:
        process = subprocess.Popen(
            [*MODULE, "start", "--dev", "--req-port", str(port), "--pub-port", "0"],
            env=environment(),
            stdout=writing,
            stderr=full,
        )
    try:
        with RegistryClient(f"127.0.0.1:{port}", timeout=1) as client:
            wait_until(client.health_check)
        serves_many(f"127.0.0.1:{port}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


def test_a_server_with_a_terminal_under_ctrl_s_serves() -> None:
    port = free_port()
    words = ("start", "--dev", "--req-port", str(port), "--pub-port", "0")
    with Terminal(*words) as terminal:
        terminal.until("Ctrl-C stops it")
        terminal.type("\x13")
        serves_many(f"127.0.0.1:{port}")
        terminal.type("\x11")
        terminal.until("lines are missing here")


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&- 2>/dev/full", "2>&-"])
def test_a_server_with_closed_streams_serves_and_writes_into_no_other_file(
    closed: str, tmp_path: Path
) -> None:
    port = free_port()
    store = tmp_path / "r.db"
    words = ["--req-port", str(port), "--pub-port", "0", "--bind", "127.0.0.1", "--db", str(store)]
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *MODULE, "start", *words],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with RegistryClient(f"127.0.0.1:{port}", timeout=1) as client:
            wait_until(client.health_check)
            client.register("a", "lab1", 5000, owned=False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    with ServerProcess(store) as server, RegistryClient(server.endpoint) as client:
        assert [one.name for one in client.list_services()] == ["a"]


# -- the commands


@pytest.mark.parametrize(
    ("to", "error"),
    [
        (">/dev/full", "error: can't write the answer: No space left on device\n"),
        (">&-", "error: can't write the answer: stdout is closed\n"),
        ("| true", ""),
        (">/dev/full 2>&1", ""),
        (">&- 2>&-", ""),
    ],
)
@pytest.mark.parametrize("words", ["list", "get a", "status --json", "discover T --endpoint"])
def test_an_answer_that_can_t_be_written_is_one_sentence(
    endpoint: str, client: RegistryClient, words: str, to: str, error: str
) -> None:
    client.register("a", "lab1", 5000, "T")
    command = f"set -o pipefail; {' '.join(MODULE)} {words} {to}"
    done = subprocess.run(
        ["bash", "-c", command],
        env=environment(RSREG_ENDPOINT=endpoint),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == error


@pytest.mark.parametrize("to", [">/dev/full", "| true"])
def test_help_that_can_t_be_written_is_no_traceback(to: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {' '.join(MODULE)} -h {to}"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr in ("", "error: can't write the help: No space left on device\n")


def test_a_watch_that_nobody_reads_ends_at_ctrl_c(endpoint: str, client: RegistryClient) -> None:
    with Running("watch", RSREG_ENDPOINT=endpoint) as watching:
        assert "watching" in watching.remark()
        for number in range(500):
            client.register("n" * 200, "lab1", 5000, service_id=f"s{number % 5}")
        watching.process.send_signal(signal.SIGINT)
        assert watching.process.wait(20) == 130
