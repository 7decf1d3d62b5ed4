"""The command line runs the server: start, --background, stop; real processes and signals."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from rsreg import RegistryClient, SQLiteBackend
from rsreg.admin import server_process
from tests.commands import FREE, Home, Running, data, environment, is_alive, rs_cs
from tests.helpers import raw_socket, received, wait_until

FORGED = "x\n2026-01-01 INFO rsreg.server: registry stopped\x1b[2J"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home without any server."""
    made = Home(tmp_path)
    yield made
    made.close()


def start(*words: str, **variables: Any) -> Running:
    """A server in the foreground."""
    return Running("start", *FREE, *words, **variables)


# -- in the foreground


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(home: Home, number: signal.Signals) -> None:
    for round_ in range(2):
        with start("--json", **home.variables) as running:
            about = json.loads(running.line())
            assert about["success"] is True
            assert about["pid"] == running.process.pid
            assert about["store"] == str(home.path / "state" / "rsreg" / "service_registry.db")
            assert about["hb_port"] is None
            with RegistryClient(about["endpoint"], timeout=10) as client:
                assert client.server_status()["pub_port"] == about["pub_port"]
                assert len(client.list_services()) == round_
                client.register("puna_cs", "egse3", 5000)
            began = time.monotonic()
            code, out, err = running.end(number)
            assert time.monotonic() - began < 2
        assert (code, out) == (0, "")
        assert err.splitlines()[-1].endswith("registry stopped")
        assert "Traceback" not in err


def test_a_second_interrupt_ends_it_at_once() -> None:
    with start("--db", ":memory:", "--json", "--limit", "record-bytes=65536") as running:
        about = json.loads(running.line())
        # Who asks much and reads nothing holds a stop up for a second: the last answers linger.
        with raw_socket(zmq.DEALER, about["endpoint"], rcvhwm=1, rcvbuf=4096) as greedy:
            with RegistryClient(about["endpoint"], timeout=10) as client:
                client.register("puna_cs", "egse3", 5000, metadata={"size": "x" * 60_000})
                for _ in range(190):
                    greedy.send_multipart([b"", b'{"action": "list"}'])
                received(greedy)
                assert client.health_check()
            running.process.send_signal(signal.SIGINT)
            wait_until(lambda: signal.SIGINT not in caught_signals(about["pid"]))
            code, _, log = running.end(signal.SIGINT)
    assert code == -signal.SIGINT
    assert "registry stopped" not in log


def caught_signals(pid: int) -> set[int]:
    """The signals that a process handles itself."""
    found = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return {number for number in range(1, 65) if int(found[1], 16) >> (number - 1) & 1}


def test_it_allows_itself_as_many_files_as_it_may(home: Home) -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    try:
        pid = home.start("--db", ":memory:")["pid"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))
    found = re.search(r"Max open files +(\d+)", Path(f"/proc/{pid}/limits").read_text())
    assert found is not None
    assert int(found[1]) == most


def test_the_banner_says_where_it_is(home: Home) -> None:
    with start("--hb-port", "0", **home.variables) as running:
        first = running.line()
        assert first == f"rsreg 0.1.0, pid {running.process.pid}; Ctrl-C stops it"
        facts = dict(running.line().split(maxsplit=1) for _ in range(4))
        assert list(facts) == ["requests", "events", "heartbeats", "store"]
        assert facts["store"].endswith("/state/rsreg/service_registry.db")
        with RegistryClient(facts["requests"], timeout=10) as client:
            about = client.server_status()
        for what, port in (("events", "pub_port"), ("heartbeats", "hb_port")):
            assert facts[what] == f"tcp://127.0.0.1:{about[port]}"


def test_dev_is_for_trying_things(home: Home) -> None:
    words = ["start", "--dev", "--req-port", "0", "--pub-port", "0"]
    with Running(*words, "--json", **home.variables) as running:
        about = json.loads(running.line())
        assert about["store"] == "memory"
        assert about["endpoint"].startswith("tcp://127.0.0.1:")
        with RegistryClient(about["endpoint"], timeout=10) as client:
            service_id = client.register("puna_cs", "egse3", 5000)
        _, _, log = running.end(signal.SIGTERM)
    assert f"register {service_id}" in log
    assert "peewee" not in log
    assert list(home.path.rglob("*")) == []


