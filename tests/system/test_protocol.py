"""docs/protocol.md is right: its examples are sent over real sockets, and answered as it says.

A section (a heading and what stands under it) starts with a fresh server. Its blocks are run in
their order, by the words after their fence:

- `json request` is sent as it stands; the `json reply` after it is what must come back, whole. A
  request `from another machine` is put to the dispatcher with a peer that is none of ours.
- `json event` is the next event on a SUB socket.
- `python`, `frames` and `bytes` have tests of their own; there are no other blocks.
- Comments say what happens in between: "<!-- 4 s pass -->", see `Section.happen`.

What the page calls a placeholder is one here too: `filled`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zmq

from rsreg import InMemoryBackend, RegistryServer, SQLiteBackend, __version__, errors
from rsreg.server.dispatch import Dispatcher
from tests.helpers import (
    ROOT,
    ManualClock,
    Sender,
    advance,
    raw_socket,
    received,
    serving,
    wait_until,
)

PAGE = (ROOT / "docs" / "protocol.md").read_text()
NOW = 1617293054
HEALTH = b'{"action": "health"}'
#: A part of a text that the server makes up: a UUID, or an epoch.
MADE_UP = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}|\b[0-9a-f]{16}\b"
)


class Block(NamedTuple):
    """A fenced block, or a comment, whose kind is "comment"."""

    kind: str
    text: str


def sections() -> dict[str, list[Block]]:
    """The blocks of each section of the page."""
    found: dict[str, list[Block]] = {}
    for section in re.split(r"^#{2,} ", PAGE, flags=re.MULTILINE)[1:]:
        parts = re.finditer(
            r"^```(.+?)\n(.*?)^```$|^<!-- ([^\n]*) -->$", section, re.MULTILINE | re.DOTALL
        )
        title = section.partition("\n")[0]
        found[title] = [Block(m[1] or "comment", m[2] or m[3]) for m in parts]
    return found


SECTIONS = sections()


def blocks(kind: str) -> list[str]:
    """All blocks of a kind."""
    return [block.text for part in SECTIONS.values() for block in part if block.kind == kind]


# -- comparing


def filled(expected: Any, actual: Any, known: dict[str, Any]) -> Any:
    """`expected` with what is in `actual` in the places of its placeholders.

    `known` holds what they stand for so far: each for one thing, no two for the same.
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        return {
            key: known.get(f"{key} {value}", filled(value, actual.get(key), known))
            for key, value in expected.items()
        }
    if isinstance(expected, list) and isinstance(actual, list):
        pairs = itertools.zip_longest(expected, actual[: len(expected)])
        return [filled(one, other, known) for one, other in pairs]
    if not isinstance(expected, str) or not isinstance(actual, str):
        return expected
    made_up = MADE_UP.findall(expected)
    pattern = re.escape(MADE_UP.sub("\0", expected)).replace("…", ".+")
    match = re.fullmatch(pattern.replace("\0", f"({MADE_UP.pattern})"), actual)
    if match is None:
        return expected
    for name, value in zip(made_up, match.groups(), strict=True):
        if known.get(name, value) != value or (name not in known and value in known.values()):
            return expected
        known[name] = value
    return actual


def check(reply: bytes, block: str, known: dict[str, Any]) -> None:
    """Compare a reply with the page."""
    actual = json.loads(reply)
    expected = filled(json.loads(block), actual, known)
    assert json.dumps(actual, sort_keys=True, indent=1) == json.dumps(
        expected, sort_keys=True, indent=1
    )


# -- sending


class Carrier(NamedTuple):
    """A way to send a request, and what comes before the JSON in its reply."""

    kind: int
    before: list[bytes]
    back: list[bytes]
    options: dict[str, int]


CARRIERS = {
    "REQ": Carrier(zmq.REQ, [], [], {}),
    "REQ_CORRELATE": Carrier(zmq.REQ, [], [], {"req_correlate": 1, "req_relaxed": 1}),
    "empty frame": Carrier(zmq.DEALER, [b""], [b""], {}),
    "frames before": Carrier(zmq.DEALER, [b"a", b"b", b""], [b"a", b"b", b""], {}),
    "CGSE": Carrier(zmq.DEALER, [b"REQ"], [b"RESPONSE"], {}),
    "CGSE heartbeat": Carrier(zmq.DEALER, [], [], {}),
}
PORTS = ("req_port", "hb_port")


@contextmanager
def asking(server: RegistryServer, port: str, carrier: str) -> Iterator[Callable[[bytes], bytes]]:
    """Sends requests to a port of a server, and returns the replies."""
    how = CARRIERS[carrier]
    with raw_socket(how.kind, f"tcp://127.0.0.1:{getattr(server, port)}", **how.options) as peer:

        def ask(request: bytes) -> bytes:
            peer.send_multipart([*how.before, request])
            *frames, reply = received(peer)
            assert frames == how.back
            return reply

        yield ask


