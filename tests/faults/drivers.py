"""Many services in one process, each beating as that of a client does, over its own connection.

    drivers.py ENDPOINT FOLDER PLAN

Writes down, where a `kill -9` does not reach, when each service beat and what it was told;
`Drivers` starts it and reads that. Clocks are CLOCK_MONOTONIC, the same in all processes.
"""

from __future__ import annotations

import heapq
import json
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import zmq

from rsreg.client.registration import registration
from rsreg.client.registration.registration import Registration
from rsreg.errors import RegistryError, RequestTimeout
from rsreg.protocol import calls
from rsreg.protocol.calls import Call
from rsreg.timing import Backoff, jitter
from rsreg.transport import sockets
from rsreg.transport.exchange import Step, exchange
from rsreg.transport.resolver import Numeric

T = TypeVar("T")
#: What a service does next; it is sent the frames that came, None after the wait.
Flow = Generator[Step, "list[bytes] | None", T]
HERE = Path(__file__).parent

#: Numbers kept of each service: when it was last sent for, when the question was asked to which the
#: registry last said that it is there (0: not yet; the answer may have been read much later), when
#: its last pause of more than half a ttl was over, when it ended by plan.
_FIELDS = SENT, KNOWN, WOKE, ENDED = range(4)
#: Services that one process can have, one after the other.
_MOST = 8192
#: Seconds that a call may take, as in a heartbeat.
_TIMEOUT = 2.0
#: Kinds of services.
KINDS = 40


@dataclass
class Plan:
    """What a process of services does.

    Each of `count` services lives for `mean` seconds on average (0: for ever), then leaves or falls
    silent, and another takes its place; with `last` a part falls silent within so many seconds
    and nobody comes after. `resumed` are names and ids of services that were there before.
    """

    name: str
    count: int
    ttl: float = 10
    mean: float = 0
    part: float = 0
    last: float = 0
    again: float = 0
    seed: int = 0
    resumed: list[tuple[str, str]] = field(default_factory=list)