def test_nobody_writes_a_line_of_the_log() -> None:
    with start("--db", ":memory:", "--json") as running:
        about = json.loads(running.line())
        with RegistryClient(about["endpoint"], timeout=10) as client:
            client.register("puna_cs", "egse3", 5000, service_id=FORGED)
        _, _, log = running.end(signal.SIGTERM)
    assert "\x1b" not in log
    assert sum(line.endswith("registry stopped") for line in log.splitlines()) == 1
    assert "register x\\n2026-01-01" in log


def test_the_log_level_is_kept_to() -> None:
    with start("--db", ":memory:", "--log-level", "warning") as running:
        running.line()
        assert running.end(signal.SIGTERM)[2] == ""


def test_the_options_reach_the_server(home: Home) -> None:
    words = ["--unique-service-types", "--cleanup-interval", "0.25", "--cgse-reply", "REP"]
    about = home.start(*words, "--db", "mine.db")
    assert about["enforce_unique_service_types"] is True
    assert about["cleanup_interval"] == 0.25
    assert about["store"] == str(home.path / "mine.db")
    with raw_socket(zmq.DEALER, about["endpoint"]) as socket:
        socket.send_multipart([b"REQ", b'{"action": "health"}'])
        assert received(socket)[0] == b"REP"


def test_the_environment_says_where_the_database_is(home: Home) -> None:
    about = home.start(RSREG_DB=str(home.path / "other.db"), RSREG_ENDPOINT="elsewhere:1")
    assert about["store"] == str(home.path / "other.db")


# -- in the background


def test_in_the_background_it_outlives_the_command(home: Home) -> None:
    about = home.start("--hb-port", "0")
    pid = about["pid"]
    assert 0 not in (about["req_port"], about["pub_port"], about["hb_port"])
    with RegistryClient(about["endpoint"]) as client:
        assert client.server_status()["pid"] == pid
    assert os.getsid(pid) != os.getsid(0)
    for number, target in enumerate(["/dev/null", about["log_file"], about["log_file"]]):
        assert os.readlink(f"/proc/{pid}/fd/{number}") == target
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    log = Path(about["log_file"])
    assert log.parent == home.path / "state" / "rsreg"
    assert "registry started" in log.read_text()


def test_in_the_background_it_prints_pid_log_and_how_to_stop_it(home: Home) -> None:
    done = rs_cs("start", "--background", *FREE, **home.variables)
    assert (done.returncode, done.stderr) == (0, "")
    first, *facts = done.stdout.splitlines()
    found = re.fullmatch(r'rsreg 0\.1\.0, pid (\d+); "rs_cs (stop -e \S+)" stops it', first)
    assert found
    home.pids.append(int(found[1]))
    said = dict(line.split(maxsplit=1) for line in facts)
    assert list(said) == ["requests", "events", "store", "log"]
    assert "registry started" in Path(said["log"]).read_text()
    done = rs_cs(*found[2].split(), "--yes")
    assert done.returncode == 0
    assert f"pid {found[1]}, has stopped" in done.stdout
    wait_until(lambda: not is_alive(int(found[1])))


def test_stop_returns_when_port_and_store_are_free(home: Home) -> None:
    """As a Python call, since what a command does afterwards gives the server time."""
    about = home.start()
    with RegistryClient(about["endpoint"], timeout=10) as client:
        server_process.stop(client)
    with socket.socket() as successor:
        successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        successor.bind(("127.0.0.1", about["req_port"]))
    store = SQLiteBackend(about["store"])
    store.initialize()
    store.close()


