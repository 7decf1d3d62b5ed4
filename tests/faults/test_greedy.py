"""While one peer takes all that it gets, the others have their answers, and the server its size."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq

from rsreg import RegistryClient
from tests.faults import greedy
from tests.faults.net import percentile
from tests.helpers import ROOT, ServerProcess, raw_socket, received, wait_until
from tests.usage import memory

MIB = 1024 * 1024
#: Services of others, of three addresses, that are there already.
OTHERS = 900


class Quiet:
    """A client that asks `health` every 20 ms; how long each took, and which got no answer."""

    def __init__(self, endpoint: str) -> None:
        self.took: list[float] = []
        self.lost = 0
        self._endpoint = endpoint
        self._over = threading.Event()

    def run(self) -> None:
        """Ask until it is over."""
        with RegistryClient(self._endpoint, timeout=5) as client:
            while not self._over.wait(0.02):
                asked = time.monotonic()
                self.lost += not client.health_check()
                self.took.append(time.monotonic() - asked)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask meanwhile."""
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


def settle(server: ServerProcess) -> None:
    """Services of others, from three addresses."""
    for number in range(3):
        endpoint = f"tcp://127.0.0.{number + 2}:0;{server.endpoint.removeprefix('tcp://')}"
        with raw_socket(zmq.DEALER, endpoint) as socket:
            for one in range(OTHERS // 3):
                request = greedy.register(one, name=f"s{number}-{one}", host="lab", type="LAB")
                socket.send_multipart([b"", json.dumps(request).encode()])
                assert json.loads(received(socket)[1])["success"]


def size_on_disk(folder: Path) -> int:
    """Bytes of the database and its log."""
    sizes = 0
    for file in folder.glob("registry.db*"):
        with contextlib.suppress(OSError):
            sizes += file.stat().st_size
    return sizes


@pytest.mark.parametrize("attack", greedy.ATTACKS)
def test_a_peer_that_takes_all_it_gets(
    attack: str, tmp_path: Path, full: bool, figure: Callable[..., None]
) -> None:
    length = 10.0 if full else 1.0
    server = ServerProcess(tmp_path / "registry.db", cleanup_interval=10)
    with server:
        settle(server)
        assert server.process is not None
        pid = server.process.pid
        quiet = Quiet(server.endpoint)
        before, most = memory(pid), 0
        with quiet.asking():
            wait_until(lambda: len(quiet.took) > 10)
            quiet.took.clear()
            words = [attack, *map(str, server.ports[:2]), str(length)]
            peer = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.greedy", *words],
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
            try:
                while peer.poll() is None:
                    most = max(most, memory(pid))
                    time.sleep(0.02)
                assert peer.stdout is not None
                got = json.loads(peer.stdout.read())
            finally:
                peer.kill()
                peer.wait()
                if peer.stdout is not None:
                    peer.stdout.close()
            # What it leaves behind keeps nobody waiting either.
            asked = len(quiet.took)
            wait_until(lambda: len(quiet.took) > asked + 10)
        grown = max(most, memory(pid)) - before
        took = quiet.took
        figure(
            attack,
            f"one peer, {length:g} s: {got}",
            "others are served, memory and disk are bounded",
            f"health p50 {percentile(took, 0.5) * 1e3:.1f} ms, "
            f"p99 {percentile(took, 0.99) * 1e3:.1f} ms, max {max(took) * 1e3:.0f} ms, "
            f"{len(took)} asked, {quiet.lost} lost; memory +{grown / MIB:.0f} MB, "
            f"disk {size_on_disk(tmp_path) / MIB:.0f} MB",
        )
        assert got, "it got somewhere"
        assert quiet.lost == 0
        assert grown < 64 * MIB
        assert size_on_disk(tmp_path) < 48 * MIB
        if full:
            assert percentile(took, 0.99) < 0.05
        with RegistryClient(server.endpoint, timeout=20) as client:
            assert client.server_status(services=False)["status"] == "ok"
            maintained = attack == "a host in and out of maintenance"
            assert maintained or client.discover_service("LAB")
