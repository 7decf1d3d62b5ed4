"""The two ends of a connection, asked of the kernel by the number of its descriptor.

The descriptors are libzmq's, which tells their numbers: one is never closed here, and may be closed
there at any moment, so that its number is another connection's. So each look is at a duplicate.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from rsreg.server.guard import packet_filter
from rsreg.server.limits import is_loopback

# A server says itself that there is none on Windows; to import its names is no fault.
if sys.platform != "win32":
    import fcntl
    import termios

#: Darwin's option for the bytes that a socket has yet to send, which Python has no name for.
_SO_NWRITE = 0x1024
#: Where `tcpi_bytes_received` stands in Linux's `struct tcp_info`.
_RECEIVED = 128


class Ends(NamedTuple):
    """The address of who connected, the one it connected to, and the port there."""

    peer: str
    own: str
    port: int

    @property
    def is_this_machine(self) -> bool:
        """Whether both ends are here."""
        return self.peer == self.own or (is_loopback(self.peer) and is_loopback(self.own))


class Descriptors:
    """Looks at connections and cuts them; for one thread.

    It keeps a descriptor for that, and works also when the process has none left.
    """

    def __init__(self) -> None:
        self._null = os.open(os.devnull, os.O_RDONLY)
        self._copy = os.dup(self._null)

    def look(self, number: int) -> Ends | None:
        """Return the ends of a connection; None if there is none."""
        with suppress(OSError), self._duplicate(number) as connection:
            return _ends(connection)
        return None

    def cut(self, number: int, expected: Ends) -> None:
        """End a connection for both sides, if it still is from that address to that port."""
        with suppress(OSError), self._duplicate(number) as connection:
            ends = _ends(connection)
            if (ends.peer, ends.port) == (expected.peer, expected.port):
                connection.shutdown(socket.SHUT_RDWR)

    def unsent(self, number: int, peer: str | None = None) -> int | None:
        """Return the bytes that the kernel has yet to send; None while it takes no more.

        0 if the connection is over, or with another `peer` than this. Where a system can't tell,
        all counts as sent: Linux and macOS can.
        """
        with suppress(OSError), self._duplicate(number) as connection:
            if peer in (None, _ends(connection).peer):
                unsent = _unsent(connection)
                most = connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
                # It counts more for each byte than this, so well before the buffer is full.
                return unsent if unsent <= most // 4 else None
        return 0

    def received(self, number: int) -> int | None:
        """Return the bytes that came on a connection so far; None if that is not known."""
        if not sys.platform.startswith("linux"):
            return None
        with suppress(OSError, struct.error), self._duplicate(number) as connection:
            told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED + 8)
            return int(struct.unpack_from("=Q", told, _RECEIVED)[0])
        return None

    def bar(self, number: int, addresses: Collection[str]) -> bool:
        """Have a listening socket take nobody from these addresses; whether that works."""
        with suppress(OSError), self._duplicate(number) as listener:
            return packet_filter.bar(listener, addresses)
        return False

    def close(self) -> None:
        """Release the descriptors."""
        os.close(self._copy)
        os.close(self._null)

    @contextmanager
    def _duplicate(self, number: int) -> Iterator[socket.socket]:
        os.dup2(number, self._copy, inheritable=False)
        try:
            # The longer of both kinds of addresses; what is asked tells the real one.
            connection = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, fileno=self._copy)
            try:
                yield connection
            finally:
                connection.detach()
        finally:
            os.dup2(self._null, self._copy, inheritable=False)


def _ends(connection: socket.socket) -> Ends:
    peer, own = connection.getpeername(), connection.getsockname()
    if not (isinstance(peer, tuple) and isinstance(own, tuple)):
        raise OSError("no connection of a network")
    return Ends(plain(peer[0]), plain(own[0]), own[1])


def plain(address: str) -> str:
    """Return an address in one spelling.

    That is without the interface that ZeroMQ, or Python, may add to it, and one of IPv4 as it is
    written there, also where it came by a socket of IPv6.
    """
    return address.partition("%")[0].removeprefix("::ffff:")


def _unsent(connection: socket.socket) -> int:
    if sys.platform == "darwin":
        return connection.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    if not sys.platform.startswith("linux"):
        return 0
    unsent = array.array("i", [0])
    # What ioctl_tty(2) calls so is SIOCOUTQ of tcp(7): all that the peer has not acknowledged.
    fcntl.ioctl(connection, termios.TIOCOUTQ, unsent)
    return unsent[0]
