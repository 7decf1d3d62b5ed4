"""Forty clients ask a registry whose name nobody knows.

Tells how many more threads that takes, how long the slowest call took and what all returned, how
a later call fails, and whether the name server was asked again.
"""

import os
import threading

from rsreg import RegistryClient
from tests.programs.lookups import SilentNameServer, tell, timed

name_server = SilentNameServer()
clients = [RegistryClient("registry.lab:4242", timeout=1) for _ in range(40)]
results: list[tuple[bool | str, float]] = []


def ask(client: RegistryClient) -> None:
    """Ask, and note the result."""
    results.append(timed(client.health_check))


asking = [threading.Thread(target=ask, args=[client]) for client in clients]
before = len(os.listdir("/proc/self/task"))
for each in asking:
    each.start()
name_server.wait_for_question()
tell(len(os.listdir("/proc/self/task")) - before - sum(each.is_alive() for each in asking))
for each in asking:
    each.join()
tell(max(took for _, took in results), [healthy for healthy, _ in results])
tell(*timed(clients[0].list_services))
question = name_server.question()
tell("nobody asked again" if question is None else len(question))
