"""How much of the replies waits to be read by each address, and how much it got of late.

libzmq counts the replies that it keeps for a connection, not their bytes. What it gave to the
kernel, which has sent it all, was read.
"""

from __future__ import annotations

from dataclasses import dataclass

from rsreg.ends import Descriptors
from rsreg.errors import SlowDown
from rsreg.limits import Limits, Rate
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
    """What one was sent."""

    address: str
    #: Bytes since it was last known to have read all.
    waiting: int = 0
    since: float = 0.0


@dataclass
class _Address:
    """The sum over the connections of an address, and when its next may come again."""

    waiting: int = 0
    next_turn: float = 0.0


class Replies:
    """Counts long replies, and refuses questions of an address that does not read its answers.

    The first long reply to a connection is not counted by the second: many may begin at once.
    """

    def __init__(self, limits: Limits, descriptors: Descriptors, clock: Clock) -> None:
        self.descriptors = descriptors
        self._limits = limits
        self._clock = clock
        self._rate = Rate(limits.reply_bytes_per_second)
        self._connections: dict[int, _Connection] = {}
        self._addresses: dict[str, _Address] = {}
        #: Those that may be beyond a bound.
        self._suspects: set[str] = set()

    @property
    def suspects(self) -> bool:
        """Whether there is anybody to be checked."""
        return bool(self._suspects)

    def check(self, address: str) -> None:
        """Raise SlowDown if an address may get no long reply now."""
        if address not in self._suspects:
            return
        now = self._clock()
        self._look(address)
        if self._waits(address) > self._limits.waiting_bytes:
            raise self._limits.slow_down("waiting_bytes", address, self._turn(address, now))
        if wait := self._rate.wait(address, now):
            wait = max(wait, self._turn(address, now))
            raise self._limits.slow_down("reply_bytes_per_second", address, wait)
        self._suspects.discard(address)

    def too_many(self, address: str) -> SlowDown:
        """The error that a connection asked too much before it got its long answers."""
        seconds = self._turn(address, self._clock())
        return self._limits.slow_down("reply_bytes_per_second", address, seconds)

    def may_send(self, address: str) -> bool:
        """Whether a long reply may be sent after all, also one that nobody checked before."""
        if self._waits(address) <= 2 * self._limits.waiting_bytes:
            return True
        try:
            self.check(address)
        except SlowDown:
            return False
        return True

    def sent(self, number: int, address: str, size: int) -> None:
        """A long reply was sent on a connection."""
        if self._limits.is_gateway(address):
            return
        now = self._clock()
        one = self._connections.get(number)
        if one is None or one.address != address:
            self.ended(number)
            one = self._connections[number] = _Connection(address)
        else:
            self._rate.take(address, now, size)
        one.waiting += size
        one.since = now
        total = self._addresses.setdefault(address, _Address())
        total.waiting += size
        if total.waiting > self._limits.waiting_bytes or self._rate.wait(address, now):
            self._suspects.add(address)

    def ended(self, number: int) -> None:
        """A connection is over."""
        one = self._connections.pop(number, None)
        if one is not None:
            self._was_read(one)

    def _waits(self, address: str) -> int:
        total = self._addresses.get(address)
        return 0 if total is None else total.waiting

    def _look(self, address: str) -> None:
        """Ask the kernel what was read."""
        if self._waits(address) <= self._limits.waiting_bytes:
            return
        now = self._clock()
        for number, one in self._connections.items():
            if (
                one.waiting
                and one.address == address
                and now >= one.since + _MOMENT
                and self.descriptors.has_sent_all(number, address)
            ):
                self._was_read(one)

    def _was_read(self, one: _Connection) -> None:
        total = self._addresses.get(one.address)
        if total is not None:
            total.waiting -= one.waiting
            if total.waiting <= 0:
                del self._addresses[one.address]
        one.waiting = 0

    def _turn(self, address: str, now: float) -> float:
        """In how many seconds one that is refused is to come again: one after the other."""
        total = self._addresses.setdefault(address, _Address())
        total.next_turn = min(max(now + _MOMENT, total.next_turn + _APART), now + _LAST)
        return total.next_turn - now
