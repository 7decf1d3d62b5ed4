"""Sends the heartbeats of all services of a process to one endpoint: one thread, one connection."""

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
#: Seconds that a heartbeat which stops waits until nothing more is sent.
_JOIN = 1.0


class HeartbeatThread:
    """Sends each heartbeat when it is due; none waits for the answer to another one.

    Whatever one of them raises is logged and tried again, and does not concern the others.
    """

    def __init__(self, endpoint: str) -> None:
        self.members: set[HeartbeatRules] = set()
        self.outage = Outage()
        self._channel = SharedChannel(endpoint)
        self._stop = Stop()
        self._wake_up = WakeUp()
        #: Those to look at: new ones, those that stop, and those with something to send.
        self._to_look_at: dict[HeartbeatRules, None] = {}
        self._due: list[tuple[float, int, HeartbeatRules]] = []
        self._count = itertools.count()
        #: All heartbeats here, each with its requests under way, if any.
        self._beats: dict[HeartbeatRules, Talk | None] = {}
        self._thread: Thread | None = None

    def start(self) -> None:
        """Send heartbeats from now on, on a thread; raises Disconnected if none can be started.

        It connects at once, if no name has to be found for that: when the server is short of
        connections later, this one is there already.
        """
        with contextlib.suppress(TransportError):
            self._channel.open()
        self._thread = start_thread(self.run)

    def stop(self) -> None:
        """Send no more heartbeats; returns within a second, and nothing is sent afterwards."""
        self._stop.set()
        self._wake_up.set()
        if self._thread is not None:
            self._thread.join(_JOIN)

    def add(self, heartbeat: HeartbeatRules, why: RegistryError | None = None) -> None:
        """Send one more heartbeat; `why` is what failed before."""
        heartbeat.outage = self.outage
        if why is not None:
            heartbeat.log_failure(why)
        heartbeat.begin()
        heartbeat.service.wake = functools.partial(self.look_at, heartbeat)
        self.look_at(heartbeat)

    def look_at(self, heartbeat: HeartbeatRules) -> None:
        """Look soon whether one is due; from any thread, and from signal handlers."""
        self._to_look_at[heartbeat] = None
        self._wake_up.set()

    def run(self) -> None:
        """Send heartbeats until `stop`."""
        what = f"the heartbeats to {self._channel.endpoint}"
        keep_on(self.step, self._stop, log, what, self._stop.wait)
        self._channel.close()

    def step(self) -> None:
        """Begin the heartbeats that are due, and wait for answers, a wake-up, or the next one."""
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
            # Whatever it is, no heartbeat is forgotten.
            self._to_look_at.update(dict.fromkeys(self._beats))
            raise

    def _look(self, heartbeat: HeartbeatRules) -> None:
        """Begin one if it is due, else plan when; drop one that stops."""
        if heartbeat.stop_requested.is_set():
            talk = self._beats.pop(heartbeat, None)
            if talk is not None:
                self._channel.forget(talk)
            heartbeat.outage.ends(heartbeat)
            heartbeat.stopped.set()
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
                heartbeat.on_success(how)
                self._to_look_at[heartbeat] = None
            else:
                self._plan(heartbeat, heartbeat.on_failure(error))

    def _plan(self, heartbeat: HeartbeatRules, at: float) -> None:
        """Look at it then. Older entries of the same one in the heap do no harm."""
        if heartbeat.planned != at:
            heartbeat.planned = at
            heapq.heappush(self._due, (at, next(self._count), heartbeat))


class _HeartbeatThreads:
    """The heartbeat threads of one process. A signal handler may interrupt its methods."""

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
        """Take one out; returns its thread, and whether no heartbeat is left there."""
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
    """Send a heartbeat from now on; raises Disconnected if no thread can be started."""
    # It may have ended before.
    heartbeat.stop_requested, heartbeat.stopped = Stop(), Stop()
    _of_this_process().join(heartbeat).add(heartbeat, why)


def end(heartbeat: HeartbeatRules) -> None:
    """Stop a heartbeat; returns within a second, and nothing is sent afterwards."""
    heartbeat.stop_requested.set()
    thread, last = _of_this_process().leave(heartbeat)
    if thread is not None and last:
        thread.stop()
    elif thread is not None:
        thread.look_at(heartbeat)
        heartbeat.stopped.wait(_JOIN)
