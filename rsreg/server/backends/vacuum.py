"""Gives the disk back what an SQLite file and its log no longer need, a little at a time."""

from __future__ import annotations

import os
import sqlite3

#: What lets a file shrink without being written anew (PRAGMA auto_vacuum).
_INCREMENTAL = 2
#: Bytes that the log keeps for what comes next: to write over them is faster than to append.
_LOG_SIZE = 4 * 1024 * 1024
#: Unused pages that a file keeps for what comes next, and the part of it that may be unused.
_SPARE_PAGES, _SPARE_PART = 256, 4
#: Pages that are given back at once, some milliseconds of work.
_AT_ONCE = 256

#: For a new database, before its first table.
PREPARE = f"PRAGMA auto_vacuum = {_INCREMENTAL}"
#: For a connection. Some SQLites write zeros over what is deleted, which takes as long as to write.
SETTINGS = ("PRAGMA secure_delete = off", f"PRAGMA journal_size_limit = {_LOG_SIZE}")


def at_start(database: sqlite3.Connection) -> None:
    """Have the file shrink from now on; write it anew if most of it is unused, or it is older.

    Takes as long as it takes to write what is in use; nobody may be waiting.
    """
    older = _number(database, "auto_vacuum") != _INCREMENTAL
    if older or 2 * _number(database, "freelist_count") > _number(database, "page_count"):
        database.execute(PREPARE)
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def shrink(database: sqlite3.Connection) -> None:
    """Give back some of the pages that are not in use, if they are many."""
    if not _has_much_unused(database):
        return
    # A script, as a statement without rows is left after its first step: after one page.
    database.executescript(f"PRAGMA incremental_vacuum({_AT_ONCE})")
    if not _has_much_unused(database):
        # Until then only the log says that the file is shorter.
        database.execute("PRAGMA wal_checkpoint(PASSIVE)")


def shrink_log(database: sqlite3.Connection, log: str) -> None:
    """Empty the log, if a reader made it grow and is gone; does not wait for one that is there."""
    if os.stat(log).st_size <= 2 * _LOG_SIZE:
        return
    patience = _number(database, "busy_timeout")
    database.execute("PRAGMA busy_timeout = 0")
    try:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        database.execute(f"PRAGMA busy_timeout = {patience}")


def _has_much_unused(database: sqlite3.Connection) -> bool:
    unused = _number(database, "freelist_count")
    return unused > _SPARE_PAGES and unused * _SPARE_PART > _number(database, "page_count")


def _number(database: sqlite3.Connection, pragma: str) -> int:
    return int(database.execute(f"PRAGMA {pragma}").fetchone()[0])
