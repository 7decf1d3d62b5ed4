"""A message without an end: how a connection is found that sends one, and what is none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from rsreg import RegistryClient
from rsreg.server.guard.endless_messages import EndlessMessages, own_memory
from tests import zmtp
from tests.helpers import ManualClock, ServerProcess, wait_until
from tests.usage import memory

MIB = 1024 * 1024


class Kernel:
    """What the kernel tells of connections, by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.memory = 50 * MIB
        self.came: dict[int, int] = {}
        self.cut: list[int] = []
        self.unfinished = EndlessMessages(self, self.clock, lambda: self.memory)

    def numbers(self) -> Iterable[int]:
        return list(self.came)

    def received(self, number: int) -> int | None:
        return self.came.get(number)

    def end(self, number: int, why: str) -> None:
        assert "no end" in why
        self.cut.append(number)
        del self.came[number]

    def look(self, grown: int = 0) -> None:
        """A turn, before which the memory grew."""
        self.memory += grown
        self.clock.advance(0.025)
        self.unfinished.step()


def test_who_sends_on_and_on_is_cut() -> None:
    kernel = Kernel()
    kernel.came = {7: 10 * MIB, 8: 1_000}
    kernel.look(9 * MIB)
    assert kernel.unfinished.watched
    assert not kernel.cut
    kernel.came[7] += MIB
    kernel.look(MIB)
    assert kernel.cut == [7]
    kernel.look()
    assert not kernel.unfinished.watched


def test_whose_messages_have_an_end_is_not() -> None:
    kernel = Kernel()
    kernel.came = {7: 10 * MIB}
    for _ in range(100):
        kernel.look(9 * MIB)
        kernel.came[7] += MIB
        kernel.unfinished.heard(7)
    assert not kernel.cut


def test_signs_of_life_are_none_of_its_business() -> None:
    """A connection that was there for weeks, and says little, is never cut."""
    kernel = Kernel()
    kernel.came = {7: 10 * MIB}
    for _ in range(3_000):
        kernel.look(9 * MIB)
        kernel.came[7] += 100
        kernel.clock.advance(1)
    assert not kernel.cut


def test_nobody_is_looked_at_while_the_memory_stays() -> None:
    kernel = Kernel()
    kernel.came = {7: 100 * MIB}
    for _ in range(10):
        kernel.came[7] += MIB
        kernel.look(100_000)
    assert not kernel.unfinished.watched


def test_many_connections_are_looked_at_in_slices() -> None:
    kernel = Kernel()
    kernel.came = dict.fromkeys(range(1000), 10 * MIB)
    kernel.look(9 * MIB)
    assert len(kernel.unfinished.watched) == 200
    for _ in range(4):
        kernel.look()
    assert len(kernel.unfinished.watched) == 1_000


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2 * MIB), st.booleans()), max_size=60))
def test_what_is_kept_of_one_message_is_bounded(sent: list[tuple[int, int, bool]]) -> None:
    """However it is sent: no connection has more than so much unfinished for long."""
    kernel = Kernel()
    unfinished = {1: 0, 2: 0, 3: 0}
    kernel.came = dict.fromkeys(unfinished, MIB)
    for number, size, ends in sent:
        if number in kernel.came:
            kernel.came[number] += size
            unfinished[number] += size
            kernel.memory += size
            if ends:
                kernel.memory -= unfinished[number]
                unfinished[number] = 0
                kernel.unfinished.heard(number)
        before = list(kernel.cut)
        kernel.look()
        kernel.look()
        for cut in set(kernel.cut) - set(before):
            assert unfinished[cut] > 512 * 1024, "it had a message without an end"


def test_a_real_one_is_cut_and_the_others_are_not(process: ServerProcess) -> None:
    with process, RegistryClient(process.endpoint, timeout=20) as client:
        client.register("psu", "lab", 1, metadata={"x": "x" * 15_000})
        for _ in range(60):
            client.update(metadata={"x": "x" * 15_000})
        assert process.process is not None
        before = memory(process.process.pid)
        assert own_memory() > 0
        endless = zmtp.dealer(process.ports[0])
        # Its end may be a kernel that takes no more.
        endless.settimeout(1)
        sent, most = 0, 0
        part = zmtp.frame(bytes(60_000), more=True)
        until = time.monotonic() + 20
        with contextlib.suppress(OSError), endless:
            while time.monotonic() < until:
                endless.sendall(part)
                sent += len(part)
                most = max(most, memory(process.process.pid) - before)
        wait_until(lambda: client.server_status()["cut_connections"] == 1)
        assert most < 300 * MIB
        assert client.health_check()
        wait_until(lambda: client.server_status()["connections"] == 1)
