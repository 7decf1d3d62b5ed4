"""Each action and each refusal of the protocol, word by word, and input of any kind."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsreg import InMemoryBackend
from rsreg.errors import SlowDown, StoreError
from rsreg.protocol import limits, wire
from rsreg.protocol.limits import MAX_EVENTS
from rsreg.server import dispatch
from rsreg.server.dispatch import Dispatcher
from rsreg.server.rules.registry import Registry
from rsreg.server.rules.selection import Strategies
from tests.helpers import FAR, ManualClock, Sender, UnreliableStore

INFO = {"name": "example", "host": "192.168.1.10", "port": 8080}
ABOUT = {"req_port": 1, "pub_port": 2, "hb_port": None, "pid": 5}


class DispatcherHarness:
    """A dispatcher over a registry with one service; replies are read as clients read them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = UnreliableStore(InMemoryBackend())
        self.registry = Registry(
            self.store, clock=self.clock, wall=lambda: 1_617_293_054.7, limits=FAR
        )
        self.registry.open()
        self.peer = Sender()
        self.stopped = 0
        self.dispatcher = Dispatcher(
            self.registry, lambda: 1_617_293_054.7, lambda: dict(ABOUT), self._stop
        )
        known = {**INFO, "port": 8000, "id": "known", "type": "web", "tags": ["web", "api"]}
        self.ask("register", service_info=known, ttl=30)

    def _stop(self) -> None:
        self.stopped += 1

    def position(self) -> dict[str, Any]:
        """Where the journal stands."""
        return self.registry.position._asdict()

    def send(self, payload: bytes, failure: StoreError | None = None) -> dict[str, Any]:
        """The reply to these bytes; what it changed is committed."""
        body = self.dispatcher.answer(payload, self.peer, failure)
        self.registry.commit()
        assert isinstance(body, dict)
        return dict(json.loads(wire.encode(body)))

    def ask(self, action: object = None, **fields: Any) -> dict[str, Any]:
        """The reply to a request."""
        request = fields if action is None else {"action": action, **fields}
        return self.send(json.dumps(request).encode())

    def picture(self) -> object:
        """All that a request may change."""
        records = bytes(self.registry.list_services())
        return records, self.registry.seq, self.store.load(), self.stopped

    def refuse(self, payload: bytes, failure: StoreError | None = None) -> dict[str, Any]:
        """The refusal of these bytes, which change nothing."""
        before = self.picture()
        reply = self.send(payload, failure)
        assert reply["success"] is False
        assert self.picture() == before
        return reply


@pytest.fixture
def harness() -> Iterator[DispatcherHarness]:
    """A dispatcher and what it stands on."""
    made = DispatcherHarness()
    yield made
    made.store.close()


RECORD = {
    "id": "known",
    **INFO,
    "port": 8000,
    "type": "web",
    "tags": ["web", "api"],
    "metadata": {},
    "ttl": 30,
    "registered_by": "127.0.0.1",
    "last_heartbeat": 1_617_293_054,
    "health": "passing",
}

# -- what each action answers


def test_register(harness: DispatcherHarness) -> None:
    reply = harness.ask(
        "register",
        service_info={**INFO, "type": "web", "tags": ["a"], "metadata": {"version": "1.0.0"}},
        ttl=30,
    )
    service_id = reply.pop("service_id")
    assert service_id.startswith("example-")
    assert re.fullmatch("[0-9a-f]{16}", reply.pop("entry"))
    assert reply == {"success": True, "message": "Service registered successfully"}
    assert harness.ask("get", service_id=service_id)["service"] == {
        **RECORD,
        **INFO,
        "id": service_id,
        "tags": ["a"],
        "metadata": {"version": "1.0.0"},
    }


@pytest.mark.parametrize("ttl", [{}, {"ttl": None}])
def test_a_ttl_may_be_left_out(harness: DispatcherHarness, ttl: dict[str, None]) -> None:
    service_id = harness.ask("register", service_info=INFO, **ttl)["service_id"]
    assert harness.ask("get", service_id=service_id)["service"]["ttl"] == 30


