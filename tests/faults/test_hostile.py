"""Messages and bytes that no client sends: the server answers what it can, and nobody is harmed."""

from __future__ import annotations

import contextlib
import json
import random
import socket as tcp
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import zmq

from rsreg import RegistryClient
from tests import zmtp
from tests.faults.history import Snapshot
from tests.faults.hostile import Hostile, is_answered
from tests.faults.net import percentile
from tests.faults.pulse import Pulse
from tests.helpers import ServerProcess, raw_socket, received, wait_until
from tests.usage import busy, memory, open_files
from tests.zmtp import GREETING, READY

Figure = Callable[..., None]

#: Messages sent before their answers are read: the registry keeps 200 answers for one client.
_WINDOW = 50


def test_hostile_messages(process: ServerProcess, full: bool, figure: Figure) -> None:
    """Everything that can be answered is, and only valid requests change anything."""
    count, seed = 20_000 if full else 2_000, random.randrange(10**6)
    print(f"seed {seed}")
    source = Hostile(seed, changes=True)
    with standing(process) as (pid, victims):
        files, before = open_files(pid), memory(pid)
        made = possible = answered = refused = 0
        with Pulse(process.endpoint) as pulse, raw_socket(zmq.DEALER, process.endpoint) as socket:
            for _ in range(count // _WINDOW):
                messages = [source.message() for _ in range(_WINDOW)]
                for message in messages:
                    socket.send_multipart(message)
                for message in messages:
                    if is_answered(message):
                        reply = checked(received(socket), message)
                        answered += 1
                        refused += not reply["success"]
                        made += reply["success"] and action_of(message) in (
                            "register",
                            "deregister",
                        )
                    else:
                        possible += action_of(message) in ("register", "deregister")
                assert socket.poll(0) == 0
        snapshot = Snapshot().update(process.endpoint)
        assert unharmed(snapshot, victims)
        changes = snapshot.seq - len(victims)
        assert made <= changes <= made + possible
        assert {service["id"] for service in snapshot.services} == replayed(snapshot)
        wait_until(lambda: open_files(pid) == files)
        grown = memory(pid) - before
        idle = quiet(pid, 5 if full else 2)
    assert refused > answered / 4
    assert made
    assert grown < 60e6
    assert max(pulse.seconds) < 1
    figure(
        f"{count:,} hostile messages",
        f"mutated and random requests and frames, seed {seed}",
        "8",
        f"{answered:,} answered, {refused:,} of them with an error, all in standard JSON; "
        f"{changes} valid changes made, nothing else; health p50 "
        f"{percentile(pulse.seconds, 0.5) * 1000:.1f} ms, slowest {max(pulse.seconds):.2f} s; "
        f"memory {before / 1e6:.0f} MB, grown by {grown / 1e6:.1f} MB; open files as before; "
        f"idle at {idle:.2%} of a processor",
    )


def test_bytes_that_are_no_zeromq(process: ServerProcess, full: bool, figure: Figure) -> None:
    """Garbage, broken handshakes, broken frames, and silence, on each port."""
    source = random.Random(seed := random.randrange(10**6))
    print(f"seed {seed}")
    with standing(process) as (pid, victims), contextlib.ExitStack() as stack:
        files, before = open_files(pid), memory(pid)
        opened = 0
        with Pulse(process.endpoint) as pulse:
            for _ in range(40 if full else 3):
                for said in (*_OPENINGS, source.randbytes(300), *_broken_frames(source)):
                    for port in process.ports:
                        raw = stack.enter_context(tcp.create_connection(("127.0.0.1", port)))
                        opened += 1
                        with contextlib.suppress(OSError):
                            raw.sendall(said)
            most = open_files(pid)
            stack.close()
        wait_until(lambda: open_files(pid) == files)
        assert unharmed(Snapshot().update(process.endpoint), victims)
        grown = memory(pid) - before
        quiet(pid, 2)
    assert max(pulse.seconds) < 1
    assert grown < 60e6
    figure(
        f"{opened:,} connections that speak no ZeroMQ",
        f"random bytes, HTTP, TLS, wrong and half handshakes, broken frames on three ports, "
        f"seed {seed}",
        "8",
        f"health slowest {max(pulse.seconds):.2f} s; open files {files}, up to {most}, then "
        f"{files} again; memory grown by {grown / 1e6:.1f} MB",
    )


def test_connections_on_which_nobody_speaks(
    process: ServerProcess, full: bool, figure: Figure
) -> None:
    """Half-open: the other end is there, and never says a word, or not the whole greeting."""
    count = 300 if full else 30
    with standing(process) as (pid, victims), contextlib.ExitStack() as stack:
        files = open_files(pid)
        with Pulse(process.endpoint) as pulse:
            for number in range(count):
                port = process.ports[number % 3]
                raw = stack.enter_context(tcp.create_connection(("127.0.0.1", port)))
                raw.sendall(GREETING[: number % 64])
            wait_until(lambda: open_files(pid) > files + count)
            started = time.monotonic()
            # One more is that of the pulse.
            wait_until(lambda: open_files(pid) == files + 1)
            took = time.monotonic() - started
        assert unharmed(Snapshot().update(process.endpoint), victims)
    assert max(pulse.seconds) < 1
    figure(
        f"{count} half-open connections",
        "TCP connections that say nothing, or a part of the greeting, and stay",
        "8",
        f"all closed by the server after {took:.1f} s; health slowest {max(pulse.seconds):.2f} s",
    )


def test_a_message_that_does_not_end(process: ServerProcess, full: bool, figure: Figure) -> None:
    """It costs memory, nobody else's answers; the server may end the connection before its peer."""
    size = 200_000_000 if full else 20_000_000
    frame = zmtp.frame(bytes(60_000), more=True)
    with standing(process) as (pid, victims):
        files, before = open_files(pid), memory(pid)
        with Pulse(process.endpoint) as pulse, zmtp.dealer(process.ports[0]) as raw:
            raw.sendall(zmtp.frame(b"", more=True))
            most = 0
            with contextlib.suppress(ConnectionError):
                for _ in range(size // len(frame)):
                    raw.sendall(frame)
                    most = max(most, memory(pid) - before)
        wait_until(lambda: open_files(pid) == files)
        assert unharmed(Snapshot().update(process.endpoint), victims)
        left = memory(pid) - before
    assert most < 1.5 * size + 20e6
    assert max(pulse.seconds) < 1
    figure(
        f"a message of {size / 1e6:.0f} MB that does not end",
        "frames of 60 KB, each with MORE, by hand",
        "8",
        f"memory grown by {most / 1e6:.0f} MB, by {left / 1e6:.0f} MB after the end of the "
        f"connection; health slowest {max(pulse.seconds):.2f} s",
    )


def test_a_frame_beyond_the_limit(process: ServerProcess) -> None:
    """Its connection is closed, on every port; nothing of it is taken in."""
    with standing(process) as (pid, victims):
        before = memory(pid)
        for port in process.ports:
            for length in (270_000, 2**31, 2**62, 2**64 - 1):
                with tcp.create_connection(("127.0.0.1", port)) as raw:
                    raw.settimeout(10)
                    raw.sendall(GREETING + READY + b"\x02" + struct.pack("!Q", length))
                    with contextlib.suppress(OSError):
                        raw.sendall(bytes(70_000))
                    assert closed(raw)
        assert memory(pid) - before < 20e6
        assert unharmed(Snapshot().update(process.endpoint), victims)


# -- what they share


@contextlib.contextmanager
def standing(process: ServerProcess) -> Iterator[tuple[int, dict[str, dict[str, Any]]]]:
    """A server that has some services; its process id, and their records."""
    process.start()
    assert process.process is not None
    pid = process.process.pid
    with RegistryClient(process.endpoint, timeout=20) as client:
        for number in range(20):
            client.register(f"victim-{number}", "127.0.0.1", 5000, "VICTIM", {"n": number}, 3600)
        victims = {service["id"]: dict(service) for service in client.list_services()}
        connected = open_files(pid)
    wait_until(lambda: open_files(pid) == connected - 1)
    yield pid, victims
    assert process.process.poll() is None, "the server ended"


def unharmed(snapshot: Snapshot, victims: dict[str, dict[str, Any]]) -> bool:
    """Whether the services of `standing` are there as they were."""
    there = {service["id"]: service for service in snapshot.services}
    return all(there.get(key) == record for key, record in victims.items())


def replayed(snapshot: Snapshot) -> set[str]:
    """The ids that are there by the journal."""
    there: set[str] = set()
    for event in snapshot.events:
        change = there.add if event["type"] == "register" else there.discard
        change(event["data"]["service_id"])
    return there


def checked(frames: Sequence[bytes], message: Sequence[bytes]) -> dict[str, Any]:
    """The body of a reply, which has to be standard JSON with `success`, or an `error`."""
    body = json.loads(frames[-1].decode(), parse_constant=pytest.fail)
    assert isinstance(body, dict), message
    assert body["success"] is True or (body["success"] is False and body["error"]), message
    return body


def action_of(message: Sequence[bytes]) -> object:
    """What a message asks for, if it is JSON in any sense."""
    try:
        request = json.loads(message[-1])
    except (ValueError, RecursionError):
        return None
    return request.get("action") if isinstance(request, dict) else None


def quiet(pid: int, seconds: float) -> float:
    """The part of a processor that an idle server takes: below a hundredth."""
    idle = busy(pid, seconds)
    assert idle < 0.01
    return idle


def closed(raw: tcp.socket) -> bool:
    """Whether the other end closes a connection, whatever it said before."""
    try:
        while raw.recv(1000):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


_OPENINGS = [
    b"",
    b"\n",
    b"GET / HTTP/1.1\r\nHost: registry\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    b'{"action": "health"}\n',
    GREETING[:30],
    GREETING,
    GREETING.replace(b"NULL", b"ZULU"),
    GREETING.replace(b"NULL\0", b"CURVE"),
    GREETING.replace(b"\x7f\x03", b"\x7f\x00"),
    GREETING.replace(b"\x7f\x03", b"\x7f\xff"),
    b"\xff" * 64,
    bytes(64),
    GREETING + READY[:10],
    GREETING + b"\x04\xff" + bytes(255),
    GREETING + READY.replace(b"DEALER", b"PUBLIC"),
    GREETING + b"\x00\x05hello",
    b"\x01\x00",
    b"\x00" * 5000,
]


def _broken_frames(source: random.Random) -> list[bytes]:
    """After a right handshake."""
    start = GREETING + READY
    return [
        start + source.randbytes(200),
        start + b"\x04\x05\x04PING",
        start + b"\x04\x04\x05ERRO",
        start + b"\x06" + struct.pack("!Q", 2**63) + bytes(10),
        start + b"\xff" * 20,
        start + b"\x01\x05hello",
        start + b"\x00\x00" * 20,
        start + b"\x01\x00" * 1_000,
        start + b"\x01\x00\x00\x12" + b'{"action": "list"}'[:10],
        start + READY,
    ]
