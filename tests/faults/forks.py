"""A driver with all that a client has, which starts other processes in every way.

    forks.py ENDPOINT ROUNDS

Prints "done" if nothing of it disturbed anything.
"""

import multiprocessing
import os
import sys
import threading
from typing import Any

from rsreg import RegistryClient

inherited: RegistryClient | None = None


def ask(endpoint: str) -> list[Any]:
    """What a worker does, forked or not: uses a client of its own, and has a heartbeat."""
    with RegistryClient(endpoint, timeout=20) as client:
        own = client.register("worker", "127.0.0.1", 1024 + os.getpid() % 60_000, ttl=30)
        client.start_heartbeat(0.05)
        client.start_event_listener()
        return [client.renew(), client.deregister(own)]


def use_inherited() -> list[Any]:
    """What a forked child has of its parent's client: fresh sockets, nothing to keep alive."""
    assert inherited is not None
    return [inherited.get_service(), inherited.renew(), inherited.health_check()]


def main() -> None:
    """Start them all, one way after the other."""
    global inherited
    endpoint, rounds = sys.argv[1], int(sys.argv[2])
    inherited = client = RegistryClient(endpoint, timeout=20)
    client.register("parent", "127.0.0.1", 5000, "PARENT", ttl=30)
    client.start_heartbeat(0.05)
    client.start_event_listener()
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            assert client.health_check()

    busy = threading.Thread(target=call)
    busy.start()
    for _ in range(rounds):
        pid = os.fork()
        if pid == 0:
            sys.exit(0 if use_inherited() == [None, False, True] else 3)
        assert os.waitpid(pid, 0)[1] == 0
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(ask, [endpoint] * 2 * rounds) == [[True, True]] * 2 * rounds
            if method == "fork":
                assert pool.apply(use_inherited) == [None, False, True]
    over.set()
    busy.join()
    assert client.renew()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
