"""Threads of ours end when they are told to; what goes wrong on the way is said, and is ours."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rsreg import AsyncRegistryClient, RegistryClient, ServiceCache
from rsreg.client.registration.heartbeat import HeartbeatRules
from rsreg.protocol.calls import Call
from rsreg.system.background import Caught, keep_on
from rsreg.system.threads import Stop
from rsreg.transport.async_event_stream import AsyncEventStream
from rsreg.transport.event_stream import EventStream
from tests.helpers import ServerProcess, printed, program, start_program, wait_until


@contextmanager
def child(name: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A file of tests/programs that runs, and is killed in the end."""
    process = start_program(name, *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def go_on(process: subprocess.Popen[str]) -> None:
    """Let a process get beyond its `wait_for_test`."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_driver_without_file_descriptors_outlasts_a_restart(process: ServerProcess) -> None:
    process.start()
    with (
        RegistryClient(process.endpoint, timeout=10) as watcher,
        child("driver_without_descriptors", process.endpoint) as driver,
    ):
        assert printed(driver) == "up"
        go_on(driver)
        assert printed(driver) == "full"
        process.kill()
        # Each of its sockets is closed after a timeout, and none can be opened.
        time.sleep(4)
        go_on(driver)
        assert printed(driver) in ("Disconnected False", "RequestTimeout False")
        process.start()
        time.sleep(1)
        go_on(driver)
        assert printed(driver) == "free"
        wait_until(lambda: watcher.discover_service("puna_cs") or passing(watcher, "puna_cs"))
        # Only what comes after that is sure to be heard.
        time.sleep(6)
        watcher.register("late", "127.0.0.1", 5001)
        go_on(driver)
        assert printed(driver) == "late puna_cs True"


def passing(client: RegistryClient, name: str) -> bool:
    """Whether a service of this name is passing."""
    return any(
        service["name"] == name and service["health"] == "passing"
        for service in client.list_services()
    )


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_who_has_no_file_descriptors_is_told(endpoint: str, spare: int) -> None:
    """None of them is an error of ZeroMQ or of the system, or an end of the process."""
    with child("calls_without_descriptors", endpoint, spare) as process:
        assert printed(process) == "[]"


@pytest.mark.parametrize("spare", [0, 2, 4, 6])
def test_the_first_call_of_a_process_without_file_descriptors(endpoint: str, spare: int) -> None:
    """To start the threads of ZeroMQ would end the process."""
    with child("first_call_without_descriptors", endpoint, spare) as process:
        assert "ulimit" in printed(process)
        assert printed(process) == "0"


def test_a_heartbeat_begins_without_file_descriptors(endpoint: str, client: RegistryClient) -> None:
    with child("heartbeat_without_descriptors", endpoint) as process:
        assert printed(process) == "free"
        time.sleep(3)
        assert passing(client, "puna_cs")


def test_more_sockets_than_a_context_has(endpoint: str) -> None:
    with child("context_without_sockets", endpoint) as process:
        assert printed(process) == "True True"


class Broken(logging.Handler):
    """A handler of logging that raises, as one does whose stream is closed."""

    def emit(self, _record: logging.LogRecord) -> None:
        raise ValueError("I/O operation on closed file")


@pytest.fixture
def broken_logging() -> Iterator[None]:
    """Nothing can be logged."""
    handler = Broken()
    logging.getLogger("rsreg").addHandler(handler)
    yield
    logging.getLogger("rsreg").removeHandler(handler)


@pytest.mark.usefixtures("broken_logging")
def test_a_heartbeat_lasts_where_nothing_can_be_logged(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        client.register("puna_cs", "127.0.0.1", 5000, ttl=1)
        client.start_heartbeat()
        process.kill()
        time.sleep(3)
        process.start()
        time.sleep(2)
        wait_until(lambda: passing(client, "puna_cs"))


def fails(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: Exception, times: int
) -> list[int]:
    """Have a method raise so many times; how often it was called."""
    whole: Callable[..., Any] = getattr(owner, name)
    calls: list[int] = []

    def failing(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return whole(*arguments, **named)

    monkeypatch.setattr(owner, name, failing)
    return calls


@pytest.mark.parametrize("error", [RuntimeError("a bug"), MemoryError(), OSError(24, "too many")])
@pytest.mark.parametrize("where", ["beat", "due", "on_success"])
def test_a_heartbeat_lasts_whatever_is_raised_in_it(
    client: RegistryClient,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    where: str,
) -> None:
    with RegistryClient(endpoint, timeout=10) as driver:
        driver.register("puna_cs", "127.0.0.1", 5000, ttl=2)
        calls = fails(monkeypatch, HeartbeatRules, where, error, 3)
        driver.start_heartbeat(0.3)
        wait_until(lambda: len(calls) > 5)
        assert passing(client, "puna_cs")
        said = [record for record in caplog.records if "retrying" in record.message]
        assert len(said) == 1, caplog.text
        assert "puna_cs" in said[0].message


def test_a_listener_and_a_cache_last(
    client: RegistryClient, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    with RegistryClient(endpoint, timeout=10) as follower, ServiceCache(endpoint) as cache:
        follower.on("register", lambda data: heard.append(data["service_info"]["name"]))
        follower.on("register", lambda _data: sys.exit("a handler has no say in that"))
        calls = fails(monkeypatch, EventStream, "next", RuntimeError("a bug"), 4)
        client.register("first", "127.0.0.1", 5000)
        wait_until(lambda: len(calls) > 4)
        client.register("second", "127.0.0.1", 5000)
        wait_until(lambda: heard == ["first", "second"])
        wait_until(lambda: len(cache.list_services()) == 2)


def test_a_listener_of_asyncio_lasts(
    client: RegistryClient, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    async def run() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as follower:
            await follower.on("register", lambda data: heard.append(data["service_info"]["name"]))
            calls = fails(monkeypatch, AsyncEventStream, "next", RuntimeError("a bug"), 2)
            await follower.register("first", "127.0.0.1", 5000)
            while not (len(calls) > 2 and heard):
                await asyncio.sleep(0.02)
            client.register("second", "127.0.0.1", 5001)
            while heard != ["first", "second"]:
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_cache_of_a_client_starts_after_all(
    client: RegistryClient, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service_id = client.register("puna_cs", "127.0.0.1", 5000)
    calls = fails(monkeypatch, ServiceCache, "start", RuntimeError("a bug"), 2)
    monkeypatch.setattr(ServiceCache, "start", ServiceCache.start)
    asked: list[str] = []
    with RegistryClient(endpoint, timeout=10, cache=True) as cached:
        run = cached._connection.run

        def noted(call: Call[Any], *rest: Any) -> Any:
            asked.append(call.action)
            return run(call, *rest)

        monkeypatch.setattr(cached._connection, "run", noted)

        def from_cache() -> bool:
            asked.clear()
            assert cached.get_service(service_id)
            return not asked

        wait_until(from_cache)
    assert len(calls) == 3


def test_what_fails_is_said_once_until_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="rsreg")
    log, stop = logging.getLogger("rsreg.test"), Stop()
    outcomes = iter([None, OSError("x"), ValueError("y"), None, None, OSError("z"), None])

    def step() -> None:
        outcome = next(outcomes, stop)
        if outcome is stop:
            stop.set()
        elif isinstance(outcome, Exception):
            raise outcome

    pauses: list[float] = []
    keep_on(step, stop, log, "it", pauses.append)
    assert caplog.messages == [
        "it failed, retrying: OSError('x')",
        "it works again",
        "it failed, retrying: OSError('z')",
        "it works again",
    ]
    assert len(pauses) == 3
    assert pauses[1] > pauses[0] / 2


def test_what_ends_a_program_is_not_caught() -> None:
    with pytest.raises(KeyboardInterrupt), Caught():
        raise KeyboardInterrupt
    with pytest.raises(SystemExit), Caught():
        raise SystemExit


def test_threads_that_come_at_once_get_one_context() -> None:
    """Those that were made in vain are closed: Python would warn of them, or wait for them."""
    done = subprocess.run(
        program("threads_ask_for_contexts", options=["-X", "dev", "-W", "error"]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("10\n", "")