def test_a_resent_register_gets_the_same_answer(harness: DispatcherHarness) -> None:
    request = {"service_info": INFO, "ttl": 30, "request_id": "7"}
    first = harness.ask("register", **request)
    assert first["request_id"] == "7"
    assert harness.ask("register", **request) == first
    assert harness.ask("register", **{**request, "ttl": 31})["service_id"] != first["service_id"]
    assert harness.registry.seq == 3


def test_deregister(harness: DispatcherHarness) -> None:
    request = {"service_id": "known", "request_id": "7"}
    done = {"success": True, "message": "Service deregistered successfully", "request_id": "7"}
    assert harness.ask("deregister", **request) == done
    assert harness.ask("deregister", **request) == done
    assert harness.registry.seq == 2


def test_renew(harness: DispatcherHarness) -> None:
    harness.clock.advance(20)
    assert harness.ask("renew", service_id="known") == {
        "success": True,
        "message": "Service renewed successfully",
        "entry": harness.registry.entry("known"),
    }
    harness.clock.advance(20)
    harness.registry.evaluate_leases(harness.clock.now)
    assert harness.ask("get", service_id="known")["service"]["health"] == "passing"
    assert harness.registry.seq == 1


def test_get(harness: DispatcherHarness) -> None:
    assert harness.ask("get", service_id="known") == {
        "success": True,
        "service": RECORD,
        "timestamp": 1_617_293_054,
    }
    harness.clock.advance(30)
    harness.registry.evaluate_leases(harness.clock.now)
    assert harness.ask("get", service_id="known")["service"] == {
        **RECORD,
        "health": "critical",
        "reason": "no heartbeat",
    }


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, [RECORD]),
        ({"service_type": None}, [RECORD]),
        ({"service_type": ""}, [RECORD]),
        ({"service_type": "web"}, [RECORD]),
        ({"service_type": "api"}, [RECORD]),
        ({"service_type": "other"}, []),
    ],
)
def test_list(harness: DispatcherHarness, fields: dict[str, Any], found: list[object]) -> None:
    assert harness.ask("list", **fields) == {
        "success": True,
        "services": found,
        **harness.position(),
        "timestamp": 1_617_293_054,
    }


def test_discover(harness: DispatcherHarness) -> None:
    assert harness.ask("discover", service_type="web") == {
        "success": True,
        "service": RECORD,
        "timestamp": 1_617_293_054,
    }
    assert harness.ask("discover", service_type="api")["service"] == RECORD


def test_health(harness: DispatcherHarness) -> None:
    answer = {"success": True, "status": "ok", "timestamp": 1_617_293_054}
    assert harness.ask("health") == answer
    assert harness.ask("health", unknown="field", request_id="") == {**answer, "request_id": ""}


def test_a_registry_whose_store_fails_says_so(harness: DispatcherHarness) -> None:
    harness.store.writes_fail = True
    harness.dispatcher.answer(b'{"action":"deregister","service_id":"known"}', Sender())
    with pytest.raises(StoreError):
        harness.registry.commit()
    state = {"success": True, "status": "degraded", "reason": "the disk is full"}
    assert harness.ask("health") == {**state, "timestamp": 1_617_293_054}
    assert harness.ask("info", services=False).items() >= state.items()
    harness.store.writes_fail = False
    harness.ask("deregister", service_id="known")
    assert harness.ask("health")["status"] == "ok"
    assert "reason" not in harness.ask("info")


def test_info(harness: DispatcherHarness) -> None:
    position = {**harness.position(), "timestamp": 1_617_293_054}
    counts = {"services": 1, "simulators": 0, "passing": 1}
    answer = {"success": True, "status": "ok", **ABOUT, **position, "counts": counts}
    assert harness.ask("info") == {**answer, "services": [RECORD]}
    assert harness.ask("info", services=True) == {**answer, "services": [RECORD]}
    assert harness.ask("info", services=False) == answer


