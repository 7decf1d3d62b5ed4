"""A driver can leave from a signal handler, wherever its own thread is just then."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest
import zmq.green

from rsreg import RegistryClient
from tests.helpers import ServerProcess, printed, start_program, wait_until

#: How a driver leaves in its handler.
WAYS = [
    "deregister",
    "deregister and close",
    "deregister and exit",
    "close and exit",
    "leave",
    "exit",
]
#: What its thread does meanwhile, over and over.
BUSY = ["a call", "a call that waits", "a change", "a socket of its own"]


@contextmanager
def driver(endpoint: str, way: str, busy: str) -> Iterator[subprocess.Popen[str]]:
    """A driver that is registered, and leaves when it gets a SIGTERM."""
    process = start_program("leave_at_signal", endpoint, way, busy)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize("way", WAYS)
def test_who_leaves_in_a_signal_handler_is_gone(
    way: str, busy: str, client: RegistryClient, endpoint: str
) -> None:
    with driver(endpoint, way, busy) as process:
        assert printed(process) == "up"
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert printed(process) == "True"
        assert process.wait(20) == 0
        assert client.list_services() == []


def test_a_signal_in_the_end_of_a_block_does_not_leave_the_entry(
    process: ServerProcess,
) -> None:
    process.start()
    child = start_program("exit_at_signal", process.endpoint)
    try:
        assert printed(child) == "up"
        process.signal(signal.SIGSTOP)
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
        # It has left its block, and waits for the answer to its goodbye.
        time.sleep(1)
        child.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.signal(signal.SIGCONT)
        assert child.wait(20) == 3
        with RegistryClient(process.endpoint, timeout=10) as client:
            assert client.list_services() == []
    finally:
        child.kill()
        child.communicate()


@pytest.mark.unmeasured
def test_a_handler_in_a_call_gets_its_own_answer(process: ServerProcess) -> None:
    """And the call that it interrupted gets its own."""
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        client.register("puna_cs", "127.0.0.1", 5000, "PUNA")
        answers: list[object] = []

        def handler(_number: int, _frame: object) -> None:
            answers.append(client.get_service("nobody"))

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.003)
        try:
            until = time.monotonic() + 3
            while time.monotonic() < until:
                assert [service["name"] for service in client.list_services()] == ["puna_cs"]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert len(answers) > 50
    assert set(answers) == {None}


def test_a_second_greenlet_is_still_told(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(
        process.endpoint, timeout=10, context=zmq.green.Context.instance()
    ) as client:
        process.signal(signal.SIGSTOP)
        first = gevent.spawn(client.list_services)
        gevent.sleep(0.05)
        with pytest.raises(RuntimeError, match="give each greenlet a client of its own"):
            client.list_services()
        process.signal(signal.SIGCONT)
        assert first.get(timeout=20) == []
        wait_until(lambda: client.list_services() == [])
