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
_SLICE = 128
#: A plain number: the arithmetic of enums costs as much as reading the socket.
_READABLE = int(zmq.POLLIN)


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Return whether there is a message: half as dear as the exception of a vain read."""
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


class SocketReader:
    """Has `read` called for each message of a socket, which reads it, and switches to nobody.

    With a `pause` it reads no more for so many seconds after it has read some. No greenlet that
    could end: whatever `read` raises but `zmq.Again` is logged, and the next message is read.
    Somebody should call `look` once in a while in any case.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], read: Callable[[], None], pause: float = 0.0
    ) -> None:
        self._read = read
        self._paced = pause > 0
        loop: Any = gevent.get_hub().loop
        self._again = loop.timer(pause) if self._paced else loop.idle()
        if not self._paced:
            self._again.priority = FIRST
        self._readable = loop.io(socket.fileno(), 1)
        self._readable.start(self.look)
        # The first message wakes only who has looked in vain before.
        self.look()

    def look(self) -> None:
        """Read a slice of what is there, and the rest in the next turns.

        To be called after the socket was used otherwise, which may swallow the edge that wakes it.
        """
        if self._paced and self._again.active:
            return
        count = 0
        while count < _SLICE and self._reads():
            count += 1
        if self._paced:
            if count:
                self._again.start(self.look)
        elif count < _SLICE:
            self._again.stop()
        elif not self._again.active:
            self._again.start(self.look)

    def _reads(self) -> bool:
        try:
            self._read()
        except zmq.Again:
            return False
        except Exception:
            log.exception("a message of libzmq could not be read")
        return True

    def close(self) -> None:
        """Stop watching; before the socket is closed."""
        for watcher in (self._again, self._readable):
            watcher.stop()
            watcher.close()
