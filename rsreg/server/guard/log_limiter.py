"""LogLimiter: at most one line a minute about each address, so nobody floods the log. No clock."""

from __future__ import annotations

import math

#: Seconds between two lines about one address, and how many addresses are kept in mind.
EVERY, _MOST = 60.0, 1000


class LogLimiter:
    """Says whether a line about an address may be logged."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def may_log(self, address: str, now: float) -> bool:
        """Return True once a minute; then the address counts as logged."""
        if now < self._logged.get(address, -math.inf) + EVERY:
            return False
        if len(self._logged) == _MOST:
            self._logged.clear()
        self._logged[address] = now
        return True
