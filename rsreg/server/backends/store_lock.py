"""FileLock: keeps a second server from a store, and says which server has it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import sys
import time
from pathlib import Path

from rsreg.errors import StoreInUse
from rsreg.server.backends.stored import Position
from rsreg.system import private_files

# A server says itself that there is none on Windows; to import its names is no fault.
if sys.platform != "win32":
    import fcntl

#: How each lock of ours begins.
_BEGINS = b"pid "
#: What Linux tells of who listens on a socket: pid, user and group.
_PEER = struct.Struct("3i")


class FileLock:
    """Holds a database file for this process, so that two servers never share it.

    There are two locks, both the kernel's, which end with the process. One is on `<file>.lock`
    (flock), which stands beside the database, as other programs may read that meanwhile; the text
    in it says who holds it, and how far the journal has come. The other, on Linux, is the name of
    the file in its folder: it holds also where the files were removed. Raises StoreInUse, and
    OSError for what is no lock of ours: nothing is written into that.

    `saved` is the last position that a server saved here, None for none.
    """

    def __init__(self, path: Path) -> None:
        self._name: socket.socket | None = None
        self.file = private_files.open_file(Path(f"{path}.lock"), beside=path)
        try:
            self._check_ours(path)
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except private_files.UnsafeFile:
            self.release()
            raise
        except BlockingIOError:
            holder = self._read().partition("\n")[0] or "another program"
            self.release()
            raise _in_use(path, holder) from None
        try:
            self._name = _claim(path)
        except StoreInUse:
            self.release()
            raise
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._holder = f"pid {os.getpid()} on {socket.gethostname()} since {since}\n".encode()
        self.saved = _read_position(self._read().partition("\n")[2])
        self._write(b"" if self.saved is None else _noted(self.saved))

    def _check_ours(self, path: Path) -> None:
        """Refuse a "something.lock" of another program; beside a store it is ours."""
        # A power cut may leave zeros of a lock.
        begins = os.pread(self.file, len(_BEGINS), 0).strip(b"\0")
        if not path.exists() and begins not in (b"", _BEGINS):
            raise private_files.UnsafeFile(f"{path}.lock is a file of another program")

    def begin(self, position: Position) -> None:
        """Save the position from which the journal goes on; it is on the disk then."""
        self._write(_noted(position))
        os.fsync(self.file)

    def save(self, position: Position) -> None:
        """Save the position of the journal; never fails, since the change is durable already.

        Not synced: one that is lost with the power is still in the journal.
        """
        with contextlib.suppress(OSError):
            os.pwrite(self.file, _noted(position), len(self._holder))

    def _write(self, noted: bytes) -> None:
        os.pwrite(self.file, self._holder + noted, 0)
        os.ftruncate(self.file, len(self._holder + noted))

    def _read(self) -> str:
        return os.pread(self.file, 1_000, 0).decode(errors="replace").strip()

    def release(self) -> None:
        """Let the next server have the file."""
        os.close(self.file)
        if self._name is not None:
            self._name.close()


def _noted(position: Position) -> bytes:
    """Return a position as text of a fixed length, so that each replaces the last one."""
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


def _in_use(path: Path, holder: str) -> StoreInUse:
    return StoreInUse(
        f"{path} is in use by {holder}",
        hint="stop that one, or choose another file with --db",
    )


def _claim(path: Path) -> socket.socket | None:
    """Have the name of a file in its folder, which no other process then has.

    It is a Unix socket in Linux's abstract names, which are in no folder. A name that somebody took
    who could not write the folder anyway is no reason not to start.
    """
    if sys.platform != "linux":
        return None
    folder = os.stat(path.parent)
    file = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]
    name = f"\0rsreg {folder.st_dev}:{folder.st_ino} {file}"
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(name)
        claim.listen()
    except OSError:
        claim.close()
        holder = _listener(name)
        if holder is not None and holder[1] in (0, os.geteuid(), folder.st_uid):
            raise _in_use(path, f"pid {holder[0]}") from None
        return None
    return claim


def _listener(name: str) -> tuple[int, int] | None:
    """Return process and user that have a name; None if there is none any more."""
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_UNIX) as asking, contextlib.suppress(OSError):
        asking.setblocking(False)
        asking.connect(name)
        pid, user, _ = _PEER.unpack(
            asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        )
        return pid, user
    return None
