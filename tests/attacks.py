"""Peers that take more than their share, said by hand in ZMTP 3: no client does any of this."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import zmq

from tests import zmtp

HEALTH = b'{"action":"health"}'


def peer(kind: bytes, port: int | None, host: str = "127.0.0.1") -> socket.socket:
    """A connection as a socket of this kind, after the handshake."""
    body = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    raw = socket.create_connection((host, port or 0), timeout=20)
    raw.sendall(zmtp.GREETING + b"\x04" + bytes([len(body)]) + body)
    said = b""
    while b"READY" not in said:
        more = raw.recv(1000)
        assert more, "the connection was closed"
        said += more
    return raw


def subscriptions(count: int, size: int = 0, first: int = 0) -> bytes:
    """So many different ones, on the wire; with `size`, each of so many bytes."""
    names = (b"%07d" % number for number in range(first, first + count))
    if not size:
        return b"".join(b"\x00\x08\x01" + name for name in names)
    rest = bytes(size - 7)
    return b"".join(zmtp.frame(b"\x01" + name + rest, more=False) for name in names)


def send_all(raw: socket.socket, data: bytes, seconds: float = 20.0) -> int:
    """Send as fast as it is taken; how many bytes were, when the connection was closed at last."""
    view, sent, until = memoryview(data), 0, time.monotonic() + seconds
    raw.setblocking(False)
    with contextlib.suppress(ConnectionError):
        while sent < len(data) and time.monotonic() < until:
            select.select([], [raw], [], 1)
            with contextlib.suppress(BlockingIOError):
                sent += raw.send(view[sent : sent + 1_000_000])
    return sent


def request(**fields: object) -> bytes:
    """A request of a DEALER, on the wire."""
    return zmtp.frame(b"", more=True) + zmtp.frame(json.dumps(fields).encode(), more=False)


def flood(endpoint: str, connections: int, asked: dict[str, Any], ahead: int, until: float) -> int:
    """Ask all the while on so many connections, each `ahead` of its answers; the bytes that came.

    Until a moment of the monotonic clock.
    """
    payload, size = json.dumps(asked).encode(), 0
    with zmq.Context() as context, ExitStack() as stack:
        poller = zmq.Poller()
        for _ in range(connections):
            socket = stack.enter_context(context.socket(zmq.DEALER))
            socket.linger = 0
            socket.connect(endpoint)
            for _ in range(ahead):
                socket.send_multipart([b"", payload])
            poller.register(socket, zmq.POLLIN)
        while time.monotonic() < until:
            for socket, _ in poller.poll(50):
                while time.monotonic() < until and socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                    size += len(socket.recv_multipart()[-1])
                    socket.send_multipart([b"", payload], zmq.DONTWAIT)
    return size


def begun_at_once(there: Sequence[zmq.Socket[bytes]], size: int) -> list[int]:
    """Have all ask for a list of more than `size` bytes at once, and again when they are told to.

    How often each asked.
    """
    poller = zmq.Poller()
    for one in there:
        poller.register(one, zmq.POLLIN)
    until, asked = time.monotonic() + 60, dict.fromkeys(there, 0)
    due = dict.fromkeys(there, 0.0)
    while due:
        now = time.monotonic()
        assert now < until
        for one in [one for one, moment in due.items() if now >= moment]:
            due[one] = until
            asked[one] += 1
            one.send_multipart([b"", b'{"action":"list"}'])
        for one, _ in poller.poll(5):
            reply = one.recv_multipart()[-1]
            if len(reply) > size:
                del due[one]
            else:
                body = json.loads(reply)
                assert body["code"] == "slow-down"
                due[one] = time.monotonic() + body["retry_after"]
    return list(asked.values())
