"""What the specification shows works as it stands there, and everybody is served at once."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from rsreg import AsyncRegistryClient, InMemoryBackend, RegistryClient, RegistryServer
from rsreg.protocol.limits import MAX_FRAME, MAX_REQUEST
from tests.helpers import (
    ROOT,
    ManualClock,
    ServerProcess,
    advance,
    raw_socket,
    received,
    serving,
    wait_until,
)

HEALTH = b'{"action": "health"}'

# -- the programs, as they stand in the specification but for `egse.registry`

REGISTER = """\
from egse.registry.client import AsyncRegistryClient

registry_client = AsyncRegistryClient()
registry_client.connect()

service_id = await registry_client.register(
    name=service_name,
    host=hostname,
    port=port_number,
    service_type=service_type,
    metadata={},
    ttl=30,
)
"""

DISCOVER = """\
registry_client = AsyncRegistryClient()

try:
    service = await registry_client.discover_service(service_type)

    if not service:
        logger.warning(f"No service of type '{service_type}' found")
        return None

    ...

    socket = context.socket(zmq.REQ)
    socket.setsockopt(zmq.RCVTIMEO, 5000)  # 5 second timeout

    try:
        # Connect to the service
        socket.connect(f"tcp://{service['host']}:{service['port']}")

        ...

    finally:
        socket.close()
finally:
    await registry_client.close()
"""

SERVER = """\
import asyncio

from egse.registry.server import AsyncSQLiteBackend
from egse.registry.server import AsyncRegistryServer


async def run_server():
    # Create and initialize a backend
    backend = AsyncSQLiteBackend("service_registry.db")
    await backend.initialize()

    # Create the server
    server = AsyncRegistryServer(
        req_port=4242,
        pub_port=4243,
        backend=backend
    )

    # Start the server
    await server.start()


if __name__ == "__main__":
    asyncio.run(run_server())
"""


def ours(program: str) -> str:
    """A program of the specification, for this registry."""
    assert "egse.registry" in program
    return program.replace("egse.registry", "rsreg")


def run(program: str, endpoint: str) -> str:
    """What a program prints; it must end well and warn of nothing."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"RSREG_ENDPOINT": endpoint, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_client_that_registers(client: RegistryClient, endpoint: str) -> None:
    names = (
        "service_name, hostname, port_number, service_type = 'Hexapod CS', 'lab1', 5000, 'HEXAPOD'"
    )
    body = f"{names}\n{ours(REGISTER)}print(service_id)\nawait registry_client.close()\n"
    program = "import asyncio\n\nasync def main():\n" + textwrap.indent(body, "    ")
    service_id = run(f"{program}\nasyncio.run(main())\n", endpoint).strip()
    assert re.fullmatch(r"hexapod-cs-[0-9a-f-]{36}", service_id)
    service = client.get_service(service_id)
    assert service is not None
    del service["last_heartbeat"]
    assert service.pop("registered_by") == "127.0.0.1"
    assert service.pop("owner")["program"] == "-c"
    assert service == {
        "id": service_id,
        "name": "Hexapod CS",
        "host": "lab1",
        "port": 5000,
        "type": "HEXAPOD",
        "tags": [],
        "metadata": {},
        "ttl": 30,
        "health": "passing",
    }


@pytest.mark.parametrize("there", [True, False])
def test_the_client_that_discovers(client: RegistryClient, endpoint: str, there: bool) -> None:
    with raw_socket_bound(zmq.REP) as (device, port), ThreadPoolExecutor() as pool:
        if there:
            client.register("Hexapod CS", "127.0.0.1", port, "HEXAPOD")
        first, second, rest = DISCOVER.replace("...", "\0").split("\0")
        body = (
            f"{first}print(service['name']){second}"
            f"socket.send(b'position?'); print(socket.recv()){rest}"
        )
        program = (
            "import asyncio, logging, sys, zmq\n"
            "from rsreg.client import AsyncRegistryClient\n"
            "logger, context, service_type = logging.getLogger(), zmq.Context(), 'HEXAPOD'\n"
            "logging.basicConfig(stream=sys.stdout, format='%(message)s')\n"
            "async def main():\n" + textwrap.indent(body, "    ") + "asyncio.run(main())\n"
        )
        output = pool.submit(run, program, endpoint)
        if there:
            assert received(device, 60) == [b"position?"]
            device.send(b"home")
            assert output.result() == "Hexapod CS\nb'home'\n"
        else:
            assert output.result() == "No service of type 'HEXAPOD' found\n"


