"""Where registrations and the journal are kept: the seam, and its SQLite implementations.

Nothing here switches to another greenlet: a switch inside a transaction would let another
greenlet's rows into it. SQLite is called directly; it blocks for microseconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import peewee
from peewee import SchemaManager, SqliteDatabase

from rsreg import model, records
from rsreg.errors import StoreError, StoreInUse
from rsreg.records import Event, Maintenance, Position, Told

# A server says itself that there is none on Windows; to import its names is no fault.
if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

#: Events that the journal keeps; a subscriber that missed more has to list anew.
JOURNAL_LIMIT = 10_000
#: The journal is cut back to its limit once in so many events.
PRUNE_EVERY = 100
#: Milliseconds to wait for another program's lock on the file; the whole server waits with us.
_BUSY_TIMEOUT = 250
#: Bytes of an SQLite file's header: a magic text first, the application id from byte 68.
_HEADER = 100
#: What SQLite calls a database that is in no file.
_MEMORY = ":memory:"
#: Writes to the file, and changes nothing.
_WRITE = f"PRAGMA user_version = {model.SCHEMA_VERSION}"

#: The keys of what is said once of a store.
_EPOCH, _MAINTENANCE = "epoch", "maintenance"

# The statements of the hot paths, which SQLite keeps prepared: to build a query with peewee takes
# ten times as long as to run it.
_ALL_SERVICES = f"SELECT {model.columns(model.Service)} FROM service ORDER BY rowid"
_PUT_SERVICE = f"REPLACE INTO service ({model.columns(model.Service)}) VALUES ({'?, ' * 11}?)"
_TELL_SERVICE = "UPDATE service SET told = ?, reason = ? WHERE id = ?"
_PUT_EVENT = f"INSERT INTO event ({model.columns(model.Event)}) VALUES ({'?, ' * 5}?)"
_PUT_META = "REPLACE INTO meta (key, value) VALUES (?, ?)"
_EVENTS = f"SELECT {model.columns(model.Event)} FROM event WHERE seq > ? ORDER BY seq LIMIT ?"
_DELETE_SERVICE = "DELETE FROM service WHERE id = ?"
_TOUCH_SERVICE = "UPDATE service SET last_heartbeat = ? WHERE id = ?"


@dataclass(frozen=True)
class Stored:
    """What a store holds when it is opened.

    `epoch` is random and made with the store; `seq` is the number of its last event, 0 without any;
    `answered` maps the tokens in the journal to their events' service ids, `turns` the ids of
    services to the last turn that an event about them has. `maintenance` is what the last commit
    that had any said; `told` is what the last event about a service told of its health, by id,
    where that is not "passing".
    """

    epoch: str
    seq: int
    services: list[records.Service]
    answered: dict[str, str]
    maintenance: list[Maintenance] = field(default_factory=list)
    told: dict[str, Told] = field(default_factory=dict)
    turns: dict[str, str] = field(default_factory=dict)


class RegistryBackend(Protocol):
    """A place where registrations and the journal are kept.

    The registry calls it from one thread, answers questions from its own memory, and reads services
    only once, at start. Every method raises StoreError when the store can't do what is asked, and
    then has changed nothing.
    """

    def initialize(self) -> object:
        """Open the store, make it if it is not there; a second call does nothing."""

    def load(self) -> Stored:
        """All that is stored."""

    def commit(
        self,
        changes: Mapping[str, records.Service | None],
        events: Sequence[Event],
        maintenance: Sequence[Maintenance] | None = None,
    ) -> None:
        """Make `changes`, `events` and `maintenance` durable, all or nothing.

        `changes` maps ids to the services as they now are, None: gone. `maintenance` is all there
        is of it from now on, None: as before. After the return they survive a crash, as far as
        this store survives one.
        """

    def events(self, since: int, limit: int) -> list[Event]:
        """At most `limit` events with a `seq` above `since`, oldest first.

        A first one above `since + 1` tells that the journal no longer reaches back that far.
        """

    def touch(self, heartbeats: Mapping[str, int]) -> None:
        """Store the time of the last heartbeat of each id.

        Called at a clean stop, and, also without any, to see whether a store that failed can be
        written again.
        """

    def close(self) -> object:
        """Close the store; a second call does nothing."""

    def describe(self) -> str:
        """Where it is, for people."""


class SQLiteBackend:
    """Keeps everything in one SQLite file, which survives power loss (WAL, `synchronous=FULL`).

    One server at a time, by a lock on `<file>.lock`. A file that is corrupt, newer than this
    version, or not ours is refused, never moved, emptied or made anew.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock: FileLock | None = None
        self._known_epoch = ""
        self._database: Any = SqliteDatabase(
            str(path),
            timeout=_BUSY_TIMEOUT / 1000,
            thread_safe=False,
            check_same_thread=False,
            lock_type="IMMEDIATE",
            autoconnect=False,
        )

    def initialize(self) -> object:
        """See RegistryBackend; StoreError says which file, why, and what to do."""
        if not self._database.is_closed():
            return None
        if str(self.path) == _MEMORY:
            raise StoreError(f"{_MEMORY} is no file", hint="use InMemoryBackend()")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._check_file()
            self._lock = FileLock(self.path)
            if not self.path.exists():
                self._check_no_remains()
                _create(self.path)
            self._database.connect()
            self._check_contents()
            self._database.execute_sql("PRAGMA journal_mode = wal")
            self._database.execute_sql("PRAGMA synchronous = full")
            self._check_history()
        except StoreError:
            self.close()
            raise
        except (OSError, peewee.OperationalError) as error:
            self.close()
            raise StoreError(f"can't open {self.path}: {error}") from error
        except (peewee.DatabaseError, sqlite3.DatabaseError) as error:
            self.close()
            raise _corrupt(self.path, str(error)) from error
        return None

    def load(self) -> Stored:
        """See RegistryBackend."""
        with _refusing(f"can't read {self.describe()}"):
            rows = list(self._database.execute_sql(_ALL_SERVICES))
            return Stored(
                epoch=self._epoch(),
                seq=self._newest(),
                services=[_service(row) for row in rows],
                answered=self._by_service(model.Event.token, model.Event.service_id),
                maintenance=msgspec.json.decode(
                    self._meta(_MAINTENANCE) or "[]", type=list[Maintenance]
                ),
                told={row[0]: Told(*row[-2:]) for row in rows if row[-2] is not None},
                turns=self._by_service(model.Event.service_id, model.Event.turn),
            )

    def commit(
        self,
        changes: Mapping[str, records.Service | None],
        events: Sequence[Event],
        maintenance: Sequence[Maintenance] | None = None,
    ) -> None:
        """See RegistryBackend."""
        gone = [(service_id,) for service_id, service in changes.items() if service is None]
        kept = [_service_row(service) for service in changes.values() if service is not None]
        with self._transaction():
            cursor = self._database.cursor()
            if gone:
                cursor.executemany(_DELETE_SERVICE, gone)
            if kept:
                cursor.executemany(_PUT_SERVICE, kept)
            if told := _told_rows(changes, events):
                cursor.executemany(_TELL_SERVICE, told)
            cursor.executemany(_PUT_EVENT, [_event_row(event) for event in events])
            if maintenance is not None:
                cursor.execute(_PUT_META, (_MAINTENANCE, _text(maintenance)))
            self._prune(events)
        if events and self._lock is not None:
            self._lock.note(Position(self._known_epoch, events[-1].seq, events[-1].mark))

    def events(self, since: int, limit: int) -> list[Event]:
        """See RegistryBackend."""
        with _refusing(f"can't read {self.describe()}"):
            rows = self._database.execute_sql(_EVENTS, (since, limit))
            return [_event(row) for row in rows]

    def touch(self, heartbeats: Mapping[str, int]) -> None:
        """See RegistryBackend."""
        rows = [(seconds, service_id) for service_id, seconds in heartbeats.items()]
        with self._transaction():
            self._database.execute_sql(_WRITE)
            self._database.cursor().executemany(_TOUCH_SERVICE, rows)

    def close(self) -> object:
        """See RegistryBackend."""
        with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
            self._database.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        return None

    def describe(self) -> str:
        """See RegistryBackend."""
        return str(self.path)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing of what is written meanwhile; a StoreError says why it is nothing."""
        with _refusing(f"can't write {self.describe()}"), self._database.manual_commit():
            self._database.begin()
            try:
                yield
                self._database.commit()
            except BaseException:
                self._undo()
                raise

    def _undo(self) -> None:
        """Roll back, and take what was refused out of the log.

        If only the sync failed, all of it stands there, and a server that is killed now would find
        it when it is started again. So something else is written in its place.
        """
        for statement in ("ROLLBACK", _WRITE):
            # SQLite may have rolled back by itself, and the second write may fail like the first.
            with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
                self._database.execute_sql(statement)

    def _by_service(self, key: Any, value: Any) -> dict[str, str]:
        """Two columns of the journal as a mapping, without empty ones, the latest event last."""
        journal = model.Event.select(key, value).order_by(model.Event.seq).tuples()
        known = journal.where(key.is_null(False) & value.is_null(False))
        return dict(known.execute(self._database))

    def _epoch(self) -> str:
        epoch = self._meta(_EPOCH)
        if epoch is None:
            raise _corrupt(self.path, "it has no epoch")
        return epoch

    def _meta(self, key: str) -> str | None:
        query = model.Meta.select(model.Meta.value).where(model.Meta.key == key)
        value: str | None = query.scalar(self._database)
        return value

    def _prune(self, events: Sequence[Event]) -> None:
        if events and (events[0].seq - 1) // PRUNE_EVERY != events[-1].seq // PRUNE_EVERY:
            old = model.Event.seq <= events[-1].seq - JOURNAL_LIMIT
            model.Event.delete().where(old).execute(self._database)

    def _check_file(self) -> None:
        """Refuse what is not ours before anything is put beside it, or SQLite opens it.

        SQLite would take an empty file for a new database.
        """
        with self.path.open("rb") as file:
            header = file.read(_HEADER)
        if not header:
            raise StoreError(
                f"{self.path} is empty: it was cut off, it is no new database",
                hint="put back a copy, or remove it and its -wal to start with an empty registry",
            )
        if not header.startswith(b"SQLite format 3\0"):
            raise StoreError(
                f"{self.path} is corrupt: file is not a database",
                hint="choose another file with --db; if it was the registry's, put back a copy",
            )
        if int.from_bytes(header[68:72], "big") != model.APPLICATION_ID:
            raise StoreError(
                f"{self.path} is a database of another program",
                hint="choose another file with --db",
            )

    def _check_no_remains(self) -> None:
        """Refuse the log of a database that is gone: SQLite would play it into the new one."""
        remains = Path(f"{self.path}-wal")
        if remains.exists():
            raise StoreError(
                f"{self.path} is gone, but not {remains.name}, which holds its last changes",
                hint=f"put {self.path.name} back, or remove {remains.name} too",
            )

    def _check_contents(self) -> None:
        """Refuse what is newer, or corrupt."""
        version = int(self._pragma("user_version"))
        if version > model.SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by a newer rsreg (schema {version}, "
                f"this one knows {model.SCHEMA_VERSION})",
                hint="start the newer rsreg, or choose another file with --db",
            )
        verdict = str(self._pragma("quick_check(1)"))
        if verdict != "ok":
            raise _corrupt(self.path, verdict.splitlines()[-1])
        if version < model.SCHEMA_VERSION:
            self._upgrade(version)

    def _upgrade(self, version: int) -> None:
        """Bring the tables of an earlier version up to date, all or nothing."""
        with self._transaction():
            for older in range(version, model.SCHEMA_VERSION):
                for statement in model.UPGRADES.get(older, ()):
                    self._database.execute_sql(statement)
            self._database.execute_sql(_WRITE)

    def _check_history(self) -> None:
        """Begin a new epoch where the journal is not the one that the last server here wrote.

        An older copy was put back, or the file comes from elsewhere: events with other contents
        will get the numbers that followers know already.
        """
        assert self._lock is not None
        noted = self._lock.noted
        with _refusing(f"can't read {self.describe()}"):
            epoch, seq = self._epoch(), self._newest()
        if noted is None or not self._holds(noted):
            if seq:
                log.warning(
                    "%s does not go on where the last server here ended, it is an older copy "
                    "perhaps: whoever follows its events is told to list anew",
                    self.path,
                )
            epoch = _new_epoch()
            with self._transaction():
                self._database.execute_sql(_PUT_META, (_EPOCH, epoch))
        last = self.events(seq - 1, 1) if seq else []
        self._known_epoch = epoch
        self._lock.take(Position(epoch, seq, last[0].mark if last else None))

    def _holds(self, position: Position) -> bool:
        """Whether the journal has come to a position, and still has its event."""
        if position.epoch != self._epoch() or position.seq > self._newest():
            return False
        if position.seq == 0:
            return True
        found = self.events(position.seq - 1, 1)
        return bool(found) and (found[0].seq, found[0].mark) == (position.seq, position.mark)

    def _newest(self) -> int:
        newest = model.Event.select(peewee.fn.MAX(model.Event.seq))
        return newest.scalar(self._database) or 0

    def _pragma(self, name: str) -> Any:
        return self._database.execute_sql(f"PRAGMA {name}").fetchone()[0]


class InMemoryBackend(SQLiteBackend):
    """The same tables in memory: nothing is on disk, and all is gone with the server."""

    def __init__(self) -> None:
        super().__init__(_MEMORY)

    def initialize(self) -> object:
        """See RegistryBackend."""
        if self._database.is_closed():
            self._database.connect()
            _create_tables(self._database)
        return None

    def describe(self) -> str:
        """See RegistryBackend."""
        return "memory"


class FileLock:
    """Holds `<file>.lock` for this process, so that two servers never share a file.

    The lock is the kernel's (flock) and ends with the process; the text in it says who holds it,
    and how far the journal has come. It stands beside the database, which other programs may read
    meanwhile. Raises StoreInUse.

    `noted` is the last position that a server noted here, None for none.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._read().partition("\n")[0] or "another program"
            self.release()
            raise StoreInUse(
                f"{path} is in use by {holder}",
                hint="stop that one, or choose another file with --db",
            ) from None
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._holder = f"pid {os.getpid()} on {socket.gethostname()} since {since}\n".encode()
        self.noted = _read_position(self._read().partition("\n")[2])

    def take(self, position: Position) -> None:
        """Say who holds it from now on, and where the journal stands; on the disk, too."""
        text = self._holder + _noted(position)
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))
        os.fsync(self._file)

    def note(self, position: Position) -> None:
        """The journal has come to a position; never fails, since the change is durable already.

        Not synced: one that is lost with the power is still in the journal.
        """
        with contextlib.suppress(OSError):
            os.pwrite(self._file, _noted(position), len(self._holder))

    def _read(self) -> str:
        return os.pread(self._file, 1_000, 0).decode(errors="replace").strip()

    def release(self) -> None:
        """Let the next server have the file."""
        os.close(self._file)


