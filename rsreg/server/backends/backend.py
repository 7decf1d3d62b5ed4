"""Where registrations and the journal are kept: the seam, and its SQLite implementations.

Nothing here switches to another greenlet: a switch inside a transaction would let another
greenlet's rows into it. SQLite is called directly; it blocks for microseconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import peewee
from peewee import SchemaManager, SqliteDatabase

from rsreg.config import DEFAULT_JOURNAL_BYTES, DEFAULT_JOURNAL_EVENTS
from rsreg.errors import StoreError, StoreLost
from rsreg.protocol.health import PASSING
from rsreg.server.backends import sqlite_copy, stored, tables, vacuum
from rsreg.server.backends.retention import Journal
from rsreg.server.backends.store_files import Place
from rsreg.server.backends.store_lock import FileLock
from rsreg.server.backends.stored import Event, Maintenance, Position, Told
from rsreg.system import private_files

log = logging.getLogger(__name__)

#: Bytes of events that are read at once; the first one may have more.
EVENTS_SIZE = 1024 * 1024
#: Requests that are remembered, so that a resend is no second one.
MAX_ANSWERED = 10_000
#: Milliseconds to wait for another program's lock on the file; the whole server waits with us.
_BUSY_TIMEOUT = 250
#: What SQLite calls a database that is in no file.
_MEMORY = ":memory:"
#: Writes to the file, and changes nothing.
_WRITE = f"PRAGMA user_version = {tables.SCHEMA_VERSION}"

#: The keys of what is said once of a store.
_EPOCH, _MAINTENANCE = "epoch", "maintenance"

# The statements of the hot paths, which SQLite keeps prepared: to build a query with peewee takes
# ten times as long as to run it.
_ALL_SERVICES = f"SELECT {tables.columns(tables.Service)} FROM service ORDER BY rowid"
_PUT_SERVICE = f"REPLACE INTO service ({tables.columns(tables.Service)}) VALUES ({'?, ' * 12}?)"
_TELL_SERVICE = "UPDATE service SET told = ?, reason = ? WHERE id = ?"
_PUT_EVENT = f"INSERT INTO event ({tables.columns(tables.Event)}) VALUES ({'?, ' * 5}?)"
_PUT_META = "REPLACE INTO meta (key, value) VALUES (?, ?)"
_EVENTS = f"SELECT {tables.columns(tables.Event)} FROM event WHERE seq > ? ORDER BY seq LIMIT ?"
_EVENT_SIZES = "SELECT seq, length(CAST(body AS BLOB)) FROM event ORDER BY seq"
_TOKENS = (
    "SELECT token, service_id FROM event WHERE token IS NOT NULL ORDER BY seq DESC "
    f"LIMIT {MAX_ANSWERED}"
)
_TURNS = (
    "SELECT service_id, turn FROM event WHERE turn IS NOT NULL ORDER BY seq DESC "
    f"LIMIT {MAX_ANSWERED}"
)
_CONTENTS = "SELECT (SELECT count(*) FROM service), (SELECT max(seq) FROM event)"
_NEWEST = f"SELECT {tables.columns(tables.Event)} FROM event ORDER BY seq DESC LIMIT 1"
_QUICK_CHECK = "PRAGMA quick_check(1)"
_FORGET_EVENTS = "DELETE FROM event WHERE seq <= ?"
_DELETE_SERVICE = "DELETE FROM service WHERE id = ?"
_TOUCH_SERVICE = "UPDATE service SET last_heartbeat = ? WHERE id = ?"


@dataclass(frozen=True)
class Stored:
    """What a store holds when it is opened.

    `epoch` is random and made with the store; `seq` is the number of its last event, 0 without any;
    `answered` maps the newest tokens in the journal, oldest first, to their events' service ids,
    `turns` the ids of services to the last turn that an event about them has. `maintenance` is what
    the last commit that had any said; `told` is what the last event about a service told of its
    health, by id, where that is not "passing".
    """

    epoch: str
    seq: int
    services: list[stored.Service]
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
        changes: Mapping[str, stored.Service | None],
        events: Sequence[Event],
        maintenance: Sequence[Maintenance] | None = None,
    ) -> None:
        """Make `changes`, `events` and `maintenance` durable, all or nothing.

        `changes` maps ids to the services as they now are, None: gone. `maintenance` is all there
        is of it from now on, None: as before. After the return they survive a crash, as far as
        this store survives one.
        """

    def events(self, since: int, limit: int) -> list[Event]:
        """At most `limit` events with a `seq` above `since`, oldest first; fewer if they are large.

        There is at least one, if there are any. A first one above `since + 1` tells that the
        journal no longer reaches back that far.
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


