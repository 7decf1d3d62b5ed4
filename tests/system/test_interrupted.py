"""A call that something else than its answer ends is over: nothing of it is sent later."""

from __future__ import annotations

import json
import socket as tcp
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import zmq

from rsreg import RegistryClient
from tests.commands import PLAIN_SHELL, Terminal
from tests.helpers import ServerProcess, printed, python_process, raw_socket, received

#: Milliseconds between two tries to connect of a socket that is slower than any client is: what
#: would still be sent has come before what that sends.
SLOW = 4_000
#: Ways to end a call, each a function of a client and of what to call on it.
INTERRUPT = """
import asyncio, json, os, signal, threading, time
import gevent, zmq.green
from rsreg import AsyncRegistryClient, RegistryClient

class Interrupted(Exception):
    pass

def raises(*_):
    raise Interrupted

# A shell keeps its client.
kept = []

def by(number, handler):
    def interrupted(endpoint, call):
        signal.signal(number, handler)
        client = RegistryClient(endpoint, timeout=60)
        kept.append(client)
        main = threading.main_thread().ident
        threading.Timer(0.5, lambda: signal.pthread_kill(main, number)).start()
        call(client)
    return interrupted

def by_gevent_timeout(endpoint, call):
    client = RegistryClient(endpoint, timeout=60, context=zmq.green.Context())
    kept.append(client)
    with gevent.Timeout(0.5):
        call(client)

def by_kill(endpoint, call):
    client = RegistryClient(endpoint, timeout=60, context=zmq.green.Context())
    kept.append(client)
    calling = gevent.spawn(call, client)
    calling.join(0.5)
    calling.kill()
    raise Interrupted

def by_cancelling(endpoint, call):
    async def main():
        client = AsyncRegistryClient(endpoint, timeout=60)
        kept.append(client)
        await asyncio.wait_for(call(client), 0.5)
    asyncio.run(main())

def by_a_loop_that_ends(endpoint, call):
    async def main():
        client = AsyncRegistryClient(endpoint, timeout=60)
        kept.append(client)
        asyncio.create_task(call(client))
        await asyncio.sleep(0.5)
    asyncio.run(main())
    raise Interrupted

WAYS = {
    "Ctrl-C": by(signal.SIGINT, signal.default_int_handler),
    "a signal handler": by(signal.SIGALRM, raises),
    "gevent.Timeout": by_gevent_timeout,
    "kill": by_kill,
    "cancel": by_cancelling,
    "end of the loop": by_a_loop_that_ends,
}

endpoint, way, method, *arguments = sys.argv[1:]
try:
    WAYS[way](endpoint, lambda client: getattr(client, method)(*json.loads(arguments[0])))
    print("it ended")
except BaseException as error:
    print("interrupted", type(error).__name__, flush=True)
sys.stdin.read()
"""
WAYS = ["Ctrl-C", "a signal handler", "gevent.Timeout", "kill", "cancel", "end of the loop"]


def end(server: ServerProcess) -> ExitStack:
    """Kill it; what is given back keeps its ports for it, so that no other test gets them."""
    server.kill()
    kept = ExitStack()
    for port in filter(None, server.ports):
        socket = kept.enter_context(tcp.socket())
        socket.setsockopt(tcp.SOL_SOCKET, tcp.SO_REUSEADDR, 1)
        socket.bind(("127.0.0.1", port))
    return kept


@contextmanager
def interrupted(
    server: ServerProcess, way: str, method: str, *arguments: object
) -> Iterator[subprocess.Popen[str]]:
    """A process whose call was ended, and which lives on."""
    said = json.dumps(arguments)
    with python_process(INTERRUPT, server.endpoint, way, method, said) as process:
        try:
            assert printed(process).startswith("interrupted ")
            yield process
        finally:
            process.kill()


def started(server: ServerProcess, kept: ExitStack) -> list[str]:
    """Start it again; the names of all that is registered when all that waited has arrived."""
    with raw_socket(zmq.DEALER, server.endpoint, reconnect_ivl=SLOW) as socket:
        info = {"name": "last", "host": "lab", "port": 1}
        request = {"action": "register", "service_info": info, "ttl": 60}
        socket.send_multipart([b"", json.dumps(request).encode()])
        kept.close()
        server.start()
        received(socket, 30)
    with RegistryClient(server.endpoint, timeout=10) as client:
        return [each["name"] for each in client.list_services()]


