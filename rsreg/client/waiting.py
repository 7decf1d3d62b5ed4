"""Waiting until services are there: when to ask again, and when to give up. No I/O."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from rsreg.errors import RegistryError, RequestTimeout, UnknownHost
from rsreg.protocol.calls import Call, Record
from rsreg.protocol.records import ServiceRecord
from rsreg.timing import Backoff, Clock

#: Seconds without an event after which to ask all the same: at first, since a subscription takes a
#: moment to reach the server, and at most, since an event may get lost.
_SILENCE_FIRST, _SILENCE_MOST = 0.25, 10.0
#: Seconds between two rounds of questions, however many events come.
_LEAST = 0.05
#: Seconds until a registry that did not answer is asked again: at first, and at most.
_RETRY_FIRST, _RETRY_MOST = 0.1, 1.0


class Waiting:
    """One wait of at most `seconds` for several things, each with the call that asks for it.

    An event stream drives it: any event may be the one that is waited for, so after each it asks,
    in rounds, for all that is still missing. The first two rounds follow each other at once: the
    first may be asked before the stream is open. A registry that does not answer is waited for;
    any other error is raised.
    """

    def __init__(
        self, wanted: Mapping[str, Call[ServiceRecord | None]], seconds: float, clock: Clock
    ) -> None:
        self._wanted = wanted
        self._found: dict[str, ServiceRecord | None] = dict.fromkeys(wanted)
        self._failure: RegistryError | None = None
        self._clock = clock
        self._until = clock() + seconds
        self._round = deque(wanted)
        self._ended = -math.inf
        self._ask_at = -math.inf
        self._patience = 0.0
        self._backoff = Backoff(_RETRY_FIRST, _RETRY_MOST)

    @property
    def left(self) -> float:
        """Seconds that are left; 0.0 when all is found, or the time is over."""
        found = all(one is not None for one in self._found.values())
        return 0.0 if found else max(0.0, self._until - self._clock())

    @property
    def patience(self) -> float:
        """Seconds that a question may take, if no stream asks it."""
        return max(_LEAST, self.left)

    @property
    def seconds_until_next_request(self) -> float:
        """Seconds to wait for the next event before asking."""
        return max(0.0, self._ask_at - self._clock())

    def next_request(self) -> Call[ServiceRecord | None]:
        """What to ask next."""
        return self._wanted[self._round[0]]

    def on_reply(self, service: ServiceRecord | None) -> list[Record]:
        """Take in the answer; it is no event."""
        self._found[self._round.popleft()] = service
        if not self._round:
            self._failure = None
            self._backoff.reset()
            self._next_round(self._patience)
            self._patience = min(_SILENCE_MOST, max(_SILENCE_FIRST, 2 * self._patience))
        return []

    def on_failure(self, error: RegistryError) -> None:
        """A registry that is not there yet is asked again soon; raises any other error."""
        if not isinstance(error, RequestTimeout | UnknownHost):
            raise error
        self._failure = error
        self._next_round(self._backoff.next())

    def on_event(self, _event: Record) -> list[Record]:
        """Something happened: ask, but not right after a round. Nothing is handed on."""
        self._ask_at = min(self._ask_at, max(self._clock(), self._ended + _LEAST))
        return []

    def result(self) -> dict[str, ServiceRecord | None]:
        """What was found, or None for each; raises if the registry did not answer in the end."""
        if self._failure is not None:
            raise self._failure
        return self._found

    def _next_round(self, seconds: float) -> None:
        self._round = deque(kind for kind, one in self._found.items() if one is None)
        self._ended = self._clock()
        self._ask_at = self._ended + seconds
