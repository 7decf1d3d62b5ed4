"""Servers and drivers that stop and go on, die, fork, or don't read; many of them at once."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import zmq

from rsreg import AsyncRegistryClient, InMemoryBackend, RegistryClient
from rsreg.errors import Disconnected, RequestTimeout
from rsreg.protocol.calls import Record
from tests.faults.net import end, fleet, percentile, seconds, spawn
from tests.helpers import (
    FAR,
    ServerProcess,
    printed,
    raw_socket,
    received,
    scripted_server,
    serving,
    start_program,
    wait_until,
)
from tests.usage import cpu_seconds, memory

HEALTH = b'{"action":"health"}'


def journal(client: RegistryClient) -> list[tuple[str, str]]:
    """What happened since the store was made: kind of event and service, in order."""
    events: list[Record] = []
    while True:
        more = client.events_since(events[-1]["seq"] if events else 0)["events"]
        if not more:
            return [(event["type"], event["data"]["service_id"]) for event in events]
        events += more


# -- servers that are away


@contextmanager
def beating_like_cgse(endpoint: str, service_id: str) -> Iterator[list[Record]]:
    """Renew from a REQ socket that is opened anew when no reply comes; yields the replies."""
    replies: list[Record] = []
    over = threading.Event()

    def beat() -> None:
        while not over.is_set():
            with raw_socket(zmq.REQ, endpoint) as socket:
                answered = True
                while answered and not over.wait(0.3):
                    socket.send(json.dumps({"action": "renew", "service_id": service_id}).encode())
                    answered = bool(socket.poll(500))
                    if answered:
                        replies.append(json.loads(socket.recv()))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield replies
    finally:
        over.set()
        thread.join()


def outlive(
    server: ServerProcess, way: signal.Signals, ttl: float, away: float, living: int, dying: int
) -> float:
    """Have services beat while the server is away, and some die; seconds until those are gone.

    Fails if anything happens to the living.
    """
    with ExitStack() as stack:
        watcher = stack.enter_context(RegistryClient(server.endpoint, timeout=20))
        _, alive = stack.enter_context(fleet(server.endpoint, living, ttl))
        old = watcher.register("old", "egse3", 5000, ttl=ttl)
        replies = stack.enter_context(beating_like_cgse(server.hb_endpoint, old))
        with fleet(server.endpoint, dying, ttl) as (_, dead):
            assert len(watcher.list_services()) == living + dying + 1
            server.signal(way)
            if way != signal.SIGSTOP:
                server.wait()
        time.sleep(away)  # It is the outage that is tested.
        if way == signal.SIGSTOP:
            server.signal(signal.SIGCONT)
        else:
            server.start()
        returned = time.monotonic()

        def others() -> int:
            found = {service["id"]: service["health"] for service in watcher.list_services()}
            assert {found.get(known) for known in (*alive, old)} == {"passing"}
            return len(found) - living - 1

        wait_until(lambda: others() == 0, timeout=30)
        took = time.monotonic() - returned
        while time.monotonic() - returned < took + ttl:
            assert others() == 0
            time.sleep(0.1)
        happened = journal(watcher)
    assert sorted(known for kind, known in happened if kind == "expire") == sorted(dead)
    assert len(happened) == living + 1 + 3 * dying
    assert all(reply["success"] for reply in replies)
    return took


def test_a_server_away_longer_than_the_ttl(
    full: bool, figure: Callable[..., None], tmp_path: Path
) -> None:
    """Nobody who lives is expired; who died meanwhile is, once, and soon."""
    ttl, living, dying = (3.0, 180, 20) if full else (1.5, 25, 5)
    away = 3 * ttl if full else 2.0
    ways = [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP]
    for way in ways if full else ways[:1]:
        with ServerProcess(tmp_path / f"{way.name}.db") as server:
            took = outlive(server, way, ttl, away, living, dying)
        if full:
            assert took < ttl + 0.5 + 1.5
        figure(
            f"server away for {away:g} s, ttl {ttl:g} s: {living + 1} services live, {dying} die "
            "meanwhile",
            way.name,
            "5, 6",
            f"0 of the living expired; the last of the dead gone {took:.1f} s after the return",
        )


def test_many_clients_come_back_at_once(
    full: bool, figure: Callable[..., None], process: ServerProcess
) -> None:
    count, ttl, away = (300, 6.0, 8.0) if full else (30, 1.5, 0.0)
    process.start()
    with (
        fleet(process.endpoint, count, ttl) as (beating, ids),
        RegistryClient(process.endpoint, timeout=20) as watcher,
    ):
        process.kill()
        gone = time.monotonic()
        for _ in ids:
            assert "heartbeat failed" in printed(beating)
        time.sleep(max(0.0, away - (time.monotonic() - gone)))  # It is the outage that is tested.
        process.start()
        returned = time.monotonic()
        assert process.process is not None
        before = cpu_seconds(process.process.pid)
        for _ in ids:
            assert "answers again" in printed(beating)
        took = time.monotonic() - returned
        used = cpu_seconds(process.process.pid) - before
        assert journal(watcher) == [("register", service_id) for service_id in ids]
    if full:
        assert took < 10
    figure(
        f"{count} clients come back at once",
        f"SIGKILL, server away for {away:g} s, ttl {ttl:g} s",
        "5",
        f"all renewed {took:.1f} s after the server was back, which used {used / took:.0%} of a "
        "core meanwhile",
    )


def follow_over_restarts(
    server: ServerProcess, new_store: bool, rounds: int, caplog: pytest.LogCaptureFixture
) -> list[float]:
    """Kill and start a server under a subscriber; seconds until it follows again, of each round.

    Fails if events are lost, but with a new store: then if the subscriber was not told.
    """
    stale = []
    heard: list[Record] = []
    with (
        RegistryClient(server.endpoint, timeout=2) as listening,
        RegistryClient(server.endpoint, timeout=20) as other,
    ):
        listening.on_any_event(heard.append)
        listening.start_event_listener()
        other.register("before", "egse3", 5000)
        wait_until(lambda: heard)
        for _ in range(rounds):
            caplog.clear()
            server.kill()
            if new_store:
                assert server.store is not None
                shutil.rmtree(server.store.parent)
            server.start()
            returned = time.monotonic()
            epoch, known = other.server_status()["epoch"], len(heard)

            def follows(epoch: str, known: int) -> bool:
                other.register("after", "egse3", 5000)
                return len(heard) > known and heard[-1]["epoch"] == epoch

            wait_until(partial(follows, epoch, known), timeout=30)
            stale.append(time.monotonic() - returned)
            assert ("missed for good" in caplog.text) == new_store
        last = other.server_status()["seq"]
        wait_until(lambda: heard[-1]["seq"] == last)
    numbers = [event["seq"] for event in heard if event["epoch"] == epoch]
    assert numbers == list(range(numbers[0] if new_store else 1, last + 1))
    return stale


def test_subscribers_follow_over_a_restart(
    full: bool, figure: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the same file no event is lost. An empty one has another epoch, and that is told."""
    for kind in ("an empty", "the same") if full else ("an empty",):
        new_store = kind == "an empty"
        with ServerProcess(tmp_path / kind / "registry.db") as server:
            stale = follow_over_restarts(server, new_store, 5 if full else 1, caplog)
        figure(
            f"server restarted on {kind} file under a subscriber",
            f"SIGKILL, {len(stale)} times",
            "7",
            f"follows again {max(stale):.1f} s after the server is back; "
            + ("says that it missed some" if new_store else "no event lost"),
        )


