"""Peers that take more than their share: the registry stays small, and answers the others."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
import zmq

from rsreg import RegistryClient
from rsreg.server.limits import Limits
from tests import attacks
from tests.faults.net import percentile
from tests.faults.pulse import Pulse
from tests.helpers import ServerProcess, program, program_environment, raw_socket, wait_until
from tests.usage import memory

Figure = Callable[..., None]


@contextlib.contextmanager
def attacked(count: int = 0) -> Iterator[tuple[ServerProcess, int, Pulse]]:
    """A registry with so many services, its process id, and somebody else who asks meanwhile."""
    unbound = Limits(writes_per_second=10**9, services_per_address=10**6, bytes_per_address=2**40)
    with ServerProcess(limits=unbound) as server:
        assert server.process is not None
        with RegistryClient(server.endpoint, timeout=20) as client:
            for number in range(count):
                about = {"text": 1_000 * "x"}
                client.register(f"s{number}", "lab1", 5000, f"T{number % 10}", about, 3600)
        with Pulse(server.endpoint) as pulse:
            wait_until(lambda: len(pulse.seconds) > 3)
            yield server, server.process.pid, pulse
        assert server.process.poll() is None


def meanwhile(pulse: Pulse) -> str:
    """How long others waited."""
    took = [f"{percentile(pulse.seconds, part) * 1000:.1f}" for part in (0.5, 0.99)]
    return f"health p50 {took[0]}, p99 {took[1]}, slowest {max(pulse.seconds) * 1000:.0f} ms"


@pytest.mark.parametrize("what", ["short", "long", "again and again"])
def test_subscriptions_without_end(what: str, full: bool, figure: Figure) -> None:
    size = 20 if full else 2
    said = {
        "short": lambda: attacks.subscriptions(50_000 * size),
        "long": lambda: attacks.subscriptions(20 * size, 62_000),
        "again and again": lambda: 50_000 * size * b"\x00\x04\x01abc\x00\x04\x00abc",
    }[what]()
    with attacked() as (server, pid, pulse):
        before = memory(pid)
        for _ in range(10 if full else 2):
            with attacks.peer(b"SUB", server.ports[1]) as raw:
                sent = attacks.send_all(raw, said)
                assert sent < len(said) or len(said) < 4_000_000
                wait_until(lambda: memory(pid) - before < 20e6)
    assert max(pulse.seconds) < 1
    figure(
        f"subscriptions without end ({what})",
        f"{len(said) / 1e6:.0f} MB of them, as fast as they are taken, again after each cut",
        "8",
        f"memory grown by {(memory(pid) - before) / 1e6:.0f} MB; {meanwhile(pulse)}",
    )


def test_replies_that_nobody_reads(full: bool, figure: Figure) -> None:
    with attacked(5_000 if full else 500) as (server, pid, pulse), contextlib.ExitStack() as stack:
        before = most = memory(pid)
        until = time.monotonic() + (10 if full else 1)
        while time.monotonic() < until:
            raw = stack.enter_context(attacks.peer(b"DEALER", server.ports[0]))
            raw.sendall(60 * attacks.request(action="list"))
            time.sleep(0.02)
            most = max(most, memory(pid))
    # What waits, twice, and a list in the making.
    assert most - before < 120e6
    assert max(pulse.seconds) < 1
    figure(
        "replies that nobody reads",
        "60 questions for a list on each of 50 connections a second, none of which reads",
        "8",
        f"memory grown by {(most - before) / 1e6:.0f} MB; {meanwhile(pulse)}",
    )


def test_lists_without_end(full: bool, figure: Figure) -> None:
    with attacked(5_000 if full else 500) as (server, _, pulse):
        end = str(time.monotonic() + (10 if full else 1.5))
        done = subprocess.run(
            program("flood_with_lists", server.endpoint, end),
            env=program_environment(),
            capture_output=True,
            check=True,
        )
    assert percentile(pulse.seconds, 0.5) < 0.2
    assert max(pulse.seconds) < 1
    figure(
        "lists without end",
        "8 connections, each 10 questions ahead of its answers",
        "8",
        f"{int(done.stdout) / 1e6:.0f} MB read; {meanwhile(pulse)}",
    )


def test_a_fleet_of_caches_begins(full: bool, figure: Figure) -> None:
    count, services = (200, 5_000) if full else (40, 300)
    with attacked(services) as (server, _, pulse), contextlib.ExitStack() as stack:
        there: Sequence[zmq.Socket[bytes]] = [
            stack.enter_context(raw_socket(zmq.DEALER, server.endpoint)) for _ in range(count)
        ]
        started = time.monotonic()
        asked = attacks.begun_at_once(there, services * 1_000)
        took = time.monotonic() - started
    assert took < 30
    figure(
        f"{count} caches of one host begin at the same moment",
        f"each asks for {services} services of 1.3 KB, and again when it is told to",
        "8",
        f"all had them after {took:.1f} s, who asked most after {max(asked)} questions; "
        f"{meanwhile(pulse)}",
    )
