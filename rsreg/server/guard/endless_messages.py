"""Finds connections on which a message has no end, and cuts them.

libzmq bounds each frame, not how many a message has, and keeps all of a message until its end. So
the kernel is asked how much came on each connection, when the memory of the process grows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Protocol

from gevent.event import Event as Flag

from rsreg.timing import Clock

#: Seconds between two looks, at least: on loopback a gigabyte comes in a second.
LOOK = 0.025
#: The same as long as a connection has been watched for less than so many seconds.
_SOON, _MOMENT = 0.005, 0.2
#: Bytes by which the memory grows until connections are looked at.
_GROWTH = 8 * 1024 * 1024
#: Bytes that come on a connection without a whole message until it is cut: more than the longest
#: request, and far more than a connection says that sends nothing but signs of life.
_MOST = 512 * 1024
#: Seconds for which a connection is watched.
_WATCH = 60.0
#: Connections that are looked at in one turn; 8 µs each.
_AT_ONCE = 200


class OpenConnections(Protocol):
    """The connections that there are."""

    def numbers(self) -> Iterable[int]:
        """Return their descriptors."""

    def received(self, number: int) -> int | None:
        """Return the bytes that came on one so far; None if it is over, or that is not known."""

    def end(self, number: int, why: str) -> None:
        """Cut a connection."""


class EndlessMessages:
    """Watches connections on which much came, and hears of each message that had an end.

    The request loop has it look at the memory, so that an idle server is not woken for that. While
    it watches somebody, it looks by itself.
    """

    def __init__(
        self, connections: OpenConnections, clock: Clock, memory: Callable[[], int] | None = None
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._memory = memory or own_memory
        self._calm = self._memory()
        #: When it may look next, and until when it looks often.
        self._next = self._until = 0.0
        self._busy = Flag()
        self._to_look_at: list[int] = []
        #: Connection -> what had come on it when the watch began, and when that was. As long as
        #: there is one, it wants to hear of messages.
        self.watched: dict[int, tuple[int, float]] = {}

    def heard(self, number: int) -> None:
        """Note that a whole message came on a connection."""
        self.watched.pop(number, None)

    def run(self, stop: Flag) -> None:
        """Look while there is anybody to be watched, until `stop` is set."""
        while not stop.is_set():
            self._busy.wait()
            stop.wait(_SOON if self._clock() < self._until else LOOK)
            self.step()

    def may_look(self, now: float) -> None:
        """Look, unless that was just now."""
        if now >= self._next:
            self._next = now + LOOK
            self.step()

    def step(self) -> None:
        """Look once."""
        if self.watched:
            self._look_again()
        if not self._to_look_at and self._memory() > self._calm + _GROWTH:
            self._to_look_at = list(self._connections.numbers())
        if self._to_look_at:
            self._look()
        if self.watched or self._to_look_at:
            self._busy.set()
        else:
            self._busy.clear()

    def _look(self) -> None:
        """Watch those on which much came, from now on."""
        part, self._to_look_at = self._to_look_at[:_AT_ONCE], self._to_look_at[_AT_ONCE:]
        now = self._clock()
        for number in part:
            received = self._connections.received(number)
            if received is not None and received > _MOST and number not in self.watched:
                self.watched[number] = (received, now)
                self._until = now + _MOMENT
        if not self._to_look_at:
            self._calm = self._memory()

    def _look_again(self) -> None:
        now = self._clock()
        for number, (before, since) in list(self.watched.items()):
            received = self._connections.received(number)
            if received is None or received < before or now > since + _WATCH:
                del self.watched[number]
            elif received > before + _MOST:
                del self.watched[number]
                self._connections.end(number, "a message on it has no end")


def own_memory() -> int:
    """Return bytes of memory that this process has; 0 where that can't be told."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(64).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
