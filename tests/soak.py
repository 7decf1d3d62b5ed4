"""Thousands of services, and one fault after the other: does the registry keep its promises?

    python -m tests.soak --minutes N [--services 2000] [--seed S]

Starts a server on a file, services in processes of their own, and subscribers; kills, stops and
starves them at random; compares all the while what the registry says with what was done to it, and
at the end the whole journal. Prints each broken promise with its evidence, and a table; exits with
1 if there was any. As root it also fills a disk, a small tmpfs of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from rsreg import RegistryClient
from rsreg.errors import RegistryError
from rsreg.protocol.calls import Record
from tests.faults.disk import mounted
from tests.faults.drivers import ENDED, KINDS, KNOWN, SENT, WOKE, Drivers, Plan
from tests.faults.history import History, Snapshot, broken
from tests.faults.hostile import Hostile
from tests.faults.net import percentile
from tests.helpers import FAR, ServerProcess, raw_socket, wait_until
from tests.usage import memory

TTL = 10.0
CLEANUP = 2.0
#: Seconds that a service may be there beyond its ttl and a cleanup interval, and seconds beyond its
#: ttl that it may be discovered.
SLACK = 1.0
#: Seconds until a process that stood still is heard again: its connections may be gone meanwhile,
#: and its first tries in vain.
HEARD_AGAIN = 5.0
#: Services in one process.
EACH = 100
SUBSCRIBERS = 20

#: What was said of a service: a time and a word, and more for some.
Line = list[Any]


@dataclass
class Outage:
    """A time in which the server could not serve, or not write; it may last still.

    `grace` is the earliest moment at which leases began afresh.
    """

    kind: str
    start: float
    end: float = float("inf")
    grace: float = 0.0


class Soak:
    """One run."""

    def __init__(self, minutes: float, services: int, folder: Path, *, full: bool) -> None:
        self.until = time.monotonic() + minutes * 60
        self.over = threading.Event()
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []
        self.outages: list[Outage] = []
        self.seconds: list[float] = []
        self.arrived: dict[int, float] = {}
        self.heard: list[list[Record]] = [[] for _ in range(SUBSCRIBERS)]
        self.said: dict[str, list[Line]] = defaultdict(list)
        #: Name -> where its times stand, in the process that has it now.
        self.where: dict[str, tuple[Drivers, int]] = {}
        #: Name -> the same, of all processes that had it.
        self.had: dict[str, list[tuple[Drivers, int]]] = defaultdict(list)
        #: Names that may be in the list.
        self.open: set[str] = set()
        self.populated = False
        #: Bytes that the server had at most.
        self.memory = 0
        self._reading = threading.Lock()
        self.snapshot = Snapshot()
        self.started = time.monotonic()
        self._wall = time.time() - time.monotonic()
        self._folder = folder
        self._full = full
        self._log = (folder / "server.log").open("w+")
        self._log_read = (folder / "server.log").open()
        self.server = ServerProcess(
            folder / "disk" / "registry.db", log=self._log, cleanup_interval=CLEANUP, limits=FAR
        )
        self.server.start()
        self.numbers = itertools.count()
        self.all: list[Drivers] = []
        self.drivers: list[Drivers] = []
        for _ in range(services // EACH):
            self.drivers.append(self._new())

    def _new(self, resumed: list[tuple[str, str]] | None = None) -> Drivers:
        plan = Plan(
            name=f"d{next(self.numbers)}",
            count=EACH,
            ttl=TTL,
            mean=150,
            again=0.002,
            seed=random.randrange(1, 2**31),
            resumed=resumed or [],
        )
        made = Drivers(self.server.endpoint, self._folder, plan)
        self.all.append(made)
        return made

    # -- what is said

    def complain(self, what: str) -> None:
        """A promise is broken."""
        self.broken.append(what)
        print(f"BROKEN {time.monotonic() - self.started:8.2f} s: {what}", flush=True)

    def evidence(self, name: str) -> str:
        """What its owner wrote down of a service."""
        owner, slot = self.where[name]
        times = [round(owner.book.get(slot, f), 2) for f in (SENT, KNOWN, WOKE, ENDED)]
        near = [(o.kind, round(o.start, 2), round(o.end, 2)) for o in self.outages[-4:]]
        return f"{name}: {times}, killed {owner.killed}, {self.said[name][-6:]}, outages {near}"

    def read_lines(self) -> None:
        """What the services wrote, and what the server logged of its own stalls."""
        with self._reading:
            for owner in self.all:
                for moment, word, name, *rest in owner.lines():
                    if word == "is":
                        self.where[name] = (owner, rest[0])
                        self.had[name].append((owner, rest[0]))
                        self.open.add(name)
                        word, rest = "resumed" if self.said[name] else "begun", []
                    self.said[name].append([moment, word, *rest])
            self._read_log()

    def _read_log(self) -> None:
        for text in self._log_read.read().splitlines():
            stamp, _, said = text.partition(" ")
            if "the server was blocked" in said:
                end = float(stamp) - self._wall
                lasted = float(said.partition("was blocked for ")[2].partition(" s")[0])
                self.outages.append(Outage("stall", end - lasted - 0.3, end + 0.01, end - 0.05))
                self.counts["stalls that the server noticed"] += 1
            elif "Traceback" in said or "Error" in text:
                self.complain(f"the server logged {text}")

    # -- how long a service may be there

    def sent(self, name: str) -> float:
        """When anybody last sent for a service; one that was resumed may end before it does."""
        return max(owner.book.get(slot, SENT) for owner, slot in list(self.had[name]))

    def lease_end(self, sent: float, until: float) -> float:
        """When the lease of a service ended whose last message left at `sent`, at the latest."""
        deadline = sent + TTL
        for outage in sorted(self.outages, key=lambda one: one.start):
            if outage.start > min(until, deadline + CLEANUP + SLACK):
                break
            if outage.end > sent:
                fresh = outage.end if outage.kind == "disk full" else outage.end + TTL
                deadline = max(deadline, fresh)
        return deadline

    # -- what is asked all the while

    def watch(self) -> None:
        """Compare the list with what the owners know, once a second."""
        while not self.over.wait(0.7):
            try:
                self.look()
            except RegistryError:
                self.counts["looks without an answer"] += 1

    def look(self) -> None:
        """One comparison."""
        self.read_lines()
        before = {}
        for name in list(self.open):
            owner, slot = self.where[name]
            before[name] = (owner, slot, owner.book.get(slot, KNOWN), owner.book.get(slot, WOKE))
        asked = time.monotonic()
        self.snapshot.update(self.server.endpoint, timeout=5)
        answered = time.monotonic()
        self.read_lines()
        self.counts["lists compared"] += 1
        listed = {service["name"]: service for service in self.snapshot.services}
        for name, (owner, slot, known, woke) in before.items():
            sent, ended = self.sent(name), owner.book.get(slot, ENDED)
            if self.where[name] != (owner, slot):
                continue
            if not ended and owner.killed is None:
                lives = sent > answered - 0.6 * TTL and owner.book.get(slot, WOKE) == woke
                if lives and woke < known < asked and known:
                    self._must_be_there(name, listed.get(name))
            elif name in listed:
                self._may_be_there(name, listed[name], self.lease_end(sent, asked), asked)
            elif asked > sent + 60:
                self.open.discard(name)

    def _may_be_there(self, name: str, service: Record, end: float, asked: float) -> None:
        if asked > end + CLEANUP + SLACK:
            self.complain(f"still listed {asked - end:.2f} s late: {self.evidence(name)}")
        elif asked > end + SLACK and service["health"] == "passing":
            self.complain(f"still passing {asked - end:.2f} s late: {self.evidence(name)}")

    def _must_be_there(self, name: str, service: Record | None) -> None:
        self.counts["living services found in a list"] += 1
        if service is None:
            self.complain(f"a living service is not listed: {self.evidence(name)}")
        elif service["health"] != "passing":
            self.complain(f"a living service is {service['health']}: {self.evidence(name)}")

    def ask(self) -> None:
        """Discover, and measure how long it takes while the server is well."""
        with RegistryClient(self.server.endpoint, timeout=2) as client:
            while not self.over.wait(0.05):
                asked = time.monotonic()
                try:
                    if random.random() < 0.5:
                        client.health_check()
                        found: Record | None = {}
                    else:
                        found = client.discover_service(f"KIND-{random.randrange(KINDS)}")
                        self.counts["discover calls"] += 1
                except RegistryError:
                    continue
                took = time.monotonic() - asked
                if not any(o.end > asked - 3 for o in list(self.outages)):
                    self.seconds.append(took)
                    if found is None and self.populated:
                        self.complain("discover found nothing among dozens of living services")
                if found:
                    self._may_be_found(found, asked)

    def _may_be_found(self, found: Record, asked: float) -> None:
        self.read_lines()
        end = self.lease_end(self.sent(found["name"]), asked)
        if asked > end + SLACK:
            self.complain(f"found {asked - end:.2f} s late: {self.evidence(found['name'])}")

    def annoy(self) -> None:
        """Hostile messages in bursts, and somebody who subscribes and does not read."""
        source = Hostile(random.randrange(10**6), changes=False)
        with raw_socket(zmq.SUB, self.server.pub_endpoint, subscribe=b"", rcvhwm=1):
            while not self.over.wait(random.uniform(1, 10)):
                with raw_socket(zmq.DEALER, self.server.endpoint) as socket:
                    for _ in range(50):
                        with contextlib.suppress(zmq.Again):
                            socket.send_multipart(source.message(), zmq.DONTWAIT)
                        self.counts["hostile messages"] += 1
                    socket.close(linger=200)

    # -- faults of the server

    def break_server(self) -> None:
        """One fault after the other, with a pause between."""
        kinds: list[Callable[[], None]] = [self.kill, self.term, self.pause]
        if self._full:
            kinds.append(self.fill)
        for fault in self._shuffled(kinds):
            if self.over.wait(random.uniform(3, 14)) or time.monotonic() > self.until - 20:
                return
            fault()

    def _shuffled(self, kinds: list[Callable[[], None]]) -> Iterator[Callable[[], None]]:
        while True:
            yield from random.sample(kinds, len(kinds))

    def _away(self, kind: str, end: Callable[[], None]) -> None:
        outage = Outage(kind, time.monotonic())
        self.outages.append(outage)
        end()
        self.over.wait(random.choice([0, 0, random.uniform(0, 5), random.uniform(8, 15)]))
        outage.grace = time.monotonic()
        self.server.start()
        outage.end = time.monotonic()
        self.counts[f"server faults: {kind}"] += 1
        self.counts["seconds without a server"] += round(outage.end - outage.start)

    def kill(self) -> None:
        """`kill -9`, away for a while, started again."""
        self._away("SIGKILL", self.server.kill)

    def term(self) -> None:
        """SIGTERM: ends with 0 within 2 s; started again."""

        def end() -> None:
            started = time.monotonic()
            self.server.signal(signal.SIGTERM)
            code = self.server.wait()
            took = time.monotonic() - started
            if code != 0 or took > 2:
                self.complain(f"SIGTERM: exit code {code} after {took:.2f} s")

        self._away("SIGTERM", end)

    def pause(self) -> None:
        """SIGSTOP for longer than the ttl, or shorter."""
        outage = Outage("SIGSTOP", time.monotonic())
        self.outages.append(outage)
        self.server.signal(signal.SIGSTOP)
        seconds = random.choice([random.uniform(2, 5), random.uniform(11, 16)])
        time.sleep(seconds)
        outage.grace = time.monotonic()
        self.server.signal(signal.SIGCONT)
        wait_until(self._answers)
        outage.end = time.monotonic()
        self.counts["server faults: SIGSTOP"] += 1
        self.counts["seconds without a server"] += round(seconds)

    def _answers(self) -> bool:
        with RegistryClient(self.server.endpoint, timeout=1) as client:
            try:
                return bool(client.server_status()["success"])
            except RegistryError:
                return False

    def fill(self) -> None:
        """No room on the disk for a while."""
        outage = Outage("disk full", time.monotonic())
        self.outages.append(outage)
        file = self._folder / "disk" / "other"
        with contextlib.suppress(OSError), file.open("wb", buffering=0) as other:
            while True:
                other.write(bytes(4096))
        time.sleep(random.uniform(3, 12))
        file.unlink()
        outage.end = time.monotonic()
        self.counts["server faults: disk full"] += 1

    # -- faults of the services

    def break_drivers(self) -> None:
        """Kill and stop processes of services, and start others; several at a time."""
        running: list[threading.Thread] = []
        while not self.over.wait(random.uniform(2, 8)) and time.monotonic() < self.until - 25:
            place = random.randrange(len(self.drivers))
            if all(thread.name != str(place) for thread in running):
                fault = random.choice([self._kill_driver, self._kill_driver, self._stop_driver])
                running.append(threading.Thread(target=fault, args=[place], name=str(place)))
                running[-1].start()
            running = [thread for thread in running if thread.is_alive()]
        for thread in running:
            thread.join()

    def _kill_driver(self, place: int) -> None:
        old = self.drivers[place]
        old.kill()
        self.counts["service processes killed"] += 1
        self.over.wait(random.choice([0, 3, 8, 12, 20]))
        resumed = None
        if random.random() < 0.5:
            resumed = [
                (name, ids)
                for name, (owner, slot) in list(self.where.items())
                if owner is old and not old.book.get(slot, ENDED) and (ids := self._id_of(name))
            ]
            self.counts["services resumed under their ids"] += len(resumed)
        self.drivers[place] = self._new(resumed)

    def _id_of(self, name: str) -> str | None:
        told = [line for line in list(self.said[name]) if line[1:3] == ["told", "done"]]
        return str(told[-1][3]) if told and told[-1][3] else None

    def _stop_driver(self, place: int) -> None:
        process = self.drivers[place].process
        process.send_signal(signal.SIGSTOP)
        self.counts["service processes stopped for a while"] += 1
        self.over.wait(random.choice([2, 8, 12, 20]))
        process.send_signal(signal.SIGCONT)

    # -- the whole

    def run(self) -> None:
        """Until the time is over, then until everybody has gone."""
        with contextlib.ExitStack() as stack:
            for number, heard in enumerate(self.heard):
                self._subscribe(stack, number, heard)
            parts = (self.watch, self.ask, self.annoy, self.break_server, self.break_drivers)
            threads = [threading.Thread(target=self._guarded, args=[part]) for part in parts]
            stack.callback(self._finish, threads)
            for thread in threads:
                thread.start()
            while time.monotonic() < self.until:
                time.sleep(min(10.0, max(0.0, self.until - time.monotonic())))
                self.populated = True
                self.progress()
            for thread in threads[3:]:
                thread.join()
            time.sleep(TTL + CLEANUP + SLACK)
            self.populated = False
            beats = [owner.stop() for owner in self.drivers]
            self.counts["beats answered (of processes that were not killed)"] = sum(beats)
            ends = [self.lease_end(o.killed or 0, time.monotonic()) for o in self.all]
            last = max(ends, default=time.monotonic())
            time.sleep(max(0.0, last + CLEANUP + SLACK - time.monotonic()))
            self._finish(threads)
            self.look()
            if self.snapshot.services:
                names = [service["name"] for service in self.snapshot.services]
                self.complain(f"{len(names)} services are still there: {names[:5]}")
            # The slow one sleeps; what it has not read yet waits in its socket, or in the journal.
            wait_until(self.all_heard, timeout=180)
        self.judge()

    def all_heard(self) -> bool:
        """Whether every subscriber has heard all there is."""
        return all(heard[-1]["seq"] >= self.snapshot.seq for heard in self.heard)

    def _finish(self, threads: list[threading.Thread]) -> None:
        self.over.set()
        for thread in threads:
            thread.join()

    def _subscribe(self, stack: contextlib.ExitStack, number: int, heard: list[Record]) -> None:
        client = stack.enter_context(RegistryClient(self.server.endpoint, timeout=5))

        def hear(event: Record) -> None:
            self.arrived.setdefault(event["seq"], time.monotonic())
            heard.append({"seq": event["seq"], "type": event["type"]})
            if number == 0 and random.random() < 0.005:
                time.sleep(1)

        client.on_any_event(hear)
        client.start_event_listener()

    def _guarded(self, part: Callable[[], None]) -> None:
        try:
            part()
        except Exception as error:
            self.complain(f"{part.__name__} failed: {error!r}")
            raise

    def progress(self) -> None:
        """A line on how far it is."""
        assert self.server.process is not None
        self.memory = max(self.memory, size := memory(self.server.process.pid))
        print(
            f"{time.monotonic() - self.started:6.0f} s: {len(self.snapshot.services)} services, "
            f"seq {self.snapshot.seq}, {self.counts['lists compared']} lists compared, "
            f"{len(self.outages)} outages, server {size / 1e6:.0f} MB, {len(self.broken)} broken, "
            f"load {os.getloadavg()[0]:.1f}",
            flush=True,
        )

    def close(self) -> None:
        """End everything that was started."""
        self.over.set()
        for owner in self.all:
            owner.close()
        self.server.stop()
        self._log.close()
        self._log_read.close()

    # -- the judgement at the end

    def judge(self) -> None:
        """Hold the whole journal against what was done."""
        self.read_lines()
        for said in broken(self.history(), self.snapshot):
            self.complain(said)
        there: set[str] = set()
        ended: dict[str, float] = {}
        for event in self.snapshot.events:
            service_id, name = event["data"]["service_id"], event["data"]["service_info"]["name"]
            self.counts[f"events: {event['type']}"] += 1
            if event["type"] == "register":
                there.add(service_id)
                ended.pop(name, None)
            elif event["type"] in ("critical", "recovered"):
                if service_id not in there:
                    self.complain(f"{event['type']}, but it is not there: {event}")
            elif service_id in there:
                there.remove(service_id)
                ended[name] = float(event["timestamp"]) - self._wall
            else:
                self.complain(f"{event['type']} of what was not there: {event}")
            if event["type"] == "expire":
                self.judge_expiry(name, event)
        for name in self.where:
            limit = self.lease_end(self.sent(name), ended.get(name, 0.0)) + CLEANUP + SLACK
            if name in ended and ended[name] > limit:
                late = ended[name] - limit
                self.complain(f"gone {late:.2f} s too late: {self.evidence(name)}")
        self.judge_subscribers()

    def judge_expiry(self, name: str, event: Record) -> None:
        """Nobody may expire whose owner beat, nor within a ttl after a start or stall."""
        earliest = float(event["timestamp"]) - self._wall
        latest = min(earliest + 1, self.arrived.get(event["seq"], float("inf")))
        silences = list(self.silences(name))
        legal = [one for one in silences if one[0] + TTL <= latest + 0.05]
        if not any(earliest <= self.read_until(since, end) + SLACK for since, end in legal):
            self.complain(
                f"a living service expired at {earliest:.2f} to {latest:.2f}, it was silent "
                f"{silences}: {self.evidence(name)}"
            )
        for outage in self.outages:
            before = any(since + TTL <= outage.start for since, _ in silences)
            if outage.kind in ("SIGSTOP", "stall") and before:
                continue
            if outage.grace and outage.grace <= earliest and latest < outage.grace + TTL - 0.05:
                self.complain(f"expired at {latest:.2f}, within a ttl after {outage}: {name}")

    def read_until(self, since: float, end: float) -> float:
        """When the server could read what ended a silence; a lapse before a stall stays one."""
        stalls = [one for one in self.outages if since + TTL <= one.start <= end <= one.end]
        return max((one.end for one in stalls), default=end)

    def silences(self, name: str) -> Iterator[tuple[float, float]]:
        """When nobody sent anything for a service, for more than half of its ttl.

        From the last question that was answered: what was sent later may never have arrived. To the
        next answer, if a process took over: what it asked before was refused, or never arrived.
        """
        left = None
        for moment, word, *rest in self.said[name]:
            if word == "gap":
                yield rest[2], rest[1] + HEARD_AGAIN
            elif word == "resumed":
                left = self._answered(name, killed_before=moment)
            elif left is not None and word == "told" and rest[0] == "done":
                yield left, moment
                left = None
        owner, slot = self.where[name]
        if left is not None:
            yield left, float("inf")
        elif owner.book.get(slot, ENDED) or owner.killed is not None:
            yield self._answered(name), float("inf")

    def _answered(self, name: str, killed_before: float | None = None) -> float:
        """When the last question was asked that any, or a killed, process got an answer to."""
        known = [
            owner.book.get(slot, KNOWN)
            for owner, slot in self.had[name]
            if killed_before is None or (owner.killed or float("inf")) < killed_before
        ]
        return max(known, default=0.0)

    def history(self) -> History:
        """What the owners were told, as the journal has to have it."""
        history = History()
        for name, lines in self.said.items():
            asked, sure, last = None, False, "unanswered"
            for _, word, *rest in lines:
                if word == "gap":
                    # Its lease may have ended meanwhile, whatever it is asking for.
                    history.note(name, "expire", "unanswered")
                    sure = False
                    continue
                if asked is not None:
                    last = rest[0] if word == "told" else "unanswered"
                    history.note(name, asked, last)
                    sure = last == "done"
                    if word == "told" and len(rest) > 1 and last == "done" and rest[1]:
                        history.ids[name] = rest[1]
                    asked = None
                if word == "ask":
                    asked = rest[0]
                elif word == "unknown":
                    history.note(name, "expire", "done" if sure else "unanswered")
                    sure = False
                elif word == "resumed":
                    history.note(name, "expire", "unanswered")
                    sure = False
            if asked is not None:
                history.note(name, asked, "unanswered")
            history.note(name, "expire", "unanswered")
        for outcome in ("done", "refused", "unanswered"):
            for action in ("register", "deregister"):
                self.counts[f"{action}: {outcome}"] = sum(
                    (c.action, c.outcome) == (action, outcome) for c in history.changes
                )
        return history

    def judge_subscribers(self) -> None:
        """Each heard every event once and in order, from when it began to the end."""
        types = [event["type"] for event in self.snapshot.events]
        for number, heard in enumerate(self.heard):
            first = heard[0]["seq"]
            if [event["seq"] for event in heard] != list(range(first, self.snapshot.seq + 1)):
                self.complain(f"subscriber {number} did not hear {first} to {self.snapshot.seq}")
            elif [event["type"] for event in heard] != types[first - 1 :]:
                self.complain(f"subscriber {number} heard other events than the journal has")
            self.counts["events heard by all subscribers"] += len(heard)

    def table(self) -> str:
        """What happened."""
        self.counts["services"] = len(self.said)
        rows = [f"| {what} | {count:,} |" for what, count in sorted(self.counts.items())]
        if self.seconds:
            p50, p99 = (percentile(self.seconds, part) * 1000 for part in (0.5, 0.99))
            slowest = max(self.seconds) * 1000
            rows.append(
                f"| discover and health between the faults | p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
                f"slowest {slowest:.0f} ms, {len(self.seconds):,} calls |"
            )
        rows.append(f"| memory of the server, at most | {self.memory / 1e6:.0f} MB |")
        rows.append(f"| broken promises | {len(self.broken)} |")
        return "\n".join(["| what | count |", "| --- | --- |", *rows])


def main() -> int:
    """Run, print, and say by the exit code whether all promises were kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--services", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    random.seed(options.seed)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    logging.basicConfig(level=logging.ERROR)
    print(f"seed {options.seed}, pid {os.getpid()}", flush=True)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        full = os.geteuid() == 0
        if full:
            stack.enter_context(mounted(folder / "disk", "-t", "tmpfs", "-o", "size=32m", "none"))
        soak = Soak(options.minutes, options.services, folder, full=full)
        stack.callback(soak.close)
        soak.run()
    print(soak.table())
    return 1 if soak.broken else 0


if __name__ == "__main__":
    sys.exit(main())
