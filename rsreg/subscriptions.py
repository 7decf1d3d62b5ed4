"""How many subscriptions each connection has: each costs memory, and time at each event."""

from __future__ import annotations

import contextlib

import zmq

from rsreg.connections import Connections
from rsreg.draining import Drain
from rsreg.limits import Limits


class Subscriptions:
    """Reads the subscriptions that come to a socket for events, and cuts who has too many.

    To send on that socket is for its own thread alone, which calls `look` afterwards.
    """

    def __init__(self, socket: zmq.Socket[bytes], limits: Limits, connections: Connections) -> None:
        self._socket = socket
        self._limits = limits
        self._connections = connections
        #: Connection -> what it subscribed; None once it was cut.
        self._topics: dict[int, set[bytes] | None] = {}
        self._drain = Drain(socket, self._read)
        self.look = self._drain.look
        self.close = self._drain.close

    def ended(self, number: int) -> None:
        """A connection is over."""
        self._topics.pop(number, None)

    def _read(self) -> None:
        frame, *more = self._socket.recv_multipart(zmq.DONTWAIT, copy=False)
        said = frame.bytes
        # Those that end with their connection come without a number.
        with contextlib.suppress(zmq.ZMQError):
            self._count(int(frame.get(zmq.SRCFD)), said[:1] if not more else b"", said[1:])

    def _count(self, number: int, what: bytes, topic: bytes) -> None:
        topics = self._topics.setdefault(number, set())
        if topics is None:
            return
        if what == b"\1":
            topics.add(topic)
        elif what == b"\0":
            topics.discard(topic)
        else:
            self._cut(number, "it sent what is no subscription")
        if len(topics) > self._limits.subscriptions:
            self._cut(number, f"it has more than {self._limits.subscriptions} subscriptions")

    def _cut(self, number: int, why: str) -> None:
        self._topics[number] = None
        self._connections.end(number, why)
