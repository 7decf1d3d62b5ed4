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
from tests.helpers import ServerProcess, printed, python_process, wait_until

#: Takes all the file descriptors that a process may have, and gives them back.
FULL = """
import asyncio, errno, gc, logging, os, resource, time
from contextlib import contextmanager
from rsreg import AsyncRegistryClient, RegistryClient, ServiceCache
from rsreg.errors import Disconnected, RegistryError

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
@contextmanager
def full(spare=0):
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        assert error.errno == errno.EMFILE
    for _ in range(spare):
        os.close(taken.pop())
    try:
        yield
    finally:
        for each in taken:
            os.close(each)
def wait():
    assert sys.stdin.readline(), "the test has ended"
"""


@contextmanager
def child(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed in the end."""
    process = python_process(code, *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def go_on(process: subprocess.Popen[str]) -> None:
    """Let a process get beyond its `wait`."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_driver_without_file_descriptors_outlasts_a_restart(process: ServerProcess) -> None:
    code = f"""{FULL}
logging.basicConfig(stream=sys.stderr)
client = RegistryClient(sys.argv[1], timeout=0.5)
heard = []
client.on("register", lambda data: heard.append(data["service_info"]["name"]))
with (
    ServiceCache(sys.argv[1], timeout=0.5) as cache,
    client.registered("puna_cs", "127.0.0.1", 5000, ttl=1.5),
):
    print("up", flush=True)
    wait()
    with full():
        print("full", flush=True)
        wait()
        said = []
        for ask in (client.list_services, client.health_check):
            try:
                said.append(ask())
            except RegistryError as error:
                said.append(type(error).__name__)
        print(*said, flush=True)
        wait()
    print("free", flush=True)
    wait()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            # They follow the registry each by itself.
            names = [service["name"] for service in cache.list_services()]
            if "late" in names and "late" in heard:
                break
        except RegistryError:
            pass
        time.sleep(0.05)
    names = sorted(service["name"] for service in cache.list_services())
    print(*names, "late" in heard, flush=True)
    wait()
"""
    process.start()
    with (
        RegistryClient(process.endpoint, timeout=10) as watcher,
        child(code, process.endpoint) as driver,
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


ERRORS_OF_OURS = {
    "a call": "RegistryClient(endpoint, timeout=1).list_services()",
    "connect": "RegistryClient(endpoint, timeout=1).connect()",
    "events": "RegistryClient(endpoint, timeout=1).on('register', print)",
    "a watch": "next(RegistryClient(endpoint, timeout=1).watch())",
    "connect_to": "opened.connect_to('PUNA', timeout=1)",
    "a cache": "ServiceCache(endpoint, timeout=1).start()",
    "asyncio": "asyncio_loop.run_until_complete(AsyncRegistryClient(endpoint).list_services())",
    "connect_to of asyncio": "asyncio_loop.run_until_complete(aopened.connect_to('PUNA'))",
    "required": "RegistryClient(endpoint, timeout=1)"
    ".registered('x', '127.0.0.1', 1, required=True).enter()",
}


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_who_has_no_file_descriptors_is_told(endpoint: str, spare: int) -> None:
    """None of them is an error of ZeroMQ or of the system, or an end of the process."""
    tries = "\n".join(
        f"    attempt({name!r}, lambda: {code})" for name, code in ERRORS_OF_OURS.items()
    )
    code = f"""{FULL}
endpoint, spare = sys.argv[1], int(sys.argv[2])
asyncio_loop = asyncio.new_event_loop()
opened = RegistryClient(endpoint)
aopened = AsyncRegistryClient(endpoint)
opened.register("puna_cs", "127.0.0.1", int(endpoint.rpartition(":")[2]), "PUNA")
asyncio_loop.run_until_complete(aopened.list_services())
def attempt(name, run):
    try:
        run()
    except RegistryError as error:
        if isinstance(error, Disconnected):
            assert error.hint and "ulimit" in error.hint, error
    except BaseException as error:
        wrong.append((name, repr(error)))
wrong = []
with full(spare):
{tries}
    gc.collect()
    if opened.health_check() is not True or RegistryClient(endpoint).health_check() is None:
        wrong.append("health_check")
print(wrong)
"""
    with child(code, endpoint, spare) as process:
        assert printed(process) == "[]"


@pytest.mark.parametrize("spare", [0, 2, 4, 6])
def test_the_first_call_of_a_process_without_file_descriptors(endpoint: str, spare: int) -> None:
    """To start the threads of ZeroMQ would end the process."""
    code = f"""{FULL}
with full(int(sys.argv[2])):
    client = RegistryClient(sys.argv[1], timeout=1)
    try:
        print("got", client.list_services())
    except Disconnected as error:
        print("told", error, error.hint)
    client.health_check()
print(len(client.list_services()))
"""
    with child(code, endpoint, spare) as process:
        assert "ulimit" in printed(process)
        assert printed(process) == "0"


def test_a_heartbeat_begins_without_file_descriptors(endpoint: str, client: RegistryClient) -> None:
    code = f"""{FULL}
client = RegistryClient(sys.argv[1])
client.register("puna_cs", "127.0.0.1", 5000, ttl=2)
with full():
    client.start_heartbeat()
print("free", flush=True)
wait()
"""
    with child(code, endpoint) as process:
        assert printed(process) == "free"
        time.sleep(3)
        assert passing(client, "puna_cs")


def test_more_sockets_than_a_context_has(endpoint: str) -> None:
    code = """
import zmq
from rsreg import RegistryClient
from rsreg.errors import Disconnected
context = zmq.Context()
context.max_sockets = 3
clients = [RegistryClient(sys.argv[1], timeout=1, context=context) for _ in range(5)]
said = []
for client in clients:
    try:
        client.list_services()
    except Disconnected as error:
        said.append(error.hint)
print(len(said) >= 2, all(said))
"""
    with child(code, endpoint) as process:
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
    code = """
import gc, threading
from rsreg.transport import sockets
ready, found = threading.Barrier(20), []
def ask(use):
    ready.wait()
    found.append(sockets.own_context(use))
for use in map(str, range(10)):
    threads = [threading.Thread(target=ask, args=[use]) for _ in range(20)]
    for each in threads: each.start()
    for each in threads: each.join()
gc.collect()
print(len(set(map(id, found))))
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("10\n", "")
