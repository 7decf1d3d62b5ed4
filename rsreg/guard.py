"""What stands before the sockets of a server: who may connect, how many, and what each may take."""

from __future__ import annotations

from typing import Any

import zmq

from rsreg import sockets, timing
from rsreg.connections import Connections
from rsreg.ends import Descriptors
from rsreg.handshakes import Handshakes
from rsreg.later import Body
from rsreg.limits import Limits
from rsreg.replies import Replies
from rsreg.subscriptions import Subscriptions
from rsreg.timing import Clock
from rsreg.unfinished import Unfinished
from rsreg.zap import Gate


class Guard:
    """Made before the sockets of a context are bound, closed before they are."""

    def __init__(
        self, context: zmq.Context[Any], limits: Limits, clock: Clock = timing.steady
    ) -> None:
        descriptors = Descriptors()
        self.replies = Replies(limits, descriptors, clock)
        self.connections = Connections(limits, descriptors, clock)
        self.unfinished = Unfinished(self.connections, clock)
        self._limits = limits
        self._gate = Gate(limits)
        self._asked = sockets.handshakes(context)
        self._handshakes = Handshakes(self._asked, self._gate, clock)
        self._subscriptions: list[Subscriptions] = []
        self._descriptors = descriptors

    def watch_router(self, socket: zmq.Socket[bytes]) -> None:
        """Watch a socket for requests, before it is bound."""
        self.connections.watch(socket, self.replies.ended)

    def watch_publisher(self, socket: zmq.Socket[bytes]) -> Subscriptions:
        """Watch a socket for events, before it is bound."""
        subscriptions = Subscriptions(socket, self._limits, self.connections)
        self._subscriptions.append(subscriptions)
        self.connections.watch(socket, subscriptions.ended)
        return subscriptions

    def body(self) -> Body:
        """What `info` shows of it."""
        return {
            "connections": len(self.connections),
            "cut_connections": self.connections.cut,
            "delayed_handshakes": self._gate.delayed,
        }

    def close(self) -> None:
        """Watch nothing more, and let nobody in."""
        for subscriptions in self._subscriptions:
            subscriptions.close()
        self.connections.close()
        self._handshakes.close()
        self._asked.close()
        self._descriptors.close()
