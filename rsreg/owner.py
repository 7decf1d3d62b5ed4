"""Whose process a registration is, and whether that process is gone for sure.

Asks the system, never the network: that a port is closed says nothing about its owner.
"""

from __future__ import annotations

import os
import pwd
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

#: Characters of a text in an owner.
_MAX_TEXT = 256

_mine: tuple[int, dict[str, Any]] | None = None


def this_process() -> dict[str, Any]:
    """The owner of what this process registers: the fields are those of the protocol.

    `boot`, `namespace` and `started` are left out where the system does not tell.
    """
    global _mine
    if _mine is None or _mine[0] != os.getpid():
        _mine = os.getpid(), _look()
    return dict(_mine[1])


def is_gone(owner: object) -> bool:
    """Whether an owner was a process of this very system and is no longer alive.

    Only what is sure counts: whatever is unknown, unreadable or strange, and any other host or
    container, is not gone.
    """
    if not isinstance(owner, Mapping):
        return False
    mine, pid = this_process(), owner.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid < 2**31:
        return False
    if any(key not in mine or owner.get(key) != mine[key] for key in ("boot", "namespace")):
        return False
    try:
        # Where /proc hides the processes of other users, the kernel still says that they exist.
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    seen = _seen(pid)
    return seen is not None and (seen.ended or _started_otherwise(owner.get("started"), seen))


class _Seen(NamedTuple):
    """What /proc says of a process: whether it only waits to be reaped, and when it started."""

    ended: bool
    ticks: int


def _look() -> dict[str, Any]:
    pid = os.getpid()
    found = {
        "host": socket.gethostname(),
        "pid": pid,
        "user": _user(),
        "program": (sys.argv[0] if sys.argv and sys.argv[0] else sys.executable) or "python",
    }
    try:
        # The /proc of another container would tell of other processes.
        if os.readlink("/proc/self") == str(pid):
            found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            found["namespace"] = os.readlink("/proc/self/ns/pid")
            seen, booted = _seen(pid), _boot_time()
            if seen is not None and booted is not None:
                found["started"] = booted + seen.ticks / _ticks_per_second()
    except OSError:
        pass
    return {key: _plain(value) if isinstance(value, str) else value for key, value in found.items()}


def _seen(pid: int) -> _Seen | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        # The second field is the name, which may hold anything, in parentheses.
        fields = stat[stat.rindex(b")") + 1 :].split()
        # One whose first thread ended while others run looks like one that waits to be reaped.
        ended = fields[0] in (b"Z", b"X", b"x") and int(fields[17]) <= 1
        return _Seen(ended, int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def _started_otherwise(started: object, seen: _Seen) -> bool:
    """Whether a process can't be the one that started at that time.

    The time of the boot, in whole seconds, moves when the clock is set; the fraction of a second at
    which a process started does not. So only another fraction tells two processes apart for sure.
    """
    if isinstance(started, bool) or not isinstance(started, int | float):
        return False
    rate = _ticks_per_second()
    try:
        return round(started * rate) % rate != seen.ticks % rate
    except (OverflowError, ValueError):
        return False


def _boot_time() -> int | None:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return None


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _plain(text: str) -> str:
    """What JSON can hold of a text that came from the system."""
    return text.encode(errors="replace").decode()[:_MAX_TEXT]
