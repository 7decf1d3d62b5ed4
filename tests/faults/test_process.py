"""The server is killed, told to stop, started twice, out of memory, or the clock jumps."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rsreg import RegistryClient
from tests import zmtp
from tests.commands import Running, rs_cs
from tests.faults.disk import injected
from tests.faults.history import History, Load, Snapshot, broken
from tests.faults.net import fleet, percentile, seconds
from tests.helpers import ServerProcess, need, wait_until

Figure = Callable[..., None]

#: What the store asks of the system when it is made, opened, written and closed.
STORE_CALLS = ["pwrite64", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "flock"]


# -- killed


def test_kill_9_under_load(process: ServerProcess, full: bool, figure: Figure) -> None:
    """At any moment; clients resend within their timeout, over the restart or in vain."""
    history, snapshot, restarts = History(), Snapshot(), []
    kills = 30 if full else 3
    process.start()
    for kill in range(kills):
        # Every other time calls outlive the restart.
        timeout = 0.1 if kill % 2 else 1.5
        with Load(history, process.endpoint, prefix=f"kill-{kill}", timeout=timeout):
            before = history.count("done")
            wait_until(lambda before=before: history.count("done") > before + 30)
            until = time.monotonic() + random.uniform(0, 0.5)
            while time.monotonic() < until:
                pass
            process.kill()
            restarts.append(seconds(process.start))
        assert broken(history, snapshot.update(process.endpoint)) == []
    figure(
        "SIGKILL under load",
        f"4 clients that change without pause; killed and started again {kills} times",
        "3",
        f"{history.count('done'):,} changes acknowledged, {history.count('unanswered')} "
        "unanswered; 0 lost, 0 resurrected, 0 doubled; serving again after p50 "
        f"{percentile(restarts, 0.5):.2f} s, max {max(restarts):.2f} s",
    )


@pytest.mark.parametrize("there", [False, True], ids=["new", "existing"])
def test_kill_9_while_starting(tmp_path: Path, full: bool, figure: Figure, there: bool) -> None:
    """Before each step that the store takes on its way: the next start works as if nothing was."""
    need("strace", root=True)
    kills = 0
    for call in STORE_CALLS if full else ["rename", "pwrite64"]:
        for n in itertools.count(1) if full else (1, 3):
            history = History()
            process = ServerProcess(tmp_path / f"{call}-{n}" / "registry.db")
            if there:
                with process, Load(history, process.endpoint, clients=2, timeout=0.1):
                    wait_until(lambda history=history: history.count("done") > 10)
                    process.kill()
            process.under = [
                *("strace", "-f", "-qq", "-o", "/dev/null"),
                *("-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={n}"),
            ]
            served = process.launch()
            if served:
                with RegistryClient(process.endpoint, timeout=20) as client:
                    os.kill(client.server_status()["pid"], signal.SIGKILL)
            process.wait()
            process.under = []
            with process:
                assert broken(history, Snapshot().update(process.endpoint)) == []
            if served:
                break
            kills += 1
    assert kills >= (2 if there else 3)
    figure(
        f"SIGKILL while starting, {'existing' if there else 'new'} file",
        f"strace: before each {', '.join(STORE_CALLS)}",
        "3",
        f"{kills} moments; each time the next start serves, and holds all that was acknowledged",
    )


def test_kill_9_while_stopping(process: ServerProcess, full: bool, figure: Figure) -> None:
    history, snapshot, kills = History(), Snapshot(), 0
    process.start()
    for call in STORE_CALLS if full else ["pwrite64", "unlink"]:
        for n in itertools.count(1) if full else (1,):
            with Load(history, process.endpoint, prefix=f"{call}-{n}", clients=2, timeout=20):
                before = history.count("done")
                wait_until(lambda before=before: history.count("done") > before + 10)
            assert process.process is not None
            with injected(process.process.pid, f"{call}:signal=SIGKILL:when={n}"):
                process.signal(signal.SIGTERM)
                code = process.wait()
            process.start()
            assert broken(history, snapshot.update(process.endpoint)) == []
            if code == 0:
                break
            kills += 1
    assert kills >= 2
    figure(
        "SIGKILL while stopping",
        f"strace: after SIGTERM before each {', '.join(STORE_CALLS)}",
        "3",
        f"{kills} moments; 0 lost, 0 resurrected, 0 doubled",
    )


# -- told to stop


class Command:
    """`rs_cs start` on a file and on ports of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ports = ["0", "0"]
        self.endpoint = ""

    @contextmanager
    def running(self) -> Iterator[Running]:
        """Run it; it serves."""
        words = ["--bind", "127.0.0.1", "--db", str(self.path), "--json"]
        ports = ["--req-port", self.ports[0], "--pub-port", self.ports[1]]
        with Running("start", *words, *ports) as running:
            about = json.loads(running.line())
            self.ports = [str(about["req_port"]), str(about["pub_port"])]
            self.endpoint = about["endpoint"]
            yield running


