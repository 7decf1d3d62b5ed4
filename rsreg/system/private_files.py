"""Files and folders of the server: for its user only, and none that somebody else planted."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_FILE, _FOLDER = 0o600, 0o700
#: What others may do with a file, by the bits of its mode.
_WRITES, _READS = 0o022, 0o004


class Planted(OSError):
    """What stands in the place of a file of ours is none; the text says what it is instead."""


def opened(path: Path, flags: int = 0, beside: Path | None = None) -> int:
    """Open a file to read and write it, or make it for this user only; its descriptor.

    One that is there keeps its mode. Raises OSError, and Planted for what may be a trap: links,
    pipes, devices, files of others than this user, root, and whose the folder or `beside` is.
    """
    while True:
        with contextlib.suppress(FileExistsError):
            return made(path, flags)
        with contextlib.suppress(FileNotFoundError):  # It was there a moment ago.
            # Before it is opened: a device may act on that.
            _check(path, os.lstat(path), beside)
            return _again(path, flags, beside)


def made(path: Path, flags: int = 0) -> int:
    """Make a new file, for this user only whatever the umask is; its descriptor."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | flags, _FILE)
    if stat.S_IMODE(os.fstat(fd).st_mode) != _FILE:
        with contextlib.suppress(OSError):  # Some file systems know no modes.
            os.fchmod(fd, _FILE)
    return fd


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each for this user only."""
    missing = [level for level in (path, *path.parents) if not level.exists()]
    for level in reversed(missing):
        with contextlib.suppress(FileExistsError):
            level.mkdir(_FOLDER)
            if stat.S_IMODE(level.lstat().st_mode) & _FOLDER != _FOLDER:  # The umask took it.
                level.chmod(_FOLDER)
    if not path.is_dir():
        path.mkdir()  # It says what is wrong.


def check(path: Path, beside: Path | None = None) -> None:
    """Raise Planted if what somebody else will open, SQLite for one, may be a trap."""
    with contextlib.suppress(FileNotFoundError):
        _check(path, os.lstat(path), beside)


def open_to_others(*paths: Path) -> str | None:
    """What others than their user may do with these files and folders; None if nothing."""
    return ", ".join(filter(None, map(_what_others_may, paths))) or None


def _again(path: Path, flags: int, beside: Path | None) -> int:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    try:
        _check(path, os.fstat(fd), beside)
    except BaseException:
        os.close(fd)
        raise
    os.set_blocking(fd, True)
    return fd


def _check(path: Path, found: os.stat_result, beside: Path | None) -> None:
    if (what := _trap(found)) is not None:
        raise Planted(f"{path} is {what}")
    # Where root serves, or restores, a store of another user.
    theirs = [one for one in (path.parent, beside) if one is not None and one.exists()]
    if found.st_uid not in {0, os.geteuid(), *(one.stat().st_uid for one in theirs)}:
        raise Planted(f"{path} is a file of another user, number {found.st_uid}")


def _trap(found: os.stat_result) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return "a symbolic link, which may lead to a file of somebody else"
    if stat.S_ISDIR(found.st_mode):
        return "a folder, not a file"
    if not stat.S_ISREG(found.st_mode):
        return "a pipe or a device, not a file"
    if found.st_nlink > 1:
        return "a file that has another name too, and so may be of somebody else"
    return None


def _what_others_may(path: Path) -> str | None:
    mode = path.stat().st_mode
    changed, seen = mode & _WRITES, mode & _READS
    if stat.S_ISDIR(mode):
        # In a sticky one, as /tmp is, nobody takes away files of others.
        changed, seen = changed and not mode & stat.S_ISVTX, 0
    if not changed and not seen:
        return None
    what = "change" if changed else "read"
    return f"others may {what} {path} (mode {stat.S_IMODE(mode):04o})"
