"""What a process takes: memory, open files, time of the processor."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from rsreg import RegistryClient


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
    before, started = _ran(pid), time.monotonic()
    time.sleep(seconds)
    return (_ran(pid) - before) / (time.monotonic() - started)


def _ran(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


class Pulse:
    """Asks for health all the while it is entered, and keeps how many seconds each answer took."""

    def __init__(self, endpoint: str) -> None:
        self.seconds: list[float] = []
        self._endpoint = endpoint
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with RegistryClient(self._endpoint, timeout=20) as client:
            while not self._over.is_set():
                started = time.monotonic()
                well = client.health_check()
                self.seconds.append(time.monotonic() - started if well else 20.0)
                self._over.wait(0.02)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join()
