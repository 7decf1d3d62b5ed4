"""Ends with all that a client has still running: `... ENDPOINT WAY`."""

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

import zmq

from rsreg import AsyncRegistryClient, RegistryClient

endpoint, way = sys.argv[1:]
#: What lives until the interpreter ends.
clients: list[RegistryClient] = []


def all_running(context: zmq.Context[Any] | None = None) -> RegistryClient:
    """A client with a service, a heartbeat and a listener."""
    client = RegistryClient(endpoint, timeout=20, context=context)
    clients.append(client)
    client.register("driver", "egse3", 5000, ttl=30)
    client.start_heartbeat(0.05)
    client.start_event_listener()
    return client


def wait() -> None:
    """Wait until the test lets this process go on."""
    print("ready", flush=True)
    sys.stdin.readline()


def thread() -> None:
    """End during a call of a thread."""
    client = all_running()
    threading.Thread(target=client.list_services, daemon=True).start()
    wait()


def leave() -> None:
    """Exit."""
    all_running()
    wait()
    sys.exit(0)


def patched() -> None:
    """End in a process that gevent has patched."""
    from gevent import monkey

    monkey.patch_all()
    all_running()
    wait()


def green() -> None:
    """End with sockets of greenlets."""
    import zmq.green

    all_running(zmq.green.Context())
    wait()


async def in_asyncio() -> None:
    """End during a call of a task."""
    client = AsyncRegistryClient(endpoint, timeout=20)
    await client.register("driver", "egse3", 5000, ttl=30)
    await client.start_heartbeat(0.05)
    await client.start_event_listener()
    wait()
    call = asyncio.create_task(client.list_services())
    await asyncio.sleep(0.1)
    assert not call.done()


WAYS: dict[str, Callable[[], None]] = {
    "thread": thread,
    "exit": leave,
    "patched": patched,
    "green": green,
    "asyncio": lambda: asyncio.run(in_asyncio()),
}
WAYS[way]()
