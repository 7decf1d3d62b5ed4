"""Interrupts all that waits, again and again: `interrupted_waits.py ENDPOINT PORT_OF_NOBODY`.

Prints how many file descriptors it had before and afterwards, and whether its client still works.
"""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from rsreg import AsyncRegistryClient, RegistryClient


class Interrupted(Exception):
    pass


def raises(*_: object) -> None:
    """A signal handler that raises."""
    raise Interrupted


signal.signal(signal.SIGALRM, raises)
endpoint, nobody = sys.argv[1], int(sys.argv[2])
client = RegistryClient(endpoint, timeout=10)
client.register("gone", "127.0.0.1", nobody, "GONE", owned=False)
other = AsyncRegistryClient(endpoint, timeout=10)
main = threading.main_thread().ident or 0


def soon() -> None:
    """Interrupt the main thread a little later."""
    threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGALRM)).start()


def all_events() -> None:
    """Watch for ever."""
    for _ in client.watch():
        pass


async def cancelled(action: Coroutine[Any, Any, object]) -> None:
    """Give up on it a little later."""
    await asyncio.wait_for(action, 0.3)


async def watched() -> None:
    """Watch for ever."""
    async for _ in other.watch():
        pass


BLOCKING: list[Callable[[], object]] = [
    all_events,
    lambda: client.wait_for("PUNA"),
    lambda: client.discover_service("PUNA", wait=60),
    lambda: client.connect_to("GONE", timeout=60),
]
COROUTINES: list[Callable[[], Coroutine[Any, Any, object]]] = [
    watched,
    lambda: other.wait_for("PUNA"),
    lambda: other.discover_service("PUNA", wait=60),
    lambda: other.connect_to("GONE", timeout=60),
]


def descriptors() -> int:
    """How many files and sockets are open."""
    return len(os.listdir("/proc/self/fd"))


def once() -> None:
    """Interrupt each of them."""
    for blocking in BLOCKING:
        soon()
        try:
            blocking()
        except Interrupted:
            continue
        sys.exit("it was not interrupted")
    for coroutine in COROUTINES:
        try:
            asyncio.run(cancelled(coroutine()))
        except asyncio.TimeoutError:
            continue
        sys.exit("it was not cancelled")
    closed = client.watch()
    closed.close()
    gc.collect()


once()
before = descriptors()
once()
once()
until = time.monotonic() + 20
while descriptors() > before and time.monotonic() < until:
    time.sleep(0.05)
print(before, descriptors(), client.health_check())
