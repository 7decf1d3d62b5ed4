"""The request loop, a batch at a time by hand: store, view, journal, events and replies agree."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import zmq

from rsreg import InMemoryBackend, RegistryBackend
from rsreg.server.backends.stored import Event
from rsreg.server.dispatch import Dispatcher
from rsreg.server.guard.descriptors import Descriptors
from rsreg.server.guard.endless_messages import EndlessMessages
from rsreg.server.guard.unread_replies import UnreadReplies
from rsreg.server.limits import Limits
from rsreg.server.reaper import Reaper
from rsreg.server.request_loop import MAX_BATCH, STALL, TICK, RequestLoop
from rsreg.server.rules.registry import Registry
from rsreg.transport import sockets
from rsreg.transport.resolver import Numeric
from tests.helpers import FAR, ManualClock, UnreliableStore

IDS = [f"s{number}" for number in range(8)]
Request = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """What the model knows of a service."""

    port: int
    ttl: int
    deadline: float
    told: str = "passing"


@dataclass
class Model:
    """What a registry promised. `answered` maps a request that may come again to its answer."""

    services: dict[str, Known]
    journal: list[tuple[str, str]]
    answered: dict[str, Request]

    def copy(self) -> Model:
        """One that goes its own way."""
        return Model(dict(self.services), list(self.journal), dict(self.answered))


class Nobody:
    """No connections that are known."""

    def numbers(self) -> list[int]:
        return []

    def received(self, _number: int) -> None:
        return None

    def end(self, _number: int, _why: str) -> None: ...


class LoopHarness:
    """A request loop on two sockets, a client at each, and beside them what was promised."""

    def __init__(self, context: zmq.Context[Any], store: RegistryBackend) -> None:
        self.clock = ManualClock()
        self.store = UnreliableStore(store)
        self.published: list[Event] = []
        self.registry = Registry(
            self.store, clock=self.clock, wall=ManualClock(1_700_000_000), limits=FAR
        )
        self.registry.open()
        self.routers = [sockets.router(context) for _ in range(2)]
        self.clients = []
        for number, router in enumerate(self.routers):
            router.bind(f"inproc://{number}")
            self.clients.append(sockets.dealer(context, Numeric(f"inproc://{number}")))
        dispatcher = Dispatcher(self.registry, self.clock, dict, lambda: None)
        publish = self.published.extend
        self.loop = RequestLoop(
            self.routers,
            self.registry,
            dispatcher,
            publish,
            self.clock,
            replies=UnreadReplies(Limits(), Descriptors(), self.clock),
            unfinished=EndlessMessages(Nobody(), self.clock),
        )
        self.reaper = Reaper(self.registry, publish, 1)
        self.model = Model({}, [], {})
        self.waiting: list[list[Request]] = [[], []]
        self.asked: list[Request] = []
        self.judged = self.awake = self.clock.now
        self.serial = 0
        self.trouble = False
        #: Events before the batch, and the services renewed in it that it had not changed before.
        self.begun = 0
        self.renewed: set[str] = set()

    def close(self) -> None:
        """Let go of everything."""
        self.loop.close()
        for socket in (*self.routers, *self.clients):
            socket.close(linger=0)
        self.store.close()

    # -- what happens

    def ask(self, count: int) -> None:
        """Requests of all kinds arrive at both sockets."""
        for _ in range(count):
            where = random.randrange(2)
            request = self.request()
            self.clients[where].send_multipart([b"", json.dumps(request).encode()])
            self.waiting[where].append(request)

    def request(self) -> Request:
        """Any; one in eight came before."""
        if self.asked and random.random() < 0.125:
            return random.choice(self.asked[-20:])
        self.serial += 1
        target = random.choice(IDS)
        about = {
            "name": "x",
            "host": target,
            "port": random.randint(1, 99),
            "type": "T",
            "id": target,
        }
        request: Request = random.choice(
            [
                {"action": "register", "service_info": about, "ttl": random.randint(1, 9)},
                {"action": "register", "service_info": about, "ttl": random.randint(1, 9)},
                {"action": "deregister", "service_id": target},
                {"action": "renew", "service_id": target},
                {"action": "get", "service_id": target},
                {"action": "list"},
                {"action": "events", "since": max(0, len(self.model.journal) - 3)},
                {"action": "register", "service_info": {**about, "port": 0}},
            ]
        )
        request["request_id"] = f"r{self.serial}"
        self.asked.append(request)
        return request

    def step(self, *, fails: bool) -> None:
        """One batch, whose commit may fail; then everything agrees."""
        batches = [waiting[:MAX_BATCH] for waiting in self.waiting]
        self.waiting = [waiting[MAX_BATCH:] for waiting in self.waiting]
        now = self.clock.now
        if now - self.awake > TICK + STALL:
            for key, known in self.model.services.items():
                # What had ended before stays so.
                fresh = known.deadline
                if known.deadline > self.judged:
                    fresh = max(fresh, now + known.ttl)
                self.model.services[key] = replace(known, deadline=fresh)
        self.awake = now
        self.store.writes_fail = fails
        self.loop.step()
        self.store.writes_fail = False
        before, self.renewed = self.model.copy(), set()
        self.tell_first(fails)
        self.begun = len(before.journal)
        expected = [[self.answer(request) for request in batch] for batch in batches]
        self.tell_after(fails)
        changed = self.model.journal != before.journal
        self.trouble = fails if changed else self.trouble
        if fails and changed:
            # What a renewal did to a lease stays, and a read before it in the batch sees it now.
            for key in self.renewed:
                self.renew(before, key)
            self.model = before
            expected = [
                [self.answer(request, refused=True) for request in batch] for batch in batches
            ]
        if not any(self.waiting):
            self.judged = now
        for client, answers in zip(self.clients, expected, strict=True):
            for answer in answers:
                assert said(client) == answer
            assert not client.poll(0)
        self.agree()

    def untold(self) -> set[str]:
        """Whose health is another than subscribers were told."""
        services = self.model.services
        return {key for key in services if self.health(key) != services[key].told}

    def tell_first(self, fails: bool) -> None:
        """What the last step judged is told before the first request; in which order is open."""
        untold = set() if self.trouble else self.untold()
        begun = len(self.model.journal)
        told = [event.service_id for event in self.published[begun : begun + len(untold)]]
        assert fails or sorted(told) == sorted(untold)
        for key in untold if fails else told:
            self.tell(key)

    def tell_after(self, fails: bool) -> None:
        """And what the requests did to it after the last one."""
        untold = set() if self.trouble else self.untold()
        if fails:
            self.model.journal += [("refused", key) for key in untold]
            return
        begun = len(self.model.journal)
        told = [event.service_id for event in self.published[begun:]]
        assert sorted(told) == sorted(untold)
        for key in told:
            self.tell(key)

    def tell(self, key: str) -> None:
        """An event tells how it is."""
        health = self.health(key)
        self.model.journal.append(("recovered" if health == "passing" else health, key))
        self.model.services[key] = replace(self.model.services[key], told=health)

    def reap(self, *, fails: bool) -> None:
        """A pass of the reaper."""
        self.store.writes_fail = fails
        self.reaper.step()
        self.store.writes_fail = False
        gone = [key for key, known in self.model.services.items() if known.deadline <= self.judged]
        self.trouble = fails and (self.trouble or bool(gone))
        if not fails:
            for key in sorted(gone, key=lambda key: (self.model.services[key].deadline, key)):
                if self.model.services.pop(key).told != "critical":
                    self.model.journal.append(("critical", key))
                self.model.journal.append(("expire", key))
        self.agree()

    # -- what was promised

    def answer(self, request: Request, *, refused: bool = False) -> Request:
        """What the model answers, and does."""
        body = self._answer(request, refused)
        return {**body, "request_id": request["request_id"]}

    def _answer(self, request: Request, refused: bool) -> Request:
        model, action = self.model, request["action"]
        key = request.get("service_id") or request.get("service_info", {}).get("id")
        known = model.services.get(key) if key else None
        if action in ("register", "deregister") and refused:
            return {"success": False, "code": "unavailable"}
        if action == "list":
            there = {each: self.record(each) for each in model.services}
            return {"success": True, "services": there, "seq": len(model.journal)}
        if action == "events":
            since, seq = request["since"], len(model.journal)
            events = [[n + 1, *model.journal[n]] for n in range(since, seq)]
            return {"success": True, "events": events, "reset": since > seq, "seq": seq}
        if action == "register" and not request["service_info"]["port"]:
            return {"success": False, "code": "invalid-request"}
        answered = model.answered.get(token := json.dumps(request))
        if answered is not None and self.still_so(request, known):
            if known is not None:
                self.keep(model, key)
            return answered
        if action == "register":
            ttl = request["ttl"]
            model.services.pop(key, None)
            port = request["service_info"]["port"]
            model.services[key] = Known(port, ttl, self.clock.now + ttl)
            model.journal.append(("register", key))
            model.answered[token] = {"success": True, "service_id": key}
            return model.answered[token]
        if known is None:
            return {"success": False, "code": "unknown-service"}
        if action == "deregister":
            del model.services[key]
            model.journal.append(("deregister", key))
            model.answered[token] = {"success": True}
            return model.answered[token]
        if action == "renew":
            self.keep(model, key)
            return {"success": True}
        return {"success": True, "service": self.record(key)}

    def still_so(self, request: Request, known: Known | None) -> bool:
        """Whether what a request that came before asked for is so, or it is another run's."""
        if request["action"] == "deregister" or known is None:
            return request["action"] == "deregister" and known is None
        asked = (request["service_info"]["port"], request["ttl"])
        return asked == (known.port, known.ttl)

    def keep(self, model: Model, key: str) -> None:
        """A fresh ttl; it stays in a batch that is refused, unless that changed it before."""
        self.renew(model, key)
        new = model.journal[self.begun :]
        if key not in {each for kind, each in new if kind in ("register", "deregister")}:
            self.renewed.add(key)

    def renew(self, model: Model, key: str) -> None:
        """A fresh ttl."""
        known = model.services[key]
        model.services[key] = replace(known, deadline=self.clock.now + known.ttl)

    def record(self, key: str) -> list[Any]:
        """What is looked at in the record of a service."""
        known = self.model.services[key]
        return [known.port, known.ttl, self.health(key)]

    def health(self, key: str) -> str:
        """How a service is."""
        return "passing" if self.model.services[key].deadline > self.judged else "critical"

    def agree(self) -> None:
        """View, store, journal and published events are what was promised."""
        expected = {key: [known.port, known.ttl] for key, known in self.model.services.items()}
        again = Registry(self.store.store, clock=self.clock)
        again.open()
        for registry in (self.registry, again):
            assert registry.seq == len(self.model.journal)
            listed = json.loads(bytes(registry.list_services()))
            assert {one["id"]: [one["port"], one["ttl"]] for one in listed} == expected
        stored = self.store.events(0, 10_000)
        assert [(event.type, event.service_id) for event in stored] == self.model.journal
        assert [event.seq for event in stored] == list(range(1, len(stored) + 1))
        assert [event.body for event in stored] == [event.body for event in self.published]


