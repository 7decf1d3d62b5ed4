"""Networks that fail on demand: two namespaces with a link between them, and a TCP proxy."""

from __future__ import annotations

import asyncio
import json
import os
import socket as tcp
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, need

HERE = Path(__file__).parent

#: The addresses of the two ends of a link.
SERVER, CLIENT = "10.213.77.1", "10.213.77.2"

_ESTABLISHED = "01"


def spawn(script: str, *arguments: object, under: Sequence[str] = ()) -> subprocess.Popen[str]:
    """A process that runs a script of this folder, with pipes to its standard input and output."""
    return subprocess.Popen(
        [*under, sys.executable, str(HERE / script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process of `spawn`, whatever state it is in, and let go of its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


class Agent:
    """A RegistryClient in a process of its own, in another namespace say."""

    def __init__(self, endpoint: str, timeout: float = 2.0, under: Sequence[str] = ()) -> None:
        self.process = spawn("agent.py", endpoint, timeout, under=under)
        #: Seconds that the last call took.
        self.took = 0.0

    def begin(self, method: str, *arguments: Any, **named: Any) -> None:
        """Have it call a method of its client, and go on meanwhile."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([method, arguments, named]) + "\n")
        self.process.stdin.flush()

    def result(self) -> Any:
        """What that returned; `{"error": its class}` if it raised."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the agent ended"
        said, self.took = json.loads(line)
        return said

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Both."""
        self.begin(method, *arguments, **named)
        return self.result()

    def heard(self) -> list[dict[str, Any]]:
        """The events that its listener handed on so far."""
        events: list[dict[str, Any]] = self.call("heard")
        return events

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_exc: object) -> None:
        end(self.process)


class Network:
    """Two network namespaces with nothing but a link between them, and what can befall it."""

    def __init__(self) -> None:
        need("ip", "nft", "tc", root=True)
        self._spaces = [f"rsreg-{os.getpid()}-{side}" for side in ("server", "client")]
        if _run("ip", "netns", "add", self._spaces[0]).returncode:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("needs network namespaces")
        here, there = self._spaces
        self._must("ip", "netns", "add", there)
        link = ["type", "veth", "peer", "e0", "netns", there]
        self._must("ip", "-n", here, "link", "add", "e0", *link)
        for space, address in ((here, SERVER), (there, CLIENT)):
            self._must("ip", "-n", space, "address", "add", f"{address}/30", "dev", "e0")
            for device in ("lo", "e0"):
                self._must("ip", "-n", space, "link", "set", device, "up")
        self._nft("add table ip faults")
        for hook in ("input", "output"):
            self._nft(f"add chain ip faults {hook} {{ type filter hook {hook} priority 0; }}")

    @property
    def at_server(self) -> list[str]:
        """What runs a command on the server's side."""
        return ["ip", "netns", "exec", self._spaces[0]]

    @property
    def at_client(self) -> list[str]:
        """What runs a command on the clients' side."""
        return ["ip", "netns", "exec", self._spaces[1]]

    def cut(self) -> None:
        """Take the link down: nobody gets a FIN or any other sign."""
        self._must("ip", "-n", self._spaces[1], "link", "set", "e0", "down")

    def refuse(self, rule: str) -> None:
        """Add a rule for packets to (`input …`) or from (`output …`) the server over the link."""
        chain, _, what = rule.partition(" ")
        side = "iifname" if chain == "input" else "oifname"
        self._nft(f"add rule ip faults {chain} {side} e0 {what}")

    def swallow(self) -> None:
        """Lose all packets, as a cut beyond a switch does: to both sides the link seems up."""
        for chain in ("input", "output"):
            self.refuse(f"{chain} drop")

    def lose(self, percent: int) -> None:
        """Lose so many of the packets, in both directions."""
        for chain in ("input", "output"):
            self.refuse(f"{chain} numgen random mod 100 < {percent} drop")

    def narrow(self, rate: str) -> None:
        """Let the server send at most `rate`."""
        shape = ["tbf", "rate", rate, "burst", "8kb", "latency", "100ms"]
        self._must("tc", "-n", self._spaces[0], "qdisc", "add", "dev", "e0", "root", *shape)

    def heal(self) -> None:
        """Undo all that befell the link."""
        self._must("ip", "-n", self._spaces[1], "link", "set", "e0", "up")
        for chain in ("input", "output"):
            self._nft(f"flush chain ip faults {chain}")
        _run("tc", "-n", self._spaces[0], "qdisc", "del", "dev", "e0", "root")

    def close(self) -> None:
        """Remove both; processes in them keep what they have until they end."""
        for space in self._spaces:
            _run("ip", "netns", "delete", space)

    def _nft(self, command: str) -> None:
        self._must(*self.at_server, "nft", command)

    def _must(self, *command: str) -> None:
        done = _run(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def connections(pid: int, address: str, port: int | None = None) -> int:
    """Established TCP connections with an address, to a port, that a process's network has."""
    near = "" if port is None else f":{port:04X}"
    far = tcp.inet_aton(address)[::-1].hex().upper()
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    return sum(
        state == _ESTABLISHED and remote.startswith(far) and local.endswith(near)
        for _, local, remote, state, *_ in map(str.split, lines)
    )


class Way:
    """One direction through a proxy. Attributes may be set at any time."""

    def __init__(self) -> None:
        #: Gives the seconds that the next piece waits.
        self.delay: Callable[[], float] = lambda: 0.0
        #: Pieces wait as long as this is so.
        self.held = False
        #: The next piece is lost, and its connection with it: a stream can't go on with a hole.
        self.lose = False


class Proxy:
    """A TCP proxy to a port of this machine, whose two directions can be disturbed."""

    def __init__(self, target: int | None) -> None:
        self.requests, self.replies = Way(), Way()
        #: Connections that lost a piece.
        self.lost = 0
        self._target = target
        self._clients: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._listener = tcp.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    @property
    def endpoint(self) -> str:
        """Where clients connect."""
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def reset(self) -> None:
        """End all connections to clients by RST."""
        self._loop.call_soon_threadsafe(lambda: list(map(_reset, self._clients)))

    def half_close(self) -> None:
        """Say FIN to all clients, and go on taking what they send."""

        def finish() -> None:
            for writer in self._clients:
                if not writer.is_closing():
                    writer.write_eof()

        self._loop.call_soon_threadsafe(finish)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._listener)
        await self._over.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        self._clients.append(writer)
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, self.requests),
                self._pump(far_reader, writer, self.replies),
            )
        except (OSError, _Lost, asyncio.CancelledError):
            _reset(writer)
        finally:
            far_writer.close()
            writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way
    ) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(way.delay())
            while way.held:
                await asyncio.sleep(0.01)
            if way.lose:
                way.lose = False
                self.lost += 1
                raise _Lost
            writer.write(data)
            await writer.drain()
        if not writer.is_closing():
            writer.write_eof()


class _Lost(Exception):
    """A piece of a stream was lost."""


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(tcp.SOL_SOCKET, tcp.SO_LINGER, linger)
        writer.transport.abort()


@contextmanager
def fleet(
    endpoint: str, count: int, ttl: float, under: Sequence[str] = ()
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A process with `count` services, a heartbeat each; and their ids.

    Each line it prints from then on is one that a heartbeat has logged.
    """
    process = spawn("fleet.py", endpoint, count, ttl, under=under)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the fleet ended: exit code {process.wait(20)}"
        yield process, json.loads(line)
    finally:
        end(process)


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of all are not above."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def seconds(action: Callable[..., object]) -> float:
    """How long it takes."""
    started = time.monotonic()
    action()
    return time.monotonic() - started