# -- drivers that stop


def test_a_driver_stopped_and_continued_comes_back(
    full: bool, figure: Callable[..., None], process: ServerProcess
) -> None:
    ttl = 3.0 if full else 1.0
    process.start()
    with (
        fleet(process.endpoint, 1, ttl) as (driver, [service_id]),
        RegistryClient(process.endpoint, timeout=20) as watcher,
    ):
        driver.send_signal(signal.SIGSTOP)
        wait_until(lambda: watcher.get_service(service_id) is None)
        driver.send_signal(signal.SIGCONT)
        took = seconds(lambda: wait_until(lambda: watcher.discover_service("FLEET")))
        assert service_id in printed(driver)
        assert journal(watcher)[:4] == [
            (kind, service_id) for kind in ("register", "critical", "expire", "register")
        ]
    figure(
        "driver stopped for longer than its ttl, and continued",
        f"SIGSTOP and SIGCONT, ttl {ttl:g} s",
        "6",
        f"registered again under its id after {took:.2f} s",
    )


def test_a_driver_that_holds_the_gil(full: bool, figure: Callable[..., None]) -> None:
    """The heartbeat thread can't run meanwhile: a ttl of five times the longest call is needed."""
    call = 3.0 if full else 0.4
    for pause in (0.0, 0.1) if full else (0.0,):
        renewed: list[float] = []

        def answer(request: Record, renewed: list[float] = renewed) -> Record:
            if request["action"] == "renew":
                renewed.append(time.monotonic())
            return {"success": True, "services": [], "service_id": "driver"}

        with scripted_server(answer) as endpoint:
            driver = start_program("holds_interpreter", endpoint, call, pause)
            try:
                assert driver.wait(60) == 0
            finally:
                end(driver)
        gap = max(later - earlier for earlier, later in pairwise(renewed))
        assert gap < 5 * call + (0 if full else 2)
        figure(
            f"driver holds the GIL for {call:g} s at a time, "
            + (f"with {pause:g} s in between" if pause else "again and again"),
            "`ctypes.PyDLL(None).usleep`",
            "5",
            f"longest time without a heartbeat {gap:.1f} s at a ttl of {5 * call:g} s",
        )


