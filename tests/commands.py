"""`rs_cs` as people run it: a process of its own, with pipes or with a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

from tests.helpers import ROOT, wait_until

#: The three ways to call it.
MODULE = [sys.executable, "-m", "rsreg"]
CHECKOUT = [sys.executable, str(ROOT / "bin" / "rs_cs")]
PLAIN_SHELL = [
    sys.executable,
    "-c",
    "import sys; sys.modules['IPython'] = None; from rsreg.cli import main; main()",
]
#: Every port a free one, reachable from this machine only.
FREE = ["--req-port", "0", "--pub-port", "0", "--bind", "127.0.0.1"]
#: What no name from a registry may bring to the terminal.
CONTROL = re.compile(r"[^\n -~\xa1-\U0010ffff]")


def environment(**variables: str) -> dict[str, str]:
    """A user's environment with a home of its own, and nothing set that rs_cs would read."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": tempfile.gettempdir(),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT),
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
        **variables,
    }


def rs_cs(
    *words: str,
    command: list[str] = MODULE,
    cwd: Path | None = None,
    input: str = "",
    timeout: float = 60,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; `variables` are of its environment."""
    return subprocess.run(
        [*command, *words],
        cwd=cwd,
        input=input,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def data(*words: str, **options: Any) -> Any:
    """The JSON document of a command that has to succeed."""
    done = rs_cs(*words, "--json", **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


class Running:
    """A command that goes on; it is killed in the end, if it has not ended."""

    def __init__(self, *words: str, command: list[str] = MODULE, **variables: str) -> None:
        self.process = subprocess.Popen(
            [*command, *words],
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line on stdout."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def remark(self) -> str:
        """The next line on stderr."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().strip()

    def end(self, number: int, timeout: float = 30) -> tuple[int, str, str]:
        """Send a signal; exit code, and what was left on stdout and stderr."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.communicate()


class Terminal:
    """A command in a terminal of a given width."""

    def __init__(
        self, *words: str, columns: int = 100, command: list[str] = MODULE, **variables: str
    ) -> None:
        self.shown = ""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.process = subprocess.Popen(
            [*command, *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(**variables),
            start_new_session=True,
            # So it is theirs, and its keys send signals.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def until(self, text: str, timeout: float = 30, *, times: int = 1) -> str:
        """All that is shown, once `text` is, so many times; fails if it does not come."""
        until = time.monotonic() + timeout
        while self.shown.count(text) < times:
            left = until - time.monotonic()
            assert left > 0, f"{text!r} did not come:\n{self.shown}"
            if not self._read(left):
                break
        assert self.shown.count(text) >= times, f"it ended without {text!r}:\n{self.shown}"
        return self.shown

    def interrupt(self) -> None:
        """Press Ctrl-C, and again if it was just before the command waited for a key.

        Again only when it has had time to end: Python at its end no longer catches the signal.
        """
        while self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)

    def end(self, timeout: float = 30) -> tuple[int, str]:
        """Wait for its end; exit code, and all that it showed."""
        until = time.monotonic() + timeout
        while self._read(max(0.0, until - time.monotonic())):
            pass
        return self.process.wait(timeout), self.shown.replace("\r\n", "\n")

    def _read(self, timeout: float) -> bool:
        if not select.select([self._ours], [], [], timeout)[0]:
            return False
        try:
            output = os.read(self._ours, 65536)
        except OSError:  # So Linux says that the other side is closed.
            return False
        self.shown += output.decode()
        return bool(output)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


class Home:
    """The home of a user who starts servers in the background; they are killed in the end."""

    def __init__(self, path: Path) -> None:
        self.variables: dict[str, Any] = {"HOME": str(path), "XDG_STATE_HOME": str(path / "state")}
        self.path = path
        self.pids: list[int] = []

    def start(self, *words: str, **variables: str) -> dict[str, Any]:
        """Start one; what it says."""
        about: dict[str, Any] = data(
            "start", "--background", *FREE, *words, cwd=self.path, **self.variables, **variables
        )
        self.pids.append(about["pid"])
        return about

    def close(self) -> None:
        for pid in filter(is_alive, self.pids):
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not is_alive(pid))


def is_alive(pid: int) -> bool:
    """Whether there is such a process, other than one that only waits to be buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
