"""The file of an SQLite store: a new one is made, and what must not be opened is refused."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

from peewee import SqliteDatabase

from rsreg.errors import StoreError
from rsreg.server.backends import sqlite_copy, tables, vacuum
from rsreg.server.backends.table_backend import corrupt, create_tables, refusing
from rsreg.system import private_files

log = logging.getLogger(__name__)

#: Milliseconds to wait for another program's lock on the file; the whole server waits with us.
_BUSY_TIMEOUT = 250
#: Finds what is corrupt, and stops at the first.
QUICK_CHECK = "PRAGMA quick_check(1)"
#: What SQLite calls a database that is in no file.
MEMORY = ":memory:"
#: Writes to the file, and changes nothing.
WRITE = f"PRAGMA user_version = {tables.SCHEMA_VERSION}"


def database_at(path: str | os.PathLike[str]) -> Any:
    """Return the database at a path, which is not connected yet."""
    return SqliteDatabase(
        str(path),
        timeout=_BUSY_TIMEOUT / 1000,
        thread_safe=False,
        check_same_thread=False,
        lock_type="IMMEDIATE",
        autoconnect=False,
    )


def create(path: Path) -> None:
    """Make a new database under another name first: a crash leaves no half-made file behind."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    os.close(private_files.create_file(fresh))
    database: Any = SqliteDatabase(str(fresh), pragmas={"synchronous": "full"})
    with refusing(f"can't create {path}"), contextlib.closing(database):
        database.connect()
        database.execute_sql(vacuum.PREPARE)
        with database.atomic():
            create_tables(database)
            database.execute_sql(f"PRAGMA application_id = {tables.APPLICATION_ID}")
            database.execute_sql(WRITE)
    fresh.rename(path)
    sqlite_copy.sync(path.parent)


def check_no_remains(path: Path, name: str) -> None:
    """Refuse the log of a database that is gone: SQLite would play it into the new one."""
    for remains in (Path(f"{path}-wal"), Path(f"{path}-journal")):
        if remains.exists():
            raise StoreError(
                f"{name} is gone, but not {remains.name}, which holds its last changes",
                hint=f"put {path.name} back, or remove {remains.name} too",
            )
    unfinished = Path(f"{path}{sqlite_copy.UNFINISHED}")
    if unfinished.exists():
        raise StoreError(
            f"{name} is gone: a restore was cut short, {unfinished.name} is its copy",
            hint='run "rs_cs restore" again',
        )


def check_contents(database: Any, name: str) -> int:
    """Refuse what is newer, or corrupt; the version of the tables."""
    version = int(database.execute_sql("PRAGMA user_version").fetchone()[0])
    if version > tables.SCHEMA_VERSION:
        raise StoreError(
            f"{name} was written by a newer rsreg (schema {version}, "
            f"this one knows {tables.SCHEMA_VERSION})",
            hint="start the newer rsreg, or choose another file with --db",
        )
    verdict = str(database.execute_sql(QUICK_CHECK).fetchone()[0])
    if verdict != "ok":
        raise corrupt(name, verdict.splitlines()[-1])
    return version


def warn_of_others(path: Path) -> None:
    """Warn if other users can read or write the store."""
    if problem := private_files.open_to_others(path.parent, path, Path(f"{path}.lock")):
        log.warning("other users can access the store: %s", problem)


def is_same(one: Path, other: Path) -> bool:
    """Return whether two names are of one file, or would be."""
    if os.path.realpath(one) == str(other):
        return True
    try:
        return one.samefile(other)
    except OSError:  # There is no such file, or nobody can tell: then it can't be written either.
        return False
