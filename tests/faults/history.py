"""Clients that write down what they were told, and the registry's promises held against it."""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rsreg import RegistryClient
from rsreg.errors import TransportError, Unavailable
from rsreg.protocol import calls
from rsreg.protocol.calls import Record
from rsreg.transport.channel import Channel

T = TypeVar("T")

#: How the journal's changes of one service are written in the patterns of `broken`; its other
#: events tell of health.
_LETTERS = {"register": "r", "deregister": "d", "expire": "e"}
#: What an outcome says of the event: it is there, it is not, it may be.
_PATTERNS = {"done": "{}", "refused": "", "unanswered": "{}?"}
#: Services that one client of a load keeps.
_KEPT = 40


@dataclass(frozen=True)
class Change:
    """A change of the service `name` that was asked for.

    `outcome` is "done", "refused" (it has not happened), or "unanswered" (it happened or not).
    """

    name: str
    action: str
    outcome: str


class History:
    """All changes that clients asked for, and what they were told; threads may share it.

    A name stands for one service. Its changes are asked for one after the other.
    """

    def __init__(self) -> None:
        self.changes: list[Change] = []
        #: Name -> the id that the registry answered.
        self.ids: dict[str, str] = {}
        #: Seconds that each call took.
        self.seconds: list[float] = []

    def note(self, name: str, action: str, outcome: str) -> None:
        """Write a change down; an `expire` too, which nobody asks for but who stops renewing."""
        self.changes.append(Change(name, action, outcome))

    def attempt(self, name: str, action: str, call: Callable[[], T]) -> T | None:
        """Make a call, write down how it ended; its answer, None if there was none."""
        outcome, answer, started = "unanswered", None, time.monotonic()
        try:
            answer = call()
            outcome = "refused" if answer is False else "done"
        except Unavailable:
            outcome = "refused"
        except TransportError:
            pass
        finally:
            self.seconds.append(time.monotonic() - started)
            self.note(name, action, outcome)
        if action == "register" and isinstance(answer, str):
            self.ids[name] = answer
        return answer

    def count(self, outcome: str) -> int:
        """How many changes ended so."""
        return sum(change.outcome == outcome for change in self.changes)


@dataclass
class Snapshot:
    """What a registry said of itself: its services, and all its events up to the same moment."""

    services: list[Record] = field(default_factory=list)
    events: list[Record] = field(default_factory=list)
    seq: int = 0
    epoch: str | None = None

    def update(self, endpoint: str, timeout: float = 10.0) -> Snapshot:
        """Ask again; of the journal only what is new, so it may be cut back meanwhile."""
        channel = Channel(endpoint)
        about = channel.run(calls.info(), timeout)
        assert self.epoch in (None, about["epoch"]), "it is another registry"
        self.epoch, self.seq, self.services = about["epoch"], about["seq"], about["services"]
        while (last := self.events[-1]["seq"] if self.events else 0) < self.seq:
            answer = channel.run(calls.events(last, self.epoch), timeout)
            assert not answer["reset"], "the journal has lost events"
            assert answer["events"], f"the journal ends at {last}, not at {self.seq}"
            self.events += [event for event in answer["events"] if event["seq"] <= self.seq]
        channel.close()
        return self


def broken(history: History, snapshot: Snapshot) -> list[str]:
    """The promises that a registry has not kept, a sentence each.

    Nothing that was acknowledged is lost, nothing that was refused or taken back is there, nothing
    is there twice; `seq` has no hole, and the journal says the same as the list. To be asked when
    no change is under way.
    """
    said: list[str] = []
    if [event["seq"] for event in snapshot.events] != list(range(1, snapshot.seq + 1)):
        said.append(f"the journal is not numbered 1 to {snapshot.seq}")
    if any(event["epoch"] != snapshot.epoch for event in snapshot.events):
        said.append(f"events of another epoch than {snapshot.epoch}")
    return said + _not_as_told(history, snapshot.events) + _not_as_listed(snapshot)


def _not_as_told(history: History, events: Sequence[Record]) -> list[str]:
    """Where the journal and what clients were told differ."""
    said: list[str] = []
    happened: defaultdict[str, str] = defaultdict(str)
    expected: defaultdict[str, str] = defaultdict(str)
    for event in events:
        if event["type"] not in _LETTERS:
            continue
        name = event["data"]["service_info"]["name"]
        happened[name] += _LETTERS[event["type"]]
        if history.ids.get(name, service_id := event["data"]["service_id"]) != service_id:
            said.append(f"{name} is {service_id}, its owner was told {history.ids[name]}")
    for change in history.changes:
        expected[change.name] += _PATTERNS[change.outcome].format(_LETTERS[change.action])
    for name in expected.keys() | happened.keys():
        if not re.fullmatch(expected[name], happened[name]):
            told = [(c.action, c.outcome) for c in history.changes if c.name == name]
            said.append(f"{name}: its owner was told {told}, the journal has {happened[name]!r}")
    return said


def _not_as_listed(snapshot: Snapshot) -> list[str]:
    """Where the journal and the list differ."""
    there: dict[str, str] = {}
    for event in snapshot.events:
        service = event["data"]["service_info"]
        if event["type"] == "register":
            there[service["id"]] = service["name"]
        elif event["type"] in _LETTERS:
            there.pop(service["id"], None)
    listed = {service["id"]: service["name"] for service in snapshot.services}
    said = [f"{there[key]} is lost: not in the list" for key in there.keys() - listed.keys()]
    said += [f"{listed[key]} came back: it had left" for key in listed.keys() - there.keys()]
    if len(listed) != len(snapshot.services):
        said.append("the list has a service twice")
    return said


class Load:
    """Clients that register and deregister without pause while it is entered.

    Half of the ids are chosen by the client. A call that got no answer in `timeout` seconds is not
    made again, but within it the client has sent its request more than once.
    """

    def __init__(
        self,
        history: History,
        endpoint: str,
        *,
        clients: int = 4,
        timeout: float = 2.0,
        ttl: float = 3600,
        prefix: str = "load",
    ) -> None:
        self._history = history
        self._endpoint = endpoint
        self._timeout = timeout
        self._ttl = ttl
        self._names = [f"{prefix}-{number}" for number in range(clients)]
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._running: list[Future[None]] = []

    def _run(self, prefix: str) -> None:
        kept: list[tuple[str, str]] = []
        with RegistryClient(self._endpoint, timeout=self._timeout) as client:
            for number in itertools.count(1):
                if self._over.is_set():
                    break
                self._one(client, f"{prefix}-{number}", kept)

    def _one(self, client: RegistryClient, name: str, kept: list[tuple[str, str]]) -> None:
        own = random.choice([None, f"own-{name}"])
        asked: dict[str, Any] = {"ttl": self._ttl, "service_id": own}
        service_id = self._history.attempt(
            name, "register", lambda: client.register(name, "127.0.0.1", 5000, "LOAD", **asked)
        )
        if service_id is not None:
            kept.append((name, service_id))
        if kept and (len(kept) > _KEPT or random.random() < 0.5):
            old, its_id = kept.pop(random.randrange(len(kept)))
            self._history.attempt(old, "deregister", lambda: client.deregister(its_id))

    def __enter__(self) -> Load:
        self._running = [self._pool.submit(self._run, name) for name in self._names]
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for client in self._running:
            client.result()
