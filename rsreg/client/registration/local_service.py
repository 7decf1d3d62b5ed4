"""One service of this process: its registration, its status, and what is still to be sent.

Its driver changes it from any thread; `wake` wakes the heartbeat that keeps it alive.
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

#: Requests without an answer that are remembered.
_ASKED = 10


class LocalService:
    """A registration, the status of its driver, and changes that the registry does not know yet.

    `finder` is None once the driver has given the host itself.
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
        #: Whether there is something to send; the heartbeat resets it before it reads what.
        self.has_changes = False
        #: Called, from any thread, when there is; set by what keeps the service alive.
        self.wake: Callable[[], None] = _do_nothing
        #: Fields that are still to be sent as an `update`.
        self.pending_update: Record = {}
        #: The fingerprint of the entry in the registry while that agrees with this one.
        self.fingerprint: str | None = None
        #: Fields of requests under way or without an answer: the registry may have taken them.
        self.unconfirmed: list[Record] = []
        #: Counts the changes made here: an answer from before one of them is out of date.
        self.version = 0
        self._lock = threads.new_rlock()
        self._is_registered = False
        self._under_way, self._mixed = 0, False

    @property
    def service_id(self) -> str | None:
        """The id, once it is registered."""
        return self.registration.service_id if self._is_registered else None

    def notify(self) -> None:
        """Have the heartbeat send what has changed."""
        self.has_changes = True
        self.wake()

    def on_registered(self, registration: Registration, entry: Entry) -> None:
        """The registry took this registration; changes since then are still to be sent."""
        with self._lock:
            self.registration = self.registration.with_id(entry.service_id)
            self._is_registered = True
            self.pending_update = _changed_fields(self.registration.info, registration.info)
            self.fingerprint = entry.fingerprint

    def follow(self, registration: Registration, fingerprint: str | None = None) -> None:
        """Replace the registration after a new `register`: a re-registration will send this one."""
        with self._lock:
            self.registration, self.pending_update, self._is_registered = registration, {}, True
            self.fingerprint = fingerprint
            self.version += 1
        self.notify()

    def change(self, changes: Mapping[str, Any], fingerprint: str | None = None) -> None:
        """Change fields of the record; without a fingerprint they are still to be sent.

        A host that the driver gives is no longer looked for.
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
    def changing(self, fields: Mapping[str, Any]) -> Iterator[None]:
        """Mark fields as sent by this process: the registry may take them, and never answer."""
        with self._lock:
            self._mixed = self._under_way > 0
            self._under_way += 1
            self.unconfirmed = [*self.unconfirmed[1 - _ASKED :], _as_json(fields)]
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
                    self.unconfirmed = []

    def foreign_changes(self, record: Mapping[str, Any], since: int) -> Record | None:
        """Return the fields of a record that somebody else changed, with the values from here.

        None if that can't be told, because something changed here `since` that version.
        """
        with self._lock:
            if self._under_way or self.version != since:
                return None
            mine = declared_fields(self.registration)
            return {
                field: value
                for field, value in mine.items()
                if record.get(field) != value
                and field not in self.pending_update
                and all(record.get(field) != one.get(field, one) for one in self.unconfirmed)
            }

    def set_host(self, host: str) -> None:
        """Change the host to one that was found."""
        with self._lock:
            if self.registration.info.get("host") != host:
                self._change({"host": host}, {"host": host})

    def take_state(
        self,
        info: Record,
        pending_update: Record,
        unconfirmed: list[Record],
        finds: bool,
        driver_status: Record,
    ) -> None:
        """Take over the state from the driver's process, except a host that was found here."""
        with self._lock:
            if not finds:
                self.finder = None
            changes = {field: info[field] for field in info if field != "host" or not finds}
            changes = _changed_fields(changes, self.registration.info)
            self._change(
                changes, {field: changes[field] for field in changes if field in pending_update}
            )
            if changes or unconfirmed != self.unconfirmed:
                self.unconfirmed, self.fingerprint = unconfirmed, None
            is_new = self.driver_status.restore(timing.steady(), driver_status)
        if is_new or self.pending_update:
            self.notify()

    def _change(self, changes: Mapping[str, Any], pending_update: Mapping[str, Any]) -> None:
        self.registration = self.registration.changed(changes)
        self.version += 1
        self.pending_update = {**_without(self.pending_update, changes), **pending_update}

    def on_updated(self, changes: Mapping[str, Any], fingerprint: str | None) -> None:
        """The registry took an update; fields that have changed since are still to be sent."""
        with self._lock:
            self.fingerprint = fingerprint
            now = {field: self.registration.info[field] for field in changes}
            self.pending_update = {
                **_without(self.pending_update, changes),
                **_changed_fields(now, changes),
            }

    def report(self) -> Record | None:
        """Return what the next heartbeat reports."""
        return self.driver_status.report(timing.steady(), time.time())

    # -- what the driver calls

    def status(
        self, text: str | None = None, *, progress: float | None = None, load: float | None = None
    ) -> None:
        """Report a status; see `RegistryClient.status`."""
        if self.driver_status.set(timing.steady(), text, progress, load):
            self.notify()

    def busy(self, text: str, max: float) -> Busy:
        """Report a task that takes a while; see `RegistryClient.busy`."""
        return Busy(self, text, max)

    def feed(self) -> None:
        """Feed the watchdog; see `RegistryClient.feed`."""
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


def declared_fields(registration: Registration) -> Record:
    """Return the record of a registration, without what the registry fills in."""
    policies = ("singleton", "allow_duplicate_service_type")
    declared = {field: value for field, value in registration.info.items() if field not in policies}
    empty: Record = {**dict.fromkeys(DECLARED), "tags": [], "metadata": {}}
    return _as_json({**empty, **declared, "ttl": registration.ttl})


def _as_json(fields: Mapping[str, Any]) -> Record:
    """Return fields as they come back from the registry: with lists for tuples, for example."""
    read: Record = json.loads(json.dumps(dict(fields), default=str))
    return read


def _do_nothing() -> None:
    """The `wake` of a service that nothing keeps alive yet."""


def _without(fields: Mapping[str, Any], others: Mapping[str, Any]) -> Record:
    return {field: value for field, value in fields.items() if field not in others}


def _changed_fields(fields: Mapping[str, Any], known: Mapping[str, Any]) -> Record:
    """Return the fields that are missing in `known`, or have another value there."""
    return {
        field: value
        for field, value in fields.items()
        if field not in known or known[field] != value
    }
