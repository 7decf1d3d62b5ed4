"""One peer that takes all that it gets: `greedy.py ATTACK REQ_PORT PUB_PORT SECONDS`.

It comes from an address of its own, and prints how much it asked for, and what it got.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from tests import attacks, zmtp

ADDRESS = "127.0.0.66"
#: Requests that are sent ahead of their answers.
AHEAD = 50

Request = dict[str, Any]


def register(number: int, size: int = 10, **info: Any) -> Request:
    """A registration, with metadata of a size."""
    name = info.pop("name", f"greedy{number}")
    about = {"name": name, "host": "10.6.6.6", "port": number % 60_000 + 1, **info}
    about.setdefault("metadata", {"x": "x" * size})
    return {"action": "register", "service_info": about, "ttl": 86_400}


def asks(
    requests: Iterator[Request], until: float, port: int, connections: int = 1, reads: bool = True
) -> Counter[str]:
    """Ask on some connections, each ahead of its answers; how many of which kind came."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    got: Counter[str] = Counter()
    sockets = []
    for _ in range(connections):
        peer = context.socket(zmq.DEALER)
        peer.linger = 0
        peer.sndhwm = peer.rcvhwm = AHEAD
        if not reads:
            peer.rcvbuf = 4096
        peer.connect(f"tcp://{ADDRESS}:0;127.0.0.1:{port}")
        sockets.append(peer)
    waiting = dict.fromkeys(sockets, 0)
    while time.monotonic() < until:
        busy = False
        for peer in sockets:
            while waiting[peer] < AHEAD or not reads:
                try:
                    payload = json.dumps(next(requests)).encode()
                    peer.send_multipart([b"", payload], zmq.DONTWAIT)
                except zmq.Again:
                    break
                got["asked"] += 1
                waiting[peer] += 1
                busy = True
                if not reads and got["asked"] % 1_000 == 0 and time.monotonic() > until:
                    return got
            while reads and peer.poll(0):
                reply = peer.recv_multipart()[1]
                waiting[peer] -= 1
                busy = True
                if reply.startswith(b'{"success":true'):
                    got["done"] += 1
                else:
                    got[json.loads(reply).get("limit") or json.loads(reply)["code"]] += 1
        if not busy:
            time.sleep(0.001)
    return got


def forever(make: Callable[[int], Request]) -> Iterator[Request]:
    """Requests by their number."""
    return map(make, itertools.count())


def tags(number: int) -> Request:
    """Sixteen tags that nobody else has."""
    return register(number, tags=[f"tag{number}-{tag}" for tag in range(16)])


def objects(number: int) -> Request:
    """A record that is short as text and large in memory."""
    return register(number, metadata={"x": [[] for _ in range(5_000)]})


def maintain(number: int) -> Request:
    """Entries without an end."""
    return {"action": "maintenance", "on": True, "host": f"host{number}", "for": 3600}


def toggle(number: int) -> Request:
    """A host that others have, in and out of maintenance."""
    on = number % 2 == 0
    return {"action": "maintenance", "on": on, "host": "lab", "force": True}


def flip(number: int) -> Request:
    """A main loop that stands still, and runs again."""
    if number == 0:
        return register(0, size=15_000, id="flipped")
    report = {"fed": 99 * (number % 2), "watchdog": 10}
    return {"action": "renew", "service_id": "flipped", "report": report}


def versions(number: int) -> Request:
    """Versions that no program reads, and questions on them."""
    if number < 300:
        return register(number, type="V", metadata={"version": "1." * 120 + "1" * 5_000})
    return {"action": "list", "service_type": "V", "where": {"version": ">=1.0"}}


def events(number: int) -> Request:
    """The whole journal, of large events."""
    if number < 400:
        return register(number, size=15_000, id="large")
    return {"action": "events", "since": 0 if number % 2 else max(0, number % 400)}


def leaks(number: int) -> Request:
    """What is refused, in all ways."""
    odd: list[Request] = [
        {"action": "x" * 60_000},
        {"action": "register", "service_info": {"name": "x" * 60_000}},
        {"action": "list", "where": {"a": "x" * 60_000}},
        {"action": "get", "service_id": "x" * 60_000},
    ]
    return odd[number % len(odd)]


