"""Connections: counts the connections of each address, cuts some, and bars addresses.

libzmq tells of each connection only when it has accepted it. So an address that comes too often is
barred by the kernel until its rate has paid for all that came; where that can't be, it is cut.
"""

from __future__ import annotations

import logging
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import zmq

from rsreg.server.guard import packet_filter
from rsreg.server.guard.descriptors import Descriptors, Ends
from rsreg.server.guard.log_limiter import LogLimiter
from rsreg.server.guard.readiness import SocketReader
from rsreg.server.limits import Limits, Rate, is_loopback
from rsreg.timing import Clock
from rsreg.transport import sockets

# A server says itself that there is none on Windows; to import its names is no fault.
if sys.platform != "win32":
    import resource

log = logging.getLogger(__name__)

#: Descriptors that are kept free, or a quarter of them if they are few. With none left, libzmq
#: would ask for the next connection all the while, on its one thread.
_FREE = 64
_LISTENING, _ACCEPTED, _ENDED = map(
    int, (zmq.EVENT_LISTENING, zmq.EVENT_ACCEPTED, zmq.EVENT_DISCONNECTED)
)
#: Seconds between two looks at who may come again.
_LOOK = 0.1


class Table:
    """The connections of one socket: whose each is. No I/O."""

    def __init__(self) -> None:
        self._whose: dict[int, str] = {}
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._whose)

    def __iter__(self) -> Iterator[int]:
        return iter(self._whose)

    def add(self, number: int, address: str) -> int:
        """Count a new connection; return how many its address has. A known number is used anew."""
        self.remove(number)
        self._whose[number] = address
        self._counts[address] += 1
        return self._counts[address]

    def remove(self, number: int) -> None:
        """Forget a connection that has ended, if it was known."""
        address = self._whose.pop(number, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]


class Connections:
    """Counts the connections of each socket by their addresses, and cuts what is too many."""

    def __init__(self, limits: Limits, descriptors: Descriptors, clock: Clock) -> None:
        #: How many were cut, and how often an address was barred.
        self.cut = self.barred = 0
        self._limits = limits
        self._descriptors = descriptors
        self._clock = clock
        self._log_limiter = LogLimiter()
        self._rate = Rate(limits.handshakes_per_second)
        self._barred: set[str] = set()
        self._timer: Any = gevent.get_hub().loop.timer(_LOOK, _LOOK)
        self._listeners: list[int] = []
        self._tables: list[Table] = []
        self._watched: list[tuple[zmq.Socket[bytes], zmq.Socket[bytes], SocketReader]] = []

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def look(self) -> None:
        """Read the messages that have arrived, or the first of them."""
        for _, _, reader in self._watched:
            reader.look()

    def watch(self, socket: zmq.Socket[bytes], ended: Callable[[int], None]) -> Table:
        """Watch a server's socket, before it is bound; `ended` gets the number of what ended."""
        monitor = sockets.connection_monitor(socket)
        table = Table()

        def read() -> None:
            event, number = struct.unpack("=HI", monitor.recv_multipart(zmq.DONTWAIT)[0])
            if event == _ACCEPTED:
                # Whoever had that number has ended.
                ended(number)
                self._accepted(table, number)
            elif event == _LISTENING:
                self._listeners.append(number)
            elif event == _ENDED:
                table.remove(number)
                ended(number)

        self._tables.append(table)
        self._watched.append((socket, monitor, SocketReader(monitor, read)))
        return table

    def _accepted(self, table: Table, number: int) -> None:
        ends = self._descriptors.look(number)
        if ends is None:
            table.remove(number)
            return
        count = table.add(number, ends.peer)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # A new descriptor has the lowest number that is free: so many are in use.
        if most != resource.RLIM_INFINITY and number >= most - min(_FREE, most // 4):
            self._cut(number, ends, "", f"{number} files and sockets are open (ulimit -n)")
        elif self._is_free(ends.peer):
            return
        elif count > self._limits.connections_per_address:
            self._cut(number, ends, ends.peer, f"it has {count} to port {ends.port}")
        elif self._comes_too_often(ends.peer):
            self._cut(number, ends, ends.peer, "it connects too often")

    def _is_free(self, address: str) -> bool:
        return is_loopback(address) or self._limits.is_gateway(address)

    def numbers(self) -> list[int]:
        """Return the descriptors of all connections."""
        return [number for table in self._tables for number in table]

    def received(self, number: int) -> int | None:
        """Return bytes that came on one so far; None if it is over, or nobody can tell."""
        return self._descriptors.received(number)

    def _comes_too_often(self, address: str) -> bool:
        """Count one more from an address; whether it has to go, since it can't be barred."""
        now = self._clock()
        if self._rate.wait(address, now) and not self._is_barred(address, now):
            return True
        self._rate.take(address, now)
        if self._rate.wait(address, now):
            self._is_barred(address, now)
        return False

    def _is_barred(self, address: str, now: float) -> bool:
        """Bar an address, unless it is; return whether that works."""
        if address in self._barred:
            return True
        if len(self._barred) == packet_filter.MOST or not self._bar({*self._barred, address}):
            return False
        self.barred += 1
        if not self._timer.active:
            self._timer.start(self._look)
        if self._log_limiter.may_log(address, now):
            log.warning("%s connects too often: it has to wait", address)
        return True

    def _look(self) -> None:
        """Admit the addresses again whose rate allows it."""
        try:
            now = self._clock()
            still = {address for address in self._barred if self._rate.wait(address, now)}
            if still != self._barred:
                self._bar(still)
            if not still:
                self._timer.stop()
        except Exception:
            log.exception("the addresses that are barred could not be changed")

    def _bar(self, addresses: set[str]) -> bool:
        works = [self._descriptors.bar(number, addresses) for number in self._listeners]
        if all(works):
            self._barred = addresses
        return all(works)

    def end(self, number: int, why: str) -> None:
        """Cut a connection for what was sent on it; the log says so once in a while."""
        ends = self._descriptors.look(number)
        if ends is not None:
            self._cut(number, ends, ends.peer, why)

    def _cut(self, number: int, ends: Ends, whose: str, why: str) -> None:
        self.cut += 1
        self._descriptors.cut(number, ends)
        if self._log_limiter.may_log(whose, self._clock()):
            log.warning("cut a connection from %s: %s", ends.peer, why)

    def close(self) -> None:
        """Stop watching; before the sockets are closed."""
        self._timer.stop()
        self._timer.close()
        for socket, monitor, reader in self._watched:
            reader.close()
            # In this order: libzmq's thread would wait for a reader that is gone.
            socket.disable_monitor()
            monitor.close()
        self._watched.clear()


def number_of(frame: zmq.Frame) -> int:
    """Return the descriptor of the connection it came on, also an ended one; -1: not known."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1
