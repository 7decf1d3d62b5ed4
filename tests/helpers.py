"""What tests share: waiting for a condition, servers, raw sockets, stores that fail."""

from __future__ import annotations

import json
import os
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, AnyStr, TypeVar

import gevent
import psutil
import pytest
import zmq

from rsreg import RegistryBackend
from rsreg.admin import server_process
from rsreg.errors import StoreError
from rsreg.server.backends.base import Stored
from rsreg.server.backends.stored import Event, Maintenance, Service
from rsreg.server.limits import Limits
from rsreg.server.settings import ServerSettings

# What we share with tests of programs that use rsreg.
from rsreg.testing import ManualClock as ManualClock
from rsreg.testing import advance as advance
from rsreg.testing import serving as serving

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
#: Bounds that are far away, for tests of something else that would come to one.
FAR = Limits(
    record_bytes=2**20,
    tags=64,
    services=10**6,
    services_per_address=10**6,
    bytes_per_address=2**40,
    services_per_name=10**6,
    writes_per_second=10**6,
    flaps_per_second=10**6,
)


def wait_until(condition: Callable[..., T], timeout: float = 20.0) -> T:
    """The first true value of `condition()`; fails after `timeout` seconds."""
    until = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"not so within {timeout} s: {condition}"
        time.sleep(0.02)


def present(value: T | None) -> T:
    """The value, which has to be there."""
    assert value is not None
    return value


