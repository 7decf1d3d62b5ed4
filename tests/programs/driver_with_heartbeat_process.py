"""A driver whose heartbeat is a process: `... ENDPOINT TTL ACTION`; ACTION is done in its block."""

import ctypes
import os
import sys
import time
from collections.abc import Callable

from rsreg import RegistryClient
from rsreg.client.registration.registered import Registered


def wait(_puna: Registered) -> None:
    """Wait until the input is closed."""
    sys.stdin.read()


def hold(_puna: Registered) -> None:
    """Hold the interpreter's lock: this function of C does not let go of it."""
    sys.stdin.readline()
    ctypes.PyDLL(None).usleep(6_000_000)
    print("back", flush=True)


def fork(_puna: Registered) -> None:
    """Have a child that lives on, and print its id."""
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()


def leave(puna: Registered) -> None:
    """Leave the block early."""
    sys.stdin.readline()
    puna.__exit__()
    print("left", flush=True)
    sys.stdin.readline()


def be_interrupted(_puna: Registered) -> None:
    """Wait for an interrupt."""
    try:
        print("waiting", flush=True)
        while True:
            time.sleep(0.05)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    sys.stdin.read()


def change(puna: Registered) -> None:
    """Say one thing after the other."""
    puna.status("cooling", progress=0.4)
    sys.stdin.readline()
    puna.update(metadata={"version": "2"})
    with puna.busy("homing", max=60):
        sys.stdin.readline()
    sys.stdin.readline()


ACTIONS: dict[str, Callable[[Registered], None]] = {
    "wait": wait,
    "hold": hold,
    "fork": fork,
    "leave": leave,
    "be interrupted": be_interrupted,
    "change": change,
}
endpoint, ttl, action = sys.argv[1:]
# An inheritable descriptor, as careless libraries have them.
os.set_inheritable(os.open("/dev/zero", os.O_RDONLY), True)
client = RegistryClient(endpoint, timeout=10)
with client.registered(
    "puna_cs", port=5000, service_type="PUNA", ttl=float(ttl), heartbeat="process"
) as puna:
    print("up", flush=True)
    ACTIONS[action](puna)
