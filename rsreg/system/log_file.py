"""A log of bounded size: when it is full it becomes `<file>.1`, and a new one takes its place."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from rsreg.system import private_files


class LogFile:
    """The file that descriptors of this process write to; it grows to `limit` bytes at most.

    One older file is kept, so there are twice as many bytes. All is done by the thread that writes:
    nobody else waits. A file that was removed, or that another one took the place of, is left for
    the one that is at `path` now.
    """

    def __init__(self, path: Path, limit: int, descriptors: Sequence[int]) -> None:
        self.path = path
        self._older = Path(f"{path}.1")
        self._limit = limit
        self._written, *_ = self._descriptors = descriptors

    def make_room(self, size: int) -> str | None:
        """Before so many bytes are written: see that there is room for them.

        Where there can be no new file, as in a folder that is read-only now, the old one is
        emptied, and the text says why. Raises OSError only if that is not possible either.
        """
        mine = os.fstat(self._written)
        full = mine.st_size > 0 and mine.st_size + size > self._limit
        try:
            if not self._is_there(mine):
                self._take(private_files.opened(self.path, os.O_APPEND))
            elif full:
                self._turn()
        except OSError as error:
            if not full:
                return None
            os.ftruncate(self._written, 0)
            return f"the log was full, and there can be no new one, so it was emptied: {error}"
        return None

    def _is_there(self, mine: os.stat_result) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.lstat(self.path), mine)
        return False

    def _turn(self) -> None:
        """A new file is there before the old one gets its other name: all of it, or nothing."""
        fresh = self.path.with_name(f".{self.path.name[:200]}.{secrets.token_hex(4)}")
        made = private_files.made(fresh, os.O_APPEND)
        try:
            self.path.replace(self._older)
            fresh.replace(self.path)
        except OSError:
            os.close(made)
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        self._take(made)

    def _take(self, new: int) -> None:
        """Have the descriptors that are of the old file be of the new one."""
        old = os.fstat(self._written)
        for descriptor in self._descriptors:
            if os.path.samestat(os.fstat(descriptor), old):
                os.dup2(new, descriptor)
        os.close(new)
