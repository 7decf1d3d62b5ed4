"""A driver that leaves in the handler of SIGTERM: `... ENDPOINT WAY BUSY`.

WAY is how it leaves, BUSY what it does meanwhile, over and over.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from rsreg import RegistryClient
from rsreg.errors import RegistryError

endpoint, way, busy = sys.argv[1:]
client = RegistryClient(endpoint, timeout=10)


def deregister() -> None:
    print(client.deregister(), flush=True)
    os._exit(0)


def deregister_and_close() -> None:
    client.deregister()
    client.close()
    print(True, flush=True)
    os._exit(0)


def deregister_and_exit() -> None:
    print(client.deregister(), flush=True)
    sys.exit(0)


def close_and_exit() -> None:
    client.close()
    print(True, flush=True)
    sys.exit(0)


def leave() -> None:
    puna.leave()
    print(True, flush=True)
    os._exit(0)


def end() -> None:
    print(True, flush=True)
    sys.exit(0)


WAYS: dict[str, Callable[[], None]] = {
    "deregister": deregister,
    "deregister and close": deregister_and_close,
    "deregister and exit": deregister_and_exit,
    "close and exit": close_and_exit,
    "leave": leave,
    "exit": end,
}
BUSY: dict[str, Callable[[], object]] = {
    "a call": client.list_services,
    "a call that waits": lambda: client.discover_service("nobody", wait=30),
    "a change": client.renew,
    "a socket of its own": lambda: client.connect_to("PUNA", timeout=5),
}


def handler(_number: int, _frame: FrameType | None) -> None:
    """Leave."""
    WAYS[way]()


with client.registered("puna_cs", "127.0.0.1", 1, "PUNA", ttl=60) as puna:
    client.renew()
    signal.signal(signal.SIGTERM, handler)
    print("up", flush=True)
    while True:
        with suppress(RegistryError):
            BUSY[busy]()
