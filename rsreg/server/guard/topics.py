"""TopicCounts: limits the subscriptions of a connection, which cost memory, and time per event."""

from __future__ import annotations

import zmq

from rsreg.server.guard.connections import Connections, number_of
from rsreg.server.guard.readiness import SocketReader
from rsreg.server.limits import Limits, Rate
from rsreg.timing import Clock

#: Seconds between two looks. Each has libzmq take in what came meanwhile: if it did so without a
#: pause, a peer that sends on and on would keep it busy within one call, and who has too many
#: subscriptions could not be cut.
_PAUSE = 0.005
#: So many connections may end at once: each of their subscriptions is told.
_ENDS = 200


class TopicCounts:
    """Reads the subscriptions that come to a socket for events, and cuts who has too many.

    To send on that socket is for its own thread alone, which calls `look` afterwards.
    """

    def __init__(
        self, socket: zmq.Socket[bytes], limits: Limits, connections: Connections, clock: Clock
    ) -> None:
        self._socket = socket
        self._clock = clock
        #: How often a connection may change what it subscribed: as much as it may have, a second.
        self._rate = Rate(limits.subscriptions)
        self._rate_of_ends = Rate(_ENDS * limits.subscriptions)
        self._limits = limits
        self._connections = connections
        #: Connection -> what it subscribed; None once it was cut.
        self._topics: dict[int, set[bytes] | None] = {}
        #: How many came from peers of ZMTP 1 and 2, whose messages don't tell the connection.
        self._unknown = 0
        self._all = connections.watch(socket, self._ended)
        self._reader = SocketReader(socket, self._read, _PAUSE)
        self.look = self._reader.look
        self.close = self._reader.close

    def _ended(self, number: int) -> None:
        """Forget a connection that is over."""
        self._topics.pop(number, None)
        self._rate.forget(str(number))

    def _read(self) -> None:
        frame, *more = self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
        message, number = frame.bytes, number_of(frame)
        if number >= 0:
            self._count(number, message[:1] if not more else b"", message[1:])
        # The ends of subscriptions that end with their connection are such, too.
        elif message[:1] != b"\0" or self._is_too_often(self._rate_of_ends, ""):
            self._count_unknown()

    def _count_unknown(self) -> None:
        """Count a subscription of an unknown connection; if too many, cut all unknown ones.

        Whether one ended is not counted: it may be that of somebody else.
        """
        self._unknown += 1
        unknown = [number for number in self._all if number not in self._topics]
        if self._unknown > self._limits.subscriptions * max(1, len(unknown)):
            self._unknown = 0
            for number in unknown:
                self._cut(number, f"it has more than {self._limits.subscriptions} subscriptions")

    def _count(self, number: int, what: bytes, topic: bytes) -> None:
        if self._topics.get(number) is None:
            # It may be a new connection, whose begin was told but not read yet: its number would
            # be taken for that of one that was cut, or what counts now be forgotten then.
            self._connections.look()
        topics = self._topics.setdefault(number, set())
        if topics is None:
            return
        if what == b"\1":
            topics.add(topic)
        elif what == b"\0":
            topics.discard(topic)
        else:
            self._cut(number, "it sent what is no subscription")
        if self._is_too_often(self._rate, str(number)):
            self._cut(number, "it changes its subscriptions too often")
        if len(topics) > self._limits.subscriptions:
            self._cut(number, f"it has more than {self._limits.subscriptions} subscriptions")

    def _is_too_often(self, rate: Rate, who: str) -> bool:
        now = self._clock()
        rate.take(who, now)
        return rate.wait(who, now) > 0

    def _cut(self, number: int, why: str) -> None:
        self._topics[number] = None
        self._connections.end(number, why)