@pytest.mark.parametrize("way", WAYS)
def test_nobody_is_registered_by_an_interrupted_call(process: ServerProcess, way: str) -> None:
    kept = end(process.start())
    arguments = ("late", "lab", 5000, "LATE", None, 30, False, False, "late-1")
    with interrupted(process, way, "register", *arguments):
        assert started(process, kept) == ["last"]


@pytest.mark.parametrize("way", ["Ctrl-C", "cancel"])
def test_nobody_is_terminated_by_an_interrupted_call(process: ServerProcess, way: str) -> None:
    kept = end(process.start())
    with interrupted(process, way, "terminate_registry_server"):
        assert started(process, kept) == ["last"]


def test_ctrl_c_in_the_shell_ends_the_call(process: ServerProcess) -> None:
    process.start()
    with Terminal("shell", command=PLAIN_SHELL, RSREG_ENDPOINT=process.endpoint) as terminal:
        terminal.until(">>> ")
        kept = end(process)
        terminal.type("print('call' + 'ing'); reg.terminate_registry_server()\n")
        terminal.until("calling")
        terminal.type("\x03")
        terminal.until("KeyboardInterrupt")
        assert started(process, kept) == ["last"]
        terminal.type("print('well:', reg.health_check())\n")
        terminal.until("well: True")


LEFT = """
import asyncio, gc, os, signal, threading, time
import zmq
from rsreg import AsyncRegistryClient, RegistryClient

class Interrupted(Exception):
    pass

def raises(*_):
    raise Interrupted

signal.signal(signal.SIGALRM, raises)
endpoint, nobody = sys.argv[1], int(sys.argv[2])
client = RegistryClient(endpoint, timeout=10)
client.register("gone", "127.0.0.1", nobody, "GONE", owned=False)
other = AsyncRegistryClient(endpoint, timeout=10)
main = threading.main_thread().ident

def soon():
    threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGALRM)).start()

def all_events():
    for event in client.watch():
        pass

async def cancelled(action):
    await asyncio.wait_for(action, 0.3)

async def watched():
    async for event in other.watch():
        pass

BLOCKING = [
    all_events,
    lambda: client.wait_for("PUNA"),
    lambda: client.discover_service("PUNA", wait=60),
    lambda: client.connect_to("GONE", timeout=60),
]
COROUTINES = [
    watched,
    lambda: other.wait_for("PUNA"),
    lambda: other.discover_service("PUNA", wait=60),
    lambda: other.connect_to("GONE", timeout=60),
]

def once():
    for each in BLOCKING:
        soon()
        try:
            each()
        except Interrupted:
            continue
        sys.exit("it was not interrupted")
    for each in COROUTINES:
        try:
            asyncio.run(cancelled(each()))
        except asyncio.TimeoutError:
            continue
        sys.exit("it was not cancelled")
    closed = client.watch()
    closed.close()
    gc.collect()

once()
before = len(os.listdir("/proc/self/fd"))
once()
once()
until = time.monotonic() + 20
while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < until:
    time.sleep(0.05)
print(before, len(os.listdir("/proc/self/fd")), client.health_check())
"""


def test_what_is_interrupted_leaves_no_socket_behind(endpoint: str) -> None:
    with tcp.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with python_process(LEFT, endpoint, taken.getsockname()[1]) as process:
            before, after, healthy = printed(process).split()
    assert int(after) <= int(before)
    assert healthy == "True"


OFTEN = """
import random, signal, threading
from rsreg import RegistryClient

class Interrupted(Exception):
    pass

def raises(*_):
    raise Interrupted

signal.signal(signal.SIGALRM, raises)
client = RegistryClient(sys.argv[1], timeout=5)
for _ in range(800):
    try:
        # Again, since one that comes in a destructor is lost.
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.002), 0.05)
        while True:
            client.list_services()
    except Interrupted:
        pass
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupted:
            pass
answers = []
asking = threading.Thread(target=lambda: answers.append(client.health_check()))
asking.start()
asking.join()
print(client.health_check(), *answers)
"""


def test_an_exception_between_any_two_lines_leaves_the_client_free(endpoint: str) -> None:
    with python_process(OFTEN, endpoint) as process:
        assert printed(process) == "True True"
