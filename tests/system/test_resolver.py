"""Names of hosts: real look-ups in network namespaces, with a name server that never answers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rsreg import RegistryClient
from rsreg.errors import RequestTimeout, TransportError, UnknownHost
from rsreg.transport import resolver
from rsreg.transport.channel import find
from tests.helpers import NetworkSpace, ServerProcess, printed, python_process, wait_until

#: What the processes of a test share.
PRELUDE = """
import json, os, socket, threading, time
import zmq
from rsreg import AsyncRegistryClient, RegistryClient
from rsreg.errors import *

def timed(action, *arguments, **named):
    began = time.monotonic()
    try:
        result = action(*arguments, **named)
    except RegistryError as error:
        result = f"{type(error).__name__}: {error}"
    return result, time.monotonic() - began

def tell(*said):
    print(json.dumps(said), flush=True)
"""
#: A name server that takes questions and never answers.
SILENT = """
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.53", 53))

def asked():
    server.settimeout(20)
    server.recv(2000)
"""


@pytest.fixture
def space() -> Iterator[NetworkSpace]:
    """A network with a name server that says nothing, and without any known host."""
    with NetworkSpace() as made:
        made.etc("resolv.conf", "nameserver 127.0.0.53\noptions timeout:20 attempts:1\n")
        made.etc("hosts", "")
        yield made


@contextmanager
def running(
    space: NetworkSpace, code: str, *arguments: object, silent: bool = True, patched: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """A process in a space, with the silent name server in it."""
    code = patched + PRELUDE + (SILENT if silent else "") + code
    with python_process(code, *arguments, under=space.inside) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> Any:
    """What it tells next."""
    return json.loads(printed(process))


def test_a_name_that_can_not_be_found_harms_nobody_else(space: NetworkSpace) -> None:
    code = """
endpoint = sys.argv[1]
with RegistryClient(endpoint, timeout=10) as driver:
    driver.register("odd", "no-such-host.lab", 5000, "ODD", ttl=60)
    driver.register("puna", "10.3.0.5", 5000, "PUNA", ttl=2)
    driver.start_heartbeat()
    other = RegistryClient("registry.lab:4242", timeout=0.5)
    threading.Thread(target=lambda: [timed(other.list_services) for _ in range(6)]).start()
    asked()
    tell(*timed(driver.connect_to, "ODD", timeout=0.5))
    # For longer than its ttl.
    for _ in range(30):
        health, took = timed(lambda: driver.find_service("puna")["health"])
        tell(health, took)
        time.sleep(0.1)
"""
    with (
        ServerProcess(under=space.inside) as server,
        running(space, code, server.endpoint) as process,
    ):
        said, took = told(process)
        assert said.startswith("Unreachable: odd can't be reached on tcp://no-such-host.lab:5000:")
        assert "no name server said within 0.5 s where 'no-such-host.lab' is" in said
        assert took < 3
        for _ in range(30):
            health, took = told(process)
            assert (health, took < 2) == ("passing", True)


def test_a_call_ends_within_its_timeout_and_all_wait_on_one_thread(space: NetworkSpace) -> None:
    code = """
clients = [RegistryClient("registry.lab:4242", timeout=1) for _ in range(40)]
results = []
asks = [
    threading.Thread(target=lambda each=each: results.append(timed(each.health_check)))
    for each in clients
]
before = len(os.listdir("/proc/self/task"))
for each in asks:
    each.start()
asked()
tell(len(os.listdir("/proc/self/task")) - before - sum(each.is_alive() for each in asks))
for each in asks:
    each.join()
tell(max(took for _, took in results), [said for said, _ in results])
tell(*timed(clients[0].list_services))
server.settimeout(0)
try:
    tell(len(server.recv(2000)))
except BlockingIOError:
    tell("nobody asked again")
