"""The synchronous client, against real servers."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import pytest
import zmq.green

from rsreg import InMemoryBackend, RegistryClient, RegistryServer
from rsreg.client.registration import owner
from rsreg.errors import (
    AmbiguousName,
    ConfigurationError,
    Disconnected,
    DuplicateServiceType,
    InvalidRequest,
    RequestTimeout,
)
from rsreg.protocol.calls import Record
from tests.helpers import (
    ServerProcess,
    printed,
    program,
    raw_socket,
    received,
    scripted_server,
    serving,
    slow_once,
    start_program,
    ticking,
    wait_until,
)


def test_register_get_list_discover_deregister(client: RegistryClient) -> None:
    service_id = client.register(
        "Puna CS", "10.0.0.5", 5000, "PUNA", {"version": "1.4.2"}, 30, tags=["optics"]
    )
    assert service_id.startswith("puna-cs-")
    service = client.get_service(service_id)
    assert service is not None
    heartbeat = service.pop("last_heartbeat")
    assert abs(heartbeat - time.time()) < 60
    assert service == {
        "id": service_id,
        "name": "Puna CS",
        "host": "10.0.0.5",
        "port": 5000,
        "type": "PUNA",
        "tags": ["optics"],
        "metadata": {"version": "1.4.2"},
        "ttl": 30,
        "health": "passing",
        "owner": owner.this_process(),
        "registered_by": "127.0.0.1",
    }
    for kind in ("PUNA", "optics"):
        found = client.discover_service(kind)
        assert found is not None
        assert found["id"] == service_id
        assert [service["id"] for service in client.list_services(kind)] == [service_id]
    assert client.get_endpoint("PUNA") == "tcp://10.0.0.5:5000"
    assert client.renew()
    assert client.deregister()
    assert client.get_service(service_id) is None
    assert client.list_services() == []


def test_not_found_is_an_answer(client: RegistryClient) -> None:
    assert client.discover_service("PUNA") is None
    assert client.get_endpoint("PUNA") is None
    assert client.get_service("nobody") is None
    assert client.get_service() is None
    assert client.find_service("nobody") is None
    assert client.list_services("PUNA") == []
    assert client.deregister("nobody") is False
    assert client.deregister() is False
    assert client.renew("nobody") is False
    assert client.renew() is False
    assert client.reregister() is None


def test_a_refusal_raises_and_changes_nothing(client: RegistryClient) -> None:
    with pytest.raises(InvalidRequest, match=r"service_info\.port") as refused:
        client.register("puna_cs", "egse3", 70000)
    assert refused.value.code == "invalid-request"
    assert refused.value.hint is not None
    with pytest.raises(InvalidRequest, match="ttl"):
        client.register("puna_cs", "egse3", 5000, ttl=0.5)
    first = client.register("puna_cs", "egse3", 5000, "PUNA")
    with pytest.raises(DuplicateServiceType, match=f"'PUNA'.*{first}") as duplicate:
        client.register("puna_2", "egse4", 5000, "PUNA", singleton=True)
    assert duplicate.value.details["existing_service_id"] == first
    assert [service["id"] for service in client.list_services()] == [first]


def test_what_is_no_json_is_refused_before_it_is_sent(client: RegistryClient) -> None:
    for metadata in ({"t": float("nan")}, {"t": object()}, {"t": "\ud800"}, {"t": "x" * 70_000}):
        with pytest.raises(ConfigurationError, match="this request"):
            client.register("puna_cs", "egse3", 5000, metadata=metadata)
    assert client.list_services() == []


def test_reregister_brings_everything_back_under_the_same_id(client: RegistryClient) -> None:
    service_id = client.register("puna_cs", "egse3", 5000, "PUNA", {"a": [1]}, 7.5, tags=["x"])
    before = client.get_service()
    client_elsewhere = RegistryClient(client.settings.req_endpoint, timeout=10)
    with client_elsewhere:
        assert client_elsewhere.deregister(service_id)
    assert client.get_service() is None
    assert client.reregister() == service_id
    after = client.get_service()
    assert before is not None
    assert after is not None
    assert {**after, "last_heartbeat": 0} == {**before, "last_heartbeat": 0}


def test_find_service_by_id_name_or_start(client: RegistryClient) -> None:
    puna = client.register("puna_cs", "egse3", 5000)
    spare = client.register("puna_spare", "egse4", 5000)
    for name, found in ((puna, puna), ("puna_cs", puna), ("puna_sp", spare), (spare[:-2], spare)):
        service = client.find_service(name)
        assert service is not None
        assert service["id"] == found
    with pytest.raises(AmbiguousName) as ambiguous:
        client.find_service("puna")
    assert sorted(ambiguous.value.candidates) == sorted([puna, spare])
    assert client.find_service("nobody") is None


def test_wait_for_returns_when_all_are_there(client: RegistryClient, endpoint: str) -> None:
    client.register("puna_cs", "egse3", 5000, "PUNA")

    def later() -> None:
        with RegistryClient(endpoint, timeout=10) as other:
            other.register("ls336", "egse4", 6000, "TEMP")

    timer = threading.Timer(0.3, later)
    timer.start()
    found = client.wait_for("PUNA", "TEMP", timeout=20)
    timer.join()
    assert {kind: service and service["name"] for kind, service in found.items()} == {
        "PUNA": "puna_cs",
        "TEMP": "ls336",
    }
    assert client.wait_for("PUNA", "CAMERA", timeout=0.3)["CAMERA"] is None


def test_wait_for_waits_for_the_registry_too(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        client.register("puna_cs", "egse3", 5000, "PUNA")
        process.kill()
        with pytest.raises(RequestTimeout):
            client.wait_for("PUNA", timeout=0.5)
        timer = threading.Timer(0.5, process.start)
        timer.start()
        assert client.wait_for("PUNA", timeout=20)["PUNA"] is not None
        timer.join()


def test_a_late_reply_is_never_the_answer_to_a_later_question() -> None:
    with scripted_server(slow_once(0.8)) as endpoint, RegistryClient(endpoint) as client:
        client.settings.timeout = 0.5
        with pytest.raises(RequestTimeout):
            client.discover_service("A")
        client.settings.timeout = 10
        for kind in ("B", "C", "D"):
            service = client.discover_service(kind)
            assert service == {"name": kind}


def test_a_reply_that_comes_late_but_in_time_is_the_answer() -> None:
    with (
        scripted_server(slow_once(0.6)) as endpoint,
        RegistryClient(endpoint, timeout=1.5) as client,
    ):
        assert client.discover_service("A") == {"name": "A"}
        client.settings.timeout = 10
        # The resends of the first question were answered too; none of it counts for the second.
        assert client.discover_service("B") == {"name": "B"}


def test_every_call_ends_within_its_timeout_with_the_server_stopped(
    process: ServerProcess,
) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        client.register("puna_cs", "egse3", 5000, "PUNA")
        client.start_event_listener()
        client.settings.timeout = 0.5
        process.signal(signal.SIGSTOP)
        calls: list[Callable[[], object]] = [
            client.list_services,
            client.server_status,
            client.renew,
            client.get_service,
            client.terminate_registry_server,
            lambda: client.discover_service("PUNA"),
            lambda: client.register("second", "egse3", 5001),
            lambda: client.deregister("nobody"),
        ]
        for call in calls:
            started = time.monotonic()
            with pytest.raises(RequestTimeout) as late:
                call()
            assert time.monotonic() - started < 1.5
            assert isinstance(late.value, TimeoutError)
            assert process.endpoint in str(late.value)
        assert client.health_check() is False
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 2.5


def test_a_register_that_timed_out_happened_at_most_once(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        client.list_services()
        client.settings.timeout = 0.6
        process.signal(signal.SIGSTOP)
        with pytest.raises(RequestTimeout):
            client.register("puna_cs", "egse3", 5000, "PUNA")
        process.signal(signal.SIGCONT)
        client.settings.timeout = 10
        client.health_check()
        assert len(client.list_services()) <= 1


def test_nobody_there_is_said_with_a_hint() -> None:
    with RegistryClient("127.0.0.1:1", timeout=0.2) as client:
        with pytest.raises(RequestTimeout, match=r"tcp://127\.0\.0\.1:1 within 0\.2 s") as failure:
            client.list_services()
        assert "rs_cs start" in str(failure.value.hint)
        assert client.health_check() is False


def test_the_address_comes_from_the_environment(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSREG_ENDPOINT", endpoint.removeprefix("tcp://"))
    with RegistryClient(timeout=10) as client:
        assert client.health_check()


@pytest.mark.parametrize("wrong", ["tcp://", "host:", "host:abc", "host:99999", "tcp://*"])
def test_a_wrong_endpoint_is_refused_at_once(wrong: str) -> None:
    with pytest.raises(ConfigurationError), RegistryClient(wrong) as client:
        client.list_services()


def test_a_closed_client_says_so_and_can_connect_again(client: RegistryClient) -> None:
    client.close()
    with pytest.raises(Disconnected, match="closed"):
        client.list_services()
    client.connect()
    assert client.list_services() == []


def test_threads_share_a_client(client: RegistryClient) -> None:
    wrong: list[object] = []

    def ask(number: int) -> None:
        for turn in range(150):
            name = f"svc-{number}-{turn}"
            service_id = client.register(name, "egse3", 5000, name)
            found = client.discover_service(name)
            if found is None or found["id"] != service_id or found["name"] != name:
                wrong.append((name, found))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(client.list_services()) == 600


def test_two_greenlets_on_one_client_are_told(endpoint: str) -> None:
    with (
        scripted_server(lambda _request: None) as silent,
        RegistryClient(silent, timeout=1, context=zmq.green.Context.instance()) as client,
    ):
        first = gevent.spawn(client.health_check)
        gevent.sleep(0)
        with pytest.raises(RuntimeError, match="greenlet"):
            client.health_check()
        first.join()


def test_a_green_client_lets_other_greenlets_run(process: ServerProcess) -> None:
    process.start()
    heard: list[str] = []
    with RegistryClient(
        process.endpoint, timeout=10, context=zmq.green.Context.instance()
    ) as client:
        client.on_event("register", lambda _data: client.health_check())
        client.on_event("register", lambda data: heard.append(data["service_info"]["name"]))
        client.start_event_listener()
        client.register("puna_cs", "egse3", 5000)
        with gevent.Timeout(20):
            while not heard:
                gevent.sleep(0.01)
        client.settings.timeout = 0.5
        process.signal(signal.SIGSTOP)
        with ticking() as ticks, pytest.raises(RequestTimeout):
            client.list_services()
    assert len(ticks) > 10


def test_a_forked_child_starts_afresh(client: RegistryClient, endpoint: str) -> None:
    service_id = client.register("puna_cs", "egse3", 5000, ttl=5)
    client.start_heartbeat(0.2)
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()

    def child() -> None:
        answers.put((client.get_service(), client.health_check(), client.renew()))
        client.close()

    process = context.Process(target=child)
    process.start()
    assert answers.get(timeout=20) == (None, True, False)
    process.join(20)
    assert process.exitcode == 0
    assert client.get_service(service_id) is not None
    before = client.get_service(service_id)
    wait_until(lambda: client.get_service(service_id) != before)


def test_a_script_that_forgets_to_close_still_ends(endpoint: str) -> None:
    run = program("forgets_to_close", endpoint, options=["-W", "error"])
    done = subprocess.run(run, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_handlers_get_every_event_in_order_and_may_call_the_client(
    client: RegistryClient, endpoint: str
) -> None:
    heard: list[tuple[str, str, bool]] = []

    def note(kind: str, data: Record) -> None:
        heard.append((kind, data["service_info"]["name"], client.health_check()))

    client.on_event("register", lambda data: 1 / 0)
    for kind in ("register", "deregister"):
        client.on_event(kind, partial(note, kind))
    whole: list[int] = []
    client.on_any_event(lambda event: whole.append(event["seq"]))
    client.start_event_listener()
    expected = []
    with RegistryClient(endpoint, timeout=10) as other:
        for number in range(40):
            other.deregister(other.register(f"svc-{number}", "egse3", 5000))
            expected += [("register", f"svc-{number}", True), ("deregister", f"svc-{number}", True)]
    wait_until(lambda: len(heard) >= len(expected))
    assert heard == expected
    assert whole == list(range(1, len(expected) + 1))


def test_a_handler_may_stop_the_listener(client: RegistryClient) -> None:
    heard: list[str] = []

    def once(data: dict[str, Any]) -> None:
        heard.append(data["service_id"])
        client.stop_event_listener()

    client.on_event("register", once)
    client.start_event_listener()
    first = client.register("one", "egse3", 5000)
    wait_until(lambda: heard)
    client.register("two", "egse3", 5001)
    assert heard == [first]


def test_events_lost_on_the_way_are_fetched(tmp_path: Any) -> None:
    """The subscriber connects to a port where nothing is published: all comes by the journal."""
    with (
        raw_socket(zmq.SUB, "tcp://127.0.0.1:1"),
        serving(backend=InMemoryBackend()) as server,
        RegistryClient(f"127.0.0.1:{server.req_port}", "tcp://127.0.0.1:1", timeout=10) as client,
    ):
        heard: list[str] = []
        client.on_event("register", lambda data: heard.append(data["service_info"]["name"]))
        client.start_event_listener()
        names = [f"svc-{number}" for number in range(5)]
        for name in names:
            client.register(name, "egse3", 5000)
        wait_until(lambda: len(heard) >= len(names))
        assert heard == names


def test_a_subscriber_follows_the_registry_over_a_restart(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        heard: list[str] = []
        client.on_event("register", lambda data: heard.append(data["service_info"]["name"]))
        client.start_event_listener()
        client.register("before", "egse3", 5000)
        wait_until(lambda: heard)
        process.kill()
        process.start()
        client.register("after", "egse3", 5000)
        wait_until(lambda: len(heard) == 2)
        assert heard == ["before", "after"]


def test_a_listener_says_that_the_registry_is_away_and_back(
    process: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rsreg.transport.subscription")
    process.start()
    with RegistryClient(process.endpoint, timeout=0.5) as client:
        client.start_event_listener()
        process.kill()
        wait_until(lambda: "lost the event stream" in caplog.text)
        process.start()
        wait_until(lambda: "the registry answers again" in caplog.text)
        assert len(caplog.records) == 2, caplog.text


def test_a_heartbeat_needs_a_registration_and_a_positive_interval(client: RegistryClient) -> None:
    with pytest.raises(ConfigurationError, match="nothing to keep alive"):
        client.start_heartbeat()
    client.register("puna_cs", "egse3", 5000)
    with pytest.raises(ConfigurationError, match="more than 0"):
        client.start_heartbeat(0)


def test_deregister_stops_the_heartbeat_first(client: RegistryClient) -> None:
    service_id = client.register("puna_cs", "egse3", 5000, ttl=1)
    client.start_heartbeat(0.01)
    assert client.deregister()
    seq = client.server_status()["seq"]
    assert client.get_service(service_id) is None
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        assert client.server_status()["seq"] == seq


def test_each_registration_has_a_heartbeat_of_its_own(client: RegistryClient) -> None:
    """One that ends, or begins, is no other's business."""
    first = client.register("puna_cs", "egse3", 5000, ttl=1)
    client.start_heartbeat(0.01)
    second = client.register("camera_cs", "egse3", 5001, ttl=1)
    client.start_heartbeat(0.01)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert {one["id"] for one in client.list_services()} == {first, second}
    assert client.deregister(second)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert [one["health"] for one in client.list_services()] == ["passing"]
    client.stop_heartbeat()
    wait_until(lambda: client.list_services() == [])


