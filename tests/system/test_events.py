"""Watching: `watch`, `on` and handlers, sync and async, against real servers."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import gevent
import pytest
import zmq.green

from rsreg import AsyncRegistryClient, InMemoryBackend, RegistryClient
from rsreg.errors import ConfigurationError, RequestTimeout
from rsreg.protocol.calls import Record
from tests.helpers import ServerProcess, received, scripted_server, serving, ticking, wait_until


def test_watch_gives_every_event_from_the_call_on(client: RegistryClient, endpoint: str) -> None:
    client.register("before", "lab", 1)
    events = client.watch()
    with RegistryClient(endpoint, timeout=10) as other:
        for number in range(20):
            other.deregister(other.register(f"svc-{number}", "lab", 1))
    got = [next(events) for _ in range(40)]
    assert [one["seq"] for one in got] == list(range(2, 42))
    assert got[0]["type"] == "register"
    assert got[0]["data"]["service_info"]["name"] == "svc-0"
    assert {"type", "timestamp", "data", "seq", "epoch"} <= got[0].keys()
    events.close()


def test_a_watch_of_a_type_has_what_is_found_under_it(client: RegistryClient) -> None:
    events = client.watch("PUNA")
    client.register("camera", "lab", 1, "CAMERA")
    client.register("typed", "lab", 1, "PUNA")
    client.register("tagged", "lab", 1, "OTHER", tags=["PUNA"])
    client.register("described", "lab", 1, metadata={"type": "PUNA"})
    client.deregister()
    names = [next(events)["data"]["service_info"]["name"] for _ in range(4)]
    assert names == ["typed", "tagged", "described", "described"]
    events.close()


def test_a_watch_begins_where_it_is_told(client: RegistryClient) -> None:
    for number in range(5):
        client.register(f"svc-{number}", "lab", 1)
    position = client.events_since()
    events = client.watch(since=2, epoch=position["epoch"])
    assert [next(events)["seq"] for _ in range(3)] == [3, 4, 5]
    client.register("later", "lab", 1)
    assert next(events)["seq"] == 6
    events.close()


def test_a_long_past_is_replayed_in_full(client: RegistryClient, endpoint: str) -> None:
    """More than one answer holds."""
    for _ in range(1_200):
        client.register("svc", "lab", 1, service_id="svc")
    events = client.watch(since=0)
    assert [next(events)["seq"] for _ in range(1_200)] == list(range(1, 1_201))
    events.close()


def test_a_past_that_the_journal_has_forgotten_is_said() -> None:
    with (
        serving(backend=InMemoryBackend(journal_events=20)) as server,
        RegistryClient(f"127.0.0.1:{server.req_port}", timeout=10) as client,
    ):
        for _ in range(100):
            client.register("svc", "lab", 1, service_id="svc")
        position = client.events_since()
        pasts: list[dict[str, Any]] = [{"since": 1}, {"since": 100, "epoch": "another"}]
        for options in pasts:
            events = client.watch("NOTHING", **options)
            reset = next(events)
            assert reset == {
                "type": "reset",
                "data": {},
                "seq": 100,
                "epoch": position["epoch"],
                "mark": position["mark"],
            }
            events.close()


def test_what_can_not_be_watched_is_refused_at_once() -> None:
    client = RegistryClient("127.0.0.1:1", timeout=5)
    started = time.monotonic()
    wrongs: list[dict[str, Any]] = [
        {"since": -1},
        {"since": 1.5},
        {"since": True},
        {"epoch": "e"},
        {"type": ""},
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigurationError):
            client.watch(**wrong)
    assert time.monotonic() - started < 2


def test_a_registry_that_is_not_there_is_said_at_once() -> None:
    with RegistryClient("127.0.0.1:1", timeout=0.2) as client, pytest.raises(RequestTimeout):
        client.watch()


def test_a_registry_that_goes_away_is_waited_for(
    process: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rsreg.transport.subscription")
    process.start()
    with RegistryClient(process.endpoint, timeout=0.5) as client:
        got: list[str] = []

        def follow() -> None:
            got.extend(event["data"]["service_info"]["name"] for event in client.watch(since=0))

        def register(name: str) -> None:
            with RegistryClient(process.endpoint, timeout=10) as other:
                other.register(name, "lab", 1)

        register("before")
        thread = threading.Thread(target=follow)
        thread.start()
        wait_until(lambda: got == ["before"])
        process.kill()
        wait_until(lambda: "lost the event stream" in caplog.text)
        process.start()
        register("after")
        wait_until(lambda: got == ["before", "after"])
        client.close()
        thread.join(5)
        assert not thread.is_alive(), "a watch ends when its client is closed"
    wait_until(lambda: "the registry answers again" in caplog.text)
    assert len(caplog.records) == 2, caplog.text


class Unanswered:
    """A registry that publishes, and lets every question but the first wait until `answer` is set.

    It is at event 5 when it is first asked; later answers tell of the events 6 to 9.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answer = threading.Event()
        self._first = True
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._publisher = context.socket(zmq.XPUB)
        self._publisher.linger = 0
        self.pub_port: int = self._publisher.bind_to_random_port("tcp://127.0.0.1")
        self._serving = scripted_server(self._answer)
        self.endpoint = ""

    def __enter__(self) -> Unanswered:
        self.endpoint = self._serving.__enter__()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.answer.set()
        self._serving.__exit__(None, None, None)
        self._publisher.close()

    def publish_when_asked(self, *seqs: int) -> None:
        """Send events of these numbers once a question waits."""
        assert self.asked.wait(20)
        for seq in seqs:
            self._publisher.send_multipart([b"register", json.dumps(numbered(seq)).encode()])

    def has_subscriber(self) -> bool:
        """Wait for one."""
        return received(self._publisher) == [b"\x01"]

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["action"] == "info":
            return {"success": True, "pub_port": self.pub_port}
        seqs: list[int] = []
        if self._first:
            self._first = False
        else:
            self.asked.set()
            self.answer.wait(60)
            seqs = [seq for seq in range(6, 10) if seq > request["since"]]
        seq = max([*seqs, request.get("since", 5)])
        events = [numbered(each) for each in seqs]
        return {"success": True, "events": events, "reset": False, "seq": seq, "epoch": "e"}


