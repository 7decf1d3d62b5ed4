"""Retention: how many events, and bytes of them, the journal keeps. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from rsreg.config import DEFAULT_JOURNAL_BYTES, DEFAULT_JOURNAL_EVENTS
from rsreg.errors import ConfigurationError

#: What goes at once, as a part of the limits: to delete a thousand events takes 25 ms.
_EVENTS_PART, _BYTES_PART = 100, 64


class _Part(NamedTuple):
    """Events that go together: the number of the last one, how many, and their bytes."""

    last: int
    events: int
    size: int


class Retention:
    """Counts the events that are stored, and says which are to go.

    It keeps the last `limit` events and up to a hundredth more, or fewer where those are more than
    `size` bytes; the newest always stays. Raises ConfigurationError for limits below 1.
    """

    def __init__(
        self, limit: int = DEFAULT_JOURNAL_EVENTS, size: int = DEFAULT_JOURNAL_BYTES
    ) -> None:
        for what, least in (("events", limit), ("bytes", size)):
            if least < 1:
                raise ConfigurationError(f"a journal has room for 1 or more {what}, not {least}")
        self.limit = limit
        self.size = size
        #: What is stored now.
        self.events = self.bytes = 0
        self._parts: deque[_Part] = deque()

    @property
    def newest(self) -> int:
        """The number of the last event, 0 without any."""
        return self._parts[-1].last if self._parts else 0

    def body(self) -> dict[str, int]:
        """Return what is kept, and the most that may be, as the protocol shows it."""
        return {
            "events": self.events,
            "bytes": self.bytes,
            "most_events": self.limit,
            "most_bytes": self.size,
        }

    def copy(self) -> Retention:
        """Return a copy, which can be changed without a change of this one."""
        other = Retention(self.limit, self.size)
        other.events, other.bytes, other._parts = self.events, self.bytes, self._parts.copy()
        return other

    def add(self, events: Iterable[tuple[int, int]]) -> int:
        """Count new events, each a number and its bytes; all events up to the answer are to go."""
        for seq, size in events:
            self._count(seq, size)
        gone = 0
        while len(self._parts) > 1 and (
            self.bytes > self.size or self.events - self._parts[0].events >= self.limit
        ):
            part = self._parts.popleft()
            self.events -= part.events
            self.bytes -= part.size
            gone = part.last
        return gone

    def _count(self, seq: int, size: int) -> None:
        self.events += 1
        self.bytes += size
        newest = self._parts[-1] if self._parts else None
        if (
            newest is None
            or newest.events >= self.limit // _EVENTS_PART
            or newest.size >= self.size // _BYTES_PART
        ):
            self._parts.append(_Part(seq, 1, size))
        else:
            last = max(seq, newest.last)
            self._parts[-1] = _Part(last, newest.events + 1, newest.size + size)
