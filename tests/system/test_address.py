"""Where others reach this machine: real routes, in network namespaces of their own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from rsreg.client.registration.address import Finder, bound_to
from rsreg.errors import ConfigurationError, Disconnected
from rsreg.protocol.calls import Call
from rsreg.transport.driver import drive
from tests.helpers import NetworkSpace, program


def find(space: NetworkSpace, endpoint: str, network: str | None = None, bind: str = "*") -> str:
    """What a Finder in a space finds, for a registry that listens on `bind`."""
    done = subprocess.run(
        [*space.inside, *program("find_address", json.dumps([endpoint, network, bind]))],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def space() -> Iterator[NetworkSpace]:
    """A network of one's own."""
    with NetworkSpace() as made:
        yield made


def test_the_address_of_the_route_to_the_registry(space: NetworkSpace) -> None:
    space.ip("address", "add", "10.3.0.5/24", "dev", "lab")
    space.ip("address", "add", "10.4.0.5/24", "dev", "lab")
    space.ip("address", "add", "fd77::5/64", "dev", "lab", "nodad")
    assert find(space, "tcp://10.3.0.1:4242") == "10.3.0.5"
    assert find(space, "tcp://10.4.0.1:4242") == "10.4.0.5"
    assert find(space, "tcp://[fd77::1]:4242") == "fd77::5"
    # The registry is on this machine, and known under its address.
    assert find(space, "tcp://10.4.0.5:4242") == "10.4.0.5"
    assert find(space, "tcp://10.5.0.1:4242").startswith("Disconnected there is no way to")


def test_the_loopback_is_for_others_only_if_the_registry_is_too(space: NetworkSpace) -> None:
    space.ip("address", "add", "10.3.0.5/24", "dev", "lab")
    space.ip("address", "add", "fd77::5/64", "dev", "lab", "nodad")
    for bind in ("127.0.0.1", "localhost", "lo", "::1"):
        assert find(space, "tcp://localhost:4242", bind=bind) == "127.0.0.1"
        assert find(space, "tcp://[::1]:4242", bind=bind) == "::1"
    # Without a default route, as in many a lab, it is the address that there is.
    for bind in ("*", "0.0.0.0", "::", "10.3.0.5", ""):
        assert find(space, "tcp://127.0.0.1:4242", bind=bind) == "10.3.0.5"
    space.ip("address", "add", "10.4.0.5/24", "dev", "lab")
    space.ip("route", "add", "default", "via", "10.4.0.1")
    assert find(space, "tcp://127.0.0.1:4242") == "10.4.0.5"


def test_a_machine_without_any_network_has_only_itself(space: NetworkSpace) -> None:
    assert find(space, "tcp://localhost:4242") == "127.0.0.1"


def test_the_address_in_a_network(space: NetworkSpace) -> None:
    space.ip("address", "add", "10.3.0.5/24", "dev", "lab")
    space.ip("address", "add", "10.4.0.5/24", "dev", "lab")
    space.ip("address", "add", "fd77::5/64", "dev", "lab", "nodad")
    space.ip("route", "add", "default", "via", "10.4.0.1")
    for network in ("10.3.0.0/24", "10.3.0.77/24", "10.3.0.4/30", "10.3.0.5/32", "10.3.0.5"):
        assert find(space, "tcp://localhost:4242", network) == "10.3.0.5"
    assert find(space, "tcp://localhost:4242", "fd77::/64") == "fd77::5"
    for network in ("10.5.0.0/24", "10.3.0.128/25", "fd78::/64"):
        said = find(space, "tcp://localhost:4242", network)
        assert said == f"ConfigurationError this machine has no address in {network}"


@pytest.mark.parametrize("text", ["", "10.3.0", "lab", "10.3.0.0/33", "10.3.0.0/255.0.255.0"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ConfigurationError, match="advertise= is no network"):
        Finder("tcp://localhost:4242", text)


def test_a_name_that_nobody_knows_is_looked_up_again() -> None:
    def ask(_call: Call[Any]) -> dict[str, Any]:
        pytest.fail("there is nobody to ask")

    finder = Finder("tcp://no-such-host.invalid:4242")
    for _ in range(2):
        with pytest.raises(Disconnected, match="no way to tcp://no-such-host"):
            drive(finder.find(), ask)


def test_the_registry_is_asked_once_where_it_listens() -> None:
    asked: list[str] = []

    def ask(call: Call[Any]) -> dict[str, Any]:
        asked.append(call.action)
        return {"bind": "127.0.0.1"}

    finder = Finder("tcp://127.0.0.1:4242")
    assert [drive(finder.find(), ask) for _ in range(3)] == ["127.0.0.1"] * 3
    assert asked == ["info"]


def test_what_a_socket_is_bound_to() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with context.socket(zmq.REP) as socket:
        with pytest.raises(ConfigurationError, match="not bound to a TCP port"):
            bound_to(socket)
        for host, found in (("127.0.0.1", "127.0.0.1"), ("*", None), ("0.0.0.0", None)):
            port = socket.bind_to_random_port(f"tcp://{host}")
            assert bound_to(socket) == (found, port)
        socket.ipv6 = True
        port = socket.bind_to_random_port("tcp://[::1]")
        assert bound_to(socket) == ("::1", port)
        port = socket.bind_to_random_port("tcp://*")
        assert bound_to(socket) == (None, port)
        socket.bind("inproc://here")
        with pytest.raises(ConfigurationError, match="not bound to a TCP port"):
            bound_to(socket)
        socket.connect("tcp://192.0.2.77:5000")
        with pytest.raises(ConfigurationError, match="connected, not bound"):
            bound_to(socket)
    for nothing in (socket, 5, None):
        with pytest.raises(ConfigurationError, match="no open ZeroMQ socket"):
            bound_to(nothing)
