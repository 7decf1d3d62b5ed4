"""The server: ports, supervision, an orderly end, and answers to whatever arrives."""

from __future__ import annotations

import json
import os
import signal
import socket as tcp
import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest
import zmq

from rsreg import InMemoryBackend, RegistryClient, RegistryServer, SQLiteBackend
from rsreg.errors import (
    ConfigurationError,
    InvalidRequest,
    PortInUse,
    StoreError,
    Unavailable,
)
from rsreg.protocol.limits import MAX_FRAME
from rsreg.server.backends.stored import Event, Service
from rsreg.server.publisher import PUBLISH_BATCH, Publisher
from rsreg.server.reaper import EXPIRE_BATCH, Reaper
from rsreg.server.request_loop import RequestLoop
from rsreg.transport import sockets
from tests.helpers import (
    ManualClock,
    Sender,
    ServerProcess,
    UnreliableStore,
    present,
    raw_socket,
    received,
    serving,
    wait_until,
)


def ask(socket: zmq.Socket[bytes], **request: Any) -> dict[str, Any]:
    """One request from a plain REQ socket."""
    socket.send(json.dumps(request).encode())
    [payload] = received(socket)
    reply: dict[str, Any] = json.loads(payload)
    return reply


def test_the_ports_are_those_that_were_asked_for() -> None:
    default = RegistryServer(backend=InMemoryBackend())
    assert (default.req_port, default.pub_port, default.hb_port) == (4242, 4243, 4244)
    assert RegistryServer(5555, 5556, backend=InMemoryBackend()).hb_port is None
    with serving(0, 0, backend=InMemoryBackend()) as server:
        assert server.started
        assert server.req_port > 0
        assert server.pub_port not in (0, server.req_port)
        assert server.hb_port is None
    assert not server.started


def test_a_port_in_use_says_by_whom(server: RegistryServer) -> None:
    with (
        pytest.raises(
            PortInUse, match=f"port {server.req_port} is in use by the registry with pid"
        ),
        serving(server.req_port, 0, backend=InMemoryBackend()),
    ):
        pass
    with tcp.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(PortInUse, match=f"port {port} is in use by another program"),
            serving(port, 0, backend=InMemoryBackend()),
        ):
            pass


def test_a_refused_start_holds_nothing(tmp_path: Path, server: RegistryServer) -> None:
    store = tmp_path / "registry.db"
    with pytest.raises(PortInUse), serving(server.req_port, 0, backend=SQLiteBackend(store)):
        pass
    assert not store.exists(), "the port is tried before the store is touched"
    with serving(0, 0, backend=SQLiteBackend(store)) as first:
        port = first.req_port
        with (
            pytest.raises(StoreError, match=rf"registry\.db is in use by pid {os.getpid()} on"),
            serving(0, 0, backend=SQLiteBackend(store)),
        ):
            pass
    with serving(port, 0, backend=SQLiteBackend(store)) as again:
        assert again.started


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="cleanup interval"):
        RegistryServer(backend=InMemoryBackend(), cleanup_interval=0)
    with (
        pytest.raises(ConfigurationError, match="can't listen"),
        serving(0, 0, backend=InMemoryBackend(), bind="no.such.host.invalid"),
    ):
        pass


@pytest.mark.parametrize(("bind", "found"), [("::1", "[::1]"), ("::", "[::1]")])
def test_ipv6(bind: str, found: str) -> None:
    with serving(0, 0, backend=InMemoryBackend(), bind=bind) as server:
        assert server.endpoint == f"tcp://{found}:{server.req_port}"
        with RegistryClient(server.endpoint, timeout=10) as client:
            heard: list[Any] = []
            client.on_any_event(heard.append)
            client.start_event_listener()
            client.register("puna_cs", "fd00::5", 5000, "PUNA")
            assert client.get_endpoint("PUNA") == "tcp://[fd00::5]:5000"
            wait_until(lambda: heard)
        if bind == "::":
            with RegistryClient(f"127.0.0.1:{server.req_port}", timeout=10) as client:
                assert client.terminate_registry_server()
                wait_until(lambda: not server.started)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_within_two_seconds(
    process: ServerProcess, number: signal.Signals
) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        client.register("puna_cs", "egse3", 5000)
        client.start_event_listener()
        started = time.monotonic()
        process.signal(number)
        assert process.wait() == 0
        assert time.monotonic() - started < 2


