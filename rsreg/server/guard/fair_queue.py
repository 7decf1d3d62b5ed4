"""FairQueue: requests whose answers take long, a connection after the other. No I/O, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

#: Requests that wait for one connection, and for all; but the first of each always may.
_EACH, _ALL = 200, 4_000
#: Connections that are remembered.
_REMEMBERED = 1_000


class FairQueue(Generic[T]):
    """Requests that wait until those with short answers had theirs.

    A connection gets its answers in the order in which it asked, and one that asks a lot has no
    more turns than another.
    """

    def __init__(self) -> None:
        #: Whether somebody waits, or somebody's last answer took long.
        self.remembered = False
        #: Connection -> its requests, each with the moment at which all before it was served.
        self._lanes: dict[Hashable, deque[tuple[T, float]]] = {}
        self._count = 0
        #: Those whose last answer took long: so will the next, as a rule.
        self._slow: dict[Hashable, None] = {}

    def __len__(self) -> int:
        return self._count

    def are_due(self, connection: Hashable) -> bool:
        """Return whether a request of a connection has to wait for its turn, if there is room."""
        return connection in self._lanes or connection in self._slow

    def add(self, connection: Hashable, request: T, served: float) -> bool:
        """Have a request wait; False if too many do. All that came up to `served` was served."""
        lane = self._lanes.get(connection)
        if lane is not None and (len(lane) >= _EACH or self._count >= _ALL):
            return False
        self._lanes.setdefault(connection, deque()).append((request, served))
        self._count += 1
        self.remembered = True
        return True

    def take(self) -> T | None:
        """Return the next request, or None; then it is the turn of the others."""
        if not self._lanes:
            return None
        connection, lane = next(iter(self._lanes.items()))
        del self._lanes[connection]
        request, _ = lane.popleft()
        self._count -= 1
        if lane:
            self._lanes[connection] = lane
        self.remembered = bool(self._slow or self._lanes)
        return request

    def answered(self, connection: Hashable, *, slow: bool) -> None:
        """Note how long it took to answer a connection."""
        if not slow:
            self._slow.pop(connection, None)
            self.remembered = bool(self._slow or self._lanes)
            return
        if len(self._slow) >= _REMEMBERED:
            self._slow.clear()
        self._slow[connection] = None
        self.remembered = True

    def served(self, moment: float) -> float:
        """Return up to when all that came was served, if nothing but these waits at `moment`."""
        return min((lane[0][1] for lane in self._lanes.values()), default=moment)