class Section:
    """Runs a section: with a fresh server, whose clocks stand still."""

    def __init__(self, title: str, port: str, carrier: str, directory: Path) -> None:
        self.blocks = SECTIONS[title]
        self.port = port
        self.carrier = carrier
        self.store = directory / "service_registry.db"
        self.copy = directory / "copy.db"
        self.clock = ManualClock()
        self.known: dict[str, Any] = {}
        self.earlier = 0

    def run(self) -> None:
        """Run all of it."""
        said = [block.text for block in self.blocks if block.kind == "comment"]
        on_disk = any("the store" in text for text in said)
        # Where nobody expires on the page, nobody may: what has lapsed is asked for.
        expires = any('"expire"' in block.text for block in self.blocks)
        with ExitStack() as self.stack:
            self.server = self.stack.enter_context(
                serving(
                    backend=SQLiteBackend(self.store) if on_disk else InMemoryBackend(),
                    clock=self.clock,
                    wall=ManualClock(NOW),
                    cleanup_interval=0.2 if expires else 10,
                    unique_service_types="rs_cs start --unique-service-types" in said,
                )
            )
            self.ask = self.stack.enter_context(asking(self.server, self.port, self.carrier))
            self.known = {
                "req_port 4242": self.server.req_port,
                "pub_port 4243": self.server.pub_port,
                "hb_port 4244": self.server.hb_port,
                "pid 4711": os.getpid(),
                "host labserver": socket.gethostname(),
                "version 0.1.0": __version__,
                "path /var/backups/registry.db": str(self.copy),
            }
            if any(block.kind == "json event" for block in self.blocks):
                self.subscribe()
            replies: list[bytes] = []
            for kind, text in self.blocks:
                if kind == "json reply":
                    check(replies.pop(), text, self.known)
                elif kind == "json event":
                    self.event(json.loads(text))
                elif kind == "comment":
                    self.happen(text)
                else:
                    assert not replies, "a request without its reply"
                    replies.append(self.request(kind, text))
            assert not replies, "a request without its reply"

    def request(self, kind: str, text: str) -> bytes:
        """The reply to a request of the page."""
        for name, value in self.known.items():
            text = text.replace(name, str(value))
        text = text.replace("/var/backups/registry.db", str(self.copy))
        if kind == "json request":
            return self.ask(text.encode())
        assert kind == "json request from another machine"
        dispatcher = Dispatcher(self.server.registry, ManualClock(NOW), dict, pytest.fail)
        elsewhere = Sender("192.0.2.1", here=False)
        return json.dumps(dispatcher.answer(text.encode(), elsewhere)).encode()

    def subscribe(self) -> None:
        """Listen to events; only when the first has come, the subscription is known to hold."""
        subscriber = raw_socket(zmq.SUB, f"tcp://127.0.0.1:{self.server.pub_port}", subscribe=b"")
        self.subscriber = self.stack.enter_context(subscriber)
        info = {"id": "first", "name": "first", "host": "lab1", "port": 1}
        one = {"action": "register", "service_info": info}

        def heard() -> bool:
            self.earlier += 1
            self.ask(json.dumps(one).encode())
            return bool(self.subscriber.poll(100))

        wait_until(heard)
        while json.loads(received(self.subscriber)[1])["seq"] < self.earlier:
            pass
        self.earlier += 1
        self.ask(b'{"action": "deregister", "service_id": "first"}')
        received(self.subscriber)

    def event(self, expected: dict[str, Any]) -> None:
        """Compare the next event; its number counts those before the section, too."""
        kind, body = received(self.subscriber)
        assert kind.decode() == expected["type"]
        expected["seq"] += self.earlier
        check(body, json.dumps(expected), self.known)

    def happen(self, what: str) -> None:
        """Do what a comment says."""
        if seconds := re.fullmatch(r"(\d+) s pass", what):
            advance(self.clock, int(seconds[1]), lambda: self.ask(HEALTH))
        elif what == "another program locks the store":
            self.other = sqlite3.connect(self.store, isolation_level=None)
            self.stack.callback(self.other.close)
            self.other.execute("BEGIN EXCLUSIVE")
        elif what == "it lets go":
            self.other.execute("ROLLBACK")
        elif what == "the store is a file":
            pass
        else:
            assert what == "rs_cs start --unique-service-types", f"what is {what!r}?"


# -- the tests


def with_requests() -> list[str]:
    """The sections that send something."""
    return [title for title, part in SECTIONS.items() if any("request" in one.kind for one in part)]


@pytest.mark.parametrize("title", with_requests())
@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_requests_are_answered_as_documented(
    title: str, port: str, carrier: str, tmp_path: Path
) -> None:
    Section(title, port, carrier, tmp_path).run()


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    """A server in the second of the page."""
    with serving(backend=InMemoryBackend(), wall=ManualClock(NOW)) as running:
        yield running


