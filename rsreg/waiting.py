"""Waiting until services are there: when to ask again, and when to give up. No I/O."""

from __future__ import annotations

from rsreg.errors import RegistryError
from rsreg.records import ServiceRecord
from rsreg.timing import Backoff, Clock

#: Seconds between two questions: at first, and at most.
_FIRST, _MOST = 0.1, 1.0


class Waiting:
    """One wait for a passing service of each of several types.

    The driver asks for each of `missing()`, allowing `patience()` seconds, writes what it got into
    `found`, or an error into `failure`, and then waits for `pause()`.
    """

    def __init__(self, service_types: tuple[str, ...], timeout: float, clock: Clock) -> None:
        self.found: dict[str, ServiceRecord | None] = dict.fromkeys(service_types)
        self.failure: RegistryError | None = None
        self._clock = clock
        self._until = clock() + timeout
        self._backoff = Backoff(_FIRST, _MOST)

    def missing(self) -> list[str]:
        """The types of which no passing service was found yet."""
        return [kind for kind, service in self.found.items() if service is None]

    def patience(self) -> float:
        """Seconds that one question may take."""
        return max(_FIRST, self._until - self._clock())

    def pause(self) -> float | None:
        """Seconds until the next round, or None when the wait is over.

        Raises the failure of the last round if the time is over and the registry never answered.
        """
        left = self._until - self._clock()
        if self.missing() and left > 0:
            return min(left, self._backoff.next())
        if self.failure is not None:
            raise self.failure
        return None
