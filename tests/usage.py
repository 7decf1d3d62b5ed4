"""What a process takes: memory, open files, time of the processor."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def memory(pid: int) -> int:
    """Bytes of memory, 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/statm").read_text()
    except OSError:
        return 0
    return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    """File descriptors in use."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def busy(pid: int, seconds: float) -> float:
    """The part of the next `seconds` that it runs on a processor."""
    before, started = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - started)


def cpu_seconds(pid: int) -> float:
    """Processor time of all its threads so far."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    # What a thread has started is that thread's here.
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            text += " " + (task / "children").read_text()
    return sorted({int(child) for child in text.split()})