def _noted(position: Position) -> bytes:
    """Always as long, so that one takes the place of another as a whole."""
    return b"%-20s %20d %-20s\n" % (
        position.epoch.encode(),
        position.seq,
        (position.mark or "-").encode(),
    )


def _read_position(text: str) -> Position | None:
    try:
        epoch, seq, mark = text.split()
        return Position(epoch, int(seq), None if mark == "-" else mark)
    except ValueError:
        return None


def _new_epoch() -> str:
    return secrets.token_hex(8)


def _create(path: Path) -> None:
    """Make a new database under another name first: a crash leaves no half-made file behind."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    database: Any = SqliteDatabase(str(fresh), pragmas={"synchronous": "full"})
    with _refusing(f"can't create {path}"), contextlib.closing(database):
        database.connect()
        _create_tables(database)
    fresh.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _create_tables(database: Any) -> None:
    with database.atomic():
        for table in model.TABLES:
            SchemaManager(table, database).create_all(safe=False)
        meta = [{"key": _EPOCH, "value": _new_epoch()}]
        model.Meta.insert_many(meta).execute(database)
        database.execute_sql(f"PRAGMA application_id = {model.APPLICATION_ID}")
        database.execute_sql(f"PRAGMA user_version = {model.SCHEMA_VERSION}")


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn what the database raises into a StoreError that says what could not be done."""
    try:
        yield
    except (peewee.PeeweeException, sqlite3.Error, msgspec.DecodeError) as error:
        raise StoreError(f"{what}: {error}") from error