class Book:
    """What one process writes down: numbers in a mapped file, and a line for each change."""

    def __init__(self, folder: Path, name: str) -> None:
        with (folder / f"{name}.times").open("a+b") as file:
            os.truncate(file.fileno(), _MOST * len(_FIELDS) * 8)
            self._map = mmap.mmap(file.fileno(), 0)
        self._times = memoryview(self._map).cast("d")
        self._lines = os.open(folder / f"{name}.lines", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def get(self, slot: int, what: int) -> float:
        """A number of a service."""
        return self._times[slot * len(_FIELDS) + what]

    def put(self, slot: int, what: int, value: float) -> None:
        """Keep a number of a service."""
        self._times[slot * len(_FIELDS) + what] = value

    def say(self, *line: Any) -> None:
        """Write a line, with the time; it survives a kill."""
        os.write(self._lines, json.dumps([time.monotonic(), *line]).encode() + b"\n")


class OneService:
    """One life: it registers, beats, and ends."""

    def __init__(self, owner: Process, slot: int, name: str, service_id: str | None) -> None:
        plan = owner.plan
        self.owner = owner
        self.slot = slot
        self.name = name
        self.flow = self._life(service_id)
        self.until = 0.0
        self.socket: Any = None
        self._ends = float("inf")
        if plan.mean:
            self._ends = time.monotonic() + random.expovariate(1 / plan.mean)
        elif random.random() < plan.part:
            self._ends = time.monotonic() + random.uniform(0, plan.last)
        host = f"host-of-{plan.name}"  # Each process has addresses of its own.
        what = (name, host, 1 + slot, f"KIND-{slot % KINDS}", {"of": plan.name}, plan.ttl)
        self._wanted = Registration.of(*what, service_id=service_id)

    def sent(self) -> None:
        """A request leaves, or may have; a long pause is written down. A goodbye is no beat."""
        book, now = self.owner.book, time.monotonic()
        if book.get(self.slot, ENDED):
            return
        before = book.get(self.slot, SENT)
        if before and now - before > self.owner.plan.ttl / 2:
            book.say("gap", self.name, before, now, book.get(self.slot, KNOWN))
            book.put(self.slot, WOKE, now)
        book.put(self.slot, SENT, now)

    def _life(self, service_id: str | None) -> Flow[None]:
        """The whole of it."""
        plan, book = self.owner.plan, self.owner.book
        new = service_id is not None
        wait = random.uniform(0, 0.5)
        if not new:
            yield from _pause(random.uniform(0, plan.ttl / 3))
            if not (yield from self._register(first=True)):
                return
            wait = jitter(plan.ttl / 3)
        backoff = Backoff(0.25, min(5.0, plan.ttl / 3))
        while True:
            yield from _pause(min(wait, self._ends - time.monotonic()))
            if time.monotonic() >= self._ends:
                break
            try:
                again = new or random.random() < plan.again
                if again or not (yield from self._renew()):
                    yield from self._register(first=False)
                new = False
                wait = jitter(plan.ttl / 3)
                backoff.reset()
            except RegistryError:
                wait = backoff.next()
        leaves = bool(plan.mean) and random.random() < 0.5
        book.put(self.slot, ENDED, time.monotonic())
        book.say("end", self.name, "leaves" if leaves else "silent")
        if leaves:
            yield from self._deregister()

    def _renew(self) -> Flow[bool]:
        assert self._wanted.service_id is not None
        asked = time.monotonic()
        known = yield from self._call(calls.renew(self._wanted.service_id))
        if known:
            self.owner.book.put(self.slot, KNOWN, asked)
            self.owner.beats += 1
        else:
            self.owner.book.say("unknown", self.name)
        return bool(known)

    def _register(self, *, first: bool) -> Flow[bool]:
        """False if nobody can tell whether it is there: then it is over, with nothing to beat."""
        book, asked = self.owner.book, time.monotonic()
        book.say("ask", self.name, "register")
        try:
            entry = yield from self._call(registration.register(self._wanted))
        except RequestTimeout:
            if first:
                book.put(self.slot, ENDED, time.monotonic())
                book.say("end", self.name, "unanswered")
                return False
            raise
        except RegistryError as error:
            book.say("told", self.name, "refused", str(error))
            if first:
                book.put(self.slot, ENDED, time.monotonic())
                book.say("end", self.name, "refused")
                return False
            raise
        book.say("told", self.name, "done", entry.service_id)
        book.put(self.slot, KNOWN, asked)
        self._wanted = self._wanted.with_id(entry.service_id)
        return True

    def _deregister(self) -> Flow[None]:
        assert self._wanted.service_id is not None
        self.owner.book.say("ask", self.name, "deregister")
        try:
            done = yield from self._call(
                calls.deregister(self._wanted.service_id, self._wanted.asker)
            )
        except RequestTimeout:
            return
        except RegistryError:
            done = False
        self.owner.book.say("told", self.name, "done" if done else "refused", None)

    def _call(self, call: Call[T]) -> Flow[T]:
        limit = min(_TIMEOUT, max(self.owner.plan.ttl / 3, 0.5))
        try:
            return (yield from exchange(call, timeout=limit, endpoint="it", clock=time.monotonic))
        except RequestTimeout:
            self.owner.reopen(self)
            raise


def _pause(seconds: float) -> Flow[None]:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        yield Step(None, left, "")


class Process:
    """Drives all services of a plan."""

    def __init__(self, endpoint: str, folder: Path, plan: Plan) -> None:
        self.plan = plan
        self.book = Book(folder, plan.name)
        self.beats = 0
        self._endpoint = endpoint
        self._poll = select.epoll()
        self._by_fd: dict[int, OneService] = {}
        self._waits: list[tuple[float, int, OneService]] = []
        self._slots = iter(range(_MOST))

    def run(self, stop: int) -> None:
        """Until something is to be read from the file descriptor `stop`."""
        self._poll.register(stop, select.EPOLLIN)
        for name, service_id in self.plan.resumed:
            self._begin(name, service_id)
        for _ in range(self.plan.count - len(self.plan.resumed)):
            self._begin(None, None)
        while True:
            first = self._waits[0][0] - time.monotonic() if self._waits else 1.0
            for fd, _ in self._poll.poll(min(1.0, max(0.0, first))):
                if fd == stop:
                    return
                if fd in self._by_fd:
                    self._drain(self._by_fd[fd])
            while self._waits and self._waits[0][0] <= time.monotonic():
                until, _, one = heapq.heappop(self._waits)
                if one.until == until and one.socket is not None:
                    self._go_on(one, None)
                    self._drain(one)

    def _begin(self, name: str | None, service_id: str | None) -> None:
        slot = next(self._slots)
        one = OneService(self, slot, name or f"{self.plan.name}.{slot}", service_id)
        self.book.say("is", one.name, slot)
        self._open(one)
        self._go_on(one, None)
        self._drain(one)

    def _go_on(self, one: OneService, frames: list[bytes] | None) -> None:
        try:
            step = one.flow.send(frames)
        except StopIteration:
            self._close(one)
            if self.plan.mean:
                self._begin(None, None)
            return
        if step.frames:
            one.sent()
            one.socket.send_multipart(step.frames, zmq.DONTWAIT)
        one.until = time.monotonic() + step.wait
        heapq.heappush(self._waits, (one.until, one.slot, one))

    def _drain(self, one: OneService) -> None:
        # Also after each send: it may have swallowed the edge of the file descriptor.
        while one.socket is not None:
            try:
                frames = one.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._go_on(one, frames)

    def _open(self, one: OneService) -> None:
        one.socket = sockets.dealer(sockets.own_context(), Numeric(self._endpoint))
        self._by_fd[one.socket.fileno()] = one
        self._poll.register(one.socket.fileno(), select.EPOLLIN)

    def _close(self, one: OneService) -> None:
        fd = one.socket.fileno()
        self._poll.unregister(fd)
        del self._by_fd[fd]
        one.socket.close()
        one.socket = None

    def reopen(self, one: OneService) -> None:
        """Give it a fresh connection: nothing stale is sent later.

        Until now what it said last may have waited for a connection, and have left.
        """
        self._close(one)
        one.sent()
        self._open(one)


# -- from outside


class Drivers:
    """Such a process, seen from the test that starts it."""

    def __init__(self, endpoint: str, folder: Path, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.name
        #: When it was killed.
        self.killed: float | None = None
        #: Services whose story goes on in another process.
        self.handed_on: set[str] = set()
        self.book = Book(folder, plan.name)
        self._reader = (folder / f"{plan.name}.lines").open()
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "drivers.py"),
                endpoint,
                str(folder),
                json.dumps(asdict(plan)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
        )

    def kill(self) -> None:
        """`kill -9`."""
        self.process.send_signal(signal.SIGKILL)
        self._wait()
        self.killed = time.monotonic()

    def stop(self) -> int:
        """End it, whatever state it is in; the number of beats that were answered."""
        if self.process.returncode is not None:
            return 0
        self.process.send_signal(signal.SIGCONT)
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        self._wait()
        self.killed = time.monotonic()
        return int(said or 0)

    def _wait(self) -> None:
        self.process.wait(20)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def close(self) -> None:
        """End it, and let go of what it wrote."""
        self.stop()
        self._reader.close()

    def lines(self) -> Iterator[list[Any]]:
        """What it wrote since the last look: a time, a word, a service, and what was said."""
        while (line := self._reader.readline()).endswith("\n"):
            yield json.loads(line)
        self._reader.seek(self._reader.tell() - len(line))


if __name__ == "__main__":
    what = Plan(**json.loads(sys.argv[3]))
    random.seed(what.seed or None)
    process = Process(sys.argv[1], Path(sys.argv[2]), what)
    process.run(sys.stdin.fileno())
    sys.stdout.write(f"{process.beats}\n")