def said(client: zmq.Socket[bytes]) -> Request:
    """The next reply, in the words of the model."""
    assert client.poll(5_000), "a request got no reply"
    body = json.loads(client.recv_multipart()[1])
    kept = {"success", "code", "service_id", "request_id", "reset", "seq"} & body.keys()
    reply = {field: body[field] for field in kept}
    if "services" in body:
        reply["services"] = {one["id"]: looked_at(one) for one in body["services"]}
    if "service" in body:
        reply["service"] = looked_at(body["service"])
    if "events" in body:
        events = body["events"]
        reply["events"] = [[e["seq"], e["type"], e["data"]["service_id"]] for e in events]
    return reply


def looked_at(record: Request) -> list[Any]:
    """What the model knows of it."""
    return [record["port"], record["ttl"], record["health"]]


@pytest.fixture
def harness() -> Iterator[LoopHarness]:
    """A loop with nothing registered."""
    with contextlib.ExitStack() as stack:
        context: zmq.Context[Any] = stack.enter_context(zmq.Context())
        yield stack.enter_context(contextlib.closing(LoopHarness(context, InMemoryBackend())))


def test_batches_agree_with_store_journal_events_and_replies(harness: LoopHarness) -> None:
    """Whatever comes, in batches of any size, and whichever commits fail."""
    for _ in range(250):
        harness.ask(random.choice([0, 1, 5, 20, 20, 3 * MAX_BATCH]))
        harness.step(fails=random.random() < 0.3)
        harness.clock.advance(random.choice([0, 0, 0.5, 1, 1, TICK + STALL + 2]))
        if random.random() < 0.3:
            harness.reap(fails=random.random() < 0.3)
    while any(harness.waiting):
        harness.step(fails=False)
    kinds = {kind for kind, _ in harness.model.journal}
    assert {"register", "deregister", "expire", "critical"} <= kinds


def test_long_replies_end_a_batch_before_they_fill_the_memory(harness: LoopHarness) -> None:
    """The rest waits; the other sockets have their turn, and leases are not judged."""
    lists, other = harness.clients
    info = {"host": "h", "port": 1, "metadata": {"x": 60_000 * "x"}}
    for number in range(40):
        about = {"name": f"s{number}", **info}
        request = {"action": "register", "service_info": about, "ttl": 5}
        lists.send_multipart([b"", json.dumps(request).encode()])
    harness.loop.step()
    for _ in range(40):
        said(lists)
    for _ in range(10):
        lists.send_multipart([b"", b'{"action":"list"}'])
    harness.clock.advance(6 - TICK)
    harness.loop._awake = harness.clock.now
    answered = steps = 0
    while answered < 10:
        other.send_multipart([b"", b'{"action":"renew","service_id":"nobody"}'])
        harness.loop.step()
        assert said(other)["code"] == "unknown-service"
        before = answered
        while lists.poll(0):
            assert len(said(lists)["services"]) == 40
            answered += 1
        assert answered - before <= 1
        steps += 1
        # One in two steps, as there are others each time.
        assert steps <= 20
        if answered < 10:
            assert harness.registry.expire(1) == 0
