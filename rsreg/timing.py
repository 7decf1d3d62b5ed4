"""Clocks and delays."""

from __future__ import annotations

import functools
import random
import sys
import time
from collections.abc import Callable

#: Seconds as a float: `steady` for deadlines, `time.time` for what people read.
Clock = Callable[[], float]


def _steady() -> Clock:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        # There it is Python's own monotonic clock that stops while the machine sleeps.
        return functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    return time.monotonic


#: Seconds that never go back, and that go on while the machine sleeps: a lease does, too.
steady: Clock = _steady()


def left(until: float) -> float:
    """Seconds until a moment of `steady`; 0.0 after it."""
    return max(0.0, until - steady())


class Backoff:
    """Growing delays with jitter, so that many clients don't come back in step.

    Each is drawn from the upper half of a ceiling that doubles from `first` to `most` seconds.
    """

    def __init__(self, first: float, most: float) -> None:
        self._first = min(first, most)
        self._most = most
        self._ceiling = self._first

    def next(self) -> float:
        """The next delay, in seconds."""
        ceiling = self._ceiling
        self._ceiling = min(self._most, 2 * ceiling)
        return jitter(ceiling * 0.75, 1 / 3)

    def reset(self) -> None:
        """Start again from the first delay."""
        self._ceiling = self._first


def jitter(seconds: float, part: float = 0.1) -> float:
    """`seconds`, give or take a random `part` of it."""
    return seconds * random.uniform(1 - part, 1 + part)
