"""SQLiteBackend: a store in one SQLite file, which survives power loss."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import peewee

from rsreg.config import DEFAULT_JOURNAL_BYTES, DEFAULT_JOURNAL_EVENTS
from rsreg.errors import StoreError, StoreLost
from rsreg.server.backends import sqlite_copy, sqlite_file, tables, vacuum
from rsreg.server.backends.base import Copied
from rsreg.server.backends.rows import event_of
from rsreg.server.backends.sqlite_file import MEMORY, QUICK_CHECK, WRITE
from rsreg.server.backends.store_files import StoreFiles
from rsreg.server.backends.store_lock import FileLock
from rsreg.server.backends.stored import Event, Maintenance, Position, Service
from rsreg.server.backends.table_backend import (
    EPOCH,
    PUT_META,
    TableBackend,
    corrupt,
    new_epoch,
    refusing,
)
from rsreg.system import private_files

log = logging.getLogger(__name__)

_CONTENTS = "SELECT (SELECT count(*) FROM service), (SELECT max(seq) FROM event)"
_NEWEST = f"SELECT {tables.columns(tables.Event)} FROM event ORDER BY seq DESC LIMIT 1"


class SQLiteBackend(TableBackend):
    """Keeps everything in one SQLite file, which survives power loss (WAL, `synchronous=FULL`).

    One server uses a file at a time; the lock is on `<file>.lock`. A file that is corrupt, newer
    than this version, or not a registry's is refused; it is never moved, emptied or made anew.

    Args:
        path: The file; it is made if it is not there, and its folder too.
        journal_events: The journal keeps about this many of the last events; 1 or more.
        journal_bytes: It keeps fewer, if those have more bytes than this; 1 or more.

    Raises:
        ConfigurationError: A limit of the journal is below 1.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        journal_events: int = DEFAULT_JOURNAL_EVENTS,
        journal_bytes: int = DEFAULT_JOURNAL_BYTES,
    ) -> None:
        super().__init__(
            sqlite_file.database_at(path),
            str(Path(path)),
            journal_events=journal_events,
            journal_bytes=journal_bytes,
        )
        self.path = Path(path)
        self._lock: FileLock | None = None
        self._newest = Position("", 0, None)
        self._files: StoreFiles | None = None
        self._copying: sqlite3.Connection | None = None

    def initialize(self) -> object:
        """See RegistryBackend; StoreError says which file, why, and what to do."""
        if not self._database.is_closed():
            return None
        if str(self.path) == MEMORY:
            raise StoreError(f"{MEMORY} is no file", hint="use InMemoryBackend()")
        try:
            # SQLite puts log and lock beside the file itself, not beside a link to it.
            real = Path(os.path.realpath(self.path))
            private_files.make_folder(real.parent)
            if real.exists():
                sqlite_copy.check_header(self.path)
            self._lock = FileLock(real)
            if not real.exists():
                sqlite_file.check_no_remains(real, self.describe())
                sqlite_file.create(real)
            for end in ("-wal", "-shm", "-journal"):
                private_files.check(Path(f"{real}{end}"), beside=real)
            self._database.connect()
            version = sqlite_file.check_contents(self._database, self.describe())
            if version < tables.SCHEMA_VERSION:
                self._upgrade(version)
            self._database.execute_sql("PRAGMA journal_mode = wal")
            self._database.execute_sql("PRAGMA synchronous = full")
            self._tidy()
            self._check_history()
            self._files = StoreFiles(real, self._lock.file, partial(self._verify, real))
            sqlite_file.warn_of_others(real)
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
            raise corrupt(self.describe(), str(error)) from error
        return None

    def commit(
        self,
        changes: Mapping[str, Service | None],
        events: Sequence[Event],
        maintenance: Sequence[Maintenance] | None = None,
    ) -> None:
        """See RegistryBackend."""
        super().commit(changes, events, maintenance)
        if events and self._lock is not None:
            self._newest = Position(self._newest.epoch, events[-1].seq, events[-1].mark)
            self._lock.save(self._newest)

    def close(self) -> object:
        """See RegistryBackend."""
        if (copying_now := self._copying) is not None:
            copying_now.interrupt()
        super().close()
        self._files = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        return None

    def tend(self) -> None:
        """See Tended."""
        if self._files is not None:
            self._see(self._files.check_all)
        with contextlib.suppress(peewee.PeeweeException, sqlite3.Error, OSError):
            vacuum.shrink(self._database.connection())
            if self._files is not None:
                vacuum.shrink_log(self._database.connection(), self._files.log)
        if self._files is not None:
            self._files.remember()

    def copy(self, target: Path, *, replace: bool) -> Copied:
        """See Copyable."""
        real = Path(os.path.realpath(self.path))
        # Not even to be looked into: to close a file frees SQLite's locks on it.
        if any(
            sqlite_file.is_same(target, Path(f"{real}{end}"))
            for end in ("", "-wal", "-shm", ".lock")
        ):
            raise StoreError(f"{target} is the store itself", hint="choose another name")
        with (
            refusing(f"can't copy {self.describe()}"),
            contextlib.closing(sqlite_copy.read_only(real)) as source,
        ):
            self._copying = source
            try:
                sqlite_copy.copy(source, target, replace=replace)
            finally:
                self._copying = None
        with (
            refusing(f"can't read {target}"),
            contextlib.closing(sqlite_copy.read_only(target)) as it,
        ):
            services, seq = it.execute(_CONTENTS).fetchone()
        return Copied(target.stat().st_size, services, seq or 0)

    def _before_writing(self) -> None:
        """Refuse to write into files that are not those that were opened."""
        if self._files is not None:
            self._see(self._files.check)

    def _after_writing(self) -> None:
        """Take the files as we left them."""
        if self._files is not None:
            self._files.remember()

    def _write_nothing(self) -> None:
        self._database.execute_sql(WRITE)

    def _roll_back(self) -> None:
        """Roll back, and take what was refused out of the log.

        If only the sync failed, all of it stands there, and a server that is killed now would find
        it when it is started again. So something else is written in its place.
        """
        # SQLite may have rolled back by itself, and the second write may fail like the first.
        super()._roll_back()
        self._try_to_execute(WRITE)

    def _see(self, check: Callable[[], None]) -> None:
        """Have the place checked. Where only the log is gone, what it held goes into the file."""
        assert self._files is not None
        try:
            check()
        except StoreLost:
            if self._files.lost_its_log:
                with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
                    self._execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._files.remember()
            raise

    def _verify(self, path: Path) -> str | None:
        """Return what a server that starts now would find wrong with the file, or None."""
        _, newest, mark = self._newest
        with contextlib.closing(sqlite_copy.read_only(path)) as fresh:
            verdict = fresh.execute(QUICK_CHECK).fetchone()[0]
            if verdict != "ok":
                return str(verdict.splitlines()[-1])
            row = fresh.execute(_NEWEST).fetchone()
        last = event_of(row) if row else None
        seq = last.seq if last else 0
        if seq != newest:
            return f"its last event has number {seq}, ours has {newest}"
        if last and last.mark != mark:
            return f"its last event, number {seq}, is not ours"
        return None

    def _tidy(self) -> None:
        """Forget the events that are too many, and give the disk back what is not in use.

        Where there is no room for that, it is as well without.
        """
        for setting in vacuum.SETTINGS:
            self._execute(setting)
        forgotten = self._count_events()
        with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
            self._forget_events(forgotten)
            vacuum.at_start(self._database.connection())

    def _upgrade(self, version: int) -> None:
        """Bring the tables of an earlier version up to date, all or nothing."""
        with self._transaction():
            for older in range(version, tables.SCHEMA_VERSION):
                for statement in tables.UPGRADES.get(older, ()):
                    self._database.execute_sql(statement)
            self._database.execute_sql(WRITE)

    def _check_history(self) -> None:
        """Begin a new epoch where the journal is not the one that the last server here wrote.

        An older copy was put back, or the file comes from elsewhere: events with other contents
        will get the numbers that followers know already.
        """
        assert self._lock is not None
        saved = self._lock.saved
        with refusing(f"can't read {self.describe()}"):
            epoch, seq = self._epoch(), self.journal.newest
        if not (seq == 0 if saved is None else self._holds(saved)):
            # A copy that is used for the first time is no surprise.
            log.log(
                logging.INFO if saved is None else logging.WARNING,
                "%s does not continue where a server here ended, it may be a copy: a new epoch "
                "begins, so that clients that follow its events list all services again",
                self.path,
            )
            epoch = new_epoch()
            with self._transaction():
                self._database.execute_sql(PUT_META, (EPOCH, epoch))
        last = self.events(seq - 1, 1) if seq else []
        self._newest = Position(epoch, seq, last[0].mark if last else None)
        self._lock.begin(self._newest)

    def _holds(self, position: Position) -> bool:
        """Return whether the journal has come to a position, and still has its event."""
        if position.epoch != self._epoch() or position.seq > self.journal.newest:
            return False
        if position.seq == 0:
            return True
        events = self.events(position.seq - 1, 1)
        return bool(events) and (events[0].seq, events[0].mark) == (position.seq, position.mark)