def test_server_status_says_who_answers(client: RegistryClient, server: RegistryServer) -> None:
    status = client.server_status()
    assert status["pid"] == os.getpid()
    assert status["req_port"] == server.req_port
    assert status["pub_port"] == server.pub_port
    assert status["hb_port"] == server.hb_port
    assert status["store"] == "memory"
    assert status["services"] == []


def test_terminate_stops_the_server(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        assert client.terminate_registry_server()
        assert process.wait() == 0


def test_a_blocked_handler_survives_that_the_registry_is_killed(process: ServerProcess) -> None:
    """Its queue is full, and its connection breaks: with ZMTP heartbeats libzmq ends the process.

    The first heartbeat finds the connection broken, the second, five seconds later, aborts.
    """
    process.start()
    with (
        start_program("blocked_handler", process.endpoint) as driver,
        raw_socket(zmq.DEALER, process.endpoint) as flood,
    ):
        assert printed(driver) == "listening"
        info = {"name": "a", "host": "h", "port": 1, "metadata": {"x": 4_000 * "x"}}
        request = json.dumps({"action": "register", "service_info": info}).encode()
        for _ in range(60):
            for _ in range(100):
                flood.send_multipart([b"", request])
            for _ in range(100):
                received(flood)
        assert printed(driver) == "blocked"
        process.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            driver.wait(12)
        driver.communicate("go on\n", timeout=30)
        assert driver.returncode == 0
