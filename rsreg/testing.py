"""For tests of programs that use rsreg: a registry in this process, and a clock that they move."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gevent

from rsreg.client.sync import RegistryClient
from rsreg.errors import ConfigurationError, RegistryError
from rsreg.protocol import calls
from rsreg.protocol.calls import Record
from rsreg.server.backends.memory import InMemoryBackend
from rsreg.server.server import RegistryServer
from rsreg.transport.channel import Channel

#: Seconds that a start, a stop or an answer may take: a loaded machine is no failure.
_PATIENCE = 20.0
#: Seconds between two passes of the reaper of a LocalRegistry, and between two looks for its work.
_CLEANUP_INTERVAL, _LOOK = 0.05, 0.01


class ManualClock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds


def advance(clock: ManualClock, seconds: float, serve: Callable[[], object]) -> None:
    """Move a server's clock, a second at a time; `serve` sends a request and gets the reply.

    A longer leap counts as a pause of the server, for which it gives every lease afresh. The first
    request may be served in a batch that began before the leap, the second one can't.
    """
    until = clock.now + seconds
    while clock.now < until:
        clock.now = min(clock.now + 1, until)
        serve()
        serve()


@contextmanager
def serving(*args: Any, **options: Any) -> Iterator[RegistryServer]:
    """A server with a hub of its own, in a thread, on free ports unless told otherwise."""
    options = {"bind": "127.0.0.1", "cleanup_interval": 0.2, **options}
    server = RegistryServer(*(args or (0, 0, 0)), **options)
    ready = threading.Event()
    failures: list[RegistryError] = []

    def run() -> None:
        try:
            server.start()
            ready.set()
            server.serve_forever()
        except RegistryError as error:
            failures.append(error)
        finally:
            ready.set()
            gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run, name="server")
    thread.start()
    if not ready.wait(_PATIENCE):
        raise RuntimeError(f"the server did not start within {_PATIENCE:g} s")
    if failures:
        thread.join()
        raise failures[0]
    try:
        yield server
    finally:
        server.request_stop()
        thread.join(_PATIENCE)
        if thread.is_alive():
            raise RuntimeError(f"the server did not stop within {_PATIENCE:g} s")


class LocalRegistry:
    """A registry for a test, for `with`: in this process, in memory, on free ports.

    Its time stands still until the test calls `advance`: no lease ends because a test was slow. The
    pytest fixture `registry` is one of these.

    Args:
        **options: Those of RegistryServer.

    Attributes:
        server: The RegistryServer.
        clock: What the server takes for the time, in seconds since the epoch.
    """

    server: RegistryServer

    def __init__(self, **options: Any) -> None:
        #: What the server takes for the time, in seconds since the epoch.
        self.clock = ManualClock(time.time())
        clocks = {"clock": self.clock, "wall": self.clock}
        self._options = {"cleanup_interval": _CLEANUP_INTERVAL, **clocks, **options}
        self._stack = ExitStack()

    def __enter__(self) -> LocalRegistry:
        serve = serving(**{"backend": InMemoryBackend(), **self._options})
        self.server = self._stack.enter_context(serve)
        self._channel = Channel(self.endpoint)
        self._stack.callback(self._channel.close)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def __repr__(self) -> str:
        return f"<LocalRegistry on {self.endpoint}>"

    @property
    def endpoint(self) -> str:
        """Where it takes requests: all that a client needs."""
        return self.server.endpoint

    @property
    def pub_endpoint(self) -> str:
        """Where it publishes events."""
        return f"tcp://127.0.0.1:{self.server.pub_port}"

    def client(self, **options: Any) -> RegistryClient:
        """Make a client of this registry; it is closed at the end of the block.

        Args:
            **options: Those of RegistryClient.
        """
        client = RegistryClient(self.endpoint, **{"timeout": _PATIENCE, **options})
        self._stack.callback(client.close)
        return client

    def advance(self, seconds: float) -> None:
        """Let time pass for the registry, without a wait; services whose lease ended are gone then.

        Heartbeats are sent in real time: a lease of 30 s ends with `advance(30)` although its owner
        is alive. The next heartbeat registers the service again.

        Args:
            seconds: How much time passes, 0 or more.

        Raises:
            ConfigurationError: The seconds are not valid.
        """
        if not 0 <= seconds < float("inf"):
            raise ConfigurationError(f"time can't advance by {seconds} seconds")
        advance(self.clock, seconds, self._changes)
        before = None
        # Leases are judged after the replies were sent, many of them in slices: only when nothing
        # lapsed or went between two answers, nothing is left to do.
        while True:
            changes = self._changes()
            if changes["seq"] == before and 0 not in changes["leases"]["ends"].values():
                return
            before = changes["seq"]
            time.sleep(_LOOK)

    def _changes(self) -> Record:
        return self._channel.run(calls.changes_since(None, None), _PATIENCE)
