"""A log of limited size: a full file is renamed to `<file>.1`, and a new one is begun."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from rsreg.system import private_files


class LogFile:
    """The log file that descriptors of this process write to, of at most `limit` bytes.

    One older file is kept, so both have twice as many bytes. All work is done by the thread that
    writes. If the file was removed or replaced, the descriptors change to the file that is at
    `path` now.
    """

    def __init__(self, path: Path, limit: int, descriptors: Sequence[int]) -> None:
        self.path = path
        self._older = Path(f"{path}.1")
        self._limit = limit
        self._written, *_ = self._descriptors = descriptors

    def make_room(self, size: int) -> str | None:
        """Make room for `size` bytes that will be written next.

        If no new file can be made, as in a folder that has become read-only, the old one is
        emptied, and the returned text says why. Raises OSError only if that fails, too.
        """
        current = os.fstat(self._written)
        full = current.st_size > 0 and current.st_size + size > self._limit
        try:
            if not self._is_at_path(current):
                self._switch_to(private_files.open_file(self.path, os.O_APPEND))
            elif full:
                self._rotate()
        except OSError as error:
            if not full:
                return None
            os.ftruncate(self._written, 0)
            return f"the log was full, and there can be no new one, so it was emptied: {error}"
        return None

    def _is_at_path(self, current: os.stat_result) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.lstat(self.path), current)
        return False

    def _rotate(self) -> None:
        """Rename the old file and begin a new one, which is made first: both happen, or nothing."""
        fresh = self.path.with_name(f".{self.path.name[:200]}.{secrets.token_hex(4)}")
        new = private_files.create_file(fresh, os.O_APPEND)
        try:
            self.path.replace(self._older)
            fresh.replace(self.path)
        except OSError:
            os.close(new)
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        self._switch_to(new)

    def _switch_to(self, new: int) -> None:
        """Make the descriptors of the old file descriptors of the new one."""
        old = os.fstat(self._written)
        for descriptor in self._descriptors:
            if os.path.samestat(os.fstat(descriptor), old):
                os.dup2(new, descriptor)
        os.close(new)
