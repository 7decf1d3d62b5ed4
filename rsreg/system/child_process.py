"""A child process that ends with its parent, and exchanges lines with it.

Here are both sides, the parent's and the child's: with a socket pair on POSIX, else with pipes.
"""

from __future__ import annotations

import _socket
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

from rsreg import config
from rsreg.system.threads import new_lock, original

#: Seconds between two looks of the child whether its parent is still there.
_LOOK = 1.0
#: Bytes that are read at once.
_CHUNK = 65_536
#: No SIGPIPE when the child has ended, whatever the driver does with that signal (not on macOS).
_NO_SIGNAL: int = getattr(_socket, "MSG_NOSIGNAL", 0)
#: Most files to close: without a limit on open files their possible number is too large.
_MOST_FILES = 2**20


class Child(Protocol):
    """The child process, as its parent sees it. Any thread may end it."""

    def tell(self, line: bytes) -> bool:
        """Send a line; return False if the child has ended."""

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that the child sends, until it ends."""

    def end(self) -> None:
        """Kill the child, perhaps in the middle of a call: it has nothing to clean up."""


def start(module: str, what: str) -> Child:
    """Start a module as a child; raises OSError, and ConfigurationError without a Python to start.

    `what` is what needs the child, for the error.
    """
    if sys.platform != "win32":
        return _BySockets(config.python_command(what, module, str(os.getpid())))
    return _ByPipes(config.python_command(what, module, "0"))


def orders(parent: int) -> Iterator[bytes]:
    """Yield, in the child, the lines that the parent sends, until the parent ends.

    `parent` is the first argument of the child. All other files that it inherited, such as devices,
    are closed.
    """
    if sys.platform != "win32" and parent:
        os.closerange(3, min(os.sysconf("SC_OPEN_MAX"), _MOST_FILES))
    rest = b""
    # A forked child of the parent may hold the other end open after the parent has ended.
    while not parent or os.getppid() == parent:
        if parent and not select.select([0], [], [], _LOOK)[0]:
            continue
        try:
            data = os.read(0, _CHUNK)
        except OSError:
            return
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from whole


if sys.platform != "win32":

    class _BySockets:
        def __init__(self, command: list[str]) -> None:
            self._lock = new_lock()
            self._here, there = _socket.socketpair()
            try:
                # The one that gevent puts in its place would watch the child.
                self._pid: int | None = original("os", "posix_spawn")(
                    command[0],
                    command,
                    config.environment(),
                    file_actions=[(os.POSIX_SPAWN_DUP2, there.fileno(), fd) for fd in (0, 1)],
                    # A Ctrl-C is for the driver, which then ends the child itself.
                    setsigmask=[signal.SIGINT],
                )
            except OSError:
                self._here.close()
                raise
            finally:
                there.close()

        def tell(self, line: bytes) -> bool:
            try:
                self._here.sendall(line + b"\n", _NO_SIGNAL)
            except OSError:
                return False
            return True

        def lines(self) -> Iterator[bytes]:
            yield from _split(lambda: self._here.recv(_CHUNK))
            self._here.close()

        def end(self) -> None:
            with self._lock:
                pid, self._pid = self._pid, None
            if pid is None:
                return
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                original("os", "waitpid")(pid, 0)
            with suppress(OSError):
                self._here.shutdown(_socket.SHUT_RDWR)


class _ByPipes:
    #: On Windows: no console window of its own, and no Ctrl-C from a console.
    FLAGS: int = getattr(subprocess, "CREATE_NO_WINDOW", 0)

    def __init__(self, command: list[str]) -> None:
        self._process: subprocess.Popen[bytes] = original("subprocess", "Popen")(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=config.environment(),
            creationflags=self.FLAGS,
        )

    def tell(self, line: bytes) -> bool:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
        except (OSError, ValueError):
            return False
        return True

    def lines(self) -> Iterator[bytes]:
        out: Any = self._process.stdout
        yield from _split(lambda: out.read(_CHUNK))
        out.close()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()


def _split(read: Any) -> Iterator[bytes]:
    rest = b""
    with suppress(OSError):
        while data := read():
            *whole, rest = (rest + data).split(b"\n")
            yield from whole