# -- clients that don't do their part


def test_clients_are_gone_before_their_reply(
    full: bool, figure: Callable[..., None], process: ServerProcess
) -> None:
    count = 500 if full else 20
    process.start()
    info = {"name": "gone", "host": "egse3", "port": 5000}
    request = json.dumps({"action": "register", "service_info": info}).encode()
    with RegistryClient(process.endpoint, timeout=20) as client, zmq.Context() as context:
        sockets = [context.socket(zmq.DEALER) for _ in range(count)]
        for socket in sockets:
            socket.connect(process.endpoint)
            socket.send_multipart([b"", HEALTH])
            received(socket)
        process.signal(signal.SIGSTOP)
        for socket in sockets:
            socket.send_multipart([b"", request])
            # What was sent goes out; who sent it does not wait.
            socket.close(linger=20_000)
        context.term()
        process.signal(signal.SIGCONT)
        took = seconds(lambda: wait_until(lambda: len(client.list_services()) == count))
        assert client.health_check()
        dropped = client.server_status()["dropped_replies"]
    figure(
        f"{count} clients gone before their reply",
        "send and close while the server is stopped",
        "8",
        f"all requests done within {took:.2f} s, {dropped} replies counted as not delivered",
    )


def test_clients_that_never_read(
    full: bool, figure: Callable[..., None], process: ServerProcess
) -> None:
    """Each may cost as many replies as are queued for it, and no more."""
    deaf, services = (10, 500) if full else (2, 100)
    process.start()
    with RegistryClient(process.endpoint, timeout=20) as client, ExitStack() as stack:
        for number in range(services):
            client.register(f"service {number}", "egse3", 5000)
        size = len(json.dumps(client.list_services()))
        assert process.process is not None
        before = memory(process.process.pid)
        sockets = [
            stack.enter_context(raw_socket(zmq.DEALER, process.endpoint, rcvhwm=1))
            for _ in range(deaf)
        ]
        times: list[float] = []

        def flood() -> bool:
            for socket in sockets:
                for _ in range(50):
                    with suppress(zmq.Again):
                        socket.send_multipart([b"", b'{"action":"list"}'], zmq.DONTWAIT)
            times.append(seconds(client.health_check))
            return int(client.server_status()["dropped_replies"]) > 0

        if full:
            # What waits for their address is bounded by its bytes: lists are refused before
            # their number makes replies be lost.
            until = time.monotonic() + 20
            while time.monotonic() < until:
                flood()
        else:
            wait_until(flood)
        grown = memory(process.process.pid) - before
    # Queued for each: ROUTER's limit of 200, and what the kernel keeps outside of the process.
    assert grown < 1.5 * deaf * 200 * size + 20e6
    assert max(times) < 5
    figure(
        f"{deaf} clients ask for lists of {size / 1000:.0f} kB and never read",
        "raw DEALER sockets",
        "8",
        f"health for others within {max(times):.2f} s, memory of the server + {grown / 1e6:.0f} MB",
    )