def kept_port() -> int:
    """A free port for a server that is started again on it.

    The system would pick one from those that it gives to outgoing connections, too (Linux: from
    32768 on): one of them may have it when the server is started again.
    """
    while True:
        # Not by `random`, which has the same seed in each process of the suite.
        port = 15_000 + secrets.randbelow(17_000)
        with socket.socket() as trying, suppress(OSError):
            trying.bind(("", port))
            return port


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """A real server process, on ports that it keeps over restarts.

    `store` is a path, or None for memory; `under` is a command that runs it: `ip netns exec …`;
    `log` is where its log goes, stderr if nowhere; `journal` has the most events and bytes of it;
    `limits` are its bounds; `options` are further fields of ServerSettings.

    Signals go by process id; `stop` ends it in any case.
    """

    def __init__(
        self,
        store: Path | None = None,
        *,
        under: Sequence[str] = (),
        log: IO[str] | None = None,
        journal: Sequence[int] = (),
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        self.options: dict[str, Any] = {"bind": "127.0.0.1", "cleanup_interval": 0.5, **options}
        self.options.update(zip(("journal_events", "journal_bytes"), journal, strict=False))
        self.store = store
        self.under = under
        self.log = log
        self.limits = limits or Limits()
        self.ports: list[int | None] = [kept_port() for _ in range(3)]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> ServerProcess:
        """Start it and wait until it serves."""
        assert self.launch(), f"the server did not start: exit code {self.wait()}"
        return self

    def launch(self) -> bool:
        """Start it and wait until it serves or ends; whether it serves."""
        req_port, pub_port, hb_port = self.ports
        assert req_port is not None
        assert pub_port is not None
        settings = ServerSettings(
            req_port,
            pub_port,
            hb_port,
            db=str(self.store) if self.store else server_process.IN_MEMORY,
            limits=self.limits,
            **self.options,
        )
        self.process = subprocess.Popen(
            [*self.under, sys.executable, str(ROOT / "tests" / "serve.py"), settings.to_json()],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            self.ports = json.loads(line)
        return bool(line)

    @property
    def endpoint(self) -> str:
        """Of requests."""
        return f"tcp://{self.options['bind']}:{self.ports[0]}"

    @property
    def pub_endpoint(self) -> str:
        """Of events."""
        return f"tcp://{self.options['bind']}:{self.ports[1]}"

    @property
    def hb_endpoint(self) -> str:
        """Of heartbeats."""
        return f"tcp://{self.options['bind']}:{self.ports[2]}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float = 20.0) -> int:
        """Its exit code."""
        assert self.process is not None
        assert self.process.stdout is not None
        code = self.process.wait(timeout)
        self.process.stdout.close()
        return code

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.kill()
        if self.process is not None:
            self.wait()

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()


def program(name: str, *arguments: object, options: Sequence[str] = ()) -> list[str]:
    """The command that runs a file of tests/programs; `options` are those of Python."""
    file = ROOT / "tests" / "programs" / f"{name}.py"
    return [sys.executable, *options, str(file), *map(str, arguments)]


#: Options of Python that have a program run with all of it patched by gevent.
PATCHED = ("-m", "gevent.monkey")


def start_program(
    name: str, *arguments: object, under: Sequence[str] = (), options: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start a file of tests/programs, with pipes to its standard input and output."""
    return subprocess.Popen(
        [*under, *program(name, *arguments, options=options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=program_environment(),
    )


def program_environment(**variables: str) -> dict[str, str]:
    """Ours and these variables, and a path on which a program finds what tests share."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


def printed(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints; fails if it ends instead."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the process ended: exit code {process.wait(20)}"
    return line.strip()


def limit_files(size: int) -> None:
    """Let no file that this process writes have more bytes, as on a full disk; -1: any number."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


class UnreliableStore:
    """Another store, but its writes or its reads fail while told to."""

    def __init__(self, store: RegistryBackend) -> None:
        self.store = store
        self.writes_fail = False
        self.reads_fail = False

    def initialize(self) -> object:
        return self.store.initialize()

    def load(self) -> Stored:
        return self.store.load()

    def commit(
        self,
        changes: Mapping[str, Service | None],
        events: Sequence[Event],
        maintenance: Sequence[Maintenance] | None = None,
    ) -> None:
        if self.writes_fail:
            raise StoreError("the disk is full")
        self.store.commit(changes, events, maintenance)

    def events(self, since: int, limit: int) -> list[Event]:
        if self.reads_fail:
            raise StoreError("the disk is gone")
        return self.store.events(since, limit)

    def touch(self, heartbeats: Mapping[str, int]) -> None:
        if self.writes_fail:
            raise StoreError("the disk is full")
        self.store.touch(heartbeats)

    def close(self) -> None:
        self.store.close()

    def describe(self) -> str:
        return f"unreliable {self.store.describe()}"


@contextmanager
def raw_socket(kind: int, endpoint: str, **options: Any) -> Iterator[zmq.Socket[bytes]]:
    """A plain ZeroMQ socket, as any program in any language has it."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.linger = 0
    for name, value in options.items():
        setattr(socket, name, value)
    socket.connect(endpoint)
    try:
        yield socket
    finally:
        socket.close()


def bound_endpoint(socket: zmq.Socket[bytes]) -> str:
    """Where a socket was bound last."""
    endpoint = socket.last_endpoint
    assert isinstance(endpoint, bytes)
    return endpoint.decode()


def received(socket: zmq.Socket[bytes], timeout: float = 10.0) -> list[bytes]:
    """The next message of a raw socket; fails if none comes."""
    # Not a poll: a REQ socket may have something to read that is no reply to it.
    socket.rcvtimeo = int(timeout * 1000)
    try:
        return socket.recv_multipart()
    except zmq.Again:
        raise AssertionError("no message came") from None


@contextmanager
def answering_socket(
    kind: int, answer: Callable[[list[bytes]], list[bytes] | None]
) -> Iterator[int]:
    """A socket whose messages a thread answers, None: not at all; yields its port."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.linger = 0
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            if socket.poll(20):
                reply = answer(socket.recv_multipart())
                if reply is not None:
                    socket.send_multipart(reply)

    thread = threading.Thread(target=run, name="answering socket")
    thread.start()
    try:
        yield port
    finally:
        over.set()
        thread.join()
        socket.close()


@contextmanager
def scripted_server(answer: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Iterator[str]:
    """A registry that answers as `answer` says, None: not at all; yields its endpoint."""

    def reply(message: list[bytes]) -> list[bytes] | None:
        *envelope, payload = message
        request = json.loads(payload)
        body = answer(request)
        if body is None:
            return None
        body = {**body, "request_id": request["request_id"]}
        return [*envelope, json.dumps(body).encode()]

    with answering_socket(zmq.ROUTER, reply) as port:
        yield f"tcp://127.0.0.1:{port}"


def slow_once(seconds: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Answers `discover` with a service named as the type asked for; the first time late."""
    kinds: list[str] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        kind = request["service_type"]
        if not kinds:
            time.sleep(seconds)
        kinds.append(kind)
        return {"success": True, "service": {"name": kind}}

    return answer


@contextmanager
def ticking() -> Iterator[list[float]]:
    """Another greenlet of this thread; the moments at which it had its turn."""
    ticks: list[float] = []

    def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            gevent.sleep(0.01)

    ticker = gevent.spawn(tick)
    try:
        yield ticks
    finally:
        ticker.kill()


@contextmanager
def killed_at_the_end(
    process: subprocess.Popen[AnyStr],
) -> Iterator[subprocess.Popen[AnyStr]]:
    """A process that is killed, if it still runs, and whose pipes are closed."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def register_simulator(endpoint: str, name: str, kind: str) -> None:
    """Register a simulator, under its name as id, as a program in any language would."""
    info = {"name": name, "host": "lab", "port": 1, "type": kind, "id": name, "mode": "simulator"}
    with raw_socket(zmq.DEALER, endpoint) as socket:
        request = {"action": "register", "service_info": info, "ttl": 60}
        socket.send_multipart([b"", json.dumps(request).encode()])
        assert json.loads(received(socket)[-1])["success"]


def need(*tools: str, root: bool = False) -> None:
    """Skip where a tool or the rights are missing; with CI set that is a failure."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if root and os.geteuid() != 0:
        missing.append("root")
    if missing and os.environ.get("CI"):
        pytest.fail(f"needs {', '.join(missing)}: see .ci/run")
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def own_address() -> str:
    """An address of this machine that is not loopback's; skips where there is none."""
    for interface, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            up = psutil.net_if_stats()[interface].isup
            if up and one.family == socket.AF_INET and not one.address.startswith("127."):
                return one.address
    pytest.skip("this machine has no address but that of loopback")


@dataclass
class Sender:
    """Who sent a request to a dispatcher, by hand."""

    address: str = "127.0.0.1"
    here: bool = True

    def is_this_machine(self) -> bool:
        return self.here

    def check_replies(self) -> None:
        """Nothing waits for it."""


class NetworkSpace:
    """A network namespace with a loopback, and one interface, `lab`, that leads nowhere."""

    def __init__(self) -> None:
        need("ip", root=True)
        self.name = f"rsreg-{os.getpid()}-{id(self):x}"
        self._etc = Path("/etc/netns") / self.name

    @property
    def inside(self) -> list[str]:
        """What runs a command in it."""
        return ["ip", "netns", "exec", self.name]

    def ip(self, *words: str) -> None:
        """Change it."""
        subprocess.run(["ip", "-n", self.name, *words], check=True)

    def etc(self, name: str, text: str) -> None:
        """Have another file in /etc: at once if it is another already, else in new processes."""
        self._etc.mkdir(parents=True, exist_ok=True)
        (self._etc / name).write_text(text)

    def __enter__(self) -> NetworkSpace:
        if subprocess.run(["ip", "netns", "add", self.name], check=False).returncode:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("needs network namespaces")
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", "lab", "type", "veth", "peer", "other")
        self.ip("link", "set", "lab", "up")
        return self

    def __exit__(self, *_exc: object) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=True)
        shutil.rmtree(self._etc, ignore_errors=True)