@pytest.mark.parametrize("name", ["TERM", "INT", "INT twice", "HUP"])
def test_signals_under_load(tmp_path: Path, full: bool, figure: Figure, name: str) -> None:
    """An end in order, and no service leaves because the registry does."""
    history, snapshot, took = History(), Snapshot(), []
    command = Command(tmp_path / "registry.db")
    number = signal.Signals[f"SIG{name.split()[0]}"]
    codes = set()
    for time_ in range(10 if full else 1):
        with (
            command.running() as running,
            Load(history, command.endpoint, prefix=f"{time_}", timeout=0.2),
        ):
            before = history.count("done")
            wait_until(lambda before=before: history.count("done") > before + 30)
            started = time.monotonic()
            running.process.send_signal(number)
            if "twice" in name:
                running.process.send_signal(number)
            _, log = running.process.communicate(timeout=20)
            took.append(time.monotonic() - started)
            codes.add(running.process.returncode)
            assert "Traceback" not in log
    with command.running():
        assert broken(history, snapshot.update(command.endpoint)) == []
    # A second Ctrl-C ends it at once, unless it has ended before.
    assert codes <= ({0, -signal.SIGINT} if "twice" in name else {0})
    assert max(took) < 5
    figure(
        f"SIG{name}",
        f"rs_cs start under load; {len(took)} times",
        "3, 5",
        f"exit code {' or '.join(map(str, sorted(codes, reverse=True)))} after p50 "
        f"{percentile(took, 0.5):.2f} s, max {max(took):.2f} s; {history.count('done'):,} changes "
        "acknowledged, 0 lost; no deregister or expire event for stopping",
    )


# -- started twice


@pytest.mark.parametrize("bind", ["127.0.0.1", "*"])
def test_two_servers_on_one_port(
    process: ServerProcess, tmp_path: Path, figure: Figure, bind: str
) -> None:
    """The second says who has it, before it has touched its database."""
    history = History()
    process.start()
    other = tmp_path / "other" / "registry.db"
    with Load(history, process.endpoint, clients=2, timeout=20):
        ports = ["--req-port", str(process.ports[0]), "--pub-port", "0"]
        done = rs_cs("start", *ports, "--bind", bind, "--db", str(other))
    assert done.returncode == 5
    assert process.process is not None
    pid = process.process.pid
    assert f"port {process.ports[0]} is in use by the registry with pid {pid}" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert not other.parent.exists()
    assert history.count("done") == len(history.changes)
    assert broken(history, Snapshot().update(process.endpoint)) == []
    figure(
        f"two servers, one port, second on {bind}",
        "a second rs_cs start under load",
        "4",
        "second: exit code 5, names the first, its database not touched; first: "
        f"{history.count('done'):,} changes, none refused or lost",
    )


# -- clocks


