"""Replies that wait to be read: how much of them each address may have."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from rsreg import InMemoryBackend, RegistryServer
from rsreg.errors import SlowDown
from rsreg.server.guard.descriptors import Descriptors
from rsreg.server.guard.unread_replies import UnreadReplies
from rsreg.server.limits import Limits
from tests.attacks import begun_at_once
from tests.helpers import ManualClock, raw_socket, received, serving, wait_until

MB = 1_000_000


class ManualDescriptors(Descriptors):
    """The kernel, by hand: what is left to send on connections that are read, as far as it is."""

    def __init__(self) -> None:
        self.left: dict[int, int] = {}

    def unsent(self, number: int, peer: str | None = None) -> int | None:
        return self.left.get(number)


class RepliesHarness:
    """Replies by hand."""

    def __init__(self, **limits: Any) -> None:
        self.clock = ManualClock()
        self.descriptors = ManualDescriptors()
        self.replies = UnreadReplies(Limits(**limits), self.descriptors, self.clock)

    def refused(self, address: str = "10.0.0.1") -> str | None:
        """Which limit is reached, if any; asked as the dispatcher does it."""
        if not self.replies.suspects:
            return None
        try:
            self.replies.check(address)
        except SlowDown as error:
            return str(error.details["limit"])
        return None


def test_who_reads_is_never_refused() -> None:
    harness = RepliesHarness(waiting_bytes=10 * MB, reply_bytes_per_second=1_000 * MB)
    harness.descriptors.left[7] = 0
    for pause, size in ((0.06, 4 * MB), (0.001, 50_000)):
        for _ in range(1_000):
            assert harness.refused() is None
            harness.replies.sent(7, "10.0.0.1", size)
            harness.clock.now += pause
            # Some is always under way.
            harness.descriptors.left[7] = size // 2


def test_what_nobody_reads_counts_for_all_connections_of_an_address() -> None:
    harness = RepliesHarness(waiting_bytes=10 * MB)
    # The first may be longer than the bound: nothing waits.
    harness.replies.sent(1, "10.0.0.1", 6 * MB)
    assert harness.refused() is None
    harness.replies.sent(2, "10.0.0.1", 6 * MB)
    assert harness.refused() == "waiting_bytes"
    assert harness.refused("10.0.0.2") is None
    harness.descriptors.left[2] = 0
    # libzmq may not have given it to the kernel yet.
    assert harness.refused() == "waiting_bytes"
    harness.clock.now += 0.06
    assert harness.refused() is None
    assert not harness.replies.suspects


def test_what_an_ended_connection_did_not_read_is_gone() -> None:
    harness = RepliesHarness(waiting_bytes=10 * MB)
    harness.replies.sent(1, "10.0.0.1", 60 * MB)
    assert harness.refused() == "waiting_bytes"
    harness.replies.ended(1)
    harness.replies.ended(1)
    assert harness.refused() is None
    # The number is another's, and the end of the first was not told.
    harness.replies.sent(2, "10.0.0.1", 60 * MB)
    harness.replies.sent(2, "10.0.0.3", 1 * MB)
    assert harness.refused() is None
    assert harness.replies._addresses.keys() == {"10.0.0.3"}


def test_what_was_not_checked_before_is_not_sent_beyond_twice_the_bound() -> None:
    """As the echo of what a request named, or of its frames."""
    harness = RepliesHarness(waiting_bytes=10 * MB)
    sent = 0
    while harness.replies.may_send("10.0.0.1"):
        harness.replies.sent(1, "10.0.0.1", 64_000)
        sent += 64_000
    assert 20 * MB <= sent <= 20.1 * MB
    assert harness.replies.may_send("10.0.0.2")


def test_long_replies_again_and_again_have_a_rate() -> None:
    harness = RepliesHarness(waiting_bytes=1_000 * MB, reply_bytes_per_second=10 * MB)
    harness.descriptors.left.update(dict.fromkeys(range(100), 0))
    # Many may begin at once: a dozen caches.
    for number in range(20):
        assert harness.refused() is None
        harness.replies.sent(number, "10.0.0.1", 9 * MB)
    count = 0
    while harness.refused() is None:
        harness.replies.sent(0, "10.0.0.1", 9 * MB)
        count += 1
    assert count == 6
    assert harness.refused() == "reply_bytes_per_second"
    harness.clock.now += 0.6
    assert harness.refused() is None


def test_unknown_peers_have_read_when_everybody_has() -> None:
    harness = RepliesHarness(waiting_bytes=10 * MB)
    harness.replies.all = [[1, 2], [3]]
    harness.descriptors.left = {1: 0, 3: 5}
    harness.replies.sent(-1, "", 60 * MB)
    harness.clock.now += 1
    assert harness.refused("") == "waiting_bytes"
    harness.descriptors.left[2] = 0
    harness.clock.now += 1
    assert harness.refused("") is None


def test_gateways_may_have_any_number() -> None:
    harness = RepliesHarness(waiting_bytes=1, reply_bytes_per_second=1, gateways=("10.0.0.0/24",))
    for _ in range(10):
        harness.replies.sent(1, "10.0.0.1", MB)
        assert harness.refused() is None


def test_those_that_are_refused_come_again_one_after_the_other() -> None:
    harness = RepliesHarness(waiting_bytes=1)
    harness.replies.sent(1, "10.0.0.1", MB)
    waits = []
    for _ in range(300):
        with pytest.raises(SlowDown) as refused:
            harness.replies.check("10.0.0.1")
        waits.append(refused.value.details["retry_after"])
    assert waits[:3] == [0.05, 0.07, 0.09]
    assert waits == sorted(waits)
    assert waits[-1] == 2.0


# -- with a server


@contextlib.contextmanager
def stocked(count: int, **limits: Any) -> Iterator[RegistryServer]:
    """A server with so many services of 12 KB each."""
    bounds = Limits(writes_per_second=100_000, **limits)
    with serving(backend=InMemoryBackend(), limits=bounds) as server:
        with raw_socket(zmq.DEALER, server.endpoint) as socket:
            for number in range(count):
                info = {
                    "name": f"s{number}",
                    "host": "h",
                    "port": 1,
                    "metadata": {"x": 12_000 * "x"},
                }
                said = json.dumps({"action": "register", "ttl": 3600, "service_info": info})
                socket.send_multipart([b"", said.encode()])
                assert json.loads(received(socket)[-1])["success"]
        yield server


def ask(socket: zmq.Socket[bytes], **request: Any) -> dict[str, Any]:
    """The reply to a request."""
    socket.send_multipart([b"", json.dumps(request).encode()])
    return dict(json.loads(received(socket)[-1]))


def test_who_does_not_read_is_told_to_slow_down_and_renews_all_the_same() -> None:
    with (
        stocked(40, waiting_bytes=4 * MB) as server,
        raw_socket(zmq.DEALER, server.endpoint, rcvhwm=1, rcvbuf=4096) as deaf,
        raw_socket(zmq.DEALER, server.endpoint) as other,
    ):
        assert ask(other, action="list")["success"]
        for _ in range(100):
            deaf.send_multipart([b"", b'{"action":"list"}'])
        reply = wait_until(lambda: (found := ask(other, action="list"))["success"] or found)
        while reply is True:
            reply = ask(other, action="list")["success"] or ask(other, action="list")
        assert (reply["code"], reply["limit"]) == ("slow-down", "waiting_bytes")
        for action in ("discover", "maintenance", "info"):
            assert ask(other, action=action, service_type="x")["code"] == "slow-down"
        assert ask(other, action="health")["success"]
        assert ask(other, action="renew", service_id="nobody")["code"] == "unknown-service"
        # All that was kept for it is read now.
        deaf.rcvhwm = 0
        while deaf.poll(500):
            deaf.recv_multipart()
        wait_until(lambda: ask(other, action="list")["success"])


def test_many_caches_of_one_host_begin_at_once() -> None:
    """Each asks for a long list, and again when it is told to."""
    limits = {"waiting_bytes": 4 * MB, "reply_bytes_per_second": 8 * MB}
    with stocked(100, **limits) as server, contextlib.ExitStack() as stack:
        there = [stack.enter_context(raw_socket(zmq.DEALER, server.endpoint)) for _ in range(50)]
        assert max(begun_at_once(there, 1_200_000)) < 15


def test_long_echoes_are_bounded_too() -> None:
    """An unknown action is named in its refusal, and the frames before a request are sent back."""
    long = "x" * 60_000
    payload = json.dumps({"action": long}).encode()
    with (
        stocked(0, waiting_bytes=2 * MB) as server,
        raw_socket(zmq.DEALER, server.endpoint) as other,
        contextlib.ExitStack() as stack,
    ):
        for number in range(20):
            deaf = stack.enter_context(
                raw_socket(zmq.DEALER, server.endpoint, rcvhwm=1, rcvbuf=4096)
            )
            for _ in range(20):
                frames = [b"", payload] if number % 2 else [long.encode(), b"", b"{}"]
                deaf.send_multipart(frames)
        wait_until(
            lambda: (
                ask(other, action="health")["success"] and server.about()["dropped_replies"] > 50
            )
        )
        assert ask(other, action="health")["success"]


def test_quick_answers_go_before_long_ones() -> None:
    with (
        stocked(300) as server,
        raw_socket(zmq.DEALER, server.endpoint) as greedy,
        raw_socket(zmq.DEALER, server.endpoint) as quiet,
    ):
        assert ask(greedy, action="list")["success"]
        for number in range(30):
            said = {"action": "health" if number == 20 else "list", "request_id": str(number)}
            greedy.send_multipart([b"", json.dumps(said).encode()])
        received(greedy)
        assert ask(quiet, action="health")["success"]
        assert greedy.poll(0) == 0 or json.loads(received(greedy)[-1])["request_id"] in "12345"
        order = [int(json.loads(received(greedy)[-1])["request_id"]) for _ in range(24)]
        assert order == sorted(order)
