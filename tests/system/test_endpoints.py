"""Several endpoints of a service, and sockets that are connected to one, against real sockets."""

from __future__ import annotations

import asyncio
import gc
import os
import socket as tcp
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import zmq.green

from rsreg import AsyncRegistryClient, RegistryClient
from rsreg.errors import ConfigurationError, NoService, Unreachable
from rsreg.protocol.records import endpoint_of, ports_of
from tests.helpers import answering_socket, ticking, wait_until


def answering(answer: Callable[[str], str]) -> AbstractContextManager[int]:
    """A service that answers requests; its port."""
    return answering_socket(zmq.REP, lambda message: [answer(message[0].decode()).encode()])


@pytest.fixture
def port() -> Iterator[int]:
    """A service that says what it was told."""
    with answering(lambda said: f"done: {said}") as bound:
        yield bound


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that nobody listens on."""
    with tcp.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


# -- names


def test_the_ports_of_a_record() -> None:
    service = {
        "name": "puna",
        "host": "fe80::1",
        "port": 5000,
        "metadata": {"service_port": 6000, "monitoring_port": 6001, "odd_port": "x", "_port": 1},
    }
    assert ports_of(service) == {"service": 6000, "monitoring": 6001}
    service["endpoints"] = {"command": 5000, "monitoring": 5001}
    assert ports_of(service) == {"service": 6000, "command": 5000, "monitoring": 5001}
    assert endpoint_of(service) == "tcp://[fe80::1]:5000"
    assert endpoint_of(service, "monitoring") == "tcp://[fe80::1]:5001"
    with pytest.raises(ConfigurationError, match="puna has no endpoint 'odd'") as unknown:
        endpoint_of(service, "odd")
    assert "'service', 'monitoring', 'command'" in str(unknown.value.hint)


def test_an_endpoint_by_its_name(client: RegistryClient) -> None:
    assert client.get_endpoint("PUNA", "monitoring") is None
    client.register(
        "cgse", "egse3", 6700, "CGSE", metadata={"service_port": 6701, "monitoring_port": 6702}
    )
    assert client.get_endpoint("CGSE") == "tcp://egse3:6700"
    assert client.get_endpoint("CGSE", "monitoring") == "tcp://egse3:6702"
    with pytest.raises(ConfigurationError, match="no endpoint 'video'"):
        client.get_endpoint("CGSE", "video")


# -- sockets


def test_a_connected_socket(client: RegistryClient, port: int) -> None:
    client.register("puna", "127.0.0.1", port, "PUNA")
    with client.connect_to("PUNA") as socket:
        socket.send_string("home")
        assert socket.recv_string() == "done: home"
        assert (socket.linger, socket.rcvtimeo, socket.sndtimeo) == (0, 5000, 5000)


def test_a_late_reply_is_no_answer_to_the_next_request(client: RegistryClient) -> None:
    def answer(said: str) -> str:
        if said == "slow":
            time.sleep(0.5)
        return said

    with answering(answer) as bound:
        client.register("puna", "127.0.0.1", bound, "PUNA")
        with client.connect_to("PUNA", timeout=0.2) as socket:
            socket.send_string("slow")
            with pytest.raises(zmq.Again):
                socket.recv_string()
            socket.rcvtimeo = 10_000
            for said in ("a", "b"):
                socket.send_string(said)
                assert socket.recv_string() == said


def test_a_socket_of_another_kind_and_port(client: RegistryClient, nobody: int) -> None:
    publisher: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
    bound = publisher.bind_to_random_port("tcp://127.0.0.1")
    metadata = {"monitoring_port": bound}
    client.register("puna", "127.0.0.1", nobody, "PUNA", metadata)
    with client.connect_to("PUNA", zmq.SUB, "monitoring", timeout=10) as socket:
        socket.subscribe(b"")

        def sent_and_received() -> bool:
            publisher.send(b"23.5")
            return bool(socket.poll(20))

        wait_until(sent_and_received)
        assert socket.recv() == b"23.5"
    publisher.close(0)


def test_a_service_that_is_not_there_is_said(client: RegistryClient, nobody: int) -> None:
    client.register("puna", "127.0.0.1", nobody, "PUNA")
    started = time.monotonic()
    with pytest.raises(Unreachable, match=rf"puna can't be .* tcp://127\.0\.0\.1:{nobody}") as gone:
        client.connect_to("PUNA", timeout=0.5)
    assert 0.5 <= time.monotonic() - started < 3
    assert "firewall" in str(gone.value.hint)
    assert isinstance(gone.value, TimeoutError)


def test_a_port_of_something_else_is_said(client: RegistryClient, port: int) -> None:
    with tcp.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client.register("no zmq", "127.0.0.1", silent.getsockname()[1], "SILENT")
        client.register("no pub", "127.0.0.1", port, "REP")
        for kind, service_type in ((zmq.REQ, "SILENT"), (zmq.SUB, "REP")):
            with pytest.raises(Unreachable, match=f"no ZeroMQ socket that a {kind.name} goes"):
                client.connect_to(service_type, kind, timeout=0.5)


def test_a_service_that_starts_late_is_connected_to(client: RegistryClient) -> None:
    server: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
    bound = server.bind_to_random_port("tcp://127.0.0.1")
    server.unbind(f"tcp://127.0.0.1:{bound}")
    client.register("puna", "127.0.0.1", bound, "PUNA")
    timer = threading.Timer(0.5, lambda: server.bind(f"tcp://127.0.0.1:{bound}"))
    timer.start()
    try:
        with client.connect_to("PUNA", timeout=20) as socket:
            socket.send(b"x")
            assert server.recv() == b"x"
    finally:
        timer.join()
        server.close(0)


def test_it_waits_for_the_service_first(client: RegistryClient, endpoint: str, port: int) -> None:
    with pytest.raises(NoService, match="'PUNA'") as none:
        client.connect_to("PUNA")
    assert "wait" in str(none.value.hint)

    def register() -> None:
        with RegistryClient(endpoint, timeout=10) as other:
            other.register("puna", "127.0.0.1", port, "PUNA")

    timer = threading.Timer(0.3, register)
    timer.start()
    with client.connect_to("PUNA", wait=20) as socket:
        socket.send_string("home")
        assert socket.recv_string() == "done: home"
    timer.join()


def test_what_can_not_be_connected_is_refused_before_anything_is_sent() -> None:
    client = RegistryClient("127.0.0.1:1", timeout=5)
    started = time.monotonic()
    wrongs: list[dict[str, Any]] = [
        {"kind": "REQ"},
        {"kind": 99},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": "5"},
        {"timeout": 86_401},
        {"wait": -1},
        {"host": "egse3"},
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigurationError):
            client.connect_to("PUNA", **wrong)
    assert time.monotonic() - started < 3


def test_attempts_leave_nothing_behind(client: RegistryClient, port: int, nobody: int) -> None:
    client.register("puna", "127.0.0.1", port, "PUNA")
    client.register("gone", "127.0.0.1", nobody, "GONE")
    client.register("lost", "no-such-host.invalid", 1, "GONE")

    def attempts() -> None:
        client.connect_to("PUNA").close()
        with pytest.raises(Unreachable):
            client.connect_to("GONE", timeout=0.05)
        gc.collect()

    attempts()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        attempts()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_a_green_socket(endpoint: str, port: int, nobody: int) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.green.Context.instance()
    with RegistryClient(endpoint, timeout=10, context=context) as client:
        client.register("puna", "127.0.0.1", port, "PUNA")
        client.register("gone", "127.0.0.1", nobody, "GONE")
        with ticking() as ticks:
            with client.connect_to("PUNA", timeout=10) as socket:
                assert isinstance(socket, zmq.green.Socket)
                socket.send_string("home")
                assert socket.recv_string() == "done: home"
            with pytest.raises(Unreachable):
                client.connect_to("GONE", timeout=0.5)
    assert len(ticks) > 10


def test_an_asyncio_socket(endpoint: str, port: int, nobody: int) -> None:
    async def main() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as client:
            await client.register("puna", "127.0.0.1", port, "PUNA", {"video_port": nobody})
            assert await client.get_endpoint("PUNA", "video") == f"tcp://127.0.0.1:{nobody}"
            with await client.connect_to("PUNA", timeout=10) as socket:
                await socket.send_string("home")
                assert await socket.recv_string() == "done: home"
            with pytest.raises(Unreachable):
                await client.connect_to("PUNA", zmq.REQ, "video", timeout=0.3)
            with pytest.raises(NoService):
                await client.connect_to("NOTHING")

    asyncio.run(main())


# -- one of several


@contextmanager
def hung() -> Iterator[int]:
    """A port of a program that stands still: it takes connections, and says nothing."""
    with tcp.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield silent.getsockname()[1]


def ways(endpoint: str) -> dict[str, Callable[..., str]]:
    """Each kind of client as a function that connects, asks one thing, and gives the answer."""

    def ask(client: RegistryClient, *arguments: Any, **named: Any) -> str:
        with client.connect_to(*arguments, **named) as socket:
            socket.send_string("home")
            return str(socket.recv_string())

    def blocking(*arguments: Any, **named: Any) -> str:
        with RegistryClient(endpoint, timeout=10) as client:
            return ask(client, *arguments, **named)

    def green(*arguments: Any, **named: Any) -> str:
        with RegistryClient(endpoint, timeout=10, context=zmq.green.Context.instance()) as client:
            return ask(client, *arguments, **named)

    def cooperative(*arguments: Any, **named: Any) -> str:
        async def main() -> str:
            async with AsyncRegistryClient(endpoint, timeout=10) as client:
                with await client.connect_to(*arguments, **named) as socket:
                    await socket.send_string("home")
                    return str(await socket.recv_string())

        return asyncio.run(main())

    return {"blocking": blocking, "green": green, "asyncio": cooperative}


WAYS = ["blocking", "green", "asyncio"]


@pytest.mark.parametrize("way", WAYS)
def test_a_dead_one_of_several_is_passed_over(
    client: RegistryClient, endpoint: str, port: int, nobody: int, way: str
) -> None:
    """However they are dead: nobody listens, nothing is said, there is no such host."""
    with hung() as silent:
        client.register("dead", "127.0.0.1", nobody, "PUNA")
        client.register("hung", "127.0.0.1", silent, "PUNA")
        client.register("lost", "no-such-host.invalid", 5000, "PUNA")
        client.register("well", "127.0.0.1", port, "PUNA")
        before = client.events_since()["seq"]
        connect = ways(endpoint)[way]
        for _ in range(12):
            assert connect("PUNA", timeout=20, strategy="round-robin") == "done: home"
        assert len(client.list_services("PUNA")) == 4
        assert client.events_since()["seq"] == before, "the registry was told something"


@pytest.mark.parametrize("way", WAYS)
def test_none_of_several_is_said_of_all(
    client: RegistryClient, endpoint: str, nobody: int, way: str
) -> None:
    with hung() as silent:
        client.register("dead", "127.0.0.1", nobody, "PUNA")
        client.register("hung", "127.0.0.1", silent, "PUNA")
        started = time.monotonic()
        with pytest.raises(Unreachable, match="none of 2 services can be reached") as gone:
            ways(endpoint)[way]("PUNA", timeout=1)
        assert 1 <= time.monotonic() - started < 4
        assert f"dead can't be reached on tcp://127.0.0.1:{nobody}: nothing" in str(gone.value)
        assert f"hung can't be reached on tcp://127.0.0.1:{silent}: what" in str(gone.value)


@pytest.mark.parametrize("way", WAYS)
def test_one_without_that_endpoint_is_passed_over(
    client: RegistryClient, endpoint: str, port: int, way: str
) -> None:
    client.register("old", "127.0.0.1", port, "PUNA")
    connect = ways(endpoint)[way]
    with pytest.raises(ConfigurationError, match="old has no endpoint 'command'"):
        connect("PUNA", zmq.REQ, "command")
    client.register("new", "127.0.0.1", port, "PUNA", endpoints={"command": port})
    for _ in range(6):
        assert connect("PUNA", zmq.REQ, "command", strategy="round-robin") == "done: home"


def test_the_one_that_is_chosen_comes_first(client: RegistryClient) -> None:
    with answering(lambda said: "a") as first, answering(lambda said: "b") as second:
        client.register("a", "127.0.0.1", first, "PUNA")
        client.register("b", "127.0.0.1", second, "PUNA")
        said = []
        for _ in range(10):
            with client.connect_to("PUNA", timeout=20, strategy="round-robin") as socket:
                socket.send_string("who")
                said.append(socket.recv_string())
    assert said in (["a", "b"] * 5, ["b", "a"] * 5)


def test_nobody_gets_another_than_was_asked_for(
    client: RegistryClient, port: int, nobody: int
) -> None:
    """No simulator in the place of hardware, and none that lacks a tag, or is not passing."""
    client.register("dead", "127.0.0.1", nobody, "PUNA", tags=["blue"])
    client.register("simulated", "127.0.0.1", port, "PUNA", tags=["blue"], mode="simulator")
    client.register("red", "127.0.0.1", port, "PUNA", tags=["red"])
    client.register("not ready", "127.0.0.1", port, "PUNA", tags=["blue"], ready=False)
    with pytest.raises(Unreachable, match=r"^dead can't be reached"):
        client.connect_to("PUNA", timeout=1, tags=["blue"])
    with client.connect_to("PUNA", timeout=10, mode="simulator"):
        pass


def test_many_dead_ones_are_passed_over(client: RegistryClient, port: int, nobody: int) -> None:
    for number in range(30):
        client.register(f"dead-{number}", "127.0.0.1", nobody, "PUNA", owned=False)
    client.register("well", "127.0.0.1", port, "PUNA")
    for _ in range(3):
        with client.connect_to("PUNA", timeout=20):
            pass
    client.deregister()
    with pytest.raises(Unreachable, match="none of 30 services") as gone:
        client.connect_to("PUNA", timeout=1)
    assert str(gone.value).count("nothing there") == 5