@runtime_checkable
class Journaled(Protocol):
    """What a backend has, too, that can say how much it keeps of the past."""

    journal: Journal


@runtime_checkable
class Tended(Protocol):
    """What a backend may have, too, if somebody has to look after it."""

    def tend(self) -> None:
        """Look after the store: called twice a second, between two changes.

        Raises StoreLost if the store is no longer where it was; changes are refused then, until a
        later call finds it again. What can be given back of disk or memory is, a little at a time.
        """


@dataclass(frozen=True)
class Copied:
    """What a copy of a store holds: its bytes, services, and the number of its last event."""

    size: int
    services: int
    seq: int


@runtime_checkable
class Copyable(Protocol):
    """What a backend has, too, that can be copied."""

    def copy(self, target: Path, *, replace: bool) -> Copied:
        """Write a copy of all that is committed to a file, whole or not at all.

        Called in a thread of its own, beside everything else; ends soon after `close`. A file that
        is there is refused, unless it is to be replaced. Raises StoreError.
        """


class SQLiteBackend:
    """Keeps everything in one SQLite file, which survives power loss (WAL, `synchronous=FULL`).

    One server at a time, by a lock on `<file>.lock`. A file that is corrupt, newer than this
    version, or not ours is refused, never moved, emptied or made anew. The journal keeps the last
    `journal_events` events, or fewer if those have more than `journal_bytes` bytes; both are 1 or
    more.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        journal_events: int = DEFAULT_JOURNAL_EVENTS,
        journal_bytes: int = DEFAULT_JOURNAL_BYTES,
    ) -> None:
        self.path = Path(path)
        self.journal = Journal(journal_events, journal_bytes)
        self._lock: FileLock | None = None
        self._newest = Position("", 0, None)
        self._place: Place | None = None
        self._copying: sqlite3.Connection | None = None
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
            # SQLite puts log and lock beside the file itself, not beside a link to it.
            real = Path(os.path.realpath(self.path))
            private_files.make_folder(real.parent)
            if real.exists():
                sqlite_copy.check_header(self.path)
            self._lock = FileLock(real)
            if not real.exists():
                self._check_no_remains(real)
                _create(real)
            for end in ("-wal", "-shm", "-journal"):
                private_files.check(Path(f"{real}{end}"), beside=real)
            self._database.connect()
            self._check_contents()
            self._database.execute_sql("PRAGMA journal_mode = wal")
            self._database.execute_sql("PRAGMA synchronous = full")
            self._tidy()
            self._check_history()
            self._place = Place(real, self._lock.file, partial(self._verify, real))
            _warn_of_others(real)
        except StoreError:
            self.close()
            raise
        except private_files.UnsafeFile as error:
            self.close()
            hint = "see what it is, and move it away if it is not the registry's"
            raise StoreError(f"can't open {self.path}: {error}", hint=hint) from error
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
            rows = self._execute(_ALL_SERVICES)
            return Stored(
                epoch=self._epoch(),
                seq=self.journal.newest,
                services=[_service(row) for row in rows],
                answered=dict(reversed(self._execute(_TOKENS))),
                maintenance=msgspec.json.decode(
                    self._meta(_MAINTENANCE) or "[]", type=list[Maintenance]
                ),
                told={row[0]: Told(*row[-2:]) for row in rows if row[-2] is not None},
                turns=dict(reversed(self._execute(_TURNS))),
            )

    def commit(
        self,
        changes: Mapping[str, stored.Service | None],
        events: Sequence[Event],
        maintenance: Sequence[Maintenance] | None = None,
    ) -> None:
        """See RegistryBackend."""
        gone = [(service_id,) for service_id, service in changes.items() if service is None]
        kept = [_service_row(service) for service in changes.values() if service is not None]
        journal = self.journal.copy()
        forgotten = journal.add((event.seq, len(event.body)) for event in events)
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
            if forgotten:
                cursor.execute(_FORGET_EVENTS, (forgotten,))
        self.journal = journal
        if events and self._lock is not None:
            self._newest = Position(self._newest.epoch, events[-1].seq, events[-1].mark)
            self._lock.note(self._newest)

    def events(self, since: int, limit: int) -> list[Event]:
        """See RegistryBackend."""
        with _refusing(f"can't read {self.describe()}"):
            found: list[Event] = []
            size = 0
            with contextlib.closing(self._database.execute_sql(_EVENTS, (since, limit))) as rows:
                for event in map(_event, rows):
                    size += len(event.body)
                    if found and size > EVENTS_SIZE:
                        break
                    found.append(event)
            return found

    def touch(self, heartbeats: Mapping[str, int]) -> None:
        """See RegistryBackend."""
        rows = [(seconds, service_id) for service_id, seconds in heartbeats.items()]
        with self._transaction():
            self._database.execute_sql(_WRITE)
            self._database.cursor().executemany(_TOUCH_SERVICE, rows)

    def close(self) -> object:
        """See RegistryBackend."""
        if (copying_now := self._copying) is not None:
            copying_now.interrupt()
        with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
            self._database.close()
        self._place = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        return None

    def describe(self) -> str:
        """See RegistryBackend."""
        return str(self.path)

    def tend(self) -> None:
        """See Tended."""
        if self._place is not None:
            self._see(self._place.check_all)
        with contextlib.suppress(peewee.PeeweeException, sqlite3.Error, OSError):
            vacuum.shrink(self._database.connection())
            if self._place is not None:
                vacuum.shrink_log(self._database.connection(), self._place.log)
        if self._place is not None:
            self._place.note()

    def copy(self, target: Path, *, replace: bool) -> Copied:
        """See Copyable."""
        real = Path(os.path.realpath(self.path))
        # Not even to be looked into: to close a file frees SQLite's locks on it.
        if any(_same(target, Path(f"{real}{end}")) for end in ("", "-wal", "-shm", ".lock")):
            raise StoreError(f"{target} is the store itself", hint="choose another name")
        with (
            _refusing(f"can't copy {self.describe()}"),
            contextlib.closing(sqlite_copy.read_only(real)) as source,
        ):
            self._copying = source
            try:
                sqlite_copy.copy(source, target, replace=replace)
            finally:
                self._copying = None
        with (
            _refusing(f"can't read {target}"),
            contextlib.closing(sqlite_copy.read_only(target)) as it,
        ):
            services, seq = it.execute(_CONTENTS).fetchone()
        return Copied(target.stat().st_size, services, seq or 0)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing of what is written meanwhile; a StoreError says why it is nothing."""
        if self._place is not None:
            self._see(self._place.check)
        try:
            with _refusing(f"can't write {self.describe()}"), self._database.manual_commit():
                self._database.begin()
                try:
                    yield
                    self._database.commit()
                except BaseException:
                    self._undo()
                    raise
        finally:
            if self._place is not None:
                self._place.note()

    def _see(self, check: Callable[[], None]) -> None:
        """Have the place checked. Where only the log is gone, what it held goes into the file."""
        assert self._place is not None
        try:
            check()
        except StoreLost:
            if self._place.lost_its_log:
                with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
                    self._execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._place.note()
            raise

    def _verify(self, path: Path) -> str | None:
        """What is wrong with the file, for a server that would be started now; see Place."""
        _, newest, mark = self._newest
        with contextlib.closing(sqlite_copy.read_only(path)) as fresh:
            verdict = fresh.execute(_QUICK_CHECK).fetchone()[0]
            if verdict != "ok":
                return str(verdict.splitlines()[-1])
            row = fresh.execute(_NEWEST).fetchone()
        last = _event(row) if row else None
        seq = last.seq if last else 0
        if seq != newest:
            return f"its last event has number {seq}, ours has {newest}"
        if last and last.mark != mark:
            return f"its last event, number {seq}, is not ours"
        return None

    def _undo(self) -> None:
        """Roll back, and take what was refused out of the log.

        If only the sync failed, all of it stands there, and a server that is killed now would find
        it when it is started again. So something else is written in its place.
        """
        for statement in ("ROLLBACK", _WRITE):
            # SQLite may have rolled back by itself, and the second write may fail like the first.
            with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
                self._database.execute_sql(statement)

    def _execute(self, statement: str) -> list[Any]:
        return list(self._database.execute_sql(statement))

    def _tidy(self) -> None:
        """Forget the events that are too many, and give the disk back what is not in use.

        Where there is no room for that, it is as well without.
        """
        self.journal = Journal(self.journal.limit, self.journal.size)
        for setting in vacuum.SETTINGS:
            self._execute(setting)
        with _refusing(f"can't read {self.describe()}"):
            forgotten = self.journal.add(self._database.execute_sql(_EVENT_SIZES))
        with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
            self._database.execute_sql(_FORGET_EVENTS, (forgotten,))
            vacuum.at_start(self._database.connection())

    def _epoch(self) -> str:
        epoch = self._meta(_EPOCH)
        if epoch is None:
            raise _corrupt(self.path, "it has no epoch")
        return epoch

    def _meta(self, key: str) -> str | None:
        query = tables.Meta.select(tables.Meta.value).where(tables.Meta.key == key)
        value: str | None = query.scalar(self._database)
        return value

    def _check_no_remains(self, path: Path) -> None:
        """Refuse the log of a database that is gone: SQLite would play it into the new one."""
        for remains in (Path(f"{path}-wal"), Path(f"{path}-journal")):
            if remains.exists():
                raise StoreError(
                    f"{self.path} is gone, but not {remains.name}, which holds its last changes",
                    hint=f"put {path.name} back, or remove {remains.name} too",
                )
        unfinished = Path(f"{path}{sqlite_copy.UNFINISHED}")
        if unfinished.exists():
            raise StoreError(
                f"{self.path} is gone: a restore was cut short, {unfinished.name} is its copy",
                hint='run "rs_cs restore" again',
            )

    def _check_contents(self) -> None:
        """Refuse what is newer, or corrupt."""
        version = int(self._pragma("user_version"))
        if version > tables.SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by a newer rsreg (schema {version}, "
                f"this one knows {tables.SCHEMA_VERSION})",
                hint="start the newer rsreg, or choose another file with --db",
            )
        verdict = str(self._execute(_QUICK_CHECK)[0][0])
        if verdict != "ok":
            raise _corrupt(self.path, verdict.splitlines()[-1])
        if version < tables.SCHEMA_VERSION:
            self._upgrade(version)

    def _upgrade(self, version: int) -> None:
        """Bring the tables of an earlier version up to date, all or nothing."""
        with self._transaction():
            for older in range(version, tables.SCHEMA_VERSION):
                for statement in tables.UPGRADES.get(older, ()):
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
            epoch, seq = self._epoch(), self.journal.newest
        if not (seq == 0 if noted is None else self._holds(noted)):
            # A copy that is used for the first time is no surprise.
            log.log(
                logging.INFO if noted is None else logging.WARNING,
                "%s does not go on where a server here ended, it is a copy perhaps: whoever "
                "follows its events is told to list anew",
                self.path,
            )
            epoch = _new_epoch()
            with self._transaction():
                self._database.execute_sql(_PUT_META, (_EPOCH, epoch))
        last = self.events(seq - 1, 1) if seq else []
        self._newest = Position(epoch, seq, last[0].mark if last else None)
        self._lock.begin(self._newest)

    def _holds(self, position: Position) -> bool:
        """Whether the journal has come to a position, and still has its event."""
        if position.epoch != self._epoch() or position.seq > self.journal.newest:
            return False
        if position.seq == 0:
            return True
        found = self.events(position.seq - 1, 1)
        return bool(found) and (found[0].seq, found[0].mark) == (position.seq, position.mark)

    def _pragma(self, name: str) -> Any:
        return self._database.execute_sql(f"PRAGMA {name}").fetchone()[0]


