"""StoreFiles: checks that the files of an open store are where they were, and unchanged."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from rsreg.errors import StoreLost

#: Whether it can be asked what this process may do now, not who started it.
_EFFECTIVE = os.access in os.supports_effective_ids
#: Size and time of the last write of the database, and of its log.
_Contents = tuple[tuple[int, int], tuple[int, int]]

_RESTART = (
    "put back just that file, or restart the registry: services that run come back by themselves"
)


class StoreFiles:
    """Watches over the files of a store: database, log, index of the log, and lock.

    SQLite goes on with the files that it opened, wherever they are now, so what is written would
    be gone at the next start. `verify` is called when the database or its log was written by
    somebody else; it says what is wrong with them, and raises what SQLite does. `check` raises
    StoreLost, `remember` is called after each write of ours.
    """

    def __init__(self, path: Path, lock: int, verify: Callable[[], str | None]) -> None:
        self._folder = path.parent
        self._database, self.log = str(path), f"{path}-wal"
        self._verify = verify
        files = (self._database, self.log, f"{path}-shm")
        self._ours = {name: _identity(os.stat(name)) for name in files}
        self._ours[f"{path}.lock"] = _identity(os.fstat(lock))
        self._left: _Contents | None = None
        #: What `check_all` found last, and contents that `verify` found wrong.
        self._lost: StoreLost | None = None
        self._wrong: tuple[_Contents, StoreLost] | None = None
        self.remember()

    def check(self) -> None:
        """Check database and log, before each change: this takes some microseconds.

        What `check_all` found is raised again, until it finds something else.
        """
        if self._lost is not None:
            raise _again(self._lost)
        contents = self._look(self._database), self._look(self.log)
        if contents != self._left:
            self._check_contents(contents)

    def check_all(self) -> None:
        """Check all files, and whether they may be written."""
        self._lost = None
        try:
            self._look_at_all()
        except StoreLost as error:
            self._lost = error
            raise

    def _look_at_all(self) -> None:
        for name in self._ours:
            self._look(name)
        self.check()
        if not os.access(self._database, os.W_OK, effective_ids=_EFFECTIVE):
            raise StoreLost(
                f"{self._database} may not be written any more",
                hint="make it writable again, and its file system too",
            )

    @property
    def lost_its_log(self) -> bool:
        """Whether the database is there, but without its log."""
        try:
            self._look(self._database)
        except StoreLost:
            return False
        return not os.path.lexists(self.log)

    def remember(self) -> None:
        """Take the files as they are now for what we left."""
        try:
            self._left = (_state(os.stat(self._database)), _state(os.stat(self.log)))
        except OSError:  # The next check says what is wrong.
            self._left = None

    def _look(self, name: str) -> tuple[int, int]:
        try:
            status = os.stat(name)
        except FileNotFoundError:
            what = name if self._folder.exists() else self._folder
            raise StoreLost(f"{what} is gone", hint=_RESTART) from None
        except OSError as error:
            raise StoreLost(f"{name} is out of reach: {error.strerror}", hint=_RESTART) from error
        if (status.st_dev, status.st_ino) != self._ours[name]:
            raise StoreLost(
                f"{name} was replaced, it is not the file that was opened", hint=_RESTART
            )
        return _state(status)

    def _check_contents(self, contents: _Contents) -> None:
        """Check what another program wrote."""
        if self._wrong is not None and self._wrong[0] == contents:
            raise _again(self._wrong[1])
        try:
            verdict = self._verify()
        except sqlite3.Error as error:  # It may be because of something else: not for good.
            raise self._changed(str(error)) from error
        if verdict is not None:
            self._wrong = (contents, self._changed(verdict))
            raise self._wrong[1]
        self._wrong = None
        self._left = contents

    def _changed(self, verdict: str) -> StoreLost:
        return StoreLost(
            f"{self._database} was changed by another program: {verdict}",
            hint="restart the registry with a copy, or with an empty file: "
            "services that run come back by themselves",
        )


def _again(error: StoreLost) -> StoreLost:
    """Return the same error anew: one that is raised twice would remember both times."""
    return StoreLost(str(error), hint=error.hint)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
