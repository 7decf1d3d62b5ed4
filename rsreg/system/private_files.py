"""Files and folders that only the server's user can use, and that no other user has prepared."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_FILE, _FOLDER = 0o600, 0o700
#: The bits of a mode that let other users write, and read.
_WRITES, _READS = 0o022, 0o004


class UnsafeFile(OSError):
    """Something else is in the place of a file of ours, perhaps a trap; the text says what."""


def open_file(path: Path, flags: int = 0, beside: Path | None = None) -> int:
    """Open a file to read and write, or create it for this user only; return its descriptor.

    An existing file keeps its mode. Raises OSError, and UnsafeFile for a possible trap: a link, a
    pipe, a device, or a file of a user other than this one, root, and the owners of the folder and
    of the file `beside` it.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            return create_file(path, flags)
        with contextlib.suppress(FileNotFoundError):  # If it was just removed, try again.
            # Before it is opened: some devices act when they are opened.
            _check(path, os.lstat(path), beside)
            return _open_existing(path, flags, beside)


def create_file(path: Path, flags: int = 0) -> int:
    """Create a file for this user only, whatever the umask is; return its descriptor."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | flags, _FILE)
    if stat.S_IMODE(os.fstat(fd).st_mode) != _FILE:
        with contextlib.suppress(OSError):  # Some file systems have no modes.
            os.fchmod(fd, _FILE)
    return fd


def make_folder(path: Path) -> None:
    """Create a folder, and the missing ones above it, each for this user only."""
    missing = [level for level in (path, *path.parents) if not level.exists()]
    for level in reversed(missing):
        with contextlib.suppress(FileExistsError):
            level.mkdir(_FOLDER)
            if stat.S_IMODE(level.lstat().st_mode) & _FOLDER != _FOLDER:  # The umask took it.
                level.chmod(_FOLDER)
    if not path.is_dir():
        path.mkdir()  # Its error says what is wrong.


def check(path: Path, beside: Path | None = None) -> None:
    """Raise UnsafeFile if a file may be a trap; for files that others open, such as SQLite."""
    with contextlib.suppress(FileNotFoundError):
        _check(path, os.lstat(path), beside)


def open_to_others(*paths: Path) -> str | None:
    """Return a text on what other users may do with these paths; None if nothing."""
    return ", ".join(filter(None, map(_what_others_may, paths))) or None


def _open_existing(path: Path, flags: int, beside: Path | None) -> int:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    try:
        _check(path, os.fstat(fd), beside)
    except BaseException:
        os.close(fd)
        raise
    os.set_blocking(fd, True)
    return fd


def _check(path: Path, stats: os.stat_result, beside: Path | None) -> None:
    if (what := _trap(stats)) is not None:
        raise UnsafeFile(f"{path} is {what}")
    # Root may serve, or restore, a store of another user.
    neighbours = [one for one in (path.parent, beside) if one is not None and one.exists()]
    if stats.st_uid not in {0, os.geteuid(), *(one.stat().st_uid for one in neighbours)}:
        raise UnsafeFile(f"{path} is a file of another user, number {stats.st_uid}")


def _trap(stats: os.stat_result) -> str | None:
    if stat.S_ISLNK(stats.st_mode):
        return "a symbolic link, which may lead to a file of somebody else"
    if stat.S_ISDIR(stats.st_mode):
        return "a folder, not a file"
    if not stat.S_ISREG(stats.st_mode):
        return "a pipe or a device, not a file"
    if stats.st_nlink > 1:
        return "a file that has another name too, and so may be of somebody else"
    return None


def _what_others_may(path: Path) -> str | None:
    mode = path.stat().st_mode
    changed, seen = mode & _WRITES, mode & _READS
    if stat.S_ISDIR(mode):
        # In a sticky folder, such as /tmp, nobody can remove files of others.
        changed, seen = changed and not mode & stat.S_ISVTX, 0
    if not changed and not seen:
        return None
    what = "change" if changed else "read"
    return f"others may {what} {path} (mode {stat.S_IMODE(mode):04o})"
