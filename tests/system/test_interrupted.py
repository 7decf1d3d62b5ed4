"""A call that something else than its answer ends is over: nothing of it is sent later."""

from __future__ import annotations

import json
import socket as tcp
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import zmq

from rsreg import RegistryClient
from tests.commands import PLAIN_SHELL, Terminal
from tests.helpers import (
    ServerProcess,
    printed,
    raw_socket,
    received,
    start_program,
)

#: Milliseconds between two tries to connect of a socket that is slower than any client is: what
#: would still be sent has come before what that sends.
SLOW = 4_000
#: Those of programs/interrupted_call.py.
WAYS = ["Ctrl-C", "a signal handler", "gevent.Timeout", "kill", "cancel", "end of the loop"]


def end(server: ServerProcess) -> ExitStack:
    """Kill it; what is given back keeps its ports for it, so that no other test gets them."""
    server.kill()
    kept = ExitStack()
    for port in filter(None, server.ports):
        socket = kept.enter_context(tcp.socket())
        socket.setsockopt(tcp.SOL_SOCKET, tcp.SO_REUSEADDR, 1)
        socket.bind(("127.0.0.1", port))
    return kept


@contextmanager
def interrupted(
    server: ServerProcess, way: str, method: str, *arguments: object
) -> Iterator[subprocess.Popen[str]]:
    """A process whose call was ended, and which lives on."""
    said = json.dumps(arguments)
    with start_program("interrupted_call", server.endpoint, way, method, said) as process:
        try:
            assert printed(process).startswith("interrupted ")
            yield process
        finally:
            process.kill()


def started(server: ServerProcess, kept: ExitStack) -> list[str]:
    """Start it again; the names of all that is registered when all that waited has arrived."""
    with raw_socket(zmq.DEALER, server.endpoint, reconnect_ivl=SLOW) as socket:
        info = {"name": "last", "host": "lab", "port": 1}
        request = {"action": "register", "service_info": info, "ttl": 60}
        socket.send_multipart([b"", json.dumps(request).encode()])
        kept.close()
        server.start()
        received(socket, 30)
    with RegistryClient(server.endpoint, timeout=10) as client:
        return [each["name"] for each in client.list_services()]


@pytest.mark.parametrize("way", WAYS)
def test_nobody_is_registered_by_an_interrupted_call(process: ServerProcess, way: str) -> None:
    kept = end(process.start())
    arguments = ("late", "lab", 5000, "LATE", None, 30, False, False, "late-1")
    with interrupted(process, way, "register", *arguments):
        assert started(process, kept) == ["last"]


@pytest.mark.parametrize("way", ["Ctrl-C", "cancel"])
def test_nobody_is_terminated_by_an_interrupted_call(process: ServerProcess, way: str) -> None:
    kept = end(process.start())
    with interrupted(process, way, "terminate_registry_server"):
        assert started(process, kept) == ["last"]


def test_ctrl_c_in_the_shell_ends_the_call(process: ServerProcess) -> None:
    process.start()
    with Terminal("shell", command=PLAIN_SHELL, RSREG_ENDPOINT=process.endpoint) as terminal:
        terminal.until(">>> ")
        kept = end(process)
        terminal.type("print('call' + 'ing'); reg.terminate_registry_server()\n")
        terminal.until("calling")
        terminal.type("\x03")
        terminal.until("KeyboardInterrupt")
        assert started(process, kept) == ["last"]
        terminal.type("print('well:', reg.health_check())\n")
        terminal.until("well: True")


def test_what_is_interrupted_leaves_no_socket_behind(endpoint: str) -> None:
    with tcp.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with start_program("interrupted_waits", endpoint, taken.getsockname()[1]) as process:
            before, after, healthy = printed(process).split()
    assert int(after) <= int(before)
    assert healthy == "True"


@pytest.mark.unmeasured
def test_an_exception_between_any_two_lines_leaves_the_client_free(endpoint: str) -> None:
    with start_program("interrupted_often", endpoint) as process:
        assert printed(process) == "True True"