def test_events(harness: DispatcherHarness) -> None:
    harness.ask("deregister", service_id="known")
    position = {"success": True, **harness.position(), "timestamp": 1_617_293_054}
    assert harness.ask("events") == {**position, "events": [], "reset": False}
    reply = harness.ask("events", since=0)
    assert reply["events"] == [
        {
            "type": kind,
            "timestamp": 1_617_293_054,
            "data": {"service_id": "known", "service_info": RECORD},
            "seq": seq,
            "epoch": harness.registry.epoch,
            "mark": reply["events"][seq - 1]["mark"],
            "after": None if seq == 1 else reply["events"][0]["mark"],
            "by": "127.0.0.1",
        }
        for seq, kind in ((1, "register"), (2, "deregister"))
    ]
    first, second = (event["mark"] for event in reply["events"])
    assert first != second == harness.position()["mark"]
    assert reply["reset"] is False
    assert [e["seq"] for e in harness.ask("events", since=0, limit=1)["events"]] == [1]
    assert [e["seq"] for e in harness.ask("events", since=1, limit=None)["events"]] == [2]
    assert harness.ask("events", since=0, limit=0)["events"] == []
    beyond: list[dict[str, Any]] = [
        {"since": 3},
        {"since": 10**30},
        {"since": 1, "epoch": "other"},
    ]
    for fields in beyond:
        assert harness.ask("events", **fields) == {**position, "events": [], "reset": True}
    for position in ({"epoch": harness.registry.epoch}, {"mark": first}):
        same = harness.ask("events", since=1, **position)
        assert [e["seq"] for e in same["events"]] == [2]
    assert harness.ask("events", since=2, mark=second)["reset"] is False
    for since in (1, 2):
        assert harness.ask("events", since=since, mark="another's")["reset"] is True


def test_a_whole_number_may_be_written_with_a_fraction_of_nothing(
    harness: DispatcherHarness,
) -> None:
    info = {**INFO, "id": "gson", "port": 5000.0, "endpoints": {"data": 5001.0}}
    info |= {"owner": {"pid": 611.0}, "metadata": {"gain": 5.0, "data_port": 5002.0}}
    assert harness.ask("register", service_info=info, ttl=30.0)["success"]
    record = harness.ask("get", service_id="gson")["service"]
    said = [record["port"], record["endpoints"]["data"], record["owner"]["pid"], record["ttl"]]
    assert (said, json.dumps(said)) == ([5000, 5001, 611, 30], "[5000, 5001, 611, 30]")
    assert json.dumps(record["metadata"]) == json.dumps(info["metadata"]), "that is not ours"
    assert harness.ask(
        "update", service_id="gson", owner={"pid": 611.0}, service_info={"port": 6000.0}
    )["success"]
    assert json.dumps(harness.ask("get", service_id="gson")["service"]["port"]) == "6000"
    report = {"status": {"text": "x", "since": 5.0, "max": 10.0}}
    assert harness.ask("renew", service_id="gson", report=report)["success"]
    assert len(harness.ask("events", since=0.0, limit=2.0)["events"]) == 2
    wanted = {"on": True, "service": "gson", "for": 60.0}
    (entry,) = harness.ask("maintenance", **wanted)["maintenance"]
    assert json.dumps(entry["until"] - entry["since"]) == "60"


@pytest.mark.parametrize(
    ("field", "request_of"),
    [
        ("service_info.port", {"action": "register", "service_info": {**INFO, "port": 5000.5}}),
        (
            "service_info.endpoints",
            {"action": "register", "service_info": {**INFO, "endpoints": {"a": 0.5}}},
        ),
        (
            "service_info.owner.pid",
            {"action": "register", "service_info": {**INFO, "owner": {"pid": 0.5}}},
        ),
        ("since", {"action": "events", "since": 0.5}),
        ("limit", {"action": "events", "since": 0, "limit": 1e-3}),
        ("for", {"action": "maintenance", "on": True, "host": "x", "for": 60.5}),
    ],
)
def test_what_is_not_whole_is_refused_by_its_name(
    harness: DispatcherHarness, field: str, request_of: dict[str, Any]
) -> None:
    reply = harness.refuse(json.dumps(request_of).encode())
    assert reply["error"].startswith(f"Invalid {field}")
    assert reply["hint"]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"service_info": {**INFO, "service_type": "PUNA"}}, "service_info.service_type"),
        ({"service_info": {**INFO, "service_id": "mine"}}, "service_info.service_id"),
        ({"service_info": {**INFO, "ttl": 300}}, "service_info.ttl"),
    ],
)
def test_what_stands_in_the_wrong_place_is_refused(
    harness: DispatcherHarness, asked: dict[str, Any], error: str
) -> None:
    reply = harness.refuse(json.dumps({"action": "register", **asked}).encode())
    assert reply["error"] == f"Invalid {error}: it means nothing here"
    assert reply["hint"]
    change = {k: v for k, v in asked["service_info"].items() if k not in INFO}
    update = {"action": "update", "service_id": "known", "service_info": change}
    assert harness.refuse(json.dumps(update).encode())["error"].startswith(f"Invalid {error}")


