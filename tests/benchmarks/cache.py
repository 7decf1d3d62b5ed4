"""What a cached answer costs who asks, and what caches cost the server while nothing changes."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rsreg import RegistryClient, ServiceCache
from tests.benchmarks import systems
from tests.faults.net import end, percentile
from tests.helpers import printed, start_program, wait_until
from tests.usage import busy

CACHES, PROCESSES = 200, 4
#: Seconds until caches ask as seldom as they ever do, and for which the server is watched.
_SETTLE, _WATCH = 12, 20


def cache(options: argparse.Namespace, folder: Path) -> tuple[list[str], list[list[str]]]:
    """Beside an uncached discover, and beside a server that nobody follows."""
    rows = []
    with ExitStack() as stack:
        one = systems.registry(stack, "1,000 services", folder, 1_000, 10)
        cached = stack.enter_context(ServiceCache(one.endpoint))
        client = stack.enter_context(RegistryClient(one.endpoint, cache=True))
        plain = stack.enter_context(RegistryClient(one.endpoint))
        client.discover_service("TYPE-0")
        known = client._session.cache
        assert known is not None
        wait_until(lambda: known._cache.as_of > 0)
        for name, discover, count in (
            ("discover, ServiceCache", cached.discover_service, 20_000),
            ("discover, RegistryClient(cache=True)", client.discover_service, 20_000),
            ("discover, RegistryClient()", plain.discover_service, 2_000),
        ):
            rounds = [_latencies(discover, count) for _ in range(options.rounds)]
            p50, p99 = (statistics.median(each) * 1e6 for each in zip(*rounds, strict=True))
            rows.append([name, f"p50 {p50:.1f} µs, p99 {p99:.1f} µs"])
    with ExitStack() as stack:
        one = systems.registry(stack, "followed", folder, 1_000, 10)
        time.sleep(2)
        rows.append(["server that nobody follows", f"{busy(one.pid, _WATCH):.2%} of a core"])
        for _ in range(PROCESSES):
            process = start_program("hold_caches", one.endpoint, CACHES // PROCESSES)
            stack.callback(end, process)
            assert printed(process) == "all"
        time.sleep(_SETTLE)
        rows.append([f"server with {CACHES} caches", f"{busy(one.pid, _WATCH):.2%} of a core"])
    return ["what", "figure"], rows


def _latencies(discover: Callable[[str], object], count: int) -> tuple[float, float]:
    """p50 and p99 of so many calls, in seconds."""
    times = []
    for number in range(count):
        started = time.perf_counter()
        found = discover(f"TYPE-{number % 10}")
        times.append(time.perf_counter() - started)
        assert found is not None
    return percentile(times, 0.5), percentile(times, 0.99)