def test_the_wall_clock_jumps(tmp_path: Path, full: bool, figure: Figure) -> None:
    """Nobody expires by it, and nobody lives on; what people read follows it."""
    offset = tmp_path / "offset"
    offset.write_text("+0")
    under = under_another_clock(offset)
    jumps = [3600, -3600, 86_400, -86_400, 0] if full else [86_400, -3600]
    expected, late, snapshot = [], [], Snapshot()
    with (
        ServerProcess(tmp_path / "registry.db", under=under, cleanup_interval=0.2) as process,
        RegistryClient(process.endpoint, timeout=20) as client,
        fleet(process.endpoint, 10, 3, under) as (_, living),
    ):
        for jump in jumps:
            silent = client.register("silent", "127.0.0.1", 5000, ttl=1)
            offset.write_text(f"{jump:+}")
            started = time.monotonic()
            wait_until(lambda silent=silent: client.get_service(silent) is None)
            late.append(time.monotonic() - started - 1)
            expected.append(silent)
            # Twice a ttl, so that each of the living has to renew at the new time.
            until = started + 6
            while full and time.monotonic() < until:
                assert passing(client).issuperset(living)
            for event in snapshot.update(process.endpoint).events[-1:]:
                assert abs(event["timestamp"] - time.time() - jump) < 60
        assert passing(client) == set(living)
    expired = [e["data"]["service_id"] for e in snapshot.events if e["type"] == "expire"]
    assert expired == expected
    assert [event["seq"] for event in snapshot.events] == list(range(1, snapshot.seq + 1))
    assert max(late) < 0.2 + 1
    figure(
        "wall clock jumps",
        f"libfaketime, server and clients: {', '.join(f'{jump:+} s' for jump in jumps)}",
        "5, 6",
        f"of 10 services with ttl 3 none expired; each silent one did, at most {max(late):.2f} s "
        "after its ttl; seq without a hole",
    )


def under_another_clock(offset: Path) -> list[str]:
    """What runs a command at the time of now and the seconds in a file, which may change."""
    need("faketime")
    done = subprocess.run(
        ["faketime", "-f", "+0", "printenv", "LD_PRELOAD"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [
        "env",
        f"LD_PRELOAD={done.stdout.strip()}",
        f"FAKETIME_TIMESTAMP_FILE={offset}",
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    ]


def passing(client: RegistryClient) -> set[str]:
    """The ids of all services that are."""
    services = client.list_services()
    return {service["id"] for service in services if service["health"] == "passing"}


# -- out of memory


def test_the_memory_is_used_up(process: ServerProcess, figure: Figure) -> None:
    """By many connections of this machine, which are not bounded: a supervisor starts it again."""
    history, snapshot = History(), Snapshot()
    process.start()
    assert process.process is not None
    pid = process.process.pid
    most = virtual_memory(pid) + 200 * 1024 * 1024
    resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    with Load(history, process.endpoint, timeout=1):
        wait_until(lambda: history.count("done") > 100)
        begun = begin_without_end(process.ports[0])
        code = process.wait()
        away = seconds(process.start)
        before = history.count("done")
        wait_until(lambda: history.count("done") > before + 100)
    assert code != 0
    assert broken(history, snapshot.update(process.endpoint)) == []
    figure(
        "memory limit",
        "messages without an end on many connections, RLIMIT_AS 200 MB above what the server has",
        "3",
        f"exit code {code} after {begun}, never half alive; started again it serves "
        f"after {away:.2f} s; {history.count('done'):,} changes acknowledged, 0 lost",
    )


def virtual_memory(pid: int) -> int:
    """Bytes of address space."""
    found = re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def begin_without_end(port: int | None) -> int:
    """Begin messages that have no end, each on a connection of its own, until the server is gone.

    On each comes less than that for which it would be cut; how many there were.
    """
    frames = zmtp.frame(b"x", more=True) * 150_000
    with contextlib.ExitStack() as stack:
        for number in range(200):
            try:
                stack.enter_context(zmtp.dealer(port)).sendall(frames)
            except OSError:
                return number
    raise AssertionError("the server took it all")
