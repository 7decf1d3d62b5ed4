"""A store in tables of a database: what all backends share that keep theirs there.

Nothing here switches to another greenlet: a switch inside a transaction would let another
greenlet's rows into it. The database is called directly; it blocks for microseconds.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import peewee
from peewee import SchemaManager

from rsreg.errors import StoreError
from rsreg.server.backends import tables
from rsreg.server.backends.base import EVENTS_SIZE, MAX_ANSWERED, Stored
from rsreg.server.backends.retention import Retention
from rsreg.server.backends.rows import (
    announced_rows,
    event_of,
    event_row,
    json_text,
    service_of,
    service_row,
)
from rsreg.server.backends.stored import AnnouncedHealth, Event, Maintenance, Service

#: The keys of the table of what there is once in a store.
EPOCH, _MAINTENANCE = "epoch", "maintenance"

# The statements of the hot paths, which the database keeps prepared: to build a query with peewee
# takes ten times as long as to run it.
PUT_META = "REPLACE INTO meta (key, value) VALUES (?, ?)"
_ALL_SERVICES = f"SELECT {tables.columns(tables.Service)} FROM service ORDER BY rowid"
_PUT_SERVICE = f"REPLACE INTO service ({tables.columns(tables.Service)}) VALUES ({'?, ' * 12}?)"
_PUT_ANNOUNCED = "UPDATE service SET told = ?, reason = ? WHERE id = ?"
_TOUCH_SERVICE = "UPDATE service SET last_heartbeat = ? WHERE id = ?"
_DELETE_SERVICE = "DELETE FROM service WHERE id = ?"
_PUT_EVENT = f"INSERT INTO event ({tables.columns(tables.Event)}) VALUES ({'?, ' * 5}?)"
_EVENTS = f"SELECT {tables.columns(tables.Event)} FROM event WHERE seq > ? ORDER BY seq LIMIT ?"
_EVENT_SIZES = "SELECT seq, length(CAST(body AS BLOB)) FROM event ORDER BY seq"
_FORGET_EVENTS = "DELETE FROM event WHERE seq <= ?"
_TOKENS = (
    "SELECT token, service_id FROM event WHERE token IS NOT NULL ORDER BY seq DESC "
    f"LIMIT {MAX_ANSWERED}"
)
_REQUEST_NUMBERS = (
    "SELECT service_id, turn FROM event WHERE turn IS NOT NULL ORDER BY seq DESC "
    f"LIMIT {MAX_ANSWERED}"
)


class TableBackend:
    """Keeps services, events and maintenance in the tables of a database.

    An heir opens the database, and says what else is done before and after it is written. `name`
    says to people where the store is.
    """

    def __init__(
        self, database: Any, name: str, *, journal_events: int, journal_bytes: int
    ) -> None:
        self.journal = Retention(journal_events, journal_bytes)
        self._database = database
        self._name = name

    def load(self) -> Stored:
        """See RegistryBackend."""
        with refusing(f"can't read {self.describe()}"):
            rows = self._execute(_ALL_SERVICES)
            return Stored(
                epoch=self._epoch(),
                seq=self.journal.newest,
                services=[service_of(row) for row in rows],
                answered=dict(reversed(self._execute(_TOKENS))),
                maintenance=msgspec.json.decode(
                    self._meta(_MAINTENANCE) or "[]", type=list[Maintenance]
                ),
                announced={
                    row[0]: AnnouncedHealth(*row[-2:]) for row in rows if row[-2] is not None
                },
                request_numbers=dict(reversed(self._execute(_REQUEST_NUMBERS))),
            )

    def commit(
        self,
        changes: Mapping[str, Service | None],
        events: Sequence[Event],
        maintenance: Sequence[Maintenance] | None = None,
    ) -> None:
        """See RegistryBackend."""
        gone = [(service_id,) for service_id, service in changes.items() if service is None]
        kept = [service_row(service) for service in changes.values() if service is not None]
        journal = self.journal.copy()
        forgotten = journal.add((event.seq, len(event.body)) for event in events)
        with self._transaction():
            cursor = self._database.cursor()
            if gone:
                cursor.executemany(_DELETE_SERVICE, gone)
            if kept:
                cursor.executemany(_PUT_SERVICE, kept)
            if announced := announced_rows(changes, events):
                cursor.executemany(_PUT_ANNOUNCED, announced)
            cursor.executemany(_PUT_EVENT, [event_row(event) for event in events])
            if maintenance is not None:
                cursor.execute(PUT_META, (_MAINTENANCE, json_text(maintenance)))
            if forgotten:
                cursor.execute(_FORGET_EVENTS, (forgotten,))
        self.journal = journal

    def events(self, since: int, limit: int) -> list[Event]:
        """See RegistryBackend."""
        with refusing(f"can't read {self.describe()}"):
            events: list[Event] = []
            size = 0
            with contextlib.closing(self._database.execute_sql(_EVENTS, (since, limit))) as rows:
                for event in map(event_of, rows):
                    size += len(event.body)
                    if events and size > EVENTS_SIZE:
                        break
                    events.append(event)
            return events

    def touch(self, heartbeats: Mapping[str, int]) -> None:
        """See RegistryBackend."""
        rows = [(seconds, service_id) for service_id, seconds in heartbeats.items()]
        with self._transaction():
            self._write_nothing()
            self._database.cursor().executemany(_TOUCH_SERVICE, rows)

    def close(self) -> object:
        """See RegistryBackend."""
        with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
            self._database.close()
        return None

    def describe(self) -> str:
        """See RegistryBackend."""
        return self._name

    # -- what an heir may add

    def _before_writing(self) -> None:
        """Raise StoreError if nothing is to be written now."""

    def _after_writing(self) -> None:
        """Called after each transaction, also after one that failed."""

    def _write_nothing(self) -> None:
        """Write something that changes nothing, to see whether the store can be written."""

    def _roll_back(self) -> None:
        """Undo what the transaction has done so far."""
        self._try_to_execute("ROLLBACK")

    # -- what an heir uses

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run the block as one transaction; a StoreError says why nothing was written."""
        self._before_writing()
        try:
            with refusing(f"can't write {self.describe()}"), self._database.manual_commit():
                self._database.begin()
                try:
                    yield
                    self._database.commit()
                except BaseException:
                    self._roll_back()
                    raise
        finally:
            self._after_writing()

    def _count_events(self) -> int:
        """Count the events that are stored; all up to the answer are too many."""
        self.journal = Retention(self.journal.limit, self.journal.size)
        with refusing(f"can't read {self.describe()}"):
            return self.journal.add(self._database.execute_sql(_EVENT_SIZES))

    def _forget_events(self, last: int) -> None:
        """Delete all events up to a number."""
        self._database.execute_sql(_FORGET_EVENTS, (last,))

    def _execute(self, statement: str) -> list[Any]:
        return list(self._database.execute_sql(statement))

    def _try_to_execute(self, statement: str) -> None:
        with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
            self._database.execute_sql(statement)

    def _epoch(self) -> str:
        epoch = self._meta(EPOCH)
        if epoch is None:
            raise corrupt(self.describe(), "it has no epoch")
        return epoch

    def _meta(self, key: str) -> str | None:
        query = tables.Meta.select(tables.Meta.value).where(tables.Meta.key == key)
        value: str | None = query.scalar(self._database)
        return value


def create_tables(database: Any) -> None:
    """Create the tables in a database that has none, and begin an epoch."""
    with database.atomic():
        for table in tables.TABLES:
            SchemaManager(table, database).create_all(safe=False)
        meta = [{"key": EPOCH, "value": new_epoch()}]
        tables.Meta.insert_many(meta).execute(database)


def new_epoch() -> str:
    """Return the random name of a new numbering of events."""
    return secrets.token_hex(8)


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn what the database raises into a StoreError that says what could not be done."""
    try:
        yield
    except (peewee.PeeweeException, sqlite3.Error, msgspec.DecodeError) as error:
        raise StoreError(f"{what}: {error}") from error


def corrupt(name: str, verdict: str) -> StoreError:
    """Return the error for a store that can't be trusted."""
    return StoreError(
        f"{name} is corrupt: {verdict}",
        hint="put back a copy, or move it and its -wal away to start with an empty registry: "
        "running services come back by themselves",
    )
