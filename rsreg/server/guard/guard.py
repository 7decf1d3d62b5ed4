"""What stands before the sockets of a server: who may connect, how many, and what each may take."""

from __future__ import annotations

import zmq

from rsreg import timing
from rsreg.protocol.calls import Record
from rsreg.server.guard.connections import Connections
from rsreg.server.guard.descriptors import Descriptors
from rsreg.server.guard.endless_messages import EndlessMessages
from rsreg.server.guard.topics import TopicCounts
from rsreg.server.guard.unread_replies import UnreadReplies
from rsreg.server.limits import Limits
from rsreg.timing import Clock


class Guard:
    """Made before the sockets are bound, closed before they are."""

    def __init__(self, limits: Limits, clock: Clock = timing.steady) -> None:
        descriptors = Descriptors()
        self.replies = UnreadReplies(limits, descriptors, clock)
        self.connections = Connections(limits, descriptors, clock)
        self.unfinished = EndlessMessages(self.connections, clock)
        self._limits = limits
        self._clock = clock
        self._topics: list[TopicCounts] = []
        self._descriptors = descriptors

    def watch_router(self, socket: zmq.Socket[bytes]) -> None:
        """Watch a socket for requests, before it is bound."""
        self.replies.all.append(self.connections.watch(socket, self.replies.ended))

    def watch_publisher(self, socket: zmq.Socket[bytes]) -> TopicCounts:
        """Watch a socket for events, before it is bound."""
        topics = TopicCounts(socket, self._limits, self.connections, self._clock)
        self._topics.append(topics)
        return topics

    def look(self) -> None:
        """Read what has come, though no event of the sockets told so."""
        self.connections.look()
        for topics in self._topics:
            topics.look()

    def body(self) -> Record:
        """Return what `info` shows of it."""
        self.connections.look()
        return {
            "connections": len(self.connections),
            "cut_connections": self.connections.cut,
            "barred": self.connections.barred,
        }

    def close(self) -> None:
        """Watch nothing more."""
        for topics in self._topics:
            topics.close()
        self.connections.close()
        self._descriptors.close()
