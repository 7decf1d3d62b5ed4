"""What one peer can take of an open registry, and what it can't: through real sockets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import zmq

from rsreg import InMemoryBackend, RegistryClient, RegistryServer
from rsreg.errors import LimitReached, SlowDown
from rsreg.protocol import messages
from rsreg.server.limits import Limits
from tests.harness import RegistryHarness
from tests.helpers import ManualClock, Sender, raw_socket, received, serving


@contextmanager
def bounded(**bounds: Any) -> Iterator[tuple[RegistryServer, RegistryClient]]:
    """A server with these bounds, and a client of it."""
    limits = Limits(**bounds)
    with (
        serving(backend=InMemoryBackend(), limits=limits) as server,
        RegistryClient(server.endpoint, timeout=10) as client,
    ):
        yield server, client


def ask(socket: zmq.Socket[bytes], **request: Any) -> dict[str, Any]:
    """One request by hand."""
    socket.send_multipart([b"", json.dumps(request).encode()])
    return dict(json.loads(received(socket)[1]))


def test_a_record_is_bounded_as_a_whole() -> None:
    """Also by fields that the registry does not know, and by a change."""
    with (
        bounded(record_bytes=1_000) as (server, client),
        raw_socket(zmq.DEALER, server.endpoint) as raw,
    ):
        service_id = client.register("psu", "lab", 1)
        for more in ({"metadata": {"a": "x" * 1_000}}, {"note": "x" * 1_000}):
            info = {"name": "psu", "host": "lab", "port": 1, **more}
            refused = ask(raw, action="register", service_info=info)
            assert (refused["code"], refused["limit"]) == ("limit", "record_bytes")
            assert refused["bound"] == 1_000
            assert "--limit record-bytes=NUMBER" in refused["hint"]
        with pytest.raises(LimitReached, match="bytes of one record is 1000"):
            client.update(metadata={"a": "x" * 1_000})
        assert [one["id"] for one in client.list_services()] == [service_id]


def test_tags_are_bounded() -> None:
    with bounded(tags=2) as (_, client):
        client.register("psu", "lab", 1, tags=["a", "b"])
        with pytest.raises(LimitReached, match="tags of one service is 2"):
            client.register("psu", "lab", 2, tags=["a", "b", "c"])
        with pytest.raises(LimitReached):
            client.update(tags=["a", "b", "c"])


@pytest.mark.parametrize(
    ("limit", "names"), [("services", ["a", "b", "c"]), ("services_per_name", ["a", "a", "a"])]
)
def test_services_are_bounded_but_who_is_there_stays(limit: str, names: list[str]) -> None:
    with bounded(**{limit: 2}) as (_, client):
        first, second = (client.register(name, "lab", 1) for name in names[:2])
        with pytest.raises(LimitReached) as told:
            client.register(names[2], "lab", 1)
        assert told.value.details == {"limit": limit, "bound": 2}
        assert client.register(names[0], "lab", 2, service_id=first) == first
        assert client.renew(second)
        client.deregister(second)
        client.register(names[2], "lab", 1)
        assert len(client.list_services()) == 2


def test_a_service_that_takes_the_place_of_a_dead_one_needs_no_room() -> None:
    limits = Limits(services=1, services_per_name=1)
    full = RegistryHarness(InMemoryBackend, limits=limits)
    owner = {"boot": "b", "pid": 7}
    full.register("a", owner=owner, id="dead")
    assert full.replace({"dead": owner}) == "dead"
    with pytest.raises(LimitReached):
        full.register("a")


def test_maintenance_entries_are_bounded() -> None:
    with bounded(maintenance=2) as (_, client):
        client.maintenance(True, host="a")
        client.maintenance(True, host="b")
        with pytest.raises(LimitReached, match="maintenance entries is 2"):
            client.maintenance(True, host="c")
        client.maintenance(True, host="b", for_=60)
        client.maintenance(False, host="a")
        assert len(client.maintenance(True, host="c")) == 2


def test_changes_are_bounded_by_the_second_and_our_clients_wait() -> None:
    clock = ManualClock()
    with (
        serving(
            backend=InMemoryBackend(), limits=Limits(writes_per_second=10), clock=clock
        ) as server,
        raw_socket(zmq.DEALER, server.endpoint) as raw,
    ):
        info = {"name": "psu", "host": "lab", "port": 1, "id": "psu"}
        for _ in range(50):
            assert ask(raw, action="register", service_info=info)["success"]
        for request in (
            {"action": "register", "service_info": info},
            {"action": "update", "service_id": "psu", "service_info": {"port": 2}},
            {"action": "deregister", "service_id": "psu"},
            {"action": "maintenance", "on": True, "host": "lab"},
        ):
            refused = ask(raw, **request)
            assert (refused["code"], refused["limit"]) == ("slow-down", "writes_per_second")
            assert refused["retry_after"] == pytest.approx(0.1)
            assert "--gateway 127.0.0.1" in refused["hint"]
        assert ask(raw, action="renew", service_id="psu")["success"]
        assert ask(raw, action="get", service_id="psu")["service"]["port"] == 1
        clock.advance(0.2)
        assert ask(raw, action="deregister", service_id="psu")["success"]
    with bounded(writes_per_second=100) as (_, client):
        for number in range(520):
            client.register("psu", "lab", 1, service_id=f"s{number % 100}")
        assert len(client.list_services()) == 100


def test_a_gateway_is_not_bounded_as_one_address() -> None:
    with bounded(writes_per_second=1, gateways=("127.0.0.0/8",)) as (_, client):
        for number in range(50):
            client.register("psu", "lab", 1, service_id=f"s{number}")


STALLED = {"fed": 100, "watchdog": 10}


def flip(harness: RegistryHarness, service_id: str, stalled: bool) -> None:
    """A heartbeat after which its main loop stands still, or runs."""
    report = messages.read_report({"fed": 100 if stalled else 0, "watchdog": 10}, 0)
    harness.registry.renew(service_id, report, Sender("10.0.0.66"))
    harness.tell()


def test_changes_of_health_are_bounded_by_the_second() -> None:
    harness = RegistryHarness(InMemoryBackend, limits=Limits(flaps_per_second=10))
    harness.register("a", 30, id="a")
    harness.register("other", 30, id="other")
    for number in range(50):
        flip(harness, "a", number % 2 == 0)
    with pytest.raises(SlowDown) as told:
        flip(harness, "a", True)
    assert told.value.details["limit"] == "flaps_per_second"
    assert harness.health("a") == "passing"
    flip(harness, "a", False)
    report = messages.read_report({"fed": 100, "watchdog": 10}, 0)
    harness.registry.renew("other", report, Sender("10.0.0.5"))
    assert harness.health("other") == "critical", "that is of another address"
    harness.pass_time(0.2)
    flip(harness, "a", True)
    assert len([one for one in harness.events if one["type"] != "register"]) <= 53


def test_a_heartbeat_in_its_time_is_never_refused() -> None:
    """Whatever it says, and however much others of its address said."""
    harness = RegistryHarness(InMemoryBackend, limits=Limits(flaps_per_second=1))
    harness.register("a", 30, id="a")
    harness.register("noisy", 30, id="noisy")
    stalled = False
    for _ in range(20):
        harness.pass_time(10)
        for turn in itertools.count():
            try:
                flip(harness, "noisy", turn % 2 == 0)
            except SlowDown:
                break
        stalled = not stalled
        flip(harness, "a", stalled)
        assert harness.health("a") == ("critical" if stalled else "passing")


def test_a_report_that_is_not_said_again_is_over(harness: RegistryHarness) -> None:
    """Somebody sent it once for a driver that says none: it may not stick for good."""
    harness.register("a", 30, id="a")
    harness.report("a", status={"text": "on fire"}, load=9, **STALLED)
    assert harness.health("a") == "critical"
    for _ in range(2):
        harness.pass_time(10)
        harness.registry.renew("a")
        assert harness.health("a") == "critical"
    harness.pass_time(10)
    harness.registry.renew("a")
    assert harness.health("a") == "passing"
    assert not {"status", "load", "reason"} & harness.get("a").keys()
    assert harness.tell() == [("recovered", "a")]


def test_a_report_that_is_said_again_stays(harness: RegistryHarness) -> None:
    harness.register("a", 30, id="a")
    for _ in range(10):
        harness.report("a", status={"text": "homing"})
        harness.pass_time(29)
        harness.registry.renew("a")
        assert harness.get("a")["status"]["text"] == "homing"


def test_a_maintenance_of_thousands_is_not_begun_and_ended_without_end() -> None:
    with bounded(flaps_per_second=20) as (_, client):
        for number in range(120):
            client.register("psu", "lab", 1, service_id=f"s{number}")
        client.maintenance(True, host="lab")
        hurried = RegistryClient(client.settings.req_endpoint, timeout=1)
        with hurried, pytest.raises(SlowDown, match="changes of health"):
            hurried.maintenance(False, host="lab")
        assert len(client.maintenance(False, host="lab")) == 0, "it waits as long as it was told"
