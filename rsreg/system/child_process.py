"""A process of ours beside this one that ends with it: started, spoken to in lines, ended.

Both sides of it, in two ways: with a socket pair, and with pipes where POSIX is not to be had.
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

#: Seconds after which the process looks whether its parent is still there.
_LOOK = 1.0
_LINE = 65_536
#: No SIGPIPE from a process that has ended, whatever the driver does with it (not on macOS).
_NO_SIGNAL: int = getattr(_socket, "MSG_NOSIGNAL", 0)
#: Files that are closed at most: where there is no limit, the number of all is not one to count to.
_MOST_FILES = 2**20


class Child(Protocol):
    """The process, as its parent has it. It may be ended from any thread."""

    def tell(self, line: bytes) -> bool:
        """Send a line; whether there is somebody to take it."""

    def lines(self) -> Iterator[bytes]:
        """What it has to say, until it ends."""

    def end(self) -> None:
        """Kill it, in the middle of a call perhaps: it holds nothing to be put in order."""


def start(module: str, what: str) -> Child:
    """Start a module; raises OSError, and ConfigurationError where no Python can be started.

    `what` needs it, as an error says.
    """
    if sys.platform != "win32":
        return _BySockets(config.python_command(what, module, str(os.getpid())))
    return _ByPipes(config.python_command(what, module, "0"))


def orders(parent: int) -> Iterator[bytes]:
    """In the process itself: what the parent says, until that ends, as it may have already.

    The number is the first argument of the process. What else it got from the parent, devices for
    one, is closed.
    """
    if sys.platform != "win32" and parent:
        os.closerange(3, min(os.sysconf("SC_OPEN_MAX"), _MOST_FILES))
    rest = b""
    # A forked child of the parent may hold the other end: that it is open says nothing.
    while not parent or os.getppid() == parent:
        if parent and not select.select([0], [], [], _LOOK)[0]:
            continue
        try:
            data = os.read(0, _LINE)
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
                # What gevent puts in its place would want to watch the child.
                self._pid: int | None = original("os", "posix_spawn")(
                    command[0],
                    command,
                    config.environment(),
                    file_actions=[(os.POSIX_SPAWN_DUP2, there.fileno(), fd) for fd in (0, 1)],
                    # A Ctrl-C is for the driver, which then ends this process in its own time.
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
            yield from _split(lambda: self._here.recv(_LINE))
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
    #: On Windows: no console of its own that could be seen, and none that sends it a Ctrl-C.
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
        yield from _split(lambda: out.read(_LINE))
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
