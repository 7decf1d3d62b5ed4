"""Writes lines to a reader that may be slow or gone, on a thread, so that nobody waits for it."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable

from rsreg import timing
from rsreg.system import threads

#: Most lines that wait to be written; further lines are dropped.
MOST_LINES = 1_000
#: Seconds between two looks whether a blocked descriptor can be written to again.
_LOOK = 1.0
#: Seconds of one wait for a line; there is always another wait.
_IDLE = 3600.0
#: Seconds between two looks whether all lines are written.
_PAUSE = 0.01


class Writer:
    """Writes lines to a file descriptor; `write` never waits, and raises no error of the file.

    A line that can't be written, or comes while `MOST_LINES` wait, is dropped and counted. When
    lines can be written again, `left_out` makes a line of the count. Any thread may write, and a
    forked child, too. `before` is called on the writing thread with the size of each line, before
    the line is written; if it raises OSError, the line is dropped.
    """

    def __init__(
        self,
        fd: int,
        left_out: Callable[[int], str],
        encoding: str = "utf-8",
        before: Callable[[int], None] | None = None,
    ) -> None:
        self._fd = fd
        self._before = before
        self._left_out = left_out
        self._encoding = encoding
        self._runs = False
        self._begin()

    def write(self, line: str) -> None:
        """Write a line later, on the thread; the line end is added."""
        if os.getpid() != self._pid:
            self._begin()
        with self._lock:
            if len(self._lines) >= MOST_LINES:
                self._missing += 1
                return
            self._take_missing()
            self._lines.append(self._encoded(line))
            if not self._runs:
                # If no thread can be started now, the next line tries again.
                with contextlib.suppress(RuntimeError):
                    threads.Thread(self._run)
                    self._runs = True
        self._wake_up.set()

    def flush(self, seconds: float) -> bool:
        """Wait up to `seconds` until all lines are written; return whether they are."""
        until = timing.steady() + seconds
        while os.getpid() == self._pid and self._lines:
            if timing.steady() >= until:
                return False
            time.sleep(_PAUSE)
        return True

    def _begin(self) -> None:
        """Start empty: a forked child has no thread, and the waiting lines are the parent's."""
        self._pid = os.getpid()
        self._lock = threads.new_lock()
        self._wake_up = threads.WakeUp()
        self._lines: deque[bytes] = deque()
        self._missing = 0
        self._runs = False

    def _run(self) -> None:
        while True:
            self._wake_up.wait(_IDLE)
            while self._lines:
                written = self._put(self._lines[0])
                with self._lock:
                    self._lines.popleft()
                    if not written:
                        self._missing += 1
                    elif not self._lines:
                        self._take_missing()

    def _take_missing(self) -> None:
        if self._missing:
            self._lines.append(self._encoded(self._left_out(self._missing)))
            self._missing = 0

    def _encoded(self, line: str) -> bytes:
        return f"{line}\n".encode(self._encoding, "backslashreplace")

    def _put(self, line: bytes) -> bool:
        """Write a line, however long that takes; return False if it can't be written now."""
        if self._before is not None:
            try:
                self._before(len(line))
            except OSError:
                return False
        while line:
            try:
                line = line[os.write(self._fd, line) :]
            except BlockingIOError:
                select.select([], [self._fd], [], _LOOK)
            except OSError:
                return False
        return True