def _corrupt(path: Path, verdict: str) -> StoreError:
    return StoreError(
        f"{path} is corrupt: {verdict}",
        hint="put back a copy, or move it and its -wal away to start with an empty registry: "
        "running services come back by themselves",
    )


def _service_row(service: records.Service) -> tuple[Any, ...]:
    """In the order of `model.columns`; what was told of its health comes with the events."""
    return (
        service.id,
        service.name,
        service.host,
        service.port,
        service.type,
        _text(service.tags),
        _text(service.metadata),
        _text(service.extra),
        service.ttl,
        service.last_heartbeat,
        None,
        None,
    )


def _told_rows(
    changes: Mapping[str, records.Service | None], events: Sequence[Event]
) -> list[tuple[Any, ...]]:
    """What was told of each service last; in a row just written it is "passing" already."""
    told = {event.service_id: event.told for event in events if event.told is not None}
    return [
        (None if last.health == records.PASSING else last.health, last.reason, service_id)
        for service_id, last in told.items()
        if last.health != records.PASSING or service_id not in changes
    ]


def _service(row: tuple[Any, ...]) -> records.Service:
    service_id, name, host, port, kind, tags, metadata, extra, ttl, last_heartbeat, *_ = row
    return records.Service(
        id=service_id,
        name=name,
        host=host,
        port=port,
        type=kind,
        tags=msgspec.json.decode(tags),
        metadata=msgspec.json.decode(metadata),
        extra=msgspec.json.decode(extra),
        ttl=int(ttl) if ttl == int(ttl) else ttl,
        last_heartbeat=last_heartbeat,
    )


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _event_row(event: Event) -> tuple[Any, ...]:
    """In the order of `model.columns`."""
    return event.seq, event.type, event.service_id, event.body.decode(), event.token, event.turn


def _event(row: tuple[Any, ...]) -> Event:
    seq, kind, service_id, body, token, turn = row
    return Event(
        seq=seq, type=kind, service_id=service_id, body=body.encode(), token=token, turn=turn
    )