def numbered(seq: int) -> Record:
    """An event as it is sent."""
    about: Record = {"type": None, "tags": [], "metadata": {}}
    data = {"service_id": str(seq), "service_info": about}
    return {"type": "register", "timestamp": 1, "data": data, "seq": seq, "epoch": "e"}


@pytest.mark.parametrize("green", [False, True])
def test_events_do_not_wait_for_answers(green: bool) -> None:
    """In order, once each: what has no gap before it at once, the rest after the answer."""
    context: Any = zmq.green.Context.instance() if green else None
    with Unanswered() as registry:
        client = RegistryClient(registry.endpoint, timeout=60, context=context)
        events = client.watch()
        assert registry.has_subscriber()
        # Asked when a first silence is over, in the client's first step.
        publishing = threading.Thread(target=registry.publish_when_asked, args=(6, 7, 9, 10))
        publishing.start()
        started = time.monotonic()
        assert [next(events)["seq"] for _ in range(2)] == [6, 7]
        assert time.monotonic() - started < 15, "not only when the question is sent again"
        publishing.join()
        registry.answer.set()
        assert [next(events)["seq"] for _ in range(3)] == [8, 9, 10]
        events.close()
        client.close()


def test_a_watch_leaves_nothing_behind(client: RegistryClient) -> None:
    """Closed, forgotten in the middle, and never begun."""
    client.health_check()

    def one(how: int) -> None:
        events = client.watch()
        if how:
            client.register("svc", "lab", 1, service_id="svc")
            next(events)
        if how == 1:
            events.close()
        del events
        gc.collect()

    one(0)
    before = len(os.listdir("/proc/self/fd"))
    for how in (0, 1, 2) * 4:
        one(how)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_a_green_watch_lets_other_greenlets_run(process: ServerProcess) -> None:
    process.start()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.green.Context.instance()
    with (
        RegistryClient(process.endpoint, timeout=10, context=context) as client,
        RegistryClient(process.endpoint, timeout=10) as other,
        ticking() as ticks,
    ):
        events = client.watch()
        got = gevent.spawn(lambda: next(events))
        gevent.sleep(0.5)
        assert len(ticks) > 10
        other.register("svc", "lab", 1)
        assert got.get(timeout=20)["data"]["service_info"]["name"] == "svc"
        events.close()


# -- on


