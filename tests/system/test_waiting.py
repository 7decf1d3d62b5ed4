"""Waiting for services that are not there yet: when it asks, by hand, and what users see of it."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import Any

import gevent
import pytest
import zmq.green

from rsreg import AsyncRegistryClient, RegistryClient
from rsreg.client.waiting import WaitForServices
from rsreg.errors import ConfigurationError, Disconnected, InvalidRequest, RequestTimeout
from rsreg.protocol import calls
from tests.helpers import ManualClock, ServerProcess, scripted_server, ticking


def waiting(clock: ManualClock, *kinds: str, seconds: float = 100.0) -> WaitForServices:
    """A wait for a service of each kind."""
    return WaitForServices(
        {kind: calls.discover(kind) for kind in kinds or ("A", "B")}, seconds, clock
    )


def asked(wait: WaitForServices) -> str:
    """The type that it would ask for now."""
    assert wait.seconds_until_next_request == 0.0
    return str(wait.next_request().params["service_type"])


def answer(wait: WaitForServices, **found: Any) -> list[str]:
    """Answer all questions of a round; what they were."""
    kinds: list[str] = []
    while (
        wait.seconds_left
        and not wait.seconds_until_next_request
        and (not kinds or asked(wait) != kinds[0])
    ):
        kinds.append(asked(wait))
        wait.on_reply(found.get(kinds[-1]))
    return kinds


@pytest.fixture
def settled(clock: ManualClock) -> WaitForServices:
    """One that has asked both rounds in vain with which it begins."""
    wait = waiting(clock)
    assert answer(wait) == ["A", "B"]
    assert answer(wait) == ["A", "B"]
    assert wait.seconds_until_next_request == 0.25
    return wait


def test_it_is_over_when_all_are_found(clock: ManualClock) -> None:
    wait = waiting(clock)
    assert answer(wait, B={"id": "b"}) == ["A", "B"]
    assert wait.seconds_left == 100.0
    assert answer(wait, A={"id": "a"}) == ["A"]
    assert wait.seconds_left == 0.0
    assert wait.result() == {"A": {"id": "a"}, "B": {"id": "b"}}


def test_there_may_be_nothing_to_wait_for(clock: ManualClock) -> None:
    wait = WaitForServices({}, 10.0, clock)
    assert wait.seconds_left == 0.0
    assert wait.result() == {}


def test_an_event_is_a_reason_to_ask(clock: ManualClock, settled: WaitForServices) -> None:
    clock.advance(0.1)
    assert settled.on_event({"type": "register"}) == []
    assert answer(settled, A={"id": "a"}) == ["A", "B"]
    clock.advance(0.02)
    settled.on_event({"type": "recovered"})
    assert settled.seconds_until_next_request == pytest.approx(0.03), (
        "twenty times a second is enough"
    )
    clock.advance(0.03)
    settled.on_event({"type": "recovered"})
    assert answer(settled, B={"id": "b"}) == ["B"]
    assert settled.seconds_left == 0.0


def test_silence_is_a_reason_to_ask_more_and_more_seldom(
    clock: ManualClock, settled: WaitForServices
) -> None:
    silences = []
    while settled.seconds_left:
        silences.append(settled.seconds_until_next_request)
        clock.advance(settled.seconds_until_next_request)
        answer(settled)
    assert silences[:8] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert settled.result() == {"A": None, "B": None}


def test_a_registry_that_does_not_answer_is_asked_again_soon(
    clock: ManualClock, settled: WaitForServices
) -> None:
    pauses = []
    while settled.seconds_left > 50:
        settled.on_failure(RequestTimeout("nobody there"))
        pauses.append(settled.seconds_until_next_request)
        clock.advance(settled.seconds_until_next_request)
        assert asked(settled) == "A"
    assert pauses[0] <= 0.1
    assert 0.4 < max(pauses) <= 1.0
    assert answer(settled) == ["A", "B"]
    assert settled.seconds_until_next_request > 0
    settled.on_failure(RequestTimeout("nobody there"))
    assert settled.seconds_until_next_request <= 0.1


def test_a_registry_that_did_not_answer_is_an_error_at_the_end(clock: ManualClock) -> None:
    wait = waiting(clock)
    wait.on_failure(RequestTimeout("nobody there"))
    clock.advance(100)
    assert wait.seconds_left == 0.0
    with pytest.raises(RequestTimeout, match="nobody there"):
        wait.result()


def test_a_registry_that_answered_in_the_end_is_none(clock: ManualClock) -> None:
    wait = waiting(clock)
    wait.on_failure(RequestTimeout("nobody there"))
    clock.advance(99.9)
    answer(wait)
    clock.advance(0.1)
    assert wait.result() == {"A": None, "B": None}


def test_any_other_error_is_no_reason_to_wait(clock: ManualClock) -> None:
    with pytest.raises(InvalidRequest):
        waiting(clock).on_failure(InvalidRequest("no such strategy"))


# -- for real


@contextmanager
def soon(action: Callable[[], object], seconds: float = 0.5) -> Iterator[list[float]]:
    """Do it a little later; when is put into the list."""
    done: list[float] = []

    def run() -> None:
        done.append(time.monotonic())
        action()

    timer = threading.Timer(seconds, run)
    timer.start()
    try:
        yield done
    finally:
        timer.join()


@contextmanager
def counted(endpoint: str) -> Iterator[tuple[RegistryClient, Counter[str]]]:
    """A client of a registry, and how often it asks for what."""
    counter: Counter[str] = Counter()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    front.linger = back.linger = 0
    port = front.bind_to_random_port("tcp://127.0.0.1")
    back.connect(endpoint)
    over = threading.Event()

    def carry() -> None:
        poller = zmq.Poller()
        poller.register(front, zmq.POLLIN)
        poller.register(back, zmq.POLLIN)
        while not over.is_set():
            ready = dict(poller.poll(20))
            if front in ready:
                frames = front.recv_multipart()
                counter[json.loads(frames[-1])["action"]] += 1
                back.send_multipart(frames)
            if back in ready:
                front.send_multipart(back.recv_multipart())

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        with RegistryClient(f"127.0.0.1:{port}", timeout=10) as client:
            yield client, counter
    finally:
        over.set()
        thread.join()
        front.close()
        back.close()


def test_a_service_is_found_as_soon_as_it_registers(client: RegistryClient, endpoint: str) -> None:
    with RegistryClient(endpoint, timeout=10) as other:
        other.health_check()
        for kind in ("A", "B", "C"):
            with soon(partial(other.register, "svc", "lab", 1, kind)) as registered:
                found = client.discover_service(kind, wait=20)
                at = time.monotonic()
            assert found is not None
            assert at - registered[0] < 0.2


def test_who_is_there_already_costs_one_question(client: RegistryClient, endpoint: str) -> None:
    client.register("svc", "lab", 1, "A")
    with counted(endpoint) as (client, requests):
        assert client.discover_service("A", wait=20) is not None
        assert client.wait_for("A", timeout=20)["A"] is not None
    assert requests == {"discover": 2}


def test_waiting_is_no_polling(endpoint: str) -> None:
    with counted(endpoint) as (client, requests):
        assert client.wait_for("A", timeout=4) == {"A": None}
    assert sum(requests.values()) <= 8, requests


def test_many_events_are_no_reason_to_ask_all_the_time(endpoint: str) -> None:
    over, registered = threading.Event(), [0]

    def register() -> None:
        with RegistryClient(endpoint, timeout=10) as other:
            while not over.is_set():
                registered[0] += 1
                other.register("svc", "lab", 1, "OTHER", service_id="svc")

    thread = threading.Thread(target=register)
    thread.start()
    with counted(endpoint) as (client, requests):
        assert client.discover_service("A", wait=2) is None
    over.set()
    thread.join()
    assert registered[0] > 100
    assert requests["discover"] < 60


def test_wait_for_waits_for_all(client: RegistryClient, endpoint: str) -> None:
    client.register("puna", "lab", 1, "PUNA")

    def later() -> None:
        with RegistryClient(endpoint, timeout=10) as other:
            for kind in ("TEMP", "CAMERA"):
                other.register(kind.lower(), "lab", 1, kind)
                time.sleep(0.2)

    with soon(later):
        found = client.wait_for("PUNA", "CAMERA", "TEMP", timeout=20)
    assert {kind: service and service["name"] for kind, service in found.items()} == {
        "PUNA": "puna",
        "CAMERA": "camera",
        "TEMP": "temp",
    }
    assert client.wait_for(timeout=20) == {}


def test_health_is_waited_for_too(client: RegistryClient, endpoint: str) -> None:
    """A service that is in maintenance, and then no more."""
    client.register("puna", "lab", 1, "PUNA", service_id="puna")
    client.maintenance(True, service="puna")
    assert client.discover_service("PUNA", wait=0.2) is None
    with (
        RegistryClient(endpoint, timeout=10) as other,
        soon(lambda: other.maintenance(False, service="puna")) as over,
    ):
        assert client.discover_service("PUNA", wait=20) is not None
        assert time.monotonic() - over[0] < 0.2


def test_a_wait_ends_in_time(client: RegistryClient) -> None:
    for seconds in (0.0, 0.3, 1.2):
        started = time.monotonic()
        assert client.discover_service("A", wait=seconds) is None
        assert seconds <= time.monotonic() - started < seconds + 1


def test_a_registry_that_is_not_there_yet_is_waited_for(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        client.register("puna", "lab", 1, "PUNA")
        process.kill()
        client.settings.timeout = 0.5
        started = time.monotonic()
        with pytest.raises(RequestTimeout):
            client.discover_service("PUNA", wait=1)
        assert time.monotonic() - started < 3
        with soon(process.start):
            assert client.discover_service("PUNA", wait=20) is not None


def test_a_registry_that_goes_away_is_waited_for(process: ServerProcess) -> None:
    process.start()

    def restart() -> None:
        process.kill()
        process.start()
        with RegistryClient(process.endpoint, timeout=10) as other:
            other.register("puna", "lab", 1, "PUNA")

    with RegistryClient(process.endpoint, timeout=0.5) as client, soon(restart):
        assert client.discover_service("PUNA", wait=30) is not None


def test_a_registry_that_hangs_ends_no_wait_late(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        client.health_check()
        with soon(lambda: process.signal(signal.SIGSTOP), 0.2):
            started = time.monotonic()
            with suppress(RequestTimeout):
                assert client.discover_service("PUNA", wait=3) is None
            assert time.monotonic() - started < 5


def test_a_refusal_is_no_reason_to_wait(client: RegistryClient) -> None:
    started = time.monotonic()
    with pytest.raises(InvalidRequest, match="strategy"):
        client.discover_service("PUNA", strategy="no such strategy", wait=20)
    assert time.monotonic() - started < 5


def test_a_closed_client_waits_no_longer(client: RegistryClient) -> None:
    with soon(client.close), pytest.raises(Disconnected):
        client.discover_service("PUNA", wait=20)


def test_waits_of_any_length_are_refused_before_anything_is_sent() -> None:
    with scripted_server(lambda request: pytest.fail(str(request))) as silent:
        client = RegistryClient(silent)
        wait: Any
        for wait in (-1, 86_401, float("nan"), float("inf"), "30", True, None):
            with pytest.raises(ConfigurationError, match="wait is 0 to 86400 seconds"):
                client.discover_service("PUNA", wait=wait)
            with pytest.raises(ConfigurationError, match="timeout is 0 to 86400 seconds"):
                client.wait_for("PUNA", timeout=wait)


def test_a_green_wait_lets_other_greenlets_run(process: ServerProcess) -> None:
    process.start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.green.Context.instance()
    with (
        RegistryClient(process.endpoint, timeout=10, context=context) as client,
        RegistryClient(process.endpoint, timeout=10, context=context) as other,
        ticking() as ticks,
    ):
        later = gevent.spawn_later(0.5, other.register, "svc", "lab", 1, "A")
        assert client.discover_service("A", wait=20) is not None
        later.get()
        process.kill()
        client.settings.timeout = 0.2
        with pytest.raises(RequestTimeout):
            client.discover_service("B", wait=0.8)
    assert len(ticks) > 20
    assert max(b - a for a, b in pairwise(ticks)) < 1


def test_an_async_wait(endpoint: str, client: RegistryClient) -> None:
    async def main() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as other:
            with soon(lambda: client.register("svc", "lab", 1, "A")) as registered:
                assert await other.discover_service("A", wait=20) is not None
                assert time.monotonic() - registered[0] < 0.2
            assert await other.discover_service("B", wait=0.3) is None
            assert await other.wait_for("A", "B", timeout=0.3) == {
                "A": await other.discover_service("A"),
                "B": None,
            }
            with pytest.raises(ConfigurationError):
                await other.discover_service("A", wait=-1)
            waits = asyncio.ensure_future(other.discover_service("B", wait=20))
            await asyncio.sleep(0.3)
            await other.close()
            with pytest.raises(Disconnected):
                await waits

    asyncio.run(main())


def test_an_async_wait_for_a_registry_that_is_not_there_yet(process: ServerProcess) -> None:
    process.start()

    async def main() -> None:
        async with AsyncRegistryClient(process.endpoint, timeout=0.5) as client:
            with pytest.raises(RequestTimeout):
                await client.discover_service("PUNA", wait=1)
            with soon(process.start):
                assert await client.wait_for("PUNA", timeout=20) != {"PUNA": None}

    with RegistryClient(process.endpoint, timeout=10) as client:
        client.register("puna", "lab", 1, "PUNA", ttl=60)
    process.kill()
    asyncio.run(main())