def test_an_identity_is_used_twice(endpoint: str) -> None:
    """CGSE's clients set one and reconnect under it; the newest has it, and our clients set none.

    The first connection is not closed, as after a cut: no reply must be kept for it.
    """
    with (
        raw_socket(zmq.DEALER, endpoint, identity=b"cgse") as first,
        raw_socket(zmq.DEALER, endpoint, identity=b"other") as other,
        RegistryClient(endpoint, timeout=20, client_id="cgse") as ours,
        RegistryClient(endpoint, timeout=20, client_id="cgse") as ours_too,
    ):
        first.send_multipart([b"REQ", HEALTH])
        assert json.loads(received(first)[-1])["status"] == "ok"
        kept = ours.register("ours", "egse3", 5000, "OURS")
        for _ in range(5):
            with raw_socket(zmq.DEALER, endpoint, identity=b"cgse") as again:
                again.send_multipart([b"REQ", HEALTH])
                assert json.loads(received(again)[-1])["status"] == "ok"
                for client in (ours, ours_too):
                    found = client.discover_service("OURS")
                    assert found is not None
                    assert found["id"] == kept
        other.send_multipart([b"REQ", HEALTH])
        assert json.loads(received(other)[-1])["status"] == "ok"
        assert not first.poll(0)


# -- subscribers that are slow, or late


def test_events_too_large_for_one_reply_are_caught_up_with() -> None:
    """The journal of 600 of the largest services is more than a client takes in one message."""
    go_on = threading.Event()
    heard: list[int] = []

    def slow(event: Record) -> None:
        heard.append(event["seq"])
        go_on.wait(60)

    with ExitStack() as stack:
        store = InMemoryBackend(journal_bytes=100 * 1024 * 1024)
        server = stack.enter_context(serving(backend=store, limits=FAR))
        endpoint = f"127.0.0.1:{server.req_port}"
        # Nothing is published there: all comes by the journal.
        nowhere = RegistryClient(endpoint, "tcp://127.0.0.1:1", timeout=10)
        client = stack.enter_context(nowhere)
        other = stack.enter_context(RegistryClient(endpoint, timeout=20))
        client.on_any_event(slow)
        client.start_event_listener()
        other.register("first", "egse3", 5000)
        wait_until(lambda: heard)
        for _ in range(600):
            other.register("large", "egse3", 5000, None, {"x": 60_000 * "x"}, service_id="large")
        go_on.set()
        wait_until(lambda: len(heard) == 601)
        assert heard == list(range(1, 602))