def test_a_record_may_be_registered_as_it_was_got(harness: DispatcherHarness) -> None:
    record = harness.ask("get", service_id="known")["service"]
    assert harness.ask("register", service_info=record, ttl=record["ttl"])["success"]
    both = {**INFO, "type": "web", "service_type": "web", "id": "b", "service_id": "b", "ttl": 9}
    assert harness.ask("register", service_info=both, ttl=30)["success"]


def test_since_when_is_by_the_clock_of_the_registry(harness: DispatcherHarness) -> None:
    """The clock of the driver is an hour off."""
    status = {"text": "homing", "since": 1_617_296_654, "elapsed": 42.4, "max": 300}
    harness.ask("renew", service_id="known", report={"status": status})
    told = harness.ask("get", service_id="known")["service"]["status"]
    assert told == {"text": "homing", "since": 1_617_293_054 - 42, "max": 300}
    del status["elapsed"]
    harness.ask("renew", service_id="known", report={"status": status})
    assert harness.ask("get", service_id="known")["service"]["status"] == status, "an older client"


def test_what_may_have_been_meant(harness: DispatcherHarness) -> None:
    harness.ask("register", service_info={**INFO, "id": "x", "name": "Käfer 1", "type": "PUNA"})
    for asked, meant in (("puna", "PUNA"), ("Puna.", "PUNA"), ("WEB ", "web"), ("PUNNA", "PUNA")):
        reply = harness.ask("discover", service_type=asked)
        assert (reply["code"], reply["hint"]) == ("no-service", f"did you mean {meant!r}?")
    assert "hint" not in harness.ask("discover", service_type="hexapod")
    assert harness.ask("get", service_id="kafer-1")["hint"] == "did you mean 'Käfer 1'?"
    assert harness.ask("get", service_id="Käfer 1")["hint"] == "that is a name; the id is 'x'"
    harness.ask("register", service_info={**INFO, "id": "y", "type": "Hexapod"})
    assert harness.ask("discover", service_type="hexapod")["hint"] == "did you mean 'Hexapod'?"
    assert harness.ask("discover", service_type="web", strategy="round_robin")["hint"].startswith(
        "did you mean 'round-robin'?; the strategies are "
    )


def test_leases_that_end_soon(harness: DispatcherHarness) -> None:
    """`known` has a ttl of 30; the others are told as the registry judges them, at any moment."""

    def ends(**fields: Any) -> dict[str, float]:
        reply = harness.ask("events", leases=True, **fields)
        assert reply["leases"]["within"] == 15
        assert harness.ask("list", leases=True)["leases"] == reply["leases"]
        told: dict[str, float] = reply["leases"]["ends"]
        return told

    assert ends() == {}
    harness.ask("register", service_info={**INFO, "id": "brief"}, ttl=2)
    assert ends(since=0) == {"brief": 2}
    harness.clock.advance(1.2504)
    assert ends() == {"brief": 0.75}
    harness.ask("renew", service_id="brief")
    assert ends() == {"brief": 2}
    harness.clock.advance(2.5)
    assert harness.ask("get", service_id="brief")["service"]["health"] == "passing"
    assert ends() == {"brief": 0.001}, "its heartbeat may be waiting to be read"
    harness.registry.evaluate_leases(harness.clock.now)
    assert harness.ask("get", service_id="brief")["service"]["health"] == "critical"
    assert ends() == {"brief": 0}
    harness.ask("deregister", service_id="brief")
    assert ends() == {}
    harness.clock.advance(11.5)
    assert ends() == {"known": 14.75}
    for fields in ({}, {"leases": False}, {"leases": None}):
        assert "leases" not in harness.ask("events", **fields)
        assert "leases" not in harness.ask("list", **fields)


