"""A driver that ends: `... ENDPOINT WAY`."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rsreg import RegistryClient
from rsreg.client.registration.own_services import Heartbeat
from rsreg.client.registration.registered import Registered

client = RegistryClient(sys.argv[1], timeout=10)


def puna(heartbeat: str = "thread") -> Registered:
    """The registration, to be entered."""
    return client.registered("puna_cs", port=5000, heartbeat=heartbeat)


def normal() -> None:
    """Leave the block."""
    with puna():
        pass


def exception() -> None:
    """End by an exception."""
    with puna():
        raise SystemExit("as told")


def ends_with_3() -> None:
    """Exit."""
    with puna():
        sys.exit(3)


def never_left() -> None:
    """End inside."""
    puna().__enter__()


def interrupt() -> None:
    """Be interrupted."""
    with puna():
        os.kill(os.getpid(), 2)


def in_a_thread() -> None:
    """Let a thread that never ends be inside."""
    up = threading.Event()

    def serve() -> None:
        with puna():
            up.set()
            time.sleep(1000)

    threading.Thread(target=serve, daemon=True).start()
    up.wait()


def patched() -> None:
    """End inside, in a process that gevent has patched."""
    from gevent import monkey

    monkey.patch_all()
    puna().__enter__()


def process() -> None:
    """End inside, with a heartbeat process."""
    puna("process").__enter__()


def interrupt_right_after_it_was_registered() -> None:
    """Be interrupted before the block begins."""
    register: Callable[..., Any] = Heartbeat.register

    def interrupted(*arguments: Any) -> Iterator[Any]:
        yield from register(*arguments)
        os.kill(os.getpid(), 2)
        time.sleep(1)

    pytest.MonkeyPatch().setattr(Heartbeat, "register", interrupted)
    with puna():
        pass


WAYS: dict[str, Callable[[], None]] = {
    "normal": normal,
    "exception": exception,
    "exit": ends_with_3,
    "never left": never_left,
    "interrupt": interrupt,
    "in a thread": in_a_thread,
    "patched": patched,
    "process": process,
    "interrupt right after it was registered": interrupt_right_after_it_was_registered,
}
WAYS[sys.argv[2]]()