def test_a_subscriber_that_stops_reading(
    full: bool,
    figure: Callable[..., None],
    process: ServerProcess,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It loses events and knows; the journal does not reach back over 50,000. Others lose none."""
    if not full:
        pytest.skip("long form only; test_client has lost events, test_subscription the rules")
    process.start()
    count = 50_000
    seen: dict[str, list[int]] = {"good": [], "slow": []}
    go_on = threading.Event()

    def slow(event: Record) -> None:
        seen["slow"].append(event["seq"])
        go_on.wait(600)

    with (
        RegistryClient(process.endpoint, timeout=20) as good,
        RegistryClient(process.endpoint, timeout=20) as blocked,
        raw_socket(zmq.SUB, f"tcp://127.0.0.1:{process.ports[1]}", subscribe=b"") as deaf,
        raw_socket(zmq.DEALER, process.endpoint) as writer,
    ):
        received(deaf, 20) if deaf.poll(0) else None
        good.on_any_event(lambda event: seen["good"].append(event["seq"]))
        blocked.on_any_event(slow)
        for client in (good, blocked):
            client.start_event_listener()
        assert process.process is not None
        before = memory(process.process.pid)
        started = time.monotonic()
        info = {"id": "busy", "name": "busy", "host": "egse3", "port": 5000}
        request = json.dumps({"action": "register", "service_info": info}).encode()
        for number in range(count):
            writer.send_multipart([b"", request])
            if number >= 100:
                received(writer, 60)
        wait_until(lambda: len(seen["good"]) == count, timeout=120)
        took = time.monotonic() - started
        grown = memory(process.process.pid) - before
        assert seen["good"] == list(range(1, count + 1))
        assert "missed for good" not in caplog.text
        go_on.set()
        wait_until(lambda: "missed for good" in caplog.text, timeout=60)
        good.register("last", "egse3", 5000)
        wait_until(lambda: seen["slow"][-1] == count + 1)
    jumps = [(one, other) for one, other in pairwise(seen["slow"]) if other != one + 1]
    assert len(jumps) == 1 == caplog.text.count("missed for good")
    [(until, again)] = jumps
    assert until < again
    figure(
        f"subscribers stop reading while {count} events come",
        "a raw SUB and a handler that blocks",
        "7, 8",
        f"another subscriber hears all of them once and in order ({count / took:.0f} a second); "
        f"the blocked one those up to #{until}, then says that it missed some, and goes on at "
        f"#{again}; memory of the server + {grown / 1e6:.0f} MB",
    )


def test_the_first_event_after_a_subscription_is_heard(
    endpoint: str, full: bool, figure: Callable[..., None]
) -> None:
    times = []
    with RegistryClient(endpoint, timeout=20) as other:
        for number in range(200 if full else 5):
            heard: list[Record] = []
            with RegistryClient(endpoint, timeout=20) as late:
                late.on_event("register", heard.append)
                late.start_event_listener()
                first = other.register(f"svc-{number}", "egse3", 5000)
                times.append(seconds(lambda heard=heard: wait_until(lambda: heard)))
            assert [data["service_id"] for data in heard] == [first]
    figure(
        "event right after the subscription",
        f"{len(times)} new subscribers, a registration at once",
        "7",
        f"each heard; p50 {1000 * percentile(times, 0.5):.0f} ms, slowest "
        f"{1000 * max(times):.0f} ms",
    )


# -- processes and threads


def test_forks_and_other_processes(
    full: bool, figure: Callable[..., None], process: ServerProcess
) -> None:
    rounds = 30 if full else 2
    process.start()
    driver = spawn("forks.py", process.endpoint, rounds)
    try:
        started = time.monotonic()
        assert printed(driver) == "done"
        said = time.monotonic()
        assert driver.wait(20) == 0
        exit_took = time.monotonic() - said
    finally:
        end(driver)
    with RegistryClient(process.endpoint, timeout=20) as client:
        assert client.discover_service("PARENT") is not None
        kinds = {kind for kind, _ in journal(client)}
    assert kinds == {"register", "deregister"}
    assert exit_took < 10
    figure(
        f"{rounds} forks, pools by fork and by spawn; heartbeat, listener and a busy thread "
        "running",
        "`os.fork`, `multiprocessing`",
        "5",
        f"parent undisturbed, children have fresh sockets; exit {exit_took:.2f} s after the end, "
        f"{said - started:.1f} s in all",
    )


def test_threads_share_a_client(
    full: bool, figure: Callable[..., None], process: ServerProcess
) -> None:
    if not full:
        pytest.skip("its short form is in test_client")
    process.start()
    with RegistryClient(process.endpoint, timeout=20) as client:
        for number in range(100):
            client.register(f"svc-{number}", "egse3", 5000, f"TYPE-{number}")

        def ask(thread: int) -> int:
            wrong = 0
            for turn in range(2000):
                number = (thread * 31 + turn) % 100
                found = client.discover_service(f"TYPE-{number}")
                wrong += found is None or found["name"] != f"svc-{number}"
            return wrong

        started = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(ask, range(4))) == 0
        took = time.monotonic() - started
    figure("4 threads share a client", "2,000 calls each", "1", f"0 wrong in {took:.1f} s")


def test_close_during_a_call_with_the_registry_stopped(
    full: bool, figure: Callable[..., None], process: ServerProcess
) -> None:
    """With all that a client has running; from as many threads as like."""
    process.start()
    times, calls = [], []
    for _ in range(5 if full else 1):
        client = RegistryClient(process.endpoint, timeout=20)
        client.register("driver", "egse3", 5000, ttl=30)
        client.start_heartbeat(0.05)
        client.start_event_listener()
        client.settings.timeout = 2.0
        process.signal(signal.SIGSTOP)
        with ThreadPoolExecutor() as pool:
            call = pool.submit(seconds, lambda client=client: ended(client.list_services))
            wait_until(lambda client=client: client._connection._holder)
            closing_took = [pool.submit(seconds, client.close) for _ in range(3)]
            times += [done.result(20) for done in closing_took]
            calls.append(call.result(20))
        with pytest.raises(Disconnected):
            client.list_services()
        process.signal(signal.SIGCONT)
    assert max(times) < (1 if full else 3)
    assert max(calls) < 4
    figure(
        "`close()` during a call of another thread, heartbeat and listener running",
        "SIGSTOP of the server",
        "2",
        f"returns within {max(times):.2f} s; the call, with a timeout of 2 s, within "
        f"{max(calls):.2f} s",
    )


def ended(call: Callable[[], object]) -> None:
    """Make a call that has to end as those on a closed client do."""
    with pytest.raises((RequestTimeout, Disconnected)):
        call()


def test_close_during_a_call_of_another_task() -> None:
    async def run(endpoint: str) -> None:
        client = AsyncRegistryClient(endpoint, timeout=0.6)
        calls = [asyncio.create_task(client.list_services()) for _ in range(2)]
        await asyncio.wait(calls, timeout=0.1)
        await client.close()
        with pytest.raises(Disconnected):
            await client.list_services()
        for call in calls:
            with pytest.raises((RequestTimeout, Disconnected)):
                await call

    with scripted_server(lambda _request: None) as silent:
        asyncio.run(run(silent))


def test_programs_end_with_everything_running_and_the_registry_stopped(
    figure: Callable[..., None], process: ServerProcess
) -> None:
    process.start()
    times = {}
    with ExitStack() as stack:
        programs = {}
        for way in ("thread", "exit", "patched", "green", "asyncio"):
            programs[way] = start_program("ends_with_everything_running", process.endpoint, way)
            stack.callback(end, programs[way])
        for program in programs.values():
            assert printed(program) == "ready"
        process.signal(signal.SIGSTOP)
        for name, program in programs.items():
            started = time.monotonic()
            assert program.stdin is not None
            program.stdin.write("\n")
            program.stdin.flush()
            assert program.wait(20) == 0, name
            times[name] = time.monotonic() - started
    assert max(times.values()) < 8, times
    figure(
        "programs end with heartbeat, listener and a call running",
        "SIGSTOP of the server; " + ", ".join(times),
        "2",
        f"all end within {max(times.values()):.2f} s",
    )
