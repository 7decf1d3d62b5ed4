"""Names of hosts: real look-ups in network namespaces, with a name server that never answers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from rsreg import RegistryClient
from rsreg.errors import RequestTimeout, TransportError, UnknownHost
from rsreg.transport import resolver
from rsreg.transport.channel import find
from tests.helpers import PATCHED, NetworkSpace, ServerProcess, printed, start_program, wait_until


@pytest.fixture
def space() -> Iterator[NetworkSpace]:
    """A network with a name server that says nothing, and without any known host."""
    with NetworkSpace() as made:
        made.etc("resolv.conf", "nameserver 127.0.0.53\noptions timeout:20 attempts:1\n")
        made.etc("hosts", "")
        yield made


@contextmanager
def running(
    space: NetworkSpace, name: str, *arguments: object, options: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A file of tests/programs that runs in a space, and is killed in the end."""
    with start_program(name, *arguments, under=space.inside, options=options) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> Any:
    """What it tells next."""
    return json.loads(printed(process))


def test_a_name_that_can_not_be_found_harms_nobody_else(space: NetworkSpace) -> None:
    with (
        ServerProcess(under=space.inside) as server,
        running(space, "driver_beside_unknown_names", server.endpoint) as process,
    ):
        said, took = told(process)
        assert said.startswith("Unreachable: odd can't be reached on tcp://no-such-host.lab:5000:")
        assert "no name server said within 0.5 s where 'no-such-host.lab' is" in said
        assert took < 3
        for _ in range(30):
            health, took = told(process)
            assert (health, took < 2) == ("passing", True)


def test_a_call_ends_within_its_timeout_and_all_wait_on_one_thread(space: NetworkSpace) -> None:
    with running(space, "many_calls_to_unknown_name") as process:
        # Beside the one for the name there are libzmq's two, if they are there already.
        assert told(process)[0] <= 3
        took, healthy = told(process)
        assert took < 5
        assert healthy == [False] * 40
        said, took = told(process)
        assert said == "RequestTimeout: no name server said within 1 s where 'registry.lab' is"
        assert took < 3
        assert told(process) == ["nobody asked again"]


@pytest.mark.parametrize("options", [(), PATCHED], ids=["plain", "patched"])
def test_other_greenlets_go_on_meanwhile(space: NetworkSpace, options: Sequence[str]) -> None:
    with running(space, "greenlets_beside_lookup", options=options) as process:
        said, took = told(process)
        assert said.startswith("RequestTimeout")
        assert took < 3
        gap, ticks = told(process)
        assert gap < 0.7
        assert ticks > 10


def test_the_event_loop_goes_on_meanwhile(space: NetworkSpace) -> None:
    with running(space, "tasks_beside_lookup") as process:
        took, executor = told(process)
        assert took < 5
        assert executor < 2
        gap, ticks = told(process)
        assert gap < 0.7
        assert ticks > 10


def test_the_address_to_advertise_is_found_within_a_timeout(space: NetworkSpace) -> None:
    with running(space, "address_beside_unknown_name") as process:
        for most in (2, 4):
            said, took = told(process)
            assert said.startswith(
                "Disconnected: there is no way to tcp://registry.lab:4242: no na"
            )
            assert took < most


def test_a_registry_that_moved_is_found_again(space: NetworkSpace) -> None:
    first = ServerProcess(under=space.inside, bind="127.0.0.2").start()
    second = ServerProcess(under=space.inside, bind="127.0.0.3")
    space.etc("hosts", "127.0.0.2 registry.lab\n")
    try:
        with running(space, "driver_of_moving_registry", first.ports[0]) as process:
            wait_until(lambda: told(process) == ["ready"])
            wait_until(lambda: told(process) == [True])
            second.ports = first.ports
            first.kill()
            second.start()
            wait_until(lambda: told(process) == [False])
            space.etc("hosts", "127.0.0.3 registry.lab\n")
            # For questions, for the heartbeat, and for events.
            wait_until(lambda: told(process) == [True])
            with running(space, "register_beside_puna", second.endpoint) as other:
                assert told(other) == ["puna is there"]
                wait_until(lambda: told(process) == ["laser"], 60)
    finally:
        first.stop()
        second.stop()


def test_without_a_name_server_the_address_from_before_is_tried(space: NetworkSpace) -> None:
    space.etc("hosts", "127.0.0.1 registry.lab\n")
    with (
        ServerProcess(under=space.inside) as server,
        running(space, "ask_for_health", server.ports[0]) as asking,
    ):
        assert told(asking)[0] is True
        space.etc("hosts", "")
        server.kill()
        wait_until(lambda: told(asking)[0] is False)
        server.start()
        wait_until(lambda: told(asking)[0] is True)


def test_who_waits_for_a_registry_waits_for_its_name_too(space: NetworkSpace) -> None:
    space.etc("resolv.conf", "")
    with (
        ServerProcess(under=space.inside) as server,
        running(space, "driver_of_unknown_registry", server.ports[0]) as process,
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