def test_a_clean_stop_stores_the_heartbeats(process: ServerProcess) -> None:
    process.start()
    assert process.store is not None
    with RegistryClient(process.endpoint, timeout=10) as client:
        service_id = client.register("puna_cs", "egse3", 5000)
        with closing(sqlite3.connect(process.store)) as database:
            [[registered]] = database.execute("SELECT last_heartbeat FROM service")

        def renewed() -> Any:
            client.renew(service_id)
            service = client.get_service(service_id)
            return service is not None and service["last_heartbeat"] > registered

        wait_until(renewed)
        process.signal(signal.SIGTERM)
        process.wait()
        with closing(sqlite3.connect(process.store)) as database:
            [[stored]] = database.execute("SELECT last_heartbeat FROM service")
        assert stored > registered


def test_an_acknowledged_change_survives_kill_9(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        kept = client.register("kept", "egse3", 5000, "PUNA", {"a": {"b": [1.5, None]}}, 60)
        client.deregister(client.register("gone", "egse3", 5001))
        before = client.server_status()
        process.kill()
        process.start()
        after = client.server_status()
        assert [service["id"] for service in after["services"]] == [kept]
        assert after["services"] == before["services"]
        assert (after["seq"], after["epoch"]) == (before["seq"], before["epoch"])


def test_a_crashed_greenlet_ends_the_server_with_its_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RegistryServer(
        0, 0, backend=InMemoryBackend(), cleanup_interval=0.05, bind="127.0.0.1"
    )
    server.start()

    def broken(limit: int) -> int:
        raise ZeroDivisionError("a fault in the reaper")

    monkeypatch.setattr(server.registry, "expire", broken)
    with gevent.Timeout(20), pytest.raises(ZeroDivisionError, match="a fault in the reaper"):
        server.serve_forever()
    assert not server.started
    assert "Reaper failed; the server ends" in caplog.text
    assert "Traceback" in caplog.text


def test_a_store_that_fails_refuses_changes_and_recovers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = UnreliableStore(InMemoryBackend())
    with (
        serving(0, 0, backend=backend) as server,
        RegistryClient(f"127.0.0.1:{server.req_port}", timeout=10) as client,
    ):
        heard: list[str] = []

        def note(kind: str, _data: object) -> None:
            heard.append(kind)

        for kind in ("register", "deregister", "expire"):
            client.on_event(kind, partial(note, kind))
        client.start_event_listener()
        kept = client.register("kept", "egse3", 5000, ttl=60)
        lapsing = client.register("lapsing", "egse3", 5001, ttl=1)
        wait_until(lambda: len(heard) == 2)
        before = client.server_status()
        backend.writes_fail = True
        with pytest.raises(Unavailable, match="disk is full"):
            client.register("refused", "egse3", 5002)
        with pytest.raises(Unavailable, match="disk is full"):
            client.deregister(kept)
        assert client.renew(kept)
        wait_until(lambda: present(client.get_service(lapsing))["health"] == "critical")
        assert client.health_check() is False
        during = client.server_status()
        assert during["status"] == "degraded"
        assert "disk is full" in during["reason"]
        assert (during["seq"], heard) == (before["seq"], ["register", "register"])
        assert {known["id"]: known["health"] for known in during["services"]} == {
            kept: "passing",
            lapsing: "critical",
        }
        backend.writes_fail = False
        wait_until(lambda: client.get_service(lapsing) is None)
        assert client.deregister(kept)
        wait_until(lambda: len(heard) == 4)
        assert heard == ["register", "register", "expire", "deregister"]
        assert client.health_check()
        outage = [record.message for record in caplog.records if "the store" in record.message]
        assert outage == [
            "the store failed, changes are refused: the disk is full",
            "the store takes changes again",
        ]


def test_three_framings_at_once(server: RegistryServer) -> None:
    requests = f"tcp://127.0.0.1:{server.req_port}"
    heartbeats = f"tcp://127.0.0.1:{server.hb_port}"
    health = b'{"action":"health"}'
    with (
        raw_socket(zmq.REQ, requests) as req,
        raw_socket(zmq.REQ, requests, req_correlate=1, req_relaxed=1) as correlating,
        raw_socket(zmq.DEALER, requests, identity=b"cgse-1") as dealer,
        raw_socket(zmq.DEALER, heartbeats, identity=b"cgse-1") as beat,
        raw_socket(zmq.REQ, heartbeats) as old_beat,
    ):
        req.send(health)
        correlating.send(health)
        dealer.send_multipart([b"REQ", health])
        beat.send(b'{"action":"renew","service_id":"nobody"}')
        old_beat.send(b'{"action":"renew","service_id":"nobody"}')
        for socket in (req, correlating):
            [payload] = received(socket)
            assert json.loads(payload)["status"] == "ok"
        kind, payload = received(dealer)
        assert (kind, json.loads(payload)["status"]) == (b"RESPONSE", "ok")
        for socket in (beat, old_beat):
            [payload] = received(socket)
            assert json.loads(payload)["code"] == "unknown-service"
        dealer.send_multipart([b"REQ_NO_REPLY", health])
        dealer.send_multipart([b"NO-REQ", health])
        dealer.send_multipart([b"REQ", b'{"action":"get","service_id":"x"}'])
        kind, payload = received(dealer)
        assert json.loads(payload)["error"] == "Service not found"


def test_a_reconnecting_identity_is_heard(server: RegistryServer) -> None:
    """CGSE's clients reconnect under their own identity while the old connection still stands."""
    endpoint = f"tcp://127.0.0.1:{server.req_port}"
    with raw_socket(zmq.DEALER, endpoint, identity=b"cgse-1") as old:
        old.send_multipart([b"REQ", b'{"action":"health"}'])
        received(old)
        with raw_socket(zmq.DEALER, endpoint, identity=b"cgse-1") as new:
            new.send_multipart([b"REQ", b'{"action":"health"}'])
            received(new)


def test_whatever_can_be_answered_is_answered(server: RegistryServer) -> None:
    payloads = [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"{",
        b"[" * 30_000,
        b'{"a":' * 40 + b"1" + b"}" * 40,
        b'{"action":NaN}',
        b'{"action":"health","x":1e999}',
        b'{"action":"get","service_id":"\\ud800"}',
        b'{"action":["health"]}',
        b'{"action":"health","request_id":17}',
        b'{"action":"health","request_id":"' + b"x" * 65 + b'"}',
    ]
    with raw_socket(zmq.DEALER, f"tcp://127.0.0.1:{server.req_port}") as socket:
        for payload in payloads:
            for before in ([b""], [b"REQ"], [b"one", b"two", b""]):
                socket.send_multipart([*before, payload])
                reply = json.loads(received(socket)[-1])
                assert reply["success"] is False, payload
                assert reply["error"]
                assert reply["code"] in ("invalid-json", "invalid-request"), payload
        socket.send_multipart([b"", b"a", b"b"])
        assert json.loads(received(socket)[-1])["success"] is False
        socket.send_multipart([b"x"] * 3)
        socket.send_multipart([b"x"] * 200)
        socket.send_multipart([b"", b'{"action":"health"}'])
        assert json.loads(received(socket)[-1])["status"] == "ok"


def test_too_much_for_a_frame_ends_only_that_connection(server: RegistryServer) -> None:
    endpoint = f"tcp://127.0.0.1:{server.req_port}"
    with raw_socket(zmq.DEALER, endpoint) as big, raw_socket(zmq.REQ, endpoint) as other:
        big.send_multipart([b"", b"x" * (MAX_FRAME + 1)])
        assert ask(other, action="health")["status"] == "ok"
        assert not big.poll(100)


def test_a_request_that_is_too_long_is_told_so_and_the_log_says_whose(
    server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    info = {"name": "psu", "host": "lab", "port": 1}
    long = "x" * 200_000
    brackets: Any = []
    for _ in range(900):
        brackets = [brackets]
    asked: list[dict[str, Any]] = [
        {"action": "register", "service_info": {**info, "name": long}},
        {"action": "register", "service_info": {**info, "id": long}},
        {"action": "register", "service_info": {**info, "metadata": {"curve": [0.5] * 50_000}}},
        {"action": "register", "service_info": {**info, "metadata": {"a": [brackets] * 111}}},
        {"action": "get", "service_id": long},
        {"action": "list", "where": {"a": long}},
        {"action": "renew", "service_id": "a", "report": {"status": {"text": long}}},
    ]
    with raw_socket(zmq.REQ, f"tcp://127.0.0.1:{server.req_port}") as socket:
        for request in asked:
            size = len(json.dumps(request))
            assert 200_000 <= size <= MAX_FRAME
            reply = ask(socket, **request)
            assert reply["error"] == f"The request is too long: it has {size} bytes"
            assert reply["code"] == "invalid-request"
        assert ask(socket, action="get", service_id=long, request_id="7")["request_id"] == "7"
        socket.send(b"[" * MAX_FRAME)
        assert "too long" in json.loads(received(socket)[0])["error"]
        socket.send(b"\xff" * MAX_FRAME)
        assert "too long" in json.loads(received(socket)[0])["error"]
        assert ask(socket, action="list")["services"] == []
    (told,) = [each for each in caplog.messages if "refused" in each]
    assert told.startswith("refused a request of 200"), "the first; one a minute is enough"
    assert told.endswith(" bytes from 127.0.0.1: at most 65536 are taken")


def test_the_log_tells_of_too_long_requests_once_a_minute_and_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    with (
        serving(backend=InMemoryBackend(), clock=clock) as server,
        raw_socket(zmq.REQ, f"tcp://127.0.0.1:{server.req_port}") as near,
        raw_socket(zmq.REQ, f"tcp://127.0.0.2:0;127.0.0.1:{server.req_port}") as far,
    ):

        def tell(socket: zmq.Socket[bytes]) -> int:
            caplog.clear()
            socket.send(b" " * 70_000)
            received(socket)
            return len([each for each in caplog.messages if "refused" in each])

        assert [tell(near), tell(near), tell(far), tell(far)] == [1, 0, 1, 0]
        clock.advance(59)
        assert tell(near) == 0
        clock.advance(2)
        assert [tell(near), tell(near)] == [1, 0]


def test_what_one_client_sends_fills_no_memory_while_nobody_reads() -> None:
    """The kernel's buffers take some, the queue 50 messages of the longest."""
    with zmq.Context() as context, sockets.router(context) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        with raw_socket(zmq.DEALER, f"tcp://127.0.0.1:{port}", sndhwm=1) as client:
            taken = 0
            while client.poll(500, zmq.POLLOUT) and taken < 60e6:
                client.send_multipart([b"", bytes(MAX_FRAME)])
                taken += MAX_FRAME
    assert 13e6 < taken < 50e6


def test_a_client_that_never_reads_harms_nobody(server: RegistryServer) -> None:
    endpoint = f"tcp://127.0.0.1:{server.req_port}"
    with (
        raw_socket(zmq.DEALER, endpoint, rcvhwm=1) as deaf,
        raw_socket(zmq.REQ, endpoint) as other,
    ):
        for number in range(50):
            ask(
                other,
                action="register",
                service_info={"name": f"s{number}", "host": "h" * 200, "port": 1},
            )

        def lost() -> bool:
            for _ in range(500):
                deaf.send_multipart([b"", b'{"action":"list"}'])
            return bool(ask(other, action="info")["dropped_replies"])

        wait_until(lost)
        started = time.monotonic()
        assert ask(other, action="health")["status"] == "ok"
        assert time.monotonic() - started < 5


def test_terminate_is_only_for_this_machine() -> None:
    from rsreg.server.dispatch import Dispatcher
    from rsreg.server.rules.registry import Registry

    told: list[bool] = []
    registry = Registry(InMemoryBackend())
    dispatcher = Dispatcher(registry, time.time, dict, lambda: told.append(True))
    reply = dispatcher.answer(b'{"action":"terminate"}', Sender(here=False))
    assert isinstance(reply, dict)
    assert (reply["success"], reply["code"]) == (False, "forbidden")
    assert told == []
    reply = dispatcher.answer(b'{"action":"terminate"}', Sender())
    assert isinstance(reply, dict)
    assert (reply["success"], reply["status"]) == (True, "terminating")
    assert told == [True]


def test_a_server_that_stood_still_gives_every_lease_a_fresh_ttl(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        service_id = client.register("puna_cs", "egse3", 5000, "PUNA", ttl=1.5)
        process.signal(signal.SIGSTOP)
        time.sleep(4)
        process.signal(signal.SIGCONT)
        assert client.discover_service("PUNA") is not None
        continued = time.monotonic()
        wait_until(lambda: client.discover_service("PUNA") is None)
        assert time.monotonic() - continued > 0.7
        wait_until(lambda: client.get_service(service_id) is None)


# -- the greenlets, a step at a time


def test_a_stall_in_the_middle_of_a_step_expires_nobody() -> None:
    """What came while it stood still between two lines of a step waits in the sockets."""
    clock = ManualClock()

    class Stalling(InMemoryBackend):
        def commit(self, *changes: Any) -> None:
            clock.advance(60)
            super().commit(*changes)

    server = RegistryServer(0, 0, backend=Stalling(), bind="127.0.0.1", clock=clock, wall=clock)
    server.start()
    reaper = Reaper(server.registry, lambda _events: None, 10)
    info = {"name": "a", "host": "h", "port": 1}
    register = {"action": "register", "service_info": info, "ttl": 5}
    with raw_socket(zmq.DEALER, f"tcp://127.0.0.1:{server.req_port}") as socket:
        socket.send_multipart([b"", json.dumps(register).encode()])
        with gevent.Timeout(20):
            while not len(server.registry):
                gevent.sleep(0)
        assert clock.now == 1_060
        reaper.step()
        assert len(server.registry) == 1
        # Now the loop notices; what is left of a lease is not enough for who waited for an answer.
        socket.send_multipart([b"", b'{"action":"health"}'])
        with gevent.Timeout(20):
            while not socket.poll(0):
                gevent.sleep(0)
        clock.advance(1)
        gevent.sleep(0.5)
        reaper.step()
        assert len(server.registry) == 1
    server.stop()


def test_the_reaper_removes_what_lapsed_and_publishes_it(clock: ManualClock) -> None:
    from rsreg.protocol.messages import ServiceInfo
    from rsreg.server.rules.registry import Registry

    registry = Registry(InMemoryBackend(), clock=clock, wall=clock)
    registry.open()
    for number in range(450):
        info = ServiceInfo(name=f"s{number}", host="h", port=1)
        registry.register(info, {}, 10 if number % 3 else 100, None)
    registry.commit()
    published: list[Event] = []
    reaper = Reaper(registry, published.extend, 10)
    clock.advance(11)
    reaper.step()
    assert published == [], "the sockets were not found empty since: heartbeats may wait there"
    registry.evaluate_leases(clock.now)
    reaper.step()
    assert [event.type for event in published] == ["critical", "expire"] * 300
    assert [event.seq for event in published] == list(range(451, 1_051))
    assert len(registry) == 150
    registry.close()


def test_timers_have_their_turn_while_many_services_expire(clock: ManualClock) -> None:
    from rsreg.protocol.messages import ServiceInfo
    from rsreg.server.rules.registry import Registry

    registry = Registry(InMemoryBackend(), clock=clock, wall=clock)
    registry.open()
    for number in range(10 * EXPIRE_BATCH):
        registry.register(ServiceInfo(name=f"s{number}", host="h", port=1), {}, 10, None)
    registry.commit()
    clock.advance(11)
    while not registry.evaluate_leases(clock.now):
        pass
    timer = gevent.get_hub().loop.timer(0.0001, 0.0001)
    turns: list[int] = []
    seen: list[int] = []
    timer.start(turns.append, 1)
    Reaper(registry, lambda _events: seen.append(len(turns)), 10).step()
    timer.stop()
    timer.close()
    assert len(seen) >= 10
    assert len(set(seen)) > 5, "each batch may have been followed by a turn of the timer"
    registry.close()


def test_a_batch_is_one_transaction_and_answered_after_it() -> None:
    commits: list[int] = []

    class Counting(InMemoryBackend):
        def commit(self, changes: Any, events: Any, maintenance: Any = None) -> None:
            commits.append(len(events))
            super().commit(changes, events, maintenance)

    # Time stands still: else a batch would end after some milliseconds.
    server = RegistryServer(0, 0, backend=Counting(), bind="127.0.0.1", clock=ManualClock())
    server.start()
    loop = server._requests
    assert isinstance(loop, RequestLoop)
    endpoint = f"tcp://127.0.0.1:{server.req_port}"
    with raw_socket(zmq.DEALER, endpoint) as socket:
        for number in range(50):
            info = {"name": f"s{number}", "host": "h", "port": 1}
            request = {"action": "register", "service_info": info}
            socket.send_multipart([b"", json.dumps(request).encode()])
        time.sleep(0.3)  # The hub does not run meanwhile: all of them wait in the socket.
        with gevent.Timeout(20):
            while sum(commits) < 50:
                gevent.sleep(0.01)
        for _ in range(50):
            assert json.loads(received(socket)[-1])["success"] is True
    server.stop()
    assert commits[0] >= 40


def test_the_publisher_sends_type_and_json_in_order() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    socket = context.socket(zmq.PUB)
    socket.linger = 0
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    publisher = Publisher(socket)
    events = [
        Event(seq=seq, type="register", service_id=f"s{seq}", body=b'{"seq":%d}' % seq)
        for seq in range(1, 3 * PUBLISH_BATCH)
    ]
    with raw_socket(zmq.SUB, f"tcp://127.0.0.1:{port}", subscribe=b"register") as subscriber:

        def subscribed() -> bool:
            publisher.publish(events[:1])
            return bool(subscriber.poll(10))

        wait_until(subscribed)
        while subscriber.poll(100):
            subscriber.recv_multipart()
        publisher.publish(events[:2])
        assert [received(subscriber)[1] for _ in range(2)] == [e.body for e in events[:2]]
        publisher.publish(events[2:-1])
        publisher.publish(events[-1:])
        at_once = [received(subscriber)[1] for _ in range(PUBLISH_BATCH)]
        assert not subscriber.poll(50), "the others have their turn first"
        publisher.flush()
        later = [received(subscriber) for _ in events[2 + PUBLISH_BATCH :]]
        assert [*at_once, *(body for _, body in later)] == [e.body for e in events[2:]]
        assert {kind for kind, _ in later} == {b"register"}
    socket.close()


def test_a_custom_strategy_chooses() -> None:
    def oldest(services: Any) -> Service:
        chosen: Service = min(services, key=lambda service: service.metadata["since"])
        return chosen

    with (
        serving(0, 0, backend=InMemoryBackend(), strategy=oldest) as server,
        RegistryClient(f"127.0.0.1:{server.req_port}", timeout=10) as client,
    ):
        for since in (3, 1, 2):
            client.register(f"puna_{since}", "egse3", 5000, "PUNA", {"since": since})
        for _ in range(10):
            found = client.discover_service("PUNA")
            assert found is not None
            assert found["name"] == "puna_1"


def test_a_strategy_of_ones_own_is_asked_for_by_its_name() -> None:
    def oldest(services: Any) -> Service:
        chosen: Service = min(services, key=lambda service: service.metadata["since"])
        return chosen

    with (
        serving(backend=InMemoryBackend(), strategies={"oldest": oldest}) as server,
        RegistryClient(server.endpoint, timeout=10) as client,
    ):
        for since in (3, 1, 2):
            client.register(f"puna_{since}", "egse3", 5000, "PUNA", {"since": since})
        names = [client.discover_service("PUNA", strategy="oldest") for _ in range(20)]
        assert {found and found["name"] for found in names} == {"puna_1"}
        assert len({str(client.discover_service("PUNA")) for _ in range(100)}) > 1
        with pytest.raises(InvalidRequest, match="Invalid strategy: 'newest' is unknown"):
            client.discover_service("PUNA", strategy="newest")


def test_no_older_client_gets_a_simulator_where_there_is_hardware() -> None:
    with (
        serving(backend=InMemoryBackend()) as server,
        RegistryClient(server.endpoint, timeout=10) as client,
        raw_socket(zmq.REQ, server.endpoint) as older,
    ):
        client.register("hexapod", "egse3", 5000, "PUNA")
        for number in range(9):
            client.register(f"sim{number}", "egse3", 5001, "PUNA", mode="simulator")
        names = set()
        for _ in range(1_000):
            older.send(b'{"action": "discover", "service_type": "PUNA"}')
            names.add(json.loads(received(older)[0])["service"]["name"])
        assert names == {"hexapod"}
        client.deregister()
        assert client.discover_service("PUNA", mode="hardware")
