"""Carries the calls of one blocking client: one at a time, from any thread, in any process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import zmq

from rsreg import timing
from rsreg.client.cache.client_cache import ClientCache
from rsreg.config import ClientSettings
from rsreg.errors import Disconnected, RequestTimeout
from rsreg.protocol import calls
from rsreg.protocol.calls import Call
from rsreg.system import threads
from rsreg.transport.channel import Channel

T = TypeVar("T")

#: Seconds that closing waits for a call under way in another thread.
_CLOSE = 0.5


class Carrier:
    """The connection of a client, its lock, and what a fork makes of them.

    With `cache` there is one that answers before the registry is asked.
    """

    _pid: int
    _holder: tuple[int, object] | None
    _over: threads.Stop

    def __init__(
        self, settings: ClientSettings, context: zmq.Context[Any] | None, *, cache: bool
    ) -> None:
        self.settings = settings
        self._given_context = context
        self._wants_cache = cache
        self._start_afresh()

    def connect(self) -> None:
        """Open the socket for requests now. Needed only after `disconnect`: calls do it too."""
        if self._over.is_set():
            self._over = threads.Stop()
        with self._alone(self.settings.timeout) as channel:
            channel.open()
        if self._cache is not None:
            self._cache.open()

    def _hang_up(self) -> None:
        """End what waits, and close the socket."""
        self._over.set()
        if self._cache is not None:
            self._cache.close()
        # A call under way in another thread closes the socket itself when it is over.
        with contextlib.suppress(RequestTimeout), self._alone(_CLOSE) as channel:
            channel.close()

    def _run(self, call: Call[T], timeout: float | None = None) -> T:
        limit = self.settings.timeout if timeout is None else min(timeout, self.settings.timeout)
        start = timing.steady()
        with self._alone(limit) as channel:
            if self._over.is_set():
                raise Disconnected("this client is closed", hint="call connect() to use it again")
            try:
                return channel.run(call, max(0.0, limit - (timing.steady() - start)))
            finally:
                if self._over.is_set():
                    channel.close()

    def _known(
        self, read: Callable[..., T], target: object, asked: Mapping[str, Any] = calls.NOTHING_MORE
    ) -> T | None:
        """What the cache says, if there is one and it is sure."""
        self._current_process()
        return None if self._cache is None else self._cache.answer(read, target, asked)

    def _change(self, call: Call[T], timeout: float | None = None) -> T:
        try:
            return self._run(call, timeout)
        finally:
            # After a timeout too: the change may have happened.
            self._changed()

    def _changed(self) -> None:
        if self._cache is not None:
            self._cache.changed()

    @contextlib.contextmanager
    def _alone(self, timeout: float) -> Iterator[Channel]:
        """Hold the client, by a lock of real threads, and use this channel.

        A signal handler in the middle of a call gets a channel of its own; a second greenlet gets a
        RuntimeError.
        """
        self._current_process()
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
                channel = Channel(self.settings.req_endpoint, self._given_context)
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

    def _current_process(self) -> bool:
        """True; in a forked child first everything of the parent's is forgotten, nothing closed."""
        if self._pid != os.getpid():
            self._given_context = None
            self._start_afresh()
        return True

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._over = threads.Stop()
        self._lock = threads.new_rlock()
        self._holder = None
        self._channel = Channel(self.settings.req_endpoint, self._given_context)
        self._cache = ClientCache(self.settings, self._given_context) if self._wants_cache else None
