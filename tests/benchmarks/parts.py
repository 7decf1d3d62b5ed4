"""What is measured beside requests; each gives the header and the rows of a table."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import zmq

from rsreg import RegistryClient
from tests.benchmarks import systems
from tests.benchmarks.cache import cache
from tests.benchmarks.load import measure, undo
from tests.faults.net import percentile
from tests.helpers import ServerProcess, raw_socket
from tests.usage import cpu_seconds, memory

HERE = Path(__file__).parent
Table = tuple[list[str], list[list[str]]]
Part = Callable[[argparse.Namespace, Path], Table]

#: Seconds after which a benchmark is broken.
_PATIENCE = 20


def events(options: argparse.Namespace, folder: Path) -> Table:
    """From the call of register to the last subscriber, beside a round trip to `bare`."""
    rounds = []
    with ExitStack() as stack:
        bare = systems.echo(stack, "bare", folder)
        on_file = stack.enter_context(ServerProcess(folder / "registry.db"))
        in_memory = stack.enter_context(ServerProcess())
        for _ in range(options.rounds):
            source = systems.requests("register", 1_000, 10)
            row = [measure(bare.pid, bare.endpoint, 1, source, options.seconds).p50]
            for server in (in_memory, on_file):
                for subscribers in (1, 100):
                    row.append(_delay(server, subscribers, 200))
            rounds.append(row)
    columns = list(zip(*rounds, strict=True))
    names = [f"{kind}, {count}" for kind in ("memory", "SQLite") for count in (1, 100)]
    return ["store, subscribers", "p50 µs", "to a bare round trip"], [
        [
            name,
            f"{statistics.median(column) * 1e6:.0f}",
            f"{statistics.median(a / b for a, b in zip(column, columns[0], strict=True)):.2f}",
        ]
        for name, column in zip(["bare round trip", *names], columns, strict=True)
    ]


def _delay(server: ServerProcess, subscribers: int, count: int) -> float:
    """The p50 of the time from register until the last subscriber has the event."""
    source = systems.requests("register", 1_000, 10)
    times, replies = [], []
    with ExitStack() as stack:
        subs = [
            stack.enter_context(raw_socket(zmq.SUB, server.pub_endpoint, subscribe=b""))
            for _ in range(subscribers)
        ]
        asking = stack.enter_context(raw_socket(zmq.DEALER, server.endpoint))
        poller = zmq.Poller()
        for sub in subs:
            poller.register(sub, zmq.POLLIN)

        def heard() -> int:
            """How many subscribers have heard the next event."""
            waiting = set(subs)
            until = time.perf_counter() + 1
            while waiting and time.perf_counter() < until:
                for sub, _ in poller.poll(1_000):
                    sub.recv_multipart()
                    waiting.discard(sub)
            return subscribers - len(waiting)

        def register() -> None:
            asking.send_multipart((b"", next(source)))

        def answered() -> None:
            assert asking.poll(_PATIENCE * 1000)
            replies.append(asking.recv_multipart()[1])

        register()
        answered()
        while heard() < subscribers:
            register()
            answered()
        for _ in range(count):
            started = time.perf_counter()
            register()
            assert heard() == subscribers
            times.append(time.perf_counter() - started)
            answered()
    undo(server.endpoint, replies)
    return percentile(times, 0.5)


def sizes(options: argparse.Namespace, folder: Path) -> Table:
    """Memory, start-up, and what an idle server takes, by the number of services."""
    rows = []
    empty = 0
    for count in (0, 1_000, 10_000, 100_000):
        path = systems.filled(folder / f"{count}.db", count, 100)
        starts, walls = [], []
        for _ in range(options.rounds):
            with ServerProcess(path) as server:
                assert server.process is not None
                pid = server.process.pid
                starts.append(cpu_seconds(pid))
                started = time.perf_counter()
                with RegistryClient(server.endpoint, timeout=_PATIENCE) as client:
                    assert client.health_check()
                walls.append(time.perf_counter() - started)
        with ServerProcess(path, cleanup_interval=10) as server:
            assert server.process is not None
            pid = server.process.pid
            size = memory(pid)
            empty = empty or size
            time.sleep(1)
            before, started = cpu_seconds(pid), time.perf_counter()
            time.sleep(20)
            idle = (cpu_seconds(pid) - before) / (time.perf_counter() - started) * 60
        rows.append(
            [
                f"{count:,}",
                f"{size / 2**20:.0f}",
                f"{(size - empty) / count / 1024:.2f}" if count else "",
                f"{statistics.median(starts):.2f}",
                f"{idle:.3f}",
            ]
        )
    header = ["services", "memory, MiB", "KiB a service", "CPU until it serves, s"]
    return [*header, "CPU while idle, s a minute"], rows


def heartbeats(options: argparse.Namespace, folder: Path) -> Table:
    """10,000 services that beat every 10 s, over 500 connections, beside a server that echoes."""
    count, connections = 10_000, 500
    shares: dict[str, list[float]] = {}
    with ExitStack() as stack:
        for one in (
            systems.echo(stack, "bare", folder),
            systems.registry(stack, "10,000 services", folder, count, 100),
        ):
            with ExitStack() as connected:
                dealers = [
                    connected.enter_context(raw_socket(zmq.DEALER, one.endpoint))
                    for _ in range(connections)
                ]
                shares[one.name] = [
                    _beat(one, dealers, count / 10, seconds=10) for _ in range(options.rounds)
                ]
    return ["server", "part of a core"], [
        [name, f"{statistics.median(each):.1%}"] for name, each in shares.items()
    ]


def _beat(
    one: systems.System, dealers: list[zmq.Socket[bytes]], rate: float, seconds: float
) -> float:
    """The part of a core that so many heartbeats a second take; evenly, from all in turn."""
    beats = systems.requests("renew", one.count, one.kinds)
    answered = number = 0
    before, started = cpu_seconds(one.pid), time.perf_counter()
    while (now := time.perf_counter() - started) < seconds:
        while number < now * rate:
            dealer = dealers[number % len(dealers)]
            while int(dealer.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                dealer.recv_multipart()
                answered += 1
            dealer.send_multipart((b"", next(beats)))
            number += 1
        time.sleep(0.0005)
    share = (cpu_seconds(one.pid) - before) / (time.perf_counter() - started)
    assert answered > number * 0.8
    return share


def client(options: argparse.Namespace, folder: Path) -> Table:
    """What one `discover_service` costs who calls it, beside a plain DEALER with json."""
    rows: dict[str, list[tuple[float, float]]] = {"a DEALER and json": [], "RegistryClient": []}
    with ExitStack() as stack:
        one = systems.registry(stack, "1,000 services", folder, 1_000, 10)
        bound = stack.enter_context(RegistryClient(one.endpoint, timeout=_PATIENCE))
        plain = stack.enter_context(raw_socket(zmq.DEALER, one.endpoint))

        def by_hand() -> None:
            asked = {"action": "discover", "service_type": "TYPE-1"}
            plain.send_multipart((b"", json.dumps(asked).encode()))
            assert json.loads(plain.recv_multipart()[1])["success"]

        def by_client() -> None:
            assert bound.discover_service("TYPE-1")

        for _ in range(options.rounds):
            for name, call in zip(rows, (by_hand, by_client), strict=True):
                times = []
                before = time.process_time()
                for _ in range(2_000):
                    started = time.perf_counter()
                    call()
                    times.append(time.perf_counter() - started)
                cpu = (time.process_time() - before) / len(times)
                rows[name].append((percentile(times, 0.5), cpu))
    return ["discover by", "p50 µs", "CPU of the caller, µs"], [
        [name, *(f"{statistics.median(each) * 1e6:.0f}" for each in zip(*found, strict=True))]
        for name, found in rows.items()
    ]


def held(options: argparse.Namespace, folder: Path) -> Table:
    """The longest time that background work keeps everybody waiting, with 100,000 services."""
    path = systems.filled(folder / "held.db", 100_000, 100)
    found: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        done = subprocess.run(
            [sys.executable, str(HERE / "held.py"), str(path)],
            capture_output=True,
            text=True,
            check=True,
        )
        for what, seconds in json.loads(done.stdout).items():
            found.setdefault(what, []).append(seconds)
    return ["background work at 100,000 services", "longest, ms"], [
        [what, f"{statistics.median(each) * 1e3:.1f}"] for what, each in found.items()
    ]


PARTS: dict[str, Part] = {
    "events": events,
    "sizes": sizes,
    "heartbeats": heartbeats,
    "client": client,
    "cache": cache,
    "held": held,
}