def test_one_reply_holds_only_so_many_events(harness: DispatcherHarness) -> None:
    assert MAX_EVENTS == 1_000
    for _ in range(1_005):
        harness.dispatcher.answer(
            json.dumps({"action": "register", "service_info": {**INFO, "id": "x"}}).encode(),
            Sender(),
        )
    harness.registry.commit()
    for fields in ({}, {"limit": 10**6}):
        reply = harness.ask("events", since=0, **fields)
        assert [e["seq"] for e in reply["events"]] == list(range(1, 1_001))
        assert reply["seq"] == 1_006


def large(number: int) -> dict[str, Any]:
    """A service that fills most of a request."""
    return {**INFO, "port": number + 1, "id": str(number), "metadata": {"x": "y" * 60_000}}


def test_one_reply_holds_only_so_many_bytes_of_events(harness: DispatcherHarness) -> None:
    for n in range(40):
        harness.ask("register", service_info=large(n))
    replies = []
    since = 0
    while since < harness.registry.seq:
        replies.append([e["seq"] for e in harness.ask("events", since=since)["events"]])
        since = replies[-1][-1]
    assert list(itertools.chain(*replies)) == list(range(1, 42))
    # The first event is a small one; seventeen large ones fit into a mebibyte.
    assert [len(reply) for reply in replies] == [18, 17, 6]


