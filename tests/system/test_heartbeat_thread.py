"""Many services of one process: one thread and one connection, and nobody waits for another."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmq

from rsreg import RegistryClient, timing
from rsreg.client.registration.local_service import LocalService
from rsreg.client.registration.own_services import Heartbeat
from rsreg.client.registration.registration import Registration
from rsreg.protocol import calls
from rsreg.timing import steady
from rsreg.transport import sockets
from rsreg.transport.exchange import exchange
from rsreg.transport.shared_channel import MOST, SharedChannel, Talk
from tests.helpers import ServerProcess, scripted_server, wait_until


def beating(endpoint: str, name: str, ttl: float, service_id: str | None = None) -> Heartbeat:
    """A heartbeat that has begun; of a service that is still to be registered without an id."""
    wanted = Registration.of(name, "127.0.0.1", 5000, "FLEET", None, ttl)
    local_service = LocalService(wanted)
    if service_id is not None:
        local_service.on_registered(wanted, calls.Entry(service_id, ""))
    heartbeat = Heartbeat(local_service, endpoint)
    heartbeat.start()
    return heartbeat


def stop(*heartbeats: Heartbeat) -> None:
    """Stop them all."""
    for heartbeat in heartbeats:
        heartbeat.stop()


def threads() -> int:
    """The threads of this process, those of ZeroMQ too."""
    return len(list(Path("/proc/self/task").iterdir()))


def connections() -> int:
    """The files and sockets that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.unmeasured
def test_a_thousand_services_of_one_process_hold(process: ServerProcess) -> None:
    process.start()
    count, ttl = 1000, 3.0
    lapsed: list[str] = []
    with RegistryClient(process.endpoint, timeout=20) as client:
        client.on("critical", lambda data: lapsed.append(data["service_id"]))
        ids = [client.register(f"s{n}", "127.0.0.1", 5000, ttl=60) for n in range(count)]
        first = beating(process.endpoint, "s0", ttl, ids[0])
        before = threads(), connections()
        heartbeats = [first]
        try:
            for number, service_id in enumerate(ids[1:], 1):
                client.register(f"s{number}", "127.0.0.1", 5000, ttl=ttl, service_id=service_id)
                heartbeats.append(beating(process.endpoint, f"s{number}", ttl, service_id))
            assert threads() == before[0]
            # ZeroMQ may have made the one connection only since then.
            assert connections() <= before[1] + 2, "each has one of its own"
            until = steady() + 3 * ttl
            while steady() < until:
                health = Counter(service["health"] for service in client.list_services())
                assert health == {"passing": count}
                time.sleep(0.2)
            assert lapsed == []
        finally:
            started = steady()
            stop(*heartbeats)
            assert steady() - started < 5
        wait_until(lambda: threads() < before[0])


def test_who_is_refused_or_gets_no_answer_holds_no_other() -> None:
    beats: dict[str, list[float]] = defaultdict(list)

    def answer(request: dict[str, Any]) -> dict[str, Any] | None:
        service_id = request.get("service_id") or request["service_info"]["name"]
        beats[service_id].append(steady())
        if service_id == "refused":
            return {"success": False, "error": "no", "code": "invalid-request"}
        return None if service_id.startswith("silent") else {"success": True}

    with scripted_server(answer) as endpoint:
        silent = [f"silent {number}" for number in range(8)]
        names = ("refused", *silent, "one", "two")
        heartbeats = [beating(endpoint, name, 1.5, name) for name in names]
        try:
            wait_until(lambda: len(beats["one"]) > 12 and len(beats["two"]) > 12)
        finally:
            stop(*heartbeats)
    for name in ("one", "two"):
        gaps = [later - sooner for sooner, later in zip(beats[name], beats[name][1:], strict=False)]
        # One after the other, each of the silent ones would take half a second.
        assert max(gaps) < 2.5, gaps
    assert len(beats["refused"]) > 2
    assert min(len(beats[name]) for name in silent) > 2


def test_more_than_may_be_under_way_get_their_turn() -> None:
    heard: set[str] = set()
    waiting: list[int] = [0]
    most: list[int] = [0]

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        heard.add(request["service_id"])
        return {"success": True}

    with scripted_server(answer) as endpoint:
        channel = SharedChannel(endpoint)
        done: list[Any] = []

        def ended(result: Any, error: BaseException | None) -> None:
            assert error is None, error
            done.append(result)
            waiting[0] -= 1

        for number in range(3 * MOST):
            call = calls.renew(str(number))
            flow = exchange(call, timeout=10, endpoint=endpoint, clock=steady)
            waiting[0] += 1
            channel.begin(Talk(flow, ended))
        while channel.busy:
            most[0] = max(most[0], len(channel._under_way))
            channel.step(0.1)
        channel.close()
    assert len(heard) == len(done) == 3 * MOST
    assert most[0] <= MOST


