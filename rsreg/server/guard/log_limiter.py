"""What is told of each address at most once in a while: nobody floods the log. No clock."""

from __future__ import annotations

import math

#: Seconds between two lines about one address, and how many addresses are kept in mind.
EVERY, _MOST = 60.0, 1000


class Seldom:
    """Whether it is time to tell of an address again."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def may_tell(self, address: str, now: float) -> bool:
        """True once in a while; then it counts as told."""
        if now < self._told.get(address, -math.inf) + EVERY:
            return False
        if len(self._told) == _MOST:
            self._told.clear()
        self._told[address] = now
        return True
