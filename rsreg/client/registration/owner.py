"""Whose process a registration is, and whether that process is gone for sure.

Asks the system, never the network: that a port is closed says nothing about its owner.
"""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rsreg.protocol.limits import MAX_TEXT
from rsreg.protocol.query import SAME_HOST

#: Seconds by which two readings of the same start may differ: half a tick of Linux.
_SAME = 0.005
#: The bit of a hardware address that says that it was made up.
_MADE_UP = 1 << 40

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
    if not _exists(pid):
        return True
    seen = _seen(pid)
    return seen is not None and (seen.ended or _started_otherwise(owner.get("started"), seen))


def asking(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of a discovery, and where this process is, if the strategy asks for that."""
    if params.get("strategy") != SAME_HOST:
        return params
    mine = this_process()
    return {**params, "asker": {key: mine[key] for key in ("host", "boot") if key in mine}}


def signed(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of a maintenance, with the user and the host, if they do not say `by` whom."""
    mine = this_process()
    return {"by": f"{mine['user']}@{mine['host']}"[:MAX_TEXT], **params}


class _Seen(NamedTuple):
    """What the system says of a process: whether it only waits to be reaped, and its start."""

    ended: bool
    started: float


def _look() -> dict[str, Any]:
    pid = os.getpid()
    fields = {
        "host": socket.gethostname(),
        "pid": pid,
        "user": _user(),
        "program": (sys.argv[0] if sys.argv and sys.argv[0] else sys.executable) or "python",
    }
    fields |= _of_linux(pid) if sys.platform == "linux" else _of_others()
    seen = _seen(pid) if "namespace" in fields else None
    if seen is not None:
        fields["started"] = seen.started
    return {
        key: _plain(value) if isinstance(value, str) else value for key, value in fields.items()
    }


def _of_linux(pid: int) -> dict[str, Any]:
    """In which numbering the pid is: there is one for each start, and for each container."""
    try:
        # The /proc of another container would tell of other processes.
        if os.readlink("/proc/self") == str(pid):
            return {
                "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
                "namespace": os.readlink("/proc/self/ns/pid"),
            }
    except OSError:
        pass
    return {}


def _of_others() -> dict[str, Any]:
    """The same where a machine has one numbering, and nothing that names its start.

    Then the machine alone has to do: a pid of before its start that is another process now has
    another start. Without a hardware address that is its own nothing is sure.
    """
    address = uuid.getnode()
    if address & _MADE_UP:
        return {}
    return {"boot": f"{socket.gethostname()}-{address:012x}", "namespace": sys.platform}


def _exists(pid: int) -> bool:
    import psutil

    if sys.platform == "win32":
        # There a signal 0 would end it.
        return bool(psutil.pid_exists(pid))
    try:
        # Where /proc hides the processes of other users, the kernel still says that they exist.
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _seen(pid: int) -> _Seen | None:
    import psutil

    try:
        process = psutil.Process(pid)
        ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        # One whose first thread ended while others run looks like one that waits to be reaped.
        return _Seen(ended and process.num_threads() <= 1, process.create_time())
    except (psutil.Error, OSError, ValueError):
        return None


def _started_otherwise(started: object, seen: _Seen) -> bool:
    """Whether a process can't be the one that started at that time.

    The time of the boot, in whole seconds, moves when the clock is set; the fraction of a second at
    which a process started does not. So only another fraction tells two processes apart for sure.
    """
    if isinstance(started, bool) or not isinstance(started, int | float):
        return False
    try:
        apart = (started - seen.started) % 1
    except OverflowError:
        return False
    return min(apart, 1 - apart) > _SAME


def _user() -> str:
    import psutil

    try:
        return str(psutil.Process().username()).rpartition("\\")[2]
    except (psutil.Error, OSError, KeyError):
        return ""


def _plain(text: str) -> str:
    """What JSON can hold of a text that came from the system."""
    return text.encode(errors="replace").decode()[:MAX_TEXT]