def columns(line: str) -> list[bytes]:
    """The frames of a line of a `frames` block."""
    texts = re.split(r" {2,}", line)[1:]
    return [
        text.encode()
        if text.startswith("{")
        else text.strip('"').encode().decode("unicode_escape").encode("latin-1")
        for text in texts
    ]


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("block", blocks("frames"))
def test_framings_are_as_documented(block: str, port: str, server: RegistryServer) -> None:
    request, *reply = block.splitlines()
    with raw_socket(zmq.DEALER, f"tcp://127.0.0.1:{getattr(server, port)}") as dealer:
        dealer.send_multipart(columns(request))
        # What is answered in order and comes first is the reply, or there was none.
        dealer.send_multipart([b"next", b"", HEALTH])
        for line in reply:
            *before, body = received(dealer)
            *expected, text = columns(line)
            assert before == expected
            check(body, text.decode(), {})
        assert received(dealer)[0] == b"next"


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("kind", [b"REQ_NO_REPLY", b"NO-REQ"])
def test_what_wants_no_reply_is_done(kind: bytes, port: str, server: RegistryServer) -> None:
    info = {"id": "psu", "name": "PSU", "host": "lab2", "port": 6003}
    request = {"action": "register", "service_info": info}
    with raw_socket(zmq.DEALER, f"tcp://127.0.0.1:{getattr(server, port)}") as dealer:
        dealer.send_multipart([kind, json.dumps(request).encode()])
        dealer.send_multipart([b"", b'{"action": "get", "service_id": "psu"}'])
        assert json.loads(received(dealer)[1])["service"]["name"] == "PSU"


@pytest.mark.parametrize("port", PORTS)
def test_the_newest_connection_with_an_identity_has_it(port: str, server: RegistryServer) -> None:
    endpoint = f"tcp://127.0.0.1:{getattr(server, port)}"
    # Neither connects again by itself: it would take the identity back.
    options = {"routing_id": b"driver", "reconnect_ivl": -1}
    with raw_socket(zmq.DEALER, endpoint, **options) as older:
        older.send_multipart([b"", HEALTH])
        assert json.loads(received(older)[1])["status"] == "ok"
        with raw_socket(zmq.DEALER, endpoint, **options) as newer:
            newer.send_multipart([b"", HEALTH])
            assert json.loads(received(newer)[1])["status"] == "ok"
            assert not older.poll(0)


@pytest.mark.parametrize("block", blocks("bytes"))
def test_bytes_are_as_documented(block: str, server: RegistryServer) -> None:
    def those(mark: str) -> bytes:
        lines = re.findall(rf"^{mark}( .*\n(?:{mark}  .*\n)*)", block, re.MULTILINE)
        return bytes.fromhex("".join(lines).replace(mark, ""))

    with socket.create_connection(("127.0.0.1", server.req_port), timeout=10) as connection:
        stream = connection.makefile("rb")
        connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16 + 32))
        assert stream.read(64)[12:16] == b"NULL"
        connection.sendall(b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03REQ")
        flags, length = stream.read(2)
        assert flags == 4
        assert stream.read(length).startswith(b"\x05READY")
        connection.sendall(those(">"))
        assert stream.read(len(those("<"))) == those("<")


def test_the_python_client_prints_the_reply(server: RegistryServer) -> None:
    (program,) = blocks("python")
    following = [
        block.text
        for before, block in itertools.pairwise(SECTIONS["Framings"])
        if before.kind == "python"
    ]
    program = program.replace("localhost:4242", f"127.0.0.1:{server.req_port}")
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, timeout=60
    )
    check(done.stdout, following[0], {})


def test_every_block_is_run() -> None:
    fences = re.findall(r"^```(.*)$", PAGE, re.MULTILINE)
    assert len(fences) == 2 * sum(
        block.kind != "comment" for part in SECTIONS.values() for block in part
    )
    assert {fence for fence in fences if fence} == {
        "json request",
        "json request from another machine",
        "json reply",
        "json event",
        "frames",
        "bytes",
        "python",
    }


def test_no_object_of_the_page_has_a_field_twice() -> None:
    """A reader of JSON takes the last of them, and says nothing."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs), pairs
        return dict(pairs)

    for kind in ("json request", "json reply", "json event"):
        for text in blocks(kind):
            json.loads(text, object_pairs_hook=once)


def test_the_table_of_errors_is_complete() -> None:
    rows = re.findall(r"^\| `(\S+)` \| `(.+?)` \|", PAGE.partition("## Errors")[2], re.MULTILINE)
    assert rows.pop(0) == ("code", "error")
    assert {code for code, _ in rows} == set(errors.BY_CODE)
    patterns = [(code, re.escape(text).replace("…", ".+")) for code, text in rows]
    replies = [json.loads(text) for text in blocks("json reply")]
    for reply in [reply for reply in replies if not reply["success"]]:
        text = re.sub(r": (service_info|service_id|service_type)$", ": action", reply["error"])
        text = re.sub(r": (host|port)$", ": name", text)
        assert any(
            code == reply["code"] and re.fullmatch(pattern, text) for code, pattern in patterns
        ), reply


def test_links_lead_somewhere() -> None:
    def anchor(title: str) -> str:
        return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")

    for target in re.findall(r"\]\(#(.+?)\)", PAGE):
        assert target in map(anchor, SECTIONS)