def test_stop_and_start_again(home: Home) -> None:
    about = home.start()
    with RegistryClient(about["endpoint"], timeout=10) as client:
        client.register("puna_cs", "egse3", 5000)
    again = ["--req-port", str(about["req_port"]), "--pub-port", str(about["pub_port"])]
    for _ in range(2):
        stopped = data("stop", "--yes", RSREG_ENDPOINT=about["endpoint"])
        assert stopped["status"] == "stopped"
        assert stopped["pid"] == home.pids[-1]
        home.start(*again)
    assert rs_cs("get", "puna_cs", RSREG_ENDPOINT=about["endpoint"]).returncode == 0


@pytest.mark.parametrize("background", [[], ["--background"]], ids=["foreground", "background"])
class TestWhatKeepsItFromStarting:
    """In the background the same words and the same code as in the foreground."""

    def refused(self, home: Home, background: list[str], *words: str) -> tuple[int, str, str]:
        """Exit code, `code` in JSON, and the sentence, which is the same without --json."""
        words = ("start", *background, *FREE, *words)
        plain = rs_cs(*words, **home.variables)
        assert plain.stdout == ""
        assert "Traceback" not in plain.stderr
        sentence, hint = plain.stderr.splitlines()
        as_json = rs_cs(*words, "--json", **home.variables)
        assert as_json.stderr == ""
        assert as_json.returncode == plain.returncode
        body = json.loads(as_json.stdout)
        assert (f"error: {body['error']}", f"hint:  {body['hint']}") == (sentence, hint)
        return plain.returncode, body["code"], sentence

    def test_a_port_in_use(self, home: Home, background: list[str]) -> None:
        about = home.start()
        port = str(about["req_port"])
        code, name, sentence = self.refused(home, background, "--req-port", port)
        assert (code, name) == (5, "port-in-use")
        assert f"port {port} is in use by the registry with pid {about['pid']}" in sentence

    def test_a_port_of_another_program(self, home: Home, background: list[str]) -> None:
        with zmq.Context() as context, context.socket(zmq.PULL) as socket:
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            code, name, sentence = self.refused(home, background, "--pub-port", str(port))
        assert (code, name) == (5, "port-in-use")
        assert f"port {port} is in use by another program" in sentence

    def test_a_file_in_use(self, home: Home, background: list[str]) -> None:
        about = home.start()
        code, name, sentence = self.refused(home, background)
        assert (code, name) == (5, "store-in-use")
        assert f"is in use by pid {about['pid']}" in sentence

    def test_a_file_of_another_program(self, home: Home, background: list[str]) -> None:
        path = home.path / "other.db"
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE measurements (value)")
        database.close()
        before = path.read_bytes()
        code, name, sentence = self.refused(home, background, "--db", str(path))
        assert (code, name) == (1, "store")
        assert f"{path} is a database of another program" in sentence
        assert path.read_bytes() == before


def broken(home: Home, source: str) -> str:
    """A PYTHONPATH on which the server finds another gevent than it needs."""
    (home.path / "gevent.py").write_text(source)
    return f"{home.path}:{environment()['PYTHONPATH']}"


def test_the_last_lines_of_the_log_where_it_ends_without_a_word(home: Home) -> None:
    path = broken(home, "raise RuntimeError('no libev here')")
    done = rs_cs("start", "--background", *FREE, **home.variables, PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the server ended at once:\n")
    assert "RuntimeError: no libev here" in done.stderr


def test_a_start_that_hangs_is_given_up(home: Home) -> None:
    path = broken(
        home,
        "import os, pathlib, time\n"
        "pathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))\n"
        "time.sleep(60)\n",
    )
    done = rs_cs(
        "start", "--background", *FREE, "--timeout", "5", **home.variables, PYTHONPATH=path
    )
    assert done.returncode == 1
    assert "error: the server did not start within 5 s" in done.stderr
    pid = int((home.path / "pid").read_text())
    wait_until(lambda: not is_alive(pid))


def test_a_log_that_cannot_be_written(home: Home) -> None:
    (home.path / "state").write_text("not a directory")
    done = rs_cs("start", "--background", *FREE, "--db", ":memory:", **home.variables)
    assert done.returncode == 2
    assert done.stderr.startswith("error: can't write")
