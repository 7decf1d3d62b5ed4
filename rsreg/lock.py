"""One server a store: who has it, and who is told so."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import struct
import sys
import time
from pathlib import Path

from rsreg.errors import StoreInUse

#: What Linux tells of who listens on a socket: pid, user and group.
_PEER = struct.Struct("3i")


class FileLock:
    """Holds a database file for this process, so that two servers never share it.

    There are two locks, both the kernel's, which end with the process. One is on `<file>.lock`
    (flock), which stands beside the database, as other programs may read that meanwhile; the text
    in it says who holds it. The other, on Linux, is the name of the file in its folder: it holds
    also where the files were removed. Raises StoreInUse.
    """

    def __init__(self, path: Path) -> None:
        self._name: socket.socket | None = None
        self.file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self.file, 200).decode().strip() or "another program"
            self.release()
            raise _in_use(path, holder) from None
        try:
            self._name = _claim(path)
        except StoreInUse:
            self.release()
            raise
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.ftruncate(self.file, 0)
        os.write(self.file, f"pid {os.getpid()} on {socket.gethostname()} since {since}\n".encode())

    def release(self) -> None:
        """Let the next server have the file."""
        os.close(self.file)
        if self._name is not None:
            self._name.close()


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
    """Process and user that have a name; None if there is none any more."""
    with socket.socket(socket.AF_UNIX) as asking, contextlib.suppress(OSError):
        asking.setblocking(False)
        asking.connect(name)
        pid, user, _ = _PEER.unpack(
            asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        )
        return pid, user
    return None
