"""Beats for all services of a process at one endpoint: one thread, one connection."""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import logging
import os
from typing import Any

from rsreg import timing
from rsreg.client.registration.heartbeat import HeartbeatRules, Outage
from rsreg.errors import RegistryError, TransportError
from rsreg.system import threads
from rsreg.system.background import Caught, keep_on, start_thread
from rsreg.system.threads import Stop, Thread, WakeUp
from rsreg.transport.exchange import conversation
from rsreg.transport.shared_channel import SharedChannel, Talk

log = logging.getLogger(__name__)

#: Seconds that it waits at once, at most: to wait does not count the sleep of the machine.
_MOST = 1.0
#: Seconds after which it looks whether it was woken while it waits for answers.
_LATENCY = 0.1
#: Seconds that who leaves waits until nothing more is sent.
_JOIN = 1.0


class HeartbeatThread:
    """Has each heartbeat beat when it is due; none waits for the answer to another one.

    Whatever is raised in a beat is that heartbeat's own trouble, and is tried again.
    """

    def __init__(self, endpoint: str) -> None:
        self.members: set[HeartbeatRules] = set()
        self.outage = Outage()
        self._channel = SharedChannel(endpoint)
        self._stop = Stop()
        self._wake_up = WakeUp()
        #: Who is to be looked at: somebody who came, who leaves, or who has something to tell.
        self._to_look_at: dict[HeartbeatRules, None] = {}
        self._due: list[tuple[float, int, HeartbeatRules]] = []
        self._count = itertools.count()
        #: All that it beats for, and the beat of each that is under way.
        self._beats: dict[HeartbeatRules, Talk | None] = {}
        self._thread: Thread | None = None

    def start(self) -> None:
        """Beat from now on, on a thread of its own; raises Disconnected if there can be none.

        It connects at once, if no name has to be found for that: when the server is short of
        connections later, this one is there already.
        """
        with contextlib.suppress(TransportError):
            self._channel.open()
        self._thread = start_thread(self.run)

    def stop(self) -> None:
        """Beat no longer; returns within a second, and nothing is sent afterwards."""
        self._stop.set()
        self._wake_up.set()
        if self._thread is not None:
            self._thread.join(_JOIN)

    def add(self, heartbeat: HeartbeatRules, why: RegistryError | None = None) -> None:
        """Beat for one, too, after what failed at first."""
        heartbeat.outage = self.outage
        if why is not None:
            heartbeat.lost(why)
        heartbeat.begin()
        heartbeat.service.wake = functools.partial(self.look_at, heartbeat)
        self.look_at(heartbeat)

    def look_at(self, heartbeat: HeartbeatRules) -> None:
        """Look at one soon; from any thread, and from signal handlers."""
        self._to_look_at[heartbeat] = None
        self._wake_up.set()

    def run(self) -> None:
        """Beat until `stop`."""
        what = f"the heartbeats to {self._channel.endpoint}"
        keep_on(self.step, self._stop, log, what, self._stop.wait)
        self._channel.close()

    def step(self) -> None:
        """One turn: begin the beats that are due, and wait for answers, a wake-up, or the next."""
        try:
            while self._to_look_at:
                self._look(self._to_look_at.popitem()[0])
            now = timing.steady()
            while self._due and self._due[0][0] <= now:
                self._look(heapq.heappop(self._due)[2])
            wait = min(_MOST, self._due[0][0] - timing.steady()) if self._due else _MOST
            if self._channel.busy:
                self._channel.step(min(wait, _LATENCY))
            elif not self._to_look_at:
                self._wake_up.wait(wait)
        except BaseException:
            # Whatever it is, nobody is forgotten.
            self._to_look_at.update(dict.fromkeys(self._beats))
            raise

    def _look(self, heartbeat: HeartbeatRules) -> None:
        """Have it beat if that is due, else plan when; let go of one that leaves."""
        if heartbeat.over.is_set():
            talk = self._beats.pop(heartbeat, None)
            if talk is not None:
                self._channel.forget(talk)
            heartbeat.outage.ends(heartbeat)
            heartbeat.gone.set()
        elif self._beats.setdefault(heartbeat, None) is None:
            with Caught() as caught:
                now = timing.steady()
                at = heartbeat.due(now)
                if at > now:
                    self._plan(heartbeat, at)
                else:
                    self._begin(heartbeat)
            if caught.error is not None:
                self._done(heartbeat, None, caught.error)

    def _begin(self, heartbeat: HeartbeatRules) -> None:
        endpoint, clock = self._channel.endpoint, timing.steady
        flow = conversation(
            heartbeat.beat(), timeout=heartbeat.timeout, endpoint=endpoint, clock=clock
        )
        talk = self._beats[heartbeat] = Talk(flow, functools.partial(self._done, heartbeat))
        self._channel.begin(talk)

    def _done(self, heartbeat: HeartbeatRules, how: Any, error: BaseException | None) -> None:
        if heartbeat in self._beats:
            self._beats[heartbeat] = None
            if error is None:
                heartbeat.beaten(how)
                self._to_look_at[heartbeat] = None
            else:
                self._plan(heartbeat, heartbeat.failed(error))

    def _plan(self, heartbeat: HeartbeatRules, at: float) -> None:
        """Look at it then. What it has in the heap beside that is a look too many, no more."""
        if heartbeat.planned != at:
            heartbeat.planned = at
            heapq.heappush(self._due, (at, next(self._count), heartbeat))


class _HeartbeatThreads:
    """The beaters of one process. A signal handler may enter it in the middle of itself."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threads.new_rlock()
        self._at: dict[str, HeartbeatThread] = {}

    def join(self, heartbeat: HeartbeatRules) -> HeartbeatThread:
        with self._lock:
            thread = self._at.get(heartbeat.endpoint)
            if thread is None:
                thread = HeartbeatThread(heartbeat.endpoint)
                thread.start()
                self._at[heartbeat.endpoint] = thread
            thread.members.add(heartbeat)
            return thread

    def leave(self, heartbeat: HeartbeatRules) -> tuple[HeartbeatThread | None, bool]:
        """Take it out; who beat for it, and whether nobody is left there."""
        with self._lock:
            thread = self._at.get(heartbeat.endpoint)
            if thread is None or heartbeat not in thread.members:
                return None, False
            thread.members.discard(heartbeat)
            if thread.members:
                return thread, False
            del self._at[heartbeat.endpoint]
            return thread, True


_threads = _HeartbeatThreads()


def _of_this_process() -> _HeartbeatThreads:
    global _threads
    if _threads.pid != os.getpid():
        # The threads are the parent's, and so are their sockets.
        _threads = _HeartbeatThreads()
    return _threads


def begin(heartbeat: HeartbeatRules, why: RegistryError | None = None) -> None:
    """Beat for it from now on, after what failed at first; raises Disconnected for no thread."""
    # It may have ended before.
    heartbeat.over, heartbeat.gone = Stop(), Stop()
    _of_this_process().join(heartbeat).add(heartbeat, why)


def end(heartbeat: HeartbeatRules) -> None:
    """Beat for it no longer; returns within a second, and nothing is sent afterwards."""
    heartbeat.over.set()
    thread, last = _of_this_process().leave(heartbeat)
    if thread is not None and last:
        thread.stop()
    elif thread is not None:
        thread.look_at(heartbeat)
        heartbeat.gone.wait(_JOIN)
