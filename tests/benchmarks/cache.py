"""What a cached answer costs the caller, and what 200 caches cost the server while nothing changes.

Run by hand, two minutes: `python tests/benchmarks/cache.py`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers import ServerProcess, printed, python_process, wait_until

from rsreg import RegistryClient, ServiceCache

SERVICES, KINDS = 1_000, 10
CACHES, PROCESSES = 200, 4
#: Seconds until caches ask as seldom as they ever do; seconds over which the server is watched.
SETTLE, WATCH = 10.0, 30.0

FOLLOWERS = """
import contextlib
from rsreg import ServiceCache
with contextlib.ExitStack() as stack:
    for _ in range(int(sys.argv[2])):
        stack.enter_context(ServiceCache(sys.argv[1], timeout=20))
    print("all", flush=True)
    sys.stdin.read()
"""


def fill(endpoint: str) -> None:
    """Register the services; their leases hold longer than this runs."""
    with RegistryClient(endpoint) as client:
        for number in range(SERVICES):
            client.register(
                f"service {number}",
                "192.168.1.10",
                5_000 + number,
                f"T{number % KINDS}",
                {"version": "1.4.2", "site": "lab 3"},
                3_600,
            )


def latencies(discover: Callable[[str], object], count: int) -> str:
    """p50 and p99 of so many calls, in microseconds."""
    took = []
    for number in range(count):
        kind = f"T{number % KINDS}"
        start = time.perf_counter_ns()
        found = discover(kind)
        took.append(time.perf_counter_ns() - start)
        assert found is not None
    took.sort()
    p50, p99 = (took[int(part * count)] / 1_000 for part in (0.5, 0.99))
    return f"p50 {p50:.1f} us, p99 {p99:.1f} us"


def share(server: ServerProcess) -> float:
    """Percent of a core that the server uses, for a while."""
    assert server.process is not None
    stat = Path(f"/proc/{server.process.pid}/stat")

    def used() -> float:
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, start = used(), time.monotonic()
    time.sleep(WATCH)
    return 100 * (used() - before) / (time.monotonic() - start)


def main() -> None:
    """Print the figures."""
    with ServerProcess() as server:
        fill(server.endpoint)
        with ServiceCache(server.endpoint) as cache:
            print("ServiceCache:", latencies(cache.discover_service, 50_000))
        with RegistryClient(server.endpoint, cache=True) as client:
            assert client._cache is not None
            wait_until(lambda: client.get_endpoint("T0") and client._cache._cache.as_of > 0)
            print("RegistryClient(cache=True):", latencies(client.discover_service, 50_000))
        with RegistryClient(server.endpoint) as client:
            print("RegistryClient():", latencies(client.discover_service, 5_000))
        idle = share(server)
        each = CACHES // PROCESSES
        processes = [python_process(FOLLOWERS, server.endpoint, each) for _ in range(PROCESSES)]
        for process in processes:
            printed(process)
        time.sleep(SETTLE)
        busy = share(server)
        for process in processes:
            process.communicate(timeout=60)
        print(f"server: {idle:.2f} % of a core alone, {busy:.2f} % with {CACHES} caches")


if __name__ == "__main__":
    main()
