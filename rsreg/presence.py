"""One service of this process: its registration, its vitals, and what has yet to be told.

Its driver changes it from any thread; whatever keeps it alive is woken by its `wake`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rsreg import native, timing
from rsreg.address import Finder
from rsreg.calls import Record, Registration
from rsreg.vitals import Vitals, check_busy


class Presence:
    """A registration, its vitals, and the changes that the registry does not know of yet.

    A `finder` is there for as long as the host is a found one.
    """

    def __init__(
        self,
        registration: Registration,
        finder: Finder | None = None,
        watchdog: float | None = None,
    ) -> None:
        self.registration = registration
        self.finder = finder
        self.vitals = Vitals(timing.steady(), watchdog)
        #: Whether there is something to tell; whoever tells it takes it back before.
        self.news = False
        #: Called, from any thread, when there is; it is of what keeps the service alive.
        self.wake: Callable[[], None] = _nobody
        #: What has to be sent as an `update`.
        self.untold: Record = {}
        self._lock = native.new_rlock()
        self._registered = False

    @property
    def service_id(self) -> str | None:
        """The id, once it is registered."""
        return self.registration.service_id if self._registered else None

    def ring(self) -> None:
        """There is something to tell."""
        self.news = True
        self.wake()

    def registered(self, wanted: Registration, service_id: str) -> None:
        """The registry has taken it as `wanted`; changes since then are still to be told."""
        with self._lock:
            self.registration = self.registration.with_id(service_id)
            self._registered = True
            self.untold = _other(self.untold, wanted.info)

    def follow(self, registration: Registration) -> None:
        """It was registered anew: that is now what would be registered again."""
        with self._lock:
            self.registration, self.untold, self._registered = registration, {}, True
        self.ring()

    def change(self, changes: Mapping[str, Any], known: bool = False) -> None:
        """Change fields of the record; unless it is `known`, the registry has yet to be told.

        A host that the driver says is no longer a found one.
        """
        with self._lock:
            if "host" in changes:
                self.finder = None
            self._change(changes, {} if known else changes)
        self.ring()

    def moved(self, host: str) -> None:
        """Another host was found."""
        with self._lock:
            if self.registration.info.get("host") != host:
                self._change({"host": host}, {"host": host})

    def take(self, info: Record, untold: Record, finds: bool, vitals: Record) -> None:
        """Follow the same service in another process, but for a host that was found here."""
        with self._lock:
            if not finds:
                self.finder = None
            changes = {field: info[field] for field in info if field != "host" or not finds}
            changes = _other(changes, self.registration.info)
            self._change(changes, {field: changes[field] for field in changes if field in untold})
            news = self.vitals.restore(timing.steady(), vitals)
        if news or self.untold:
            self.ring()

    def _change(self, changes: Mapping[str, Any], untold: Mapping[str, Any]) -> None:
        self.registration = self.registration.changed(changes)
        self.untold = {**_without(self.untold, changes), **untold}

    def told(self, changes: Mapping[str, Any]) -> None:
        """The registry was told of these changes, some of which may be outdated by now."""
        with self._lock:
            now = {field: self.registration.info[field] for field in changes}
            self.untold = {**_without(self.untold, changes), **_other(now, changes)}

    def report(self) -> Record | None:
        """What the next heartbeat says."""
        return self.vitals.report(timing.steady(), time.time())

    # -- what the driver calls

    def status(
        self, text: str | None = None, *, progress: float | None = None, load: float | None = None
    ) -> None:
        """See `RegistryClient.status`."""
        if self.vitals.say(timing.steady(), text, progress, load):
            self.ring()

    def busy(self, text: str, max: float) -> Busy:
        """See `RegistryClient.busy`."""
        return Busy(self, text, max)

    def feed(self) -> None:
        """See `RegistryClient.feed`."""
        if self.vitals.feed(timing.steady()):
            self.ring()


class Busy:
    """A block in which the driver is busy; for `with` and for `async with`."""

    def __init__(self, presence: Presence, text: str, most: float) -> None:
        check_busy(text, most)
        self._presence = presence
        self._text = text
        self._most = most
        self._begun: list[object] = []

    def __enter__(self) -> None:
        begun = self._presence.vitals.begin(timing.steady(), self._text, self._most)
        self._begun.append(begun)
        self._presence.ring()

    def __exit__(self, *_exc: object) -> None:
        self._presence.vitals.end(timing.steady(), self._begun.pop())
        self._presence.ring()

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_exc: object) -> None:
        self.__exit__()


def _nobody() -> None:
    """Nothing keeps it alive yet."""


def _without(fields: Mapping[str, Any], others: Mapping[str, Any]) -> Record:
    return {field: value for field, value in fields.items() if field not in others}


def _other(fields: Mapping[str, Any], known: Mapping[str, Any]) -> Record:
    """Those that `known` has not, or otherwise."""
    return {
        field: value
        for field, value in fields.items()
        if field not in known or known[field] != value
    }