"""
    with running(space, code) as process:
        # Beside the one for the name there are libzmq's two, if they are there already.
        assert told(process)[0] <= 3
        took, healthy = told(process)
        assert took < 5
        assert healthy == [False] * 40
        said, took = told(process)
        assert said == "RequestTimeout: no name server said within 1 s where 'registry.lab' is"
        assert took < 3
        assert told(process) == ["nobody asked again"]


@pytest.mark.parametrize("patched", ["", "from gevent import monkey; monkey.patch_all()\n"])
def test_other_greenlets_go_on_meanwhile(space: NetworkSpace, patched: str) -> None:
    code = """
import gevent
import zmq.green

ticks = []
def tick():
    while True:
        ticks.append(time.monotonic())
        gevent.sleep(0.01)

client = RegistryClient("registry.lab:4242", timeout=1, context=zmq.green.Context())
gevent.spawn(tick)
tell(*timed(client.list_services))
tell(max(later - earlier for earlier, later in zip(ticks, ticks[1:])), len(ticks))
"""
    with running(space, code, patched=patched) as process:
        said, took = told(process)
        assert said.startswith("RequestTimeout")
        assert took < 3
        gap, ticks = told(process)
        assert gap < 0.7
        assert ticks > 10


def test_the_event_loop_goes_on_meanwhile(space: NetworkSpace) -> None:
    code = """
import asyncio

async def main():
    ticks = []
    async def tick():
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    clients = [AsyncRegistryClient(f"registry{n}.lab:4242", timeout=1) for n in range(40)]
    began = time.monotonic()
    await asyncio.gather(*(each.health_check() for each in clients))
    took = time.monotonic() - began
    # The executor of the loop is free.
    began = time.monotonic()
    await asyncio.to_thread(int)
    ticking.cancel()
    tell(took, time.monotonic() - began)
    tell(max(later - earlier for earlier, later in zip(ticks, ticks[1:])), len(ticks))

asyncio.run(main())
"""
    with running(space, code) as process:
        took, executor = told(process)
        assert took < 5
        assert executor < 2
        gap, ticks = told(process)
        assert gap < 0.7
        assert ticks > 10


def test_the_address_to_advertise_is_found_within_a_timeout(space: NetworkSpace) -> None:
    code = """
from rsreg.client.registration.address import Finder
from rsreg.transport.driver import drive
finder = Finder("tcp://registry.lab:4242")
tell(*timed(lambda *seconds: drive(finder.find(*seconds), dict), 0.5))
tell(*timed(lambda *seconds: drive(finder.find(*seconds), dict)))
"""
    with running(space, code) as process:
        for most in (2, 4):
            said, took = told(process)
            assert said.startswith(
                "Disconnected: there is no way to tcp://registry.lab:4242: no na"
            )
            assert took < most


def test_a_registry_that_moved_is_found_again(space: NetworkSpace) -> None:
    code = """
def main():
    client = RegistryClient("registry.lab:" + sys.argv[1], timeout=0.5)
    client.register("puna", "10.3.0.5", 5000, "PUNA", ttl=3)
    client.start_heartbeat()
    client.on("register", lambda data: tell(data["service_info"]["name"]))
    tell("ready")
    while True:
        tell(timed(client.health_check)[0])
        time.sleep(0.1)
main()
"""
    first = ServerProcess(under=space.inside, bind="127.0.0.2").start()
    second = ServerProcess(under=space.inside, bind="127.0.0.3")
    space.etc("hosts", "127.0.0.2 registry.lab\n")
    at_second = """
client = RegistryClient(sys.argv[1], timeout=10)
while client.find_service("puna") is None:
    time.sleep(0.05)
tell("puna is there")
while True:
    client.register("laser", "10.3.0.6", 5000, "LASER", owned=False)
    time.sleep(0.5)
"""
    try:
        with running(space, code, first.ports[0]) as process:
            wait_until(lambda: told(process) == ["ready"])
            wait_until(lambda: told(process) == [True])
            second.ports = first.ports
            first.kill()
            second.start()
            wait_until(lambda: told(process) == [False])
            space.etc("hosts", "127.0.0.3 registry.lab\n")
            # For questions, for the heartbeat, and for events.
            wait_until(lambda: told(process) == [True])
            with running(space, at_second, second.endpoint, silent=False) as other:
                assert told(other) == ["puna is there"]
                wait_until(lambda: told(process) == ["laser"], 60)
    finally:
        first.stop()
        second.stop()


def test_without_a_name_server_the_address_from_before_is_tried(space: NetworkSpace) -> None:
    code = """
