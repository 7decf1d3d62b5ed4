"""A load on raw sockets: so many connections, one outstanding request each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import zmq

from tests.faults.net import percentile
from tests.helpers import raw_socket
from tests.usage import cpu_seconds

#: Seconds without an answer after which a benchmark is broken.
_PATIENCE = 20


@dataclass
class Measured:
    """What one measurement gave; times in seconds."""

    cpu: float
    p50: float
    p99: float
    throughput: float
    replies: list[bytes]


def measure(
    pid: int, endpoint: str, connections: int, requests: Iterator[bytes], seconds: float
) -> Measured:
    """Ask for so long; the processor time of process `pid` is per request."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(raw_socket(zmq.DEALER, endpoint)) for _ in range(connections)
        ]
        for socket in sockets:
            _ask(socket, next(requests))
        poller = zmq.Poller()
        for socket in sockets:
            poller.register(socket, zmq.POLLIN)
        sent: dict[zmq.Socket[bytes], float] = {}
        times: list[float] = []
        replies: list[bytes] = []
        before, started = cpu_seconds(pid), time.perf_counter()
        for socket in sockets:
            socket.send_multipart((b"", next(requests)))
            sent[socket] = time.perf_counter()
        until = started + seconds
        while sent:
            ready = poller.poll(_PATIENCE * 1000)
            assert ready, "no answer"
            for socket, _ in ready:
                replies.append(socket.recv_multipart()[1])
                now = time.perf_counter()
                times.append(now - sent.pop(socket))
                if now < until:
                    request = next(requests)
                    sent[socket] = time.perf_counter()
                    socket.send_multipart((b"", request))
        took = time.perf_counter() - started
        cpu = cpu_seconds(pid) - before
    assert all(reply.startswith((b'{"success":true', b'{"success": true')) for reply in replies)
    return Measured(
        cpu=cpu / len(times),
        p50=percentile(times, 0.5),
        p99=percentile(times, 0.99),
        throughput=len(times) / took,
        replies=replies,
    )


def undo(endpoint: str, replies: Iterable[bytes]) -> None:
    """Deregister what register requests made."""
    with raw_socket(zmq.DEALER, endpoint) as socket:
        for reply in replies:
            _ask(socket, json.dumps(_leaving(reply)).encode())


def _leaving(reply: bytes) -> dict[str, str]:
    return {
        "action": "deregister",
        "service_id": json.loads(reply)["service_id"],
        "request_id": "it",
    }


def _ask(socket: zmq.Socket[bytes], request: bytes) -> None:
    socket.send_multipart((b"", request))
    assert socket.poll(_PATIENCE * 1000), "no answer"
    socket.recv_multipart()
