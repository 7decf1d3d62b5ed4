"""Publisher: sends committed events to whoever subscribed."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import gevent
import zmq
from gevent.event import Event as Flag

from rsreg.display import printable
from rsreg.server.backends.stored import Event
from rsreg.server.guard.readiness import FIRST

log = logging.getLogger(__name__)

#: Events that are published before others have their turn.
PUBLISH_BATCH = 16

#: Takes committed events to publish, now or soon.
Publish = Callable[[Sequence[Event]], None]


class Publisher:
    """Sends committed events, in order, to whoever subscribed.

    A few are sent at once, right from where they were committed. Many are sent in slices, with the
    other greenlets in between: each event costs a copy for each subscriber. `used` is called after
    the socket was.
    """

    def __init__(self, socket: zmq.Socket[bytes], used: Callable[[], None] = lambda: None) -> None:
        self._socket = socket
        self._used = used
        self._waiting: deque[Event] = deque()
        self._more = Flag()

    def publish(self, events: Sequence[Event]) -> None:
        """Send events now, or soon after those that wait already; never waits itself."""
        if events:
            idle = not self._waiting
            self._waiting.extend(events)
            if idle:
                self.step()
            if self._waiting:
                self._more.set()

    def run(self, stop: Flag) -> None:
        """Send what waits until `stop` is set."""
        while not stop.is_set():
            self._more.wait()
            self.step()
            gevent.idle(FIRST)

    def step(self) -> None:
        """Send a slice of what waits."""
        for _ in range(min(PUBLISH_BATCH, len(self._waiting))):
            self._send(self._waiting.popleft())
        self._used()
        if not self._waiting:
            self._more.clear()

    def flush(self) -> None:
        """Send all that waits."""
        while self._waiting:
            self.step()

    def _send(self, event: Event) -> None:
        """Send an event; a subscriber whose queue is full misses it and sees a gap in `seq`."""
        log.info("%s %s", event.type, printable(event.service_id))
        self._socket.send_multipart([event.type.encode(), event.body], zmq.DONTWAIT)
