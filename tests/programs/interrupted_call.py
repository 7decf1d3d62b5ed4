"""Interrupts a call, and lives on: `interrupted_call.py ENDPOINT WAY METHOD ARGUMENTS`.

ARGUMENTS is a JSON array. Prints "interrupted" and the error, or "it ended".
"""

import asyncio
import json
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import gevent
import zmq.green

from rsreg import AsyncRegistryClient, RegistryClient

#: What to call on a client.
Method = Callable[[Any], Any]


class Interrupted(Exception):
    pass


def raises(*_: object) -> None:
    """A signal handler that raises."""
    raise Interrupted


# A shell keeps its client.
kept: list[object] = []


def by(number: int, handler: Any) -> Callable[[str, Method], None]:
    """A signal interrupts the call."""

    def interrupted(endpoint: str, call: Method) -> None:
        signal.signal(number, handler)
        client = RegistryClient(endpoint, timeout=60)
        kept.append(client)
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.5, lambda: signal.pthread_kill(main, number)).start()
        call(client)

    return interrupted


def by_gevent_timeout(endpoint: str, call: Method) -> None:
    """A timeout of gevent is raised in the call."""
    client = RegistryClient(endpoint, timeout=60, context=zmq.green.Context())
    kept.append(client)
    with gevent.Timeout(0.5):
        call(client)


def by_kill(endpoint: str, call: Method) -> None:
    """The greenlet of the call is killed."""
    client = RegistryClient(endpoint, timeout=60, context=zmq.green.Context())
    kept.append(client)
    calling = gevent.spawn(call, client)
    calling.join(0.5)
    calling.kill()
    raise Interrupted


def by_cancelling(endpoint: str, call: Method) -> None:
    """The task of the call is cancelled."""

    async def main() -> None:
        client = AsyncRegistryClient(endpoint, timeout=60)
        kept.append(client)
        await asyncio.wait_for(call(client), 0.5)

    asyncio.run(main())


def by_a_loop_that_ends(endpoint: str, call: Method) -> None:
    """The event loop ends while the call waits."""

    async def main() -> None:
        client = AsyncRegistryClient(endpoint, timeout=60)
        kept.append(client)
        kept.append(asyncio.create_task(call(client)))
        await asyncio.sleep(0.5)

    asyncio.run(main())
    raise Interrupted


WAYS: dict[str, Callable[[str, Method], None]] = {
    "Ctrl-C": by(signal.SIGINT, signal.default_int_handler),
    "a signal handler": by(signal.SIGALRM, raises),
    "gevent.Timeout": by_gevent_timeout,
    "kill": by_kill,
    "cancel": by_cancelling,
    "end of the loop": by_a_loop_that_ends,
}

#: What each of them raises in the one who calls.
ENDS = (Interrupted, KeyboardInterrupt, gevent.Timeout, asyncio.TimeoutError)

if __name__ == "__main__":
    endpoint, way, method, arguments = sys.argv[1:]
    try:
        WAYS[way](endpoint, lambda client: getattr(client, method)(*json.loads(arguments)))
        print("it ended")
    except ENDS as error:
        print("interrupted", type(error).__name__, flush=True)
    sys.stdin.read()
