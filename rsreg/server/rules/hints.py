"""What is said to a client that asks for a service that is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from rsreg import display
from rsreg.protocol.health import MAINTENANCE
from rsreg.server.rules.selection import Filter
from rsreg.server.view.live_view import LiveView

#: Services that an answer explains itself with.
_MENTIONED = 3
#: Words that are remembered, not to be searched for again.
_GUESSES = 100


class Hints:
    """Words the hints of answers that find nothing.

    `seq` is the number of the last event: nothing has changed as long as it is the same.
    """

    def __init__(self, view: LiveView) -> None:
        self._view = view
        self._types = _Guesses(view.service_types)
        self._names = _Guesses(view.names)

    def unknown_id(self, service_id: str, seq: int) -> str | None:
        """Return what may have been meant by an id that no service has: it may be a name."""
        named = self._view.named(service_id)
        if named:
            return f"that is a name; the id is {next(iter(named)).service.id!r}"
        return self._names.hint(service_id, seq)

    def none_found(self, service_type: str, conditions: Filter, seq: int) -> str | None:
        """Return why the services that are registered under a type are not handed out.

        If there are none: what may have been meant.
        """
        reasons = []
        for lease in islice(self._view.of_type(service_type), _MENTIONED):
            service = lease.service
            what = "is in maintenance" if lease.health == MAINTENANCE else f"is {lease.health}"
            if lease.discoverable:
                what = conditions.against(service.body()) or f"is a {service.mode}"
            reasons.append(f"{service.name} on {service.host}:{service.port} {what}")
        return "; ".join(reasons) or self._types.hint(service_type, seq)


class _Guesses:
    """What may have been meant by a word that is not known.

    A client that asks again and again, waiting for a service, costs a search only after a change.
    """

    def __init__(self, words: Callable[[], Iterable[str]]) -> None:
        self._words = words
        self._seq = -1
        self._nearest: dict[str, str | None] = {}

    def hint(self, word: str, seq: int) -> str | None:
        """Return the question whether the most similar word was meant, or None."""
        if seq != self._seq or len(self._nearest) >= _GUESSES:
            self._seq, self._nearest = seq, {}
        if word not in self._nearest:
            self._nearest[word] = display.near(word, self._words())
        nearest = self._nearest[word]
        return None if nearest is None else display.did_you_mean(nearest)
