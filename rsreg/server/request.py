"""A request that has arrived, and who sent it."""

from __future__ import annotations

from typing import NamedTuple

import zmq

from rsreg.protocol import wire
from rsreg.server.guard.connections import number_of
from rsreg.server.guard.descriptors import plain
from rsreg.server.guard.unread_replies import UnreadReplies


class Request(NamedTuple):
    """A request that has arrived, and who sent it: a `dispatch.Peer`."""

    socket: zmq.Socket[bytes]
    envelope: wire.Envelope
    identity: zmq.Frame
    replies: UnreadReplies

    @property
    def connection(self) -> tuple[object, bytes]:
        """What tells its connection from others."""
        return self.socket, self.identity.bytes

    @property
    def address(self) -> str:
        """The address of who sent it; empty for peers of ZMTP 1 and 2, which don't tell it."""
        try:
            return plain(str(self.identity.get("Peer-Address")))
        except zmq.ZMQError:
            return ""

    @property
    def number(self) -> int:
        """The descriptor of its connection, see `number_of`."""
        return number_of(self.identity)

    def is_this_machine(self) -> bool:
        """Return whether it surely was sent from the machine that we run on."""
        ends = self.replies.descriptors.look(self.number)
        # Another address is that of a later connection, which has the number now.
        return ends is not None and ends.peer == self.address and ends.is_this_machine

    def check_replies(self) -> None:
        """Raise SlowDown if its sender can get no long reply now."""
        if self.replies.suspects:
            self.replies.check(self.address)