@pytest.mark.parametrize("most", [0, 1, 300])
def test_one_reply_holds_one_event_at_least(
    harness: DispatcherHarness, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(dispatch, "EVENTS_SIZE", most)
    harness.ask("deregister", service_id="known")
    assert [e["seq"] for e in harness.ask("events", since=0)["events"]] == [1]
    assert [e["seq"] for e in harness.ask("events", since=1)["events"]] == [2]


def test_terminate_from_this_machine(harness: DispatcherHarness) -> None:
    assert harness.ask("terminate") == {
        "success": True,
        "status": "terminating",
        "timestamp": 1_617_293_054,
    }
    assert harness.stopped == 1


def test_terminate_from_another_machine_is_refused(harness: DispatcherHarness) -> None:
    harness.peer = Sender(here=False)
    assert harness.refuse(b'{"action":"terminate"}') == {
        "success": False,
        "error": "terminate is taken only from the machine that the registry runs on",
        "code": "forbidden",
        "hint": 'log in there and run "rs_cs stop"',
    }


# -- refusals

MISSING = "Missing required field: {}"
UNKNOWN = {
    "get": "Service not found",
    "renew": "Service not found or could not be renewed",
    "deregister": "Service not found or could not be deregistered",
}


@pytest.mark.parametrize(
    ("request_", "error", "code"),
    [
        ({}, MISSING.format("action"), "invalid-request"),
        ({"action": None}, MISSING.format("action"), "invalid-request"),
        ({"action": ""}, MISSING.format("action"), "invalid-request"),
        ({"action": 5}, "Invalid action: expected a string", "invalid-request"),
        ({"action": ["get"]}, "Invalid action: expected a string", "invalid-request"),
        ({"action": "dance"}, "Unknown action: dance", "unknown-action"),
        ({"action": "GET"}, "Unknown action: GET", "unknown-action"),
        ({"action": "register"}, MISSING.format("service_info"), "invalid-request"),
        (
            {"action": "register", "service_info": None},
            "Invalid service_info: expected an object",
            "invalid-request",
        ),
        (
            {"action": "register", "service_info": {"name": "a", "host": "h"}},
            "Missing required field in service_info: port",
            "invalid-request",
        ),
        (
            {"action": "register", "service_info": {**INFO, "port": 0}},
            "Invalid service_info.port: …",
            "invalid-request",
        ),
        (
            {"action": "register", "service_info": INFO, "ttl": 0},
            "Invalid ttl: …",
            "invalid-request",
        ),
        (
            {"action": "register", "service_info": INFO, "ttl": "30"},
            "Invalid ttl: …",
            "invalid-request",
        ),
        *(
            ({"action": action, **field}, error, "invalid-request")
            for action in ("get", "renew", "deregister")
            for field, error in (
                ({}, MISSING.format("service_id")),
                ({"service_id": None}, MISSING.format("service_id")),
                ({"service_id": ""}, MISSING.format("service_id")),
                ({"service_id": 5}, "Invalid service_id: expected a string"),
                ({"service_id": ["known"]}, "Invalid service_id: expected a string"),
            )
        ),
        *(
            ({"action": action, "service_id": "nobody"}, error, "unknown-service")
            for action, error in UNKNOWN.items()
        ),
        ({"action": "discover"}, MISSING.format("service_type"), "invalid-request"),
        (
            {"action": "discover", "service_type": True},
            "Invalid service_type: expected a string",
            "invalid-request",
        ),
        (
            {"action": "discover", "service_type": "PUNA"},
            "No healthy service of type PUNA found",
            "no-service",
        ),
        (
            {"action": "list", "service_type": {}},
            "Invalid service_type: expected a string",
            "invalid-request",
        ),
        (
            {"action": "list", "service_type": 0},
            "Invalid service_type: expected a string",
            "invalid-request",
        ),
        (
            {"action": "events", "leases": 1},
            "Invalid leases: …",
            "invalid-request",
        ),
        (
            {"action": "list", "leases": "true"},
            "Invalid leases: …",
            "invalid-request",
        ),
        (
            {"action": "events", "since": -1},
            "Invalid since: …",
            "invalid-request",
        ),
        (
            {"action": "events", "since": "0"},
            "Invalid since: …",
            "invalid-request",
        ),
        (
            {"action": "events", "limit": 1.5},
            "Invalid limit: …",
            "invalid-request",
        ),
        (
            {"action": "events", "since": 0, "epoch": 5},
            "Invalid epoch: expected a string",
            "invalid-request",
        ),
    ],
)
@pytest.mark.parametrize("request_id", [None, "7f3a"])
def test_a_refusal(
    harness: DispatcherHarness,
    request_: dict[str, Any],
    error: str,
    code: str,
    request_id: str | None,
) -> None:
    echo = {} if request_id is None else {"request_id": request_id}
    reply = harness.refuse(json.dumps({**request_, **echo}).encode())
    reply.pop("hint", None)
    sentence, ellipsis, _ = error.partition("…")
    if ellipsis:
        assert len(reply["error"]) > len(sentence)
        reply["error"] = reply["error"][: len(sentence)]
    assert reply == {"success": False, "error": sentence, "code": code, **echo}


@pytest.mark.parametrize(
    ("payload", "error", "code"),
    [
        (b"", "Invalid JSON format", "invalid-json"),
        (b"hello", "Invalid JSON format", "invalid-json"),
        (b'{"action":"health","x":NaN}', "Invalid JSON format", "invalid-json"),
        (b'{"action":"\xff"}', "Invalid JSON format", "invalid-json"),
        (b'{"action":"\\ud800"}', "Invalid JSON format", "invalid-json"),
        (b"[]", "A request is a JSON object, not an array", "invalid-request"),
        (b"null", "A request is a JSON object, not null", "invalid-request"),
        (b"[" * 60_000, "The request is nested deeper than 32 levels", "invalid-request"),
        (b" " * 65_537, "The request is too long: it has 65537 bytes", "invalid-request"),
        (b'{"action":"health","request_id":7}', "Invalid request_id", "invalid-request"),
    ],
)
def test_what_is_no_request(
    harness: DispatcherHarness, payload: bytes, error: str, code: str
) -> None:
    reply = harness.refuse(payload)
    reply.pop("hint", None)
    assert reply == {"success": False, "error": error, "code": code}


def test_a_deep_request_is_refused_under_its_request_id(harness: DispatcherHarness) -> None:
    deep = b'{"action":"health","request_id":"7","x":%s}' % (b"[" * 32 + b"]" * 32)
    assert harness.refuse(deep) == {
        "success": False,
        "error": "The request is nested deeper than 32 levels",
        "code": "invalid-request",
        "request_id": "7",
    }


def test_a_refusal_says_what_to_do(harness: DispatcherHarness) -> None:
    assert harness.ask("dance")["hint"] == (
        "the actions are register, update, deregister, renew, get, list, discover, health, info, "
        "events, maintenance, backup, terminate"
    )
    assert "not 0" in harness.ask("register", service_info={**INFO, "port": 0})["hint"]
    assert harness.send(b"{")["hint"]


def test_the_policies_are_refused_with_their_details(harness: DispatcherHarness) -> None:
    taken = {**INFO, "type": "web", "singleton": True}
    assert harness.refuse(json.dumps({"action": "register", "service_info": taken}).encode()) == {
        "success": False,
        "error": "duplicate_service_type",
        "code": "duplicate_service_type",
        "hint": "example holds it on 192.168.1.10:8000",
        "message": "Service type 'web' is already registered by service_id 'known'.",
        "service_type": "web",
        "existing_service_id": "known",
    }
    both = {**taken, "allow_duplicate_service_type": True}
    assert harness.refuse(json.dumps({"action": "register", "service_info": both}).encode()) == {
        "success": False,
        "error": "invalid_service_type_policy",
        "code": "invalid-request",
        "message": "singleton and allow_duplicate_service_type cannot both be true.",
    }


def test_a_store_that_failed_refuses_changes_and_answers_questions(
    harness: DispatcherHarness,
) -> None:
    failure = StoreError("can't write registry.db: database or disk is full")
    for request in (
        {"action": "register", "service_info": INFO},
        {"action": "deregister", "service_id": "known"},
        {"action": "register"},
    ):
        assert harness.refuse(json.dumps({**request, "request_id": "7"}).encode(), failure) == {
            "success": False,
            "error": "The registry's store failed: can't write registry.db: "
            "database or disk is full",
            "code": "unavailable",
            "hint": "nothing was changed; try again",
            "request_id": "7",
        }
    for request in (
        {"action": "renew", "service_id": "known"},
        {"action": "get", "service_id": "known"},
        {"action": "list"},
        {"action": "discover", "service_type": "web"},
        {"action": "health"},
        {"action": "info"},
        {"action": "events"},
    ):
        assert harness.send(json.dumps(request).encode(), failure)["success"] is True


def test_a_journal_that_cannot_be_read_is_an_error(harness: DispatcherHarness) -> None:
    harness.store.reads_fail = True
    reply = harness.refuse(b'{"action":"events","since":0}')
    assert (reply["code"], reply["error"]) == (
        "unavailable",
        "The registry's store failed: the disk is gone",
    )


def test_a_fault_of_ours_is_an_answer_and_a_log_entry(
    harness: DispatcherHarness, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_services: object) -> Any:
        raise RuntimeError("a strategy with a bug")

    harness.registry._strategies = Strategies(broken, {})
    reply = harness.refuse(b'{"action":"discover","service_type":"web","request_id":"7"}')
    assert reply == {
        "success": False,
        "error": "The registry failed; its log says why",
        "code": "internal",
        "request_id": "7",
    }
    assert "a strategy with a bug" in caplog.text
    assert '"discover"' in caplog.text


# -- anything

FIELDS = [
    *("action", "service_info", "ttl", "service_id", "service_type", "request_id"),
    *("since", "limit", "epoch", "services", "name", "host", "port", "type", "tags", "metadata"),
    *("id", "singleton", "allow_duplicate_service_type"),
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 5),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "known", "web", "x" * 257, "x" * 600, 65536, 86401, 0.5]),
)
JSON = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)
SOUND = {
    "service_info": st.fixed_dictionaries(
        {"name": JSON | st.just("a"), "host": st.just("h"), "port": JSON | st.just(1)},
        optional={
            "id": st.just("known") | JSON,
            "type": st.just("web") | JSON,
            "tags": JSON,
            "metadata": JSON,
            "singleton": st.booleans() | JSON,
        },
    ),
    "service_id": st.just("known"),
    "service_type": st.just("web"),
    "request_id": st.just("7"),
}
REQUEST = st.builds(
    lambda action, sound, odd: {"action": action, **sound, **odd},
    st.sampled_from(
        [
            *("register", "deregister", "renew", "get", "list", "discover"),
            "health",
            "info",
            "events",
        ]
    ),
    st.fixed_dictionaries({}, optional=SOUND),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=2),
)