client = RegistryClient("registry.lab:" + sys.argv[1], timeout=3)
while True:
    tell(*timed(client.health_check))
    time.sleep(0.1)
"""
    space.etc("hosts", "127.0.0.1 registry.lab\n")
    with (
        ServerProcess(under=space.inside) as server,
        running(space, code, server.ports[0]) as asking,
    ):
        assert told(asking)[0] is True
        space.etc("hosts", "")
        server.kill()
        wait_until(lambda: told(asking)[0] is False)
        server.start()
        wait_until(lambda: told(asking)[0] is True)


def test_who_waits_for_a_registry_waits_for_its_name_too(space: NetworkSpace) -> None:
    code = """
import asyncio
import logging
logging.basicConfig(stream=sys.stdout, format="%(message)s")
client = RegistryClient("registry.lab:" + sys.argv[1], timeout=2)
said, took = timed(client.list_services)
tell(said, took < 1)

async def main():
    async with AsyncRegistryClient("registry.lab:" + sys.argv[1], timeout=2) as other:
        one, several = await asyncio.gather(
            other.discover_service("PUNA", wait=30), other.wait_for("PUNA")
        )
        tell(one["name"], several["PUNA"]["name"])

with client.registered("puna", port=5000, service_type="PUNA") as puna:
    tell(puna.service_id)
    asking = threading.Thread(target=lambda: asyncio.run(main()))
    asking.start()
    found = client.discover_service("PUNA", wait=30)["name"]
    asking.join()
    tell(found, puna.service_id is not None)
"""
    space.etc("resolv.conf", "")
    with (
        ServerProcess(under=space.inside) as server,
        running(space, code, server.ports[0], silent=False) as process,
    ):
        said, quick = told(process)
        assert said.startswith("UnknownHost: there is no host 'registry.lab'")
        assert quick
        assert "puna: not registered yet, retrying: there is no " in printed(process)
        assert told(process) == [None]
        space.etc("hosts", "127.0.0.1 registry.lab\n")
        assert told(process) == ["puna", "puna"]
        assert told(process) == ["puna", True]


@pytest.mark.parametrize(
    ("endpoint", "numeric"),
    [
        ("tcp://localhost:4242", "tcp://127.0.0.1:4242"),
        ("tcp://10.3.0.5:4242", "tcp://10.3.0.5:4242"),
        ("tcp://[::1]:4242", "tcp://[::1]:4242"),
        ("tcp://[fe80::1%lo]:4242", "tcp://[fe80::1%lo]:4242"),
        ("ipc:///run/registry", "ipc:///run/registry"),
        ("inproc://registry", "inproc://registry"),
        ("tcp://*:4242", "tcp://*:4242"),
    ],
)
def test_what_is_no_name_costs_nothing(endpoint: str, numeric: str) -> None:
    finding = resolver.Finding(endpoint, 0.0)
    assert (finding.pause(), finding.address()) == (0.0, numeric)


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "no-such-host.invalid", "eth0;10.3.0.5", "\0"])
def test_what_is_no_host_is_said_with_its_name(host: str) -> None:
    with pytest.raises(UnknownHost, match="there is no host") as unknown:
        find(f"tcp://{host}:4242", 20, None)
    assert repr(host) in str(unknown.value)
    assert "/etc/hosts" in str(unknown.value.hint)
    with pytest.raises(TransportError):
        RegistryClient(f"{host.strip(chr(0)) or 'a..b'}:4242", timeout=20).list_services()


def test_without_time_nothing_is_found() -> None:
    with pytest.raises(RequestTimeout):
        find("tcp://no-such-host.invalid:4242", 0.0, None)