def test_on_listens_and_its_handlers_may_call_the_client(client: RegistryClient) -> None:
    heard: list[tuple[str, bool]] = []
    whole: list[int] = []
    client.on("register", lambda data: heard.append((data["service_id"], client.health_check())))
    client.on("*", lambda event: whole.append(event["seq"]))

    @client.on("deregister")
    def left(data: Record) -> None:
        heard.append((f"no {data['service_id']}", client.get_service(data["service_id"]) is None))

    assert callable(left)
    for number in range(3):
        client.register("svc", "lab", 1, service_id=f"svc-{number}")
    client.deregister()
    wait_until(lambda: len(heard) == len(whole) == 4)
    assert heard == [("svc-0", True), ("svc-1", True), ("svc-2", True), ("no svc-2", True)]
    assert whole == [1, 2, 3, 4]
    client.stop_event_listener()


def test_on_without_a_registry_registers_no_handler(process: ServerProcess) -> None:
    process.start()
    process.kill()
    heard: list[Any] = []
    with RegistryClient(process.endpoint, timeout=0.2) as client:
        with pytest.raises(RequestTimeout):
            client.on("register", heard.append)
        process.start()
        client.settings.timeout = 10
        client.on("register", heard.append)
        client.register("svc", "lab", 1)
        wait_until(lambda: heard)
        client.deregister()
        client.register("svc", "lab", 1)
        wait_until(lambda: len(heard) == 2)


def test_handlers_are_told_of_what_is_lost_for_good(tmp_path: Path) -> None:
    with ServerProcess() as process, RegistryClient(process.endpoint, timeout=10) as client:
        heard: list[Any] = []
        client.on("reset", heard.append)
        client.on("*", lambda event: heard.append(event["type"]))
        client.register("svc", "lab", 1)
        wait_until(lambda: heard == ["register"])
        process.kill()
        process.start()
        client.register("svc", "lab", 1)
        wait_until(lambda: "reset" in heard)
        assert heard[1:3] == ["reset", {}]


# -- asyncio


def test_an_async_watch(endpoint: str, client: RegistryClient) -> None:
    async def main() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as other:
            events = other.watch("PUNA", since=0)
            client.register("camera", "lab", 1, "CAMERA")
            client.register("puna", "lab", 1, "PUNA")
            assert (await anext(events))["data"]["service_info"]["name"] == "puna"
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            client.deregister()
            assert (await asyncio.wait_for(waiting, 20))["type"] == "deregister"
            await events.aclose()
            with pytest.raises(ConfigurationError):
                other.watch(since=-1)
            left = [event async for event in end_soon(other)]
            assert left == []

    async def end_soon(other: AsyncRegistryClient) -> Any:
        asyncio.get_running_loop().create_task(close_later(other))
        async for event in other.watch():
            yield event

    async def close_later(other: AsyncRegistryClient) -> None:
        await asyncio.sleep(0.2)
        await other.close()

    asyncio.run(main())


def test_async_events_do_not_wait_for_answers() -> None:
    async def main(registry: Unanswered) -> None:
        async with AsyncRegistryClient(registry.endpoint, timeout=60) as client:
            events = client.watch()
            first = asyncio.ensure_future(anext(events))
            assert await asyncio.to_thread(registry.has_subscriber)
            await asyncio.to_thread(registry.publish_when_asked, 6, 7, 9, 10)
            assert (await asyncio.wait_for(first, 15))["seq"] == 6
            assert (await asyncio.wait_for(anext(events), 15))["seq"] == 7
            registry.answer.set()
            assert [(await anext(events))["seq"] for _ in range(3)] == [8, 9, 10]
            await events.aclose()

    with Unanswered() as registry:
        asyncio.run(main(registry))


def test_async_on_listens(endpoint: str, client: RegistryClient) -> None:
    async def main() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as other:
            heard: asyncio.Queue[str] = asyncio.Queue()

            async def handler(data: Record) -> None:
                assert await other.health_check()
                await heard.put(data["service_info"]["name"])

            await other.on("register", handler)
            await other.on("*", lambda event: heard.put_nowait(event["type"]))
            client.register("svc", "lab", 1)
            told = [await asyncio.wait_for(heard.get(), 20) for _ in range(2)]
            assert told == ["register", "svc"]

    asyncio.run(main())
