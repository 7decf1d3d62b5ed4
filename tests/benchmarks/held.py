"""How long a server's hub is held by background work: prints seconds by what was done, as JSON.

    held.py DATABASE

The hub can't serve anybody between waking from its wait and waiting again.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import islice

import gevent

from rsreg import RegistryServer, SQLiteBackend
from rsreg.admin import server_process
from rsreg.protocol.messages import ServiceInfo

#: Services that lapse at once.
_LAPSED = 5_000

server = RegistryServer(
    0, 0, backend=SQLiteBackend(sys.argv[1]), bind="127.0.0.1", cleanup_interval=1
)
server_process.start(server)
registry = server.registry
leases = registry._view._leases
loop = gevent.get_hub().loop
woken = longest = 0.0


def awake() -> None:
    global woken
    woken = time.perf_counter()


def asleep() -> None:
    global longest
    if woken:
        longest = max(longest, time.perf_counter() - woken)


for watcher, callback in ((loop.check(), awake), (loop.prepare(), asleep)):
    watcher.start(callback)


def during(condition: Callable[[], bool]) -> float:
    """The longest stretch until something is so, and a second longer."""
    global longest, woken
    longest, woken = 0.0, time.perf_counter()
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        gevent.sleep(0.05)
    gevent.sleep(1)
    return longest


found = {}
start = time.monotonic()
found["nothing to do"] = during(lambda: time.monotonic() > start + 2)
for lease in islice(leases.values(), _LAPSED):
    lease.deadline = lease.due = start
registry._view._deadlines = [(lease.due, key) for key, lease in leases.items()]
registry._view._deadlines.sort()
before = len(leases)
found[f"{_LAPSED:,} services lapse and expire"] = during(lambda: len(leases) <= before - _LAPSED)
for lease in leases.values():
    lease.due = start
registry._view._deadlines = [(lease.due, key) for key, lease in leases.items()]
found["all leases looked at"] = during(lambda: registry._view._deadlines[0][0] > start)
target = registry.seq + 20_000


def changes() -> bool:
    """Some, as many times as it takes."""
    for number in range(50):
        info = ServiceInfo(id=f"new-{number}", name="new", host="h", port=1)
        registry.register(info, {}, 86_400, None)
    oldest = server.backend.events(0, 1)[0].seq
    started = time.perf_counter()
    registry.commit()
    took = time.perf_counter() - started
    commits[server.backend.events(0, 1)[0].seq > oldest].append(took)
    return registry.seq > target


commits: tuple[list[float], list[float]] = ([], [])
while not changes():
    pass
found["commit of 50 changes"] = statistics.median(commits[False])
found["the same when the journal is cut back"] = statistics.median(commits[True])
found["the slowest, when SQLite moves its log into the file"] = max(*commits[0], *commits[1])
started = time.perf_counter()
registry.grant_grace()
found["fresh ttl for all, after a standstill"] = time.perf_counter() - started
server.stop()
sys.stdout.write(json.dumps(found))