@contextmanager
def raw_socket_bound(kind: int) -> Iterator[tuple[zmq.Socket[bytes], int]]:
    """A plain socket on a free port of this machine."""
    device: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    device.linger = 0
    with closing(device):
        yield device, device.bind_to_random_port("tcp://127.0.0.1")


@contextmanager
def reserved_port() -> Iterator[int]:
    """A free port that nobody gets by chance, and that a server may bind all the same."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]


def test_the_server(tmp_path: Path) -> None:
    with reserved_port() as req_port, reserved_port() as pub_port:
        program = ours(SERVER).replace("4242", str(req_port)).replace("4243", str(pub_port))
        (tmp_path / "server.py").write_text(program)

        def started() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [sys.executable, "-W", "error", "server.py"],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stderr=subprocess.PIPE,
            )

        def stop(server: subprocess.Popen[bytes]) -> None:
            server.send_signal(signal.SIGINT)
            _, said = server.communicate(timeout=20)
            assert said.strip().endswith(b"KeyboardInterrupt"), said

        server = started()
        try:
            with RegistryClient(f"127.0.0.1:{req_port}", timeout=10) as client:
                wait_until(client.health_check)
                heard: list[str] = []
                client.on_event("register", lambda data: heard.append(data["service_id"]))
                client.start_event_listener()
                service_id = client.register("Hexapod CS", "lab1", 5000, "HEXAPOD")
                wait_until(lambda: heard == [service_id])
                status = client.server_status()
                ports = [status[name] for name in ("req_port", "pub_port", "hb_port")]
                assert ports == [req_port, pub_port, None]
                assert status["store"] == "service_registry.db"
                stop(server)
                assert (tmp_path / "service_registry.db").exists()
                server = started()
                wait_until(client.health_check)
                assert [one["id"] for one in client.list_services()] == [service_id]
            stop(server)
        finally:
            server.kill()
            server.communicate()


# -- the messages


def asked(peer: zmq.Socket[bytes], request: str) -> dict[str, Any]:
    """The reply to a request, its comments taken out."""
    peer.send_string(re.sub(r" +//.*", "", request))
    (reply,) = received(peer)
    body: dict[str, Any] = json.loads(reply)
    return body


def test_the_messages() -> None:
    """Each request, reply and event of the specification has the fields and texts it has there.

    Beside them stand only the position, in the list and in events.
    """
    clock, wall = ManualClock(), ManualClock(1617293054.7)
    with (
        serving(backend=InMemoryBackend(), clock=clock, wall=wall) as server,
        raw_socket(zmq.REQ, f"tcp://127.0.0.1:{server.req_port}") as peer,
        raw_socket(zmq.SUB, f"tcp://127.0.0.1:{server.pub_port}", subscribe=b"") as subscriber,
    ):

        def register() -> str:
            reply = asked(
                peer,
                """\
{
  "action": "register",
  "service_info": {
    "name": "example-service",
    "host": "192.168.1.10",
    "port": 8080,
    "type": "web",
    "tags": [
      "web",
      "api"
    ],
    "metadata": {
      "version": "1.0.0"
    }
  },
  "ttl": 30
}
""",
            )
            service_id: str = reply["service_id"]
            assert re.fullmatch(
                "example-service-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-"
                "[0-9a-f]{12}",
                service_id,
            )
            assert re.fullmatch("[0-9a-f]{16}", reply.pop("entry"))
            assert reply == {
                "success": True,
                "service_id": service_id,
                "message": "Service registered successfully",
            }
            return service_id

        def record(health: str = "passing") -> dict[str, Any]:
            return {
                "id": service_id,
                "name": "example-service",
                "host": "192.168.1.10",
                "port": 8080,
                "type": "web",
                "tags": ["web", "api"],
                "metadata": {"version": "1.0.0"},
                "ttl": 30,
                "registered_by": "127.0.0.1",
                "last_heartbeat": 1617293054,
                "health": health,
            }

        def event() -> dict[str, Any]:
            """The next of this service; earlier ones may have been published before we listened."""
            while True:
                kind, body = received(subscriber)
                said: dict[str, Any] = json.loads(body)
                assert kind.decode() == said["type"]
                assert isinstance(said.pop("seq"), int)
                assert said.pop("epoch") == server.registry.epoch
                assert isinstance(said.pop("mark"), str)
                said.pop("after")
                assert said.pop("by") in ("127.0.0.1", None)
                if said["data"]["service_id"] == service_id:
                    return said

        while True:
            service_id = register()
            if subscriber.poll(100):
                break
            assert asked(peer, f'{{"action": "deregister", "service_id": "{service_id}"}}')[
                "success"
            ]
        assert event() == {
            "type": "register",
            "timestamp": 1617293054,
            "data": {"service_id": service_id, "service_info": record()},
        }

        reply = asked(peer, f'{{\n  "action": "renew",\n  "service_id": "{service_id}"\n}}')
        assert reply.pop("entry")
        assert reply == {"success": True, "message": "Service renewed successfully"}

        reply = asked(peer, f'{{\n  "action": "get",\n  "service_id": "{service_id}"\n}}')
        assert reply.pop("timestamp") == 1617293054
        assert reply == {"success": True, "service": record()}

        reply = asked(
            peer,
            '{\n  "action": "list",\n  "service_type": "web"  // Optional, filter by type\n}',
        )
        assert isinstance(reply.pop("seq"), int)
        assert reply.pop("epoch") == server.registry.epoch
        assert isinstance(reply.pop("mark"), str)
        assert reply.pop("timestamp") == 1617293054
        assert reply == {"success": True, "services": [record()]}

        for kind in ("web", "api"):
            reply = asked(peer, f'{{\n  "action": "discover",\n  "service_type": "{kind}"\n}}')
            assert reply.pop("timestamp") == 1617293054
            assert reply == {"success": True, "service": record()}

        reply = asked(peer, '{\n  "action": "health"\n}')
        assert reply == {"success": True, "status": "ok", "timestamp": 1617293054}

        reply = asked(peer, f'{{\n  "action": "deregister",\n  "service_id": "{service_id}"\n}}')
        assert reply == {"success": True, "message": "Service deregistered successfully"}
        assert event() == {
            "type": "deregister",
            "timestamp": 1617293054,
            "data": {"service_id": service_id, "service_info": record()},
        }

        service_id = register()
        assert event()["type"] == "register"
        advance(clock, 31, lambda: asked(peer, '{"action": "health"}'))
        assert event()["type"] == "critical"
        assert event() == {
            "type": "expire",
            "timestamp": 1617293054,
            "data": {
                "service_id": service_id,
                "service_info": {**record("critical"), "reason": "no heartbeat"},
            },
        }


# -- everybody at once

Ask = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def asking(
    kind: int, endpoint: str, before: list[bytes], back: list[bytes], **options: int
) -> Iterator[Ask]:
    """Requests in one framing; `back` is what stands before the JSON of the reply."""
    with raw_socket(kind, endpoint, **options) as peer:

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            peer.send_multipart([*before, json.dumps(request).encode()])
            *frames, reply = received(peer, 60)
            assert frames == back
            body: dict[str, Any] = json.loads(reply)
            return body

        yield ask


def raw_life(name: str, requests: Any, heartbeats: Any) -> None:
    """A life in the registry: requests from one socket, heartbeats from another."""
    info = {"name": name, "host": "lab1", "port": 5000, "type": name}
    with requests as ask, heartbeats as beat:
        for _ in range(ROUNDS):
            service_id = ask({"action": "register", "service_info": info})["service_id"]
            assert service_id.startswith(name)
            reply = beat({"action": "renew", "service_id": service_id})
            assert reply.pop("entry")
            assert reply == {"success": True, "message": "Service renewed successfully"}
            assert ask({"action": "get", "service_id": service_id})["service"]["type"] == name
            found = ask({"action": "discover", "service_type": name})["service"]
            assert found["id"] == service_id
            assert ask({"action": "deregister", "service_id": service_id})["success"] is True
            assert beat({"action": "renew", "service_id": service_id})["success"] is False


def sync_life(name: str, endpoint: str) -> None:
    """The same with our client."""
    with RegistryClient(endpoint, timeout=60) as client:
        for _ in range(ROUNDS):
            service_id = client.register(name, "lab1", 5000, name)
            assert client.renew()
            service = client.discover_service(name)
            assert service is not None
            assert service["id"] == service_id
            assert client.deregister()
            assert client.get_service(service_id) is None


async def async_life(name: str, endpoint: str) -> None:
    """The same with the asyncio client."""
    async with AsyncRegistryClient(endpoint, timeout=60) as client:
        for _ in range(ROUNDS):
            service_id = await client.register(name, "lab1", 5000, name)
            assert await client.renew()
            service = await client.discover_service(name)
            assert service is not None
            assert service["id"] == service_id
            assert await client.deregister()
            assert await client.get_service(service_id) is None


#: Registrations of each client in `test_everybody_is_served_at_once`.
ROUNDS = 40


def test_everybody_is_served_at_once(process: ServerProcess) -> None:
    process.start()
    req, hb = process.endpoint, process.hb_endpoint

    def plain(endpoint: str) -> Any:
        return asking(zmq.REQ, endpoint, [], [])

    def correlated(endpoint: str) -> Any:
        return asking(zmq.REQ, endpoint, [], [], req_correlate=1, req_relaxed=1)

    def cgse(endpoint: str) -> Any:
        return asking(zmq.DEALER, endpoint, [b"REQ"], [b"RESPONSE"])

    def bare(endpoint: str) -> Any:
        return asking(zmq.DEALER, endpoint, [], [])

    lives: list[Callable[[], object]] = [
        lambda: raw_life("req-of-2025", plain(req), plain(req)),
        lambda: raw_life("correlated", correlated(req), correlated(hb)),
        lambda: raw_life("cgse-of-2025", cgse(req), plain(hb)),
        lambda: raw_life("cgse-of-2026", cgse(req), bare(hb)),
        lambda: sync_life("ours", req),
        lambda: asyncio.run(async_life("ours-async", req)),
    ]
    with (
        RegistryClient(req, timeout=60) as client,
        ThreadPoolExecutor(len(lives)) as pool,
        raw_socket(zmq.DEALER, req) as litter,
    ):
        pending = [pool.submit(life) for life in lives]
        for frames in itertools.cycle(UNANSWERED.values()):
            if all(life.done() for life in pending):
                break
            litter.send_multipart(frames)
            client.health_check()
        for life in pending:
            life.result()
        status = client.server_status()
    # Every change was one event; nothing was left, lost or made up.
    assert status["services"] == []
    assert status["seq"] == 2 * ROUNDS * len(lives)
    assert status["dropped_replies"] == 0


# -- garbage

#: What gets no answer, as a DEALER sends it.
UNANSWERED: dict[str, list[bytes]] = {
    "another kind": [b"HB", HEALTH],
    "a reply": [b"RESPONSE", HEALTH],
    "lower case": [b"req", HEALTH],
    "three frames": [b"REQ", HEALTH, b"x"],
    "a hundred frames": [b"x"] * 100,
    "an empty frame too late": [b"x"] * 20 + [b"", HEALTH],
    "no reply to no JSON": [b"REQ_NO_REPLY", b"\xff"],
    "no reply to nothing": [b"NO-REQ", b""],
    "no reply to an unknown action": [b"REQ_NO_REPLY", b'{"action": "dance"}'],
}

#: What is answered with an error, and its code.
REFUSED: dict[str, tuple[list[bytes], str]] = {
    "nothing": ([b""], "invalid-json"),
    "two empty frames": ([b"", b""], "invalid-json"),
    "too many frames": ([b"x"] * 7 + [b"", HEALTH], "invalid-json"),
    "frames after the JSON": ([b"", HEALTH, b"x"], "invalid-json"),
    "no UTF-8": ([b"REQ", b'{"action": "\xff"}'], "invalid-json"),
    "half a surrogate": ([b"", rb'{"action": "\ud800"}'], "invalid-json"),
    "an array": ([b"REQ", b"[]"], "invalid-request"),
    "null": ([b"null"], "invalid-request"),
    "a deep nest": ([b"", b'{"a":' * 5000 + b"1" + b"}" * 5000], "invalid-request"),
    "a very deep one": ([b"", b"[" * 60_000], "invalid-request"),
}


def undisturbed(server: RegistryServer) -> bool:
    """Whether a server serves as before, and nothing has changed."""
    with RegistryClient(f"127.0.0.1:{server.req_port}", timeout=60) as client:
        status = client.server_status()
    return (status["services"], status["seq"]) == ([], 0)


@pytest.mark.parametrize("port", ["req_port", "hb_port"])
@pytest.mark.parametrize("name", UNANSWERED)
def test_what_cannot_be_answered_is_dropped(name: str, port: str, server: RegistryServer) -> None:
    with raw_socket(zmq.DEALER, f"tcp://127.0.0.1:{getattr(server, port)}") as peer:
        peer.send_multipart(UNANSWERED[name])
        peer.send_multipart([b"next", b"", HEALTH])
        assert received(peer)[0] == b"next"
    assert undisturbed(server)


@pytest.mark.parametrize("port", ["req_port", "hb_port"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_answered_is(name: str, port: str, server: RegistryServer) -> None:
    frames, code = REFUSED[name]
    with raw_socket(zmq.DEALER, f"tcp://127.0.0.1:{getattr(server, port)}") as peer:
        peer.send_multipart(frames)
        assert json.loads(received(peer)[-1])["code"] == code
    assert undisturbed(server)


@pytest.mark.parametrize("port", ["req_port", "hb_port", "pub_port"])
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: registry\r\n\r\n",
        b"\xff" + bytes(8) + b"\x7f\x03",
        b"\xff" + bytes(8) + b"\x7f\x03\x00PLAIN" + bytes(15 + 32),
        b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 32) + b"\x02" + b"\xff" * 8,
        b"",
        os.urandom(500),
    ],
    ids=["HTTP", "half a greeting", "another mechanism", "a huge frame", "nothing", "random"],
)
def test_other_protocols_do_no_harm(data: bytes, port: str, server: RegistryServer) -> None:
    with socket.create_connection(("127.0.0.1", getattr(server, port)), timeout=10) as connection:
        connection.sendall(data)
        assert undisturbed(server)
        # A reset, not an orderly end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert undisturbed(server)


@pytest.mark.parametrize("port", ["req_port", "hb_port", "pub_port"])
@pytest.mark.parametrize(
    "kind", [zmq.PUSH, zmq.PUB, zmq.PAIR, zmq.ROUTER], ids=lambda kind: kind.name
)
def test_other_sockets_do_no_harm(kind: int, port: str, server: RegistryServer) -> None:
    with raw_socket(kind, f"tcp://127.0.0.1:{getattr(server, port)}", sndtimeo=100) as peer:
        for _ in range(20):
            try:
                peer.send_multipart([b"REQ", HEALTH], zmq.DONTWAIT)
            except zmq.Again:
                break
        assert undisturbed(server)


@pytest.mark.parametrize("port", ["req_port", "hb_port"])
def test_a_frame_that_is_too_long_ends_the_connection(port: str, server: RegistryServer) -> None:
    with raw_socket(zmq.DEALER, f"tcp://127.0.0.1:{getattr(server, port)}") as peer:
        for size, taken in ((MAX_REQUEST, True), (MAX_REQUEST + 1, False), (MAX_FRAME, False)):
            peer.send_multipart([b"", HEALTH.ljust(size)])
            assert json.loads(received(peer)[1])["success"] is taken
        with closing(peer.get_monitor_socket(zmq.EVENT_DISCONNECTED)) as monitor:
            peer.send_multipart([b"", HEALTH.ljust(MAX_FRAME + 1)])
            assert monitor.poll(10_000)
            peer.disable_monitor()
    assert undisturbed(server)
