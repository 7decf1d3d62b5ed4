"""Gives the disk back what an SQLite file and its log no longer need, a little at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

#: Runs a statement; all of its rows.
Execute = Callable[[str], list[Any]]

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


def at_start(execute: Execute) -> None:
    """Have the file shrink from now on; write it anew if most of it is unused, or it is older.

    Takes as long as it takes to write what is in use; nobody may be waiting.
    """
    older = _number(execute, "auto_vacuum") != _INCREMENTAL
    if older or 2 * _number(execute, "freelist_count") > _number(execute, "page_count"):
        execute(PREPARE)
        execute("VACUUM")
        execute("PRAGMA wal_checkpoint(TRUNCATE)")


def shrink(execute: Execute) -> None:
    """Give back some of the pages that are not in use, if they are many."""
    unused = _number(execute, "freelist_count")
    if unused > _SPARE_PAGES and unused * _SPARE_PART > _number(execute, "page_count"):
        execute(f"PRAGMA incremental_vacuum({_AT_ONCE})")


def shrink_log(execute: Execute, log: str) -> None:
    """Empty the log, if a reader made it grow and is gone; does not wait for one that is there."""
    if os.stat(log).st_size <= 2 * _LOG_SIZE:
        return
    patience = _number(execute, "busy_timeout")
    execute("PRAGMA busy_timeout = 0")
    try:
        execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        execute(f"PRAGMA busy_timeout = {patience}")


def _number(execute: Execute, pragma: str) -> int:
    return int(execute(f"PRAGMA {pragma}")[0][0])
