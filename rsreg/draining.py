"""Plain sockets and the hub: waiting for several, and reading one a slice at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import zmq
from gevent.hub import Waiter

log = logging.getLogger(__name__)

#: The event loop's highest priority. One turn of the loop: `gevent.sleep(0)` would let timers and
#: signals wait for 50 batches, and the default priority for a moment without any input.
FIRST = 2
#: Messages that are read before others have their turn.
_SLICE = 64
#: Seconds after which a socket is looked at in any case.
_TICK = 0.5
#: A plain number: the arithmetic of enums costs as much as reading the socket.
_READABLE = int(zmq.POLLIN)


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether there is a message. Half the price of the exception that a look in vain costs."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _READABLE)


class Readiness:
    """Wakes one greenlet when one of several plain sockets may have something to read.

    The file descriptor of a ZeroMQ socket is edge-triggered, and whatever is done with the socket
    may swallow the edge: so the one greenlet that waits here is also the only one that uses them,
    and it looks at a socket that it used before it waits.
    """

    def __init__(self, sockets: Sequence[zmq.Socket[bytes]], tick: float) -> None:
        loop = gevent.get_hub().loop
        # It switches to who waits right from the watcher; an event would take a turn of the loop.
        self._waiter: Any = Waiter()
        self._watchers: list[Any] = [loop.io(socket.fileno(), 1) for socket in sockets]
        self._watchers.append(loop.timer(tick, tick))
        for watcher in self._watchers:
            watcher.start(self._waiter.switch, None)

    def wait(self, *, busy: bool) -> None:
        """Return when there may be something to read, or after a tick; others have run meanwhile.

        With `busy` there is something to do already, and only the others have their turn.
        """
        if busy:
            gevent.idle(FIRST)
        else:
            self._waiter.clear()
            self._waiter.get()

    def close(self) -> None:
        """Stop watching; before the sockets are closed."""
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()


class Drain:
    """Has `read` called for each message of a socket, which reads it, and switches to nobody.

    No greenlet that could end: whatever `read` raises is logged, and the next message is read.
    """

    def __init__(self, socket: zmq.Socket[bytes], read: Callable[[], None]) -> None:
        self._socket = socket
        self._read = read
        loop: Any = gevent.get_hub().loop
        self._again = loop.idle()
        self._again.priority = FIRST
        self._watchers = [loop.io(socket.fileno(), 1), loop.timer(_TICK, _TICK)]
        for watcher in self._watchers:
            watcher.start(self.look)
        # The first message wakes only who has looked in vain before.
        self.look()

    def look(self) -> None:
        """Read a slice of what is there, and the rest in the next turns.

        To be called after the socket was used otherwise, which may swallow the edge that wakes it.
        """
        for _ in range(_SLICE):
            try:
                if not readable(self._socket):
                    self._again.stop()
                    return
                self._read()
            except Exception:
                log.exception("a message from within could not be read")
        if not self._again.active:
            self._again.start(self.look)

    def close(self) -> None:
        """Stop watching; before the socket is closed."""
        for watcher in (self._again, *self._watchers):
            watcher.stop()
            watcher.close()
