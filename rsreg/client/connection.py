"""The connection of one blocking client: it carries one call at a time, from any thread."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import zmq

from rsreg import timing
from rsreg.config import ClientSettings
from rsreg.errors import Disconnected, RequestTimeout
from rsreg.protocol.calls import Call
from rsreg.system import threads
from rsreg.transport.channel import Channel

T = TypeVar("T")

#: Seconds that closing waits for a call under way in another thread.
_CLOSE = 0.5


class Connection:
    """One channel and its lock, in one process; `closed` is set while the client is closed."""

    def __init__(self, settings: ClientSettings, context: zmq.Context[Any] | None) -> None:
        self.closed = threads.Stop()
        self._settings = settings
        self._context = context
        self._lock = threads.new_rlock()
        self._holder: tuple[int, object] | None = None
        self._channel = Channel(settings.req_endpoint, context)

    def open(self) -> None:
        """Open the socket now, also after a `close`."""
        if self.closed.is_set():
            self.closed = threads.Stop()
        with self._alone(self._settings.timeout) as channel:
            channel.open()

    def close(self) -> None:
        """Close the socket, and take no more calls."""
        self.closed.set()
        # A call under way in another thread closes the socket itself when it is over.
        with contextlib.suppress(RequestTimeout), self._alone(_CLOSE) as channel:
            channel.close()

    def run(self, call: Call[T], timeout: float | None = None) -> T:
        """Carry a call, within `timeout` seconds if the client's are more."""
        limit = self._settings.timeout if timeout is None else min(timeout, self._settings.timeout)
        start = timing.steady()
        with self._alone(limit) as channel:
            if self.closed.is_set():
                raise Disconnected("this client is closed", hint="call connect() to use it again")
            try:
                return channel.run(call, max(0.0, limit - (timing.steady() - start)))
            finally:
                if self.closed.is_set():
                    channel.close()

    @contextlib.contextmanager
    def _alone(self, timeout: float) -> Iterator[Channel]:
        """Hold the client, by a lock of real threads, and use this channel.

        A signal handler in the middle of a call gets a channel of its own; a second greenlet gets a
        RuntimeError.
        """
        me = threads.strand()
        holder: tuple[int, object] | None = None
        entered = False
        try:
            # A signal handler may raise between any two lines: then it is the lock that knows. The
            # thread of a call has it already.
            if not self._lock.acquire(True, timeout):
                raise RequestTimeout(f"other threads kept this client busy for {timeout:g} s")
            holder, entered = self._holder, True
            if holder is None:
                self._holder = me
                yield self._channel
            elif holder == me:
                channel = Channel(self._settings.req_endpoint, self._context)
                with contextlib.closing(channel):
                    yield channel
            else:
                raise RuntimeError(
                    "this RegistryClient is in the middle of a call on the same thread: "
                    "give each greenlet a client of its own"
                )
        finally:
            if entered:
                self._holder = holder
            try:
                self._lock.release()
            except RuntimeError:
                # It did not get it. No call comes before the release: a signal would come first.
                del me