class InMemoryBackend(SQLiteBackend):
    """The same tables in memory: nothing is on disk, and all is gone with the server."""

    def __init__(
        self,
        *,
        journal_events: int = DEFAULT_JOURNAL_EVENTS,
        journal_bytes: int = DEFAULT_JOURNAL_BYTES,
    ) -> None:
        super().__init__(_MEMORY, journal_events=journal_events, journal_bytes=journal_bytes)

    def initialize(self) -> object:
        """See RegistryBackend."""
        if self._database.is_closed():
            self._database.connect()
            _create_tables(self._database)
            self._tidy()
        return None

    def copy(self, target: Path, *, replace: bool) -> Copied:
        """There is nothing to copy that anybody could start from."""
        raise StoreError(
            "a registry in memory keeps nothing that could be copied",
            hint="start it with a file (--db)",
        )

    def describe(self) -> str:
        """See RegistryBackend."""
        return "memory"


def _new_epoch() -> str:
    return secrets.token_hex(8)


def _warn_of_others(path: Path) -> None:
    if said := private_files.open_to_others(path.parent, path, Path(f"{path}.lock")):
        log.warning("the store is not the registry's alone: %s", said)


def _create(path: Path) -> None:
    """Make a new database under another name first: a crash leaves no half-made file behind."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    os.close(private_files.create_file(fresh))
    database: Any = SqliteDatabase(str(fresh), pragmas={"synchronous": "full"})
    with _refusing(f"can't create {path}"), contextlib.closing(database):
        database.connect()
        _create_tables(database)
    fresh.rename(path)
    sqlite_copy.sync(path.parent)


def _create_tables(database: Any) -> None:
    database.execute_sql(vacuum.PREPARE)
    with database.atomic():
        for table in tables.TABLES:
            SchemaManager(table, database).create_all(safe=False)
        meta = [{"key": _EPOCH, "value": _new_epoch()}]
        tables.Meta.insert_many(meta).execute(database)
        database.execute_sql(f"PRAGMA application_id = {tables.APPLICATION_ID}")
        database.execute_sql(f"PRAGMA user_version = {tables.SCHEMA_VERSION}")


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn what the database raises into a StoreError that says what could not be done."""
    try:
        yield
    except (peewee.PeeweeException, sqlite3.Error, msgspec.DecodeError) as error:
        raise StoreError(f"{what}: {error}") from error