@pytest.mark.parametrize("gives_up", [True, False])
def test_what_was_given_up_on_is_not_sent_later(gives_up: bool) -> None:
    """It would register a service that has left, when the registry is back."""
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    with router:
        router.linger = 0
        endpoint = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
        router.unbind(endpoint)
        channel = SharedChannel(endpoint)
        ended: list[str] = []

        def begin(name: str, timeout: float) -> Talk:
            flow = exchange(calls.renew(name), timeout=timeout, endpoint=endpoint, clock=steady)
            talk = Talk(flow, lambda _result, error: ended.append(type(error).__name__))
            channel.begin(talk)
            return talk

        stale = begin("stale", 0.3 if gives_up else 20)
        channel.step(0.2)
        if gives_up:
            while channel.busy:
                channel.step(0.1)
            assert ended == ["RequestTimeout"]
        else:
            channel.forget(stale)
            assert not channel.busy
        router.bind(endpoint)
        begin("fresh", 20)
        heard: list[str] = []
        until = steady() + 20
        while not heard and steady() < until:
            channel.step(0.05)
            while router.poll(0):
                heard.append(json.loads(router.recv_multipart()[-1])["service_id"])
        channel.close()
        assert heard == ["fresh"]


def test_nothing_is_sent_after_a_stop(process: ServerProcess) -> None:
    process.start()
    process.kill()
    other = beating(process.endpoint, "stays", 1.5)
    leaves = beating(process.endpoint, "leaves", 1.5)
    try:
        time.sleep(1.5)
        leaves.stop()
        process.start()
        with RegistryClient(process.endpoint, timeout=10) as client:
            wait_until(lambda: client.list_services())
            time.sleep(2)
            journal = client.events_since(0)["events"]
            assert {event["data"]["service_info"]["name"] for event in journal} == {"stays"}
    finally:
        stop(other, leaves)


def test_a_stop_in_the_middle_of_a_beat_harms_no_other(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        service_id = client.register("stays", "127.0.0.1", 5000, ttl=2)
        stays = beating(process.endpoint, "stays", 2, service_id)
        until = steady() + 4
        while steady() < until:
            passing = beating(process.endpoint, "comes and goes", 2)
            passing.service.status("x")
            passing.stop()
            service = client.get_service(service_id)
            assert service is not None
            assert service["health"] == "passing"
        stop(stays)


def test_an_outage_is_two_lines_for_all(
    process: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rsreg")
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        names = [f"s{number}" for number in range(20)]
        where = ("127.0.0.1", 5000, "FLEET")
        ids = {name: client.register(name, *where, ttl=1) for name in names}
        heartbeats = [beating(process.endpoint, name, 1, ids[name]) for name in names]
        try:
            process.kill()
            wait_until(lambda: "retrying" in caplog.text)
            time.sleep(2)
            process.start()
            wait_until(lambda: "answers again" in caplog.text)
            time.sleep(1)
        finally:
            stop(*heartbeats)
    assert len(caplog.messages) == 2, caplog.text
    assert "heartbeat failed, retrying: no registry answers" in caplog.messages[0]
    assert "and 19 more: the registry answers again after" in caplog.messages[1]


def test_two_registries_are_kept_apart(process: ServerProcess, endpoint: str) -> None:
    """One that is away keeps nobody from beating at the other one."""
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as first, RegistryClient(endpoint) as second:
        first.register("here", "127.0.0.1", 5000, ttl=1)
        first.start_heartbeat()
        there = second.register("there", "127.0.0.1", 5000, ttl=1)
        second.start_heartbeat()
        process.kill()
        until = steady() + 4
        while steady() < until:
            service = second.get_service(there)
            assert service is not None
            assert service["health"] == "passing"
            time.sleep(0.05)


def test_heartbeats_share_no_thread_of_zeromq_with_calls() -> None:
    assert sockets.own_context("heartbeats") is not sockets.own_context()
    assert sockets.own_context() is sockets.own_context()


@pytest.mark.unmeasured
def test_threads_may_begin_and_end_heartbeats(process: ServerProcess) -> None:
    process.start()

    def churn(number: int) -> None:
        for round_ in range(30):
            heartbeat = beating(process.endpoint, f"{number} {round_}", 1)
            started = steady()
            heartbeat.stop()
            assert steady() - started < 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))


def test_a_jump_of_the_clock_is_noticed(
    client: RegistryClient, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a sleep of the machine, which no wait counts."""
    service_id = client.register("puna_cs", "127.0.0.1", 5000, ttl=60)
    heartbeat = beating(endpoint, "puna_cs", 60, service_id)
    try:
        wait_until(lambda: heartbeat.planned > steady() + 10)
        # It waits by now.
        time.sleep(0.3)
        before = steady()
        slept = 25.0
        monkeypatch.setattr(timing, "steady", lambda: steady() + slept)
        wait_until(lambda: heartbeat._last > before + slept, 3)
    finally:
        monkeypatch.undo()
        heartbeat.stop()
