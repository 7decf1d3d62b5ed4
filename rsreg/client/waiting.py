"""When to ask again for services that are waited for, and when to give up. No I/O."""

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
_PAUSE_FIRST, _PAUSE_MOST = 0.25, 10.0
#: Seconds between two rounds of questions, however many events come.
_LEAST_PAUSE = 0.05
#: Seconds until a registry that did not answer is asked again: at first, and at most.
_RETRY_FIRST, _RETRY_MOST = 0.1, 1.0


class WaitForServices:
    """Waits at most `seconds` for several services, each with the call that asks for it.

    It is the consumer of an event stream. Any event may be about a service that is waited for, so
    after each event it asks again, in rounds, for all that are still missing. The second round
    follows the first at once: the stream may not have been open before. A registry that does not
    answer is waited for; any other error is raised.
    """

    def __init__(
        self, calls: Mapping[str, Call[ServiceRecord | None]], seconds: float, clock: Clock
    ) -> None:
        self._calls = calls
        self._services: dict[str, ServiceRecord | None] = dict.fromkeys(calls)
        self._failure: RegistryError | None = None
        self._clock = clock
        self._until = clock() + seconds
        self._round = deque(calls)
        self._round_ended = -math.inf
        self._next_request_at = -math.inf
        self._pause = 0.0
        self._backoff = Backoff(_RETRY_FIRST, _RETRY_MOST)

    @property
    def seconds_left(self) -> float:
        """Seconds that are left; 0.0 when all services are there, or the time is over."""
        found = all(one is not None for one in self._services.values())
        return 0.0 if found else max(0.0, self._until - self._clock())

    @property
    def timeout(self) -> float:
        """Seconds that a request may take that is made without a stream."""
        return max(_LEAST_PAUSE, self.seconds_left)

    @property
    def seconds_until_next_request(self) -> float:
        """Seconds to wait for an event before the next request."""
        return max(0.0, self._next_request_at - self._clock())

    def next_request(self) -> Call[ServiceRecord | None]:
        """Return the call to make next."""
        return self._calls[self._round[0]]

    def on_reply(self, service: ServiceRecord | None) -> list[Record]:
        """Take in the answer to the last request; it brings no event."""
        self._services[self._round.popleft()] = service
        if not self._round:
            self._failure = None
            self._backoff.reset()
            self._next_round(self._pause)
            self._pause = min(_PAUSE_MOST, max(_PAUSE_FIRST, 2 * self._pause))
        return []

    def on_failure(self, error: RegistryError) -> None:
        """Ask a registry that does not answer again soon; raises any other error."""
        if not isinstance(error, RequestTimeout | UnknownHost):
            raise error
        self._failure = error
        self._next_round(self._backoff.next())

    def on_event(self, _event: Record) -> list[Record]:
        """Ask again soon, but not right after a round; no event is handed on."""
        self._next_request_at = min(
            self._next_request_at, max(self._clock(), self._round_ended + _LEAST_PAUSE)
        )
        return []

    def result(self) -> dict[str, ServiceRecord | None]:
        """Return a service or None for each; raises if the registry did not answer in the end."""
        if self._failure is not None:
            raise self._failure
        return self._services

    def _next_round(self, seconds: float) -> None:
        self._round = deque(
            service_type for service_type, one in self._services.items() if one is None
        )
        self._round_ended = self._clock()
        self._next_request_at = self._round_ended + seconds
