"""UnreadReplies: limits the bytes of replies that wait to be read by each address.

libzmq counts the replies that it keeps for a connection, not their bytes. It keeps none while the
kernel takes more; so what the kernel has not sent yet, and what is very new, is all that waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from rsreg.errors import SlowDown
from rsreg.server.guard.descriptors import Descriptors
from rsreg.server.limits import Limits, Rate
from rsreg.timing import Clock

#: Bytes from which on a reply counts.
LONG = 1024
#: Seconds that libzmq may take to give a reply to the kernel.
_MOMENT = 0.05
#: Seconds between those who are to come again, and until the last of them: all at once would be
#: refused again.
_APART, _LAST = 0.02, 2.0


@dataclass
class _Connection:
    """What one was sent, and did not read yet as far as is known."""

    address: str
    #: Bytes that were given to libzmq a moment ago, and those since.
    older: int = 0
    newer: int = 0
    since: float = 0.0

    @property
    def waiting(self) -> int:
        return self.older + self.newer

    def sent(self, size: int, now: float) -> None:
        """Add bytes that were sent; with none, only note that time has passed."""
        if now >= self.since + _MOMENT:
            self.older, self.newer, self.since = self.waiting, 0, now
        self.newer += size


@dataclass
class _Address:
    """The sum over the connections of an address."""

    waiting: int = 0
    #: When its next may come again, and when it was looked at.
    next_turn: float = 0.0
    looked: float = -1.0


class UnreadReplies:
    """Counts long replies, and refuses questions of an address that does not read its answers.

    The first long reply to a connection is not counted by the second: many may begin at once.
    """

    def __init__(self, limits: Limits, descriptors: Descriptors, clock: Clock) -> None:
        self.descriptors = descriptors
        #: The numbers of all connections, by their sockets.
        self.all: list[Iterable[int]] = []
        self._limits = limits
        self._clock = clock
        self._rate = Rate(limits.reply_bytes_per_second)
        self._connections: dict[int, _Connection] = {}
        self._addresses: dict[str, _Address] = {}
        #: Addresses that may be beyond a bound; nobody else has to be checked.
        self.suspects: set[str] = set()

    def check(self, address: str) -> None:
        """Raise SlowDown if an address may get no long reply now."""
        if address not in self.suspects:
            return
        now = self._clock()
        if self._waits(address) > self._limits.waiting_bytes:
            self._look(address, now)
        if self._waits(address) > self._limits.waiting_bytes:
            raise self._limits.slow_down("waiting_bytes", address, self._turn(address, now))
        if wait := self._rate.wait(address, now):
            wait = max(wait, self._turn(address, now))
            raise self._limits.slow_down("reply_bytes_per_second", address, wait)
        self.suspects.discard(address)

    def too_many(self, address: str) -> SlowDown:
        """Return the error that a connection asked too much before it got its long answers."""
        seconds = self._turn(address, self._clock())
        return self._limits.slow_down("reply_bytes_per_second", address, seconds)

    def may_send(self, address: str) -> bool:
        """Return whether a long reply may be sent after all, also one not checked before."""
        if self._waits(address) <= 2 * self._limits.waiting_bytes:
            return True
        try:
            self.check(address)
        except SlowDown:
            return False
        return True

    def sent(self, number: int, address: str, size: int) -> None:
        """Count a long reply that was sent on a connection."""
        if self._limits.is_gateway(address):
            return
        now = self._clock()
        one = self._connections.get(number)
        if one is None or one.address != address:
            self.ended(number)
            one = self._connections[number] = _Connection(address)
        else:
            self._rate.take(address, now, size)
        one.sent(size, now)
        total = self._addresses.setdefault(address, _Address())
        total.waiting += size
        if total.waiting > self._limits.waiting_bytes or self._rate.wait(address, now):
            self.suspects.add(address)

    def ended(self, number: int) -> None:
        """Forget a connection that is over."""
        one = self._connections.pop(number, None)
        total = None if one is None else self._addresses.get(one.address)
        if one is not None and total is not None:
            total.waiting -= one.waiting
            if total.waiting <= 0:
                del self._addresses[one.address]

    def _waits(self, address: str) -> int:
        total = self._addresses.get(address)
        return 0 if total is None else total.waiting

    def _look(self, address: str, now: float) -> None:
        """Ask the kernel what was read."""
        total = self._addresses.get(address)
        if total is None or now < total.looked + _APART:
            return
        total.looked = now
        for number, one in self._connections.items():
            if one.address != address or not one.waiting:
                continue
            one.sent(0, now)
            unsent = self.descriptors.unsent(number, address) if number >= 0 else self._unsent()
            # While the kernel takes more, libzmq keeps nothing for longer than a moment.
            if unsent is not None and unsent < one.older:
                total.waiting -= one.older - unsent
                one.older = unsent

    def _unsent(self) -> int | None:
        """Return what the kernel has yet to send to anybody: peers of ZMTP 1 and 2 are unknown."""
        total = 0
        for number in chain.from_iterable(self.all):
            unsent = self.descriptors.unsent(number)
            if unsent is None:
                return None
            total += unsent
        return total

    def _turn(self, address: str, now: float) -> float:
        """Return in how many seconds one that is refused is to come again: one after the other."""
        total = self._addresses.setdefault(address, _Address())
        total.next_turn = min(max(now + _MOMENT, total.next_turn + _APART), now + _LAST)
        return total.next_turn - now