def check_answers(*payloads: bytes) -> None:
    """Whatever comes is answered in standard JSON, and a refusal changes nothing."""
    harness = DispatcherHarness()
    for payload in payloads:
        before = harness.picture()
        reply = harness.send(payload)
        assert "error" not in reply or reply["success"] is False
        if reply["success"] is not True:
            assert reply["error"]
            assert isinstance(reply["error"], str)
            assert reply["code"] != "internal"
            assert harness.picture() == before
    harness.store.close()


@given(st.lists(REQUEST, min_size=1, max_size=4))
def test_any_requests_are_answered(requests: list[dict[str, Any]]) -> None:
    check_answers(*(json.dumps(request).encode() for request in requests))


@given(st.binary(max_size=50))
def test_any_bytes_are_answered(payload: bytes) -> None:
    check_answers(payload)


@given(st.data())
def test_any_damaged_request_is_answered(data: st.DataObject) -> None:
    sound = {"action": "register", "service_info": {**INFO, "tags": ["Ω"]}, "ttl": 30}
    payload = bytearray(json.dumps(sound, ensure_ascii=False).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    check_answers(bytes(payload))


def test_a_list_that_no_client_takes_is_refused(
    harness: DispatcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limits.MAX_REPLY - 2**20 == limits.MAX_LIST
    size = len(bytes(harness.registry.list_services()))
    monkeypatch.setattr(dispatch, "MAX_LIST", size)
    assert len(harness.ask("list")["services"]) == 1
    monkeypatch.setattr(dispatch, "MAX_LIST", size - 1)
    for action in ("list", "info"):
        reply = harness.ask(action)
        assert (reply["success"], reply["code"]) == (False, "invalid-request")
        assert reply["error"] == f"The list has {size} bytes, clients take {size - 1}"
        assert "one type" in reply["hint"]
    assert harness.ask("list", service_type="no such")["services"] == []
    assert harness.ask("info", services=False)["success"]


# -- whose address is looked up


class Nameless:
    """Somebody whose address is not to be asked for."""

    @property
    def address(self) -> str:
        """It costs more than some of the answers."""
        pytest.fail("its address was looked up")

    def is_this_machine(self) -> bool:
        return False

    def check_replies(self) -> None:
        """Nothing waits for it."""


@pytest.mark.parametrize(
    "request_",
    [
        {"action": "renew", "service_id": "known", "report": {"load": 1}},
        {"action": "get", "service_id": "known", "last_change": True},
        {"action": "list", "leases": True},
        {"action": "discover", "service_type": "web"},
        {"action": "events", "since": 0},
        {"action": "health"},
    ],
    ids=lambda request: request["action"],
)
def test_only_who_changes_something_is_looked_up(
    harness: DispatcherHarness, request_: dict[str, Any]
) -> None:
    reply = harness.dispatcher.answer(json.dumps(request_).encode(), Nameless())
    assert isinstance(reply, dict)
    assert reply["success"]


def test_who_reads_no_answers_gets_no_long_ones(harness: DispatcherHarness) -> None:
    class Suspect(Sender):
        def check_replies(self) -> None:
            raise SlowDown("too much", details={"retry_after": 1})

    harness.peer = Suspect()
    for action in ("get", "list", "discover", "info", "events"):
        assert harness.ask(action, service_id="known", service_type="web")["code"] == "slow-down"
    assert harness.ask("info", services=False)["success"], "to stop it, and to see what is wrong"
    assert harness.ask("list", services=False)["code"] == "slow-down"
    info = {"name": "a", "host": "b", "port": 1}
    assert harness.ask("register", service_info=info, judges=True)["code"] == "slow-down"
    assert harness.ask("register", service_info=info)["success"]
    assert harness.ask("renew", service_id="known")["success"]
    assert harness.ask("health")["success"]