def always(**request: Any) -> Callable[[int], Request]:
    """The same request each time."""
    return lambda _number: request


def without_end(until: float, port: int) -> Counter[str]:
    """One message of frames that never ends."""
    peer = zmtp.dealer(port)
    peer.settimeout(0.5)
    part = zmtp.frame(bytes(60_000), more=True)
    sent = 0
    with contextlib.suppress(OSError):
        while time.monotonic() < until:
            peer.sendall(part)
            sent += len(part)
    return Counter({"bytes sent": sent})


def subscribe(until: float, port: int, size: int) -> Counter[str]:
    """Subscriptions without an end, on one connection after the other."""
    got: Counter[str] = Counter()
    while time.monotonic() < until:
        # The server may close it at any moment.
        with contextlib.suppress(OSError, AssertionError), attacks.peer(b"SUB", port) as peer:
            count = 20_000 if not size else 400
            got["bytes sent"] += attacks.send_all(peer, attacks.subscriptions(count, size), 5)
            got["connections"] += 1
    return got


def deaf(until: float, port: int, pub_port: int) -> Counter[str]:
    """Subscribers that never read, while large services change."""
    peers: list[socket.socket] = []
    for _ in range(300):
        peers.append(attacks.peer(b"SUB", pub_port))
        peers[-1].sendall(b"\x00\x01\x01")
    return asks(forever(lambda number: register(number, 15_000, id="large")), until, port)


def idle(until: float, port: int) -> Counter[str]:
    """Connections that say nothing after their handshake."""
    peers: list[socket.socket] = []
    with contextlib.suppress(OSError):
        while time.monotonic() < until and len(peers) < 1_000:
            peers.append(attacks.peer(b"DEALER", port))
    while time.monotonic() < until:
        time.sleep(0.05)
    return Counter({"connections": len(peers)})


ATTACKS: dict[str, Callable[[float, int, int], Counter[str]]] = {
    "large services": lambda end, port, _: asks(forever(lambda n: register(n, 15_000)), end, port),
    "small services": lambda end, port, _: asks(forever(register), end, port),
    "services of many objects": lambda end, port, _: asks(forever(objects), end, port),
    "services of one name": lambda end, port, _: asks(
        forever(lambda n: register(n, name="one")), end, port
    ),
    "tags that nobody has": lambda end, port, _: asks(forever(tags), end, port),
    "maintenance entries": lambda end, port, _: asks(forever(maintain), end, port),
    "a host in and out of maintenance": lambda end, port, _: asks(forever(toggle), end, port),
    "a main loop that stands still and runs": lambda end, port, _: asks(forever(flip), end, port),
    "strange versions": lambda end, port, _: asks(forever(versions), end, port),
    "the whole journal": lambda end, port, _: asks(forever(events), end, port, 4),
    "lists, read": lambda end, port, _: asks(forever(always(action="list")), end, port, 4),
    "lists, never read": lambda end, port, _: asks(
        forever(always(action="list")), end, port, 20, reads=False
    ),
    "a flood of questions": lambda end, port, _: asks(
        forever(always(action="health")), end, port, 8
    ),
    "requests that are refused": lambda end, port, _: asks(forever(leaks), end, port, 4),
    "a message without an end": lambda end, port, _: without_end(end, port),
    "short subscriptions": lambda end, _, port: subscribe(end, port, 0),
    "long subscriptions": lambda end, _, port: subscribe(end, port, 60_000),
    "subscribers that never read": deaf,
    "idle connections": lambda end, port, _: idle(end, port),
}


def main(name: str, port: str, pub_port: str, seconds: str) -> None:
    """Run one attack. It is nice: a peer elsewhere takes none of the registry's processor."""
    os.nice(10)
    got = ATTACKS[name](time.monotonic() + float(seconds), int(port), int(pub_port))
    sys.stdout.write(json.dumps(got))
    sys.stdout.flush()
    # What is queued is not waited for.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
