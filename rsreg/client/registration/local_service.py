"""One service of this process: its registration, its driver_status, and what has yet to be told.

Its driver changes it from any thread; whatever keeps it alive is woken by its `wake`.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rsreg import timing
from rsreg.client.registration.address import Finder
from rsreg.client.registration.driver_status import DriverStatus, check_busy
from rsreg.client.registration.registration import Registration
from rsreg.errors import ServerError
from rsreg.protocol.calls import Entry, Record
from rsreg.protocol.records import DECLARED
from rsreg.system import threads

#: Requests without an answer that are kept in mind.
_ASKED = 10


class LocalService:
    """A registration, its driver_status, and the changes that the registry does not know of yet.

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
        self.driver_status = DriverStatus(timing.steady(), watchdog)
        #: Whether there is something to tell; whoever tells it takes it back before.
        self.news = False
        #: Called, from any thread, when there is; it is of what keeps the service alive.
        self.wake: Callable[[], None] = _nobody
        #: What has to be sent as an `update`.
        self.untold: Record = {}
        #: The fingerprint of the entry in the registry when that was as is said here.
        self.fingerprint: str | None = None
        #: What the registry may say, too: requests that are under way, or got no answer.
        self.asked: list[Record] = []
        #: Counts what changes here; who asked the registry meanwhile has to ask again.
        self.version = 0
        self._lock = threads.new_rlock()
        self._registered = False
        self._under_way, self._mixed = 0, False

    @property
    def service_id(self) -> str | None:
        """The id, once it is registered."""
        return self.registration.service_id if self._registered else None

    def notify(self) -> None:
        """There is something to tell."""
        self.news = True
        self.wake()

    def registered(self, wanted: Registration, entry: Entry) -> None:
        """The registry has taken it as `wanted`; changes since then are still to be told."""
        with self._lock:
            self.registration = self.registration.with_id(entry.service_id)
            self._registered = True
            self.untold = _other(self.registration.info, wanted.info)
            self.fingerprint = entry.fingerprint

    def follow(self, registration: Registration, fingerprint: str | None = None) -> None:
        """It was registered anew: that is now what would be registered again."""
        with self._lock:
            self.registration, self.untold, self._registered = registration, {}, True
            self.fingerprint = fingerprint
            self.version += 1
        self.notify()

    def change(self, changes: Mapping[str, Any], fingerprint: str | None = None) -> None:
        """Change fields of the record; without a fingerprint the registry has yet to be told.

        A host that the driver says is no longer a found one.
        """
        with self._lock:
            if "host" in changes:
                self.finder = None
            known = fingerprint is not None
            self._change(changes, {} if known else changes)
            if known:
                self.fingerprint = fingerprint
        self.notify()

    @contextlib.contextmanager
    def changing(self, asked: Mapping[str, Any]) -> Iterator[None]:
        """The registry is asked to say this; then nobody else did, even if no answer comes."""
        with self._lock:
            self._mixed = self._under_way > 0
            self._under_way += 1
            self.asked = [*self.asked[1 - _ASKED :], _as_json(asked)]
        self.wake()
        answered = False
        try:
            yield
            answered = True
        except ServerError:
            answered = True
            raise
        finally:
            with self._lock:
                self._under_way -= 1
                self.version += 1
                # Of two at once it is not known which was the last.
                if answered and not self._under_way and not self._mixed:
                    self.asked = []

    def foreign(self, record: Mapping[str, Any], since: int) -> Record | None:
        """The fields of a record that somebody else changed, as they should be.

        None where that can't be told: something changed here `since` that version.
        """
        with self._lock:
            if self._under_way or self.version != since:
                return None
            mine = said_by(self.registration)
            return {
                field: value
                for field, value in mine.items()
                if record.get(field) != value
                and field not in self.untold
                and all(record.get(field) != one.get(field, one) for one in self.asked)
            }

    def moved(self, host: str) -> None:
        """Another host was found."""
        with self._lock:
            if self.registration.info.get("host") != host:
                self._change({"host": host}, {"host": host})

    def take(
        self, info: Record, untold: Record, asked: list[Record], finds: bool, driver_status: Record
    ) -> None:
        """Follow the same service in another process, but for a host that was found here."""
        with self._lock:
            if not finds:
                self.finder = None
            changes = {field: info[field] for field in info if field != "host" or not finds}
            changes = _other(changes, self.registration.info)
            self._change(changes, {field: changes[field] for field in changes if field in untold})
            if changes or asked != self.asked:
                self.asked, self.fingerprint = asked, None
            news = self.driver_status.restore(timing.steady(), driver_status)
        if news or self.untold:
            self.notify()

    def _change(self, changes: Mapping[str, Any], untold: Mapping[str, Any]) -> None:
        self.registration = self.registration.changed(changes)
        self.version += 1
        self.untold = {**_without(self.untold, changes), **untold}

    def told(self, changes: Mapping[str, Any], fingerprint: str | None) -> None:
        """The registry was told of these changes, some of which may be outdated by now."""
        with self._lock:
            self.fingerprint = fingerprint
            now = {field: self.registration.info[field] for field in changes}
            self.untold = {**_without(self.untold, changes), **_other(now, changes)}

    def report(self) -> Record | None:
        """What the next heartbeat says."""
        return self.driver_status.report(timing.steady(), time.time())

    # -- what the driver calls

    def status(
        self, text: str | None = None, *, progress: float | None = None, load: float | None = None
    ) -> None:
        """See `RegistryClient.status`."""
        if self.driver_status.set(timing.steady(), text, progress, load):
            self.notify()

    def busy(self, text: str, max: float) -> Busy:
        """See `RegistryClient.busy`."""
        return Busy(self, text, max)

    def feed(self) -> None:
        """See `RegistryClient.feed`."""
        if self.driver_status.feed(timing.steady()):
            self.notify()


class Busy:
    """A block in which the driver is busy; for `with` and for `async with`."""

    def __init__(self, service: LocalService, text: str, most: float) -> None:
        check_busy(text, most)
        self._service = service
        self._text = text
        self._most = most
        self._begun: list[object] = []

    def __enter__(self) -> None:
        begun = self._service.driver_status.begin(timing.steady(), self._text, self._most)
        self._begun.append(begun)
        self._service.notify()

    def __exit__(self, *_exc: object) -> None:
        self._service.driver_status.end(timing.steady(), self._begun.pop())
        self._service.notify()

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_exc: object) -> None:
        self.__exit__()


def said_by(registration: Registration) -> Record:
    """What the record of a registration says, but for what the registry fills in."""
    policies = ("singleton", "allow_duplicate_service_type")
    said = {field: value for field, value in registration.info.items() if field not in policies}
    empty: Record = {**dict.fromkeys(DECLARED), "tags": [], "metadata": {}}
    return _as_json({**empty, **said, "ttl": registration.ttl})


def _as_json(fields: Mapping[str, Any]) -> Record:
    """The same as it comes back from the registry: with lists for tuples, for example."""
    read: Record = json.loads(json.dumps(dict(fields), default=str))
    return read


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
