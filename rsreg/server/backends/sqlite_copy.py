"""A consistent copy of an SQLite database, while others read and write it; whole or not there."""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
from pathlib import Path
from urllib.parse import quote

from rsreg.errors import StoreError
from rsreg.server.backends import tables
from rsreg.system import private_files

#: What the name of a restored database ends in until it takes the place of the store.
UNFINISHED = ".restored"
#: Bytes of an SQLite file's header: a magic text first, the application id from byte 68.
_HEADER = 100


def check_header(path: Path) -> None:
    """Refuse what is not ours before anything is put beside it, or SQLite opens it.

    SQLite would take an empty file for a new database, and to open a pipe would wait without end.
    """
    if not (stat.S_ISREG(mode := path.stat().st_mode) or stat.S_ISDIR(mode)):
        raise StoreError(
            f"{path} is a pipe or a device, not a file", hint="choose the file of a database"
        )
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if not header:
        raise StoreError(
            f"{path} is empty: it was cut off, it is no new database",
            hint="put back a copy, or remove it and its -wal to start with an empty registry",
        )
    if not header.startswith(b"SQLite format 3\0"):
        raise StoreError(
            f"{path} is corrupt: file is not a database",
            hint="choose another file with --db; if it was the registry's, put back a copy",
        )
    if int.from_bytes(header[68:72], "big") != tables.APPLICATION_ID:
        raise StoreError(
            f"{path} is a database of another program", hint="choose another file with --db"
        )


def read_only(path: Path) -> sqlite3.Connection:
    """Return a connection that reads a database, and leaves nothing beside it."""
    beside = any(os.path.exists(f"{path}{end}") for end in ("-wal", "-journal"))
    alone = "" if beside else "&immutable=1"
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=ro{alone}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )


def copy(source: sqlite3.Connection, target: Path, *, replace: bool) -> None:
    """Write all of `source`, as it is now, to `target`; for this user only (0600).

    It is written under another name, synced and renamed. A file that is there is refused; with
    `replace` it is replaced, if it is one of ours. Raises StoreError.
    """
    try:
        if os.path.lexists(target):
            _check_replaced(target, replace=replace)
        fresh = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}")
        os.close(private_files.create_file(fresh))
        try:
            source.execute("VACUUM INTO ?", (str(fresh),))
            sync(fresh)
            _name(fresh, target, replace=replace)
            sync(target.parent)
        finally:
            for rest in (fresh, Path(f"{fresh}-journal")):
                rest.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"can't write {target}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise StoreError(f"can't copy to {target}: {error}") from error


def _check_replaced(target: Path, *, replace: bool) -> None:
    """Refuse to replace what is not a copy that nobody uses."""
    if not replace:
        raise _exists(target)
    try:
        check_header(target)
    except StoreError as error:
        raise StoreError(
            f"{target} is no copy of a registry's store, so it stays", hint="choose another name"
        ) from error
    if os.path.lexists(f"{target}-wal"):
        raise StoreError(
            f"{target} may be in use, it has a log beside it", hint="choose another name"
        )


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, survive power loss."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _name(fresh: Path, target: Path, *, replace: bool) -> None:
    """Give a file its name; without `replace` only if no other has it."""
    if replace:
        fresh.replace(target)
        return
    try:
        os.link(fresh, target)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # A file system without hard links, such as that of a memory stick.
        if os.path.lexists(target):
            raise _exists(target) from None
        fresh.rename(target)


def _exists(target: Path) -> StoreError:
    return StoreError(
        f"{target} exists already", hint="choose another name, or have it replaced (--replace)"
    )
