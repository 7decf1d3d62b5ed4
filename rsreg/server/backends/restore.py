"""Puts a copy in the place of a store that no server has; what was there is kept."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from rsreg.errors import StoreError
from rsreg.server.backends import sqlite_copy
from rsreg.server.backends.sqlite import SQLiteBackend
from rsreg.server.backends.store_lock import FileLock
from rsreg.system import private_files

#: What else belongs to a database, if it is there; the log last, as without a database it says that
#: something is missing.
_BESIDE = ("-shm", "-journal", "-wal")


_ANOTHER = "nothing was changed; choose another copy"


@dataclass(frozen=True)
class Restored:
    """What was put where: the store, what it holds, and the name that the old one has now."""

    store: Path
    services: int
    seq: int
    kept: Path | None


def restore(copy: Path, store: Path) -> Restored:
    """Have the store be what `copy` is, from its next start on; the copy stays as it is.

    It is checked first; then it takes the place of the store in one step. Raises StoreInUse while a
    server runs on the store, and StoreError for what is no copy of a registry's store.
    """
    store = Path(os.path.realpath(store))
    if os.path.realpath(copy) == str(store):
        raise StoreError(f"{copy} is the store itself", hint="name the copy")
    try:
        private_files.make_folder(store.parent)
        lock = FileLock(store)
        fresh = Path(f"{store}{sqlite_copy.UNFINISHED}")
        try:
            services, seq = _prepare(copy, fresh)
            _hand_over(store, fresh, Path(f"{store}.lock"))
            kept = _keep(store)
            fresh.replace(store)
            sqlite_copy.sync(store.parent)
        finally:
            # Where the old one is gone already, the new one stays, and a start is refused.
            for end in ("" if store.exists() else ".lock", ".lock", *_BESIDE):
                Path(f"{fresh}{end}").unlink(missing_ok=True)
            lock.release()
    except OSError as error:
        what = error.filename or store
        raise StoreError(f"can't restore {store}: {what}: {error.strerror or error}") from error
    return Restored(store, services, seq, kept)


def _prepare(copy: Path, fresh: Path) -> tuple[int, int]:
    """Make a checked copy of the copy, ready to be started from; its services and last event."""
    try:
        sqlite_copy.check_header(copy)
        fresh.unlink(missing_ok=True)
        with contextlib.closing(sqlite_copy.read_only(copy)) as source:
            verdict = source.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise StoreError(f"{copy} is corrupt: {verdict.splitlines()[-1]}")
            sqlite_copy.copy(source, fresh, replace=False)
        return _opened(fresh)
    except sqlite3.Error as error:
        raise StoreError(f"{copy} can't be read: {error}", hint=_ANOTHER) from error
    except StoreError as error:
        raise StoreError(str(error).replace(str(fresh), str(copy)), hint=_ANOTHER) from error


def _opened(fresh: Path) -> tuple[int, int]:
    """See whether a server could start from a file; its services and last event."""
    backend = SQLiteBackend(fresh)
    backend.initialize()
    try:
        stored = backend.load()
    finally:
        backend.close()
    return len(stored.services), stored.seq


def _hand_over(store: Path, fresh: Path, lock: Path) -> None:
    """Give the new files to whom the old ones belong: root may restore what others run."""
    if store.exists():
        model = store.stat()
        fresh.chmod(model.st_mode & 0o777)
    else:
        model = store.parent.stat()
    if os.geteuid() == 0:
        for file in (fresh, lock):
            os.chown(file, model.st_uid, model.st_gid, follow_symlinks=False)


def _keep(store: Path) -> Path | None:
    """Give what is there another name, with all that belongs to it.

    Where there is a log, the database goes first, so that no start begins with a log that belongs
    to another one: a start without a database is refused until this is done. Else it keeps its name
    as well, until it is replaced in one step.
    """
    there = [end for end in ("", *_BESIDE) if os.path.lexists(f"{store}{end}")]
    if not there:
        return None
    kept = _unused(f"{store}.{time.strftime('%Y%m%d-%H%M%S')}")
    for end in there:
        if there == [""]:
            with contextlib.suppress(OSError):
                os.link(store, kept)
                return kept
        os.rename(f"{store}{end}", f"{kept}{end}")
    return kept


def _unused(name: str) -> Path:
    """Return a name that nothing has, nor anything that would belong to it."""
    tried, number = name, 1
    while any(os.path.lexists(f"{tried}{end}") for end in ("", *_BESIDE)):
        number += 1
        tried = f"{name}-{number}"
    return Path(tried)