def _same(one: Path, other: Path) -> bool:
    """Whether two names are of one file, or would be."""
    if os.path.realpath(one) == str(other):
        return True
    try:
        return one.samefile(other)
    except OSError:  # There is no such file, or nobody can tell: then it can't be written either.
        return False


def _corrupt(path: Path, verdict: str) -> StoreError:
    return StoreError(
        f"{path} is corrupt: {verdict}",
        hint="put back a copy, or move it and its -wal away to start with an empty registry: "
        "running services come back by themselves",
    )


def _service_row(service: stored.Service) -> tuple[Any, ...]:
    """In the order of `tables.columns`; what was told of its health comes with the events."""
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
        service.registered_by,
        None,
        None,
    )


def _told_rows(
    changes: Mapping[str, stored.Service | None], events: Sequence[Event]
) -> list[tuple[Any, ...]]:
    """What was told of each service last; in a row just written it is "passing" already."""
    told = {event.service_id: event.told for event in events if event.told is not None}
    return [
        (None if last.health == PASSING else last.health, last.reason, service_id)
        for service_id, last in told.items()
        if last.health != PASSING or service_id not in changes
    ]


def _service(row: tuple[Any, ...]) -> stored.Service:
    service_id, name, host, port, kind, tags, metadata, extra, ttl, last_heartbeat, by, *_ = row
    return stored.Service(
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
        registered_by=by,
    )


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _event_row(event: Event) -> tuple[Any, ...]:
    """In the order of `tables.columns`."""
    return event.seq, event.type, event.service_id, event.body.decode(), event.token, event.turn


def _event(row: tuple[Any, ...]) -> Event:
    seq, kind, service_id, body, token, turn = row
    return Event(
        seq=seq, type=kind, service_id=service_id, body=body.encode(), token=token, turn=turn
    )
