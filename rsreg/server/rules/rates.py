"""Rates: limits how often each address may change something."""

from __future__ import annotations

from rsreg.server.limits import Limits, Rate
from rsreg.timing import Clock


class Rates:
    """Counts what addresses do by the second; raises SlowDown for what is too much."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits = limits
        self._clock = clock
        self._writes = Rate(limits.writes_per_second)
        self._flaps = Rate(limits.flaps_per_second)

    def change(self, address: str) -> None:
        """Count a change that an address asks for."""
        self._check(self._writes, "writes_per_second", address)
        self._writes.take(address, self._clock())

    def flap(self, address: str, count: int = 1, *, free: bool = False) -> None:
        """Count the changes of health that an address causes; one that is `free` is never refused.

        However many they are, they are refused only if earlier ones were too many.
        """
        if not free:
            self._check(self._flaps, "flaps_per_second", address)
        self._flaps.take(address, self._clock(), count)

    def _check(self, rate: Rate, name: str, address: str) -> None:
        wait = rate.wait(address, self._clock())
        if wait > 0 and not self.limits.is_gateway(address):
            raise self.limits.slow_down(name, address, wait)
