"""Real OS threads and locks, also in a process that gevent has monkey-patched.

A heartbeat on a patched thread is a greenlet, and stops while the driver blocks. So the originals
are looked up, when they are needed, from gevent's own record of what it replaced.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from typing import Any


def original(module: str, name: str) -> Any:
    """What gevent replaced under this name, or what is there."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    # Most often it is there: to ask the import system takes ten times as long.
    return getattr(sys.modules.get(module) or importlib.import_module(module), name)


def new_lock() -> Any:
    """A lock that blocks the OS thread, never a greenlet."""
    return original("_thread", "allocate_lock")()


def new_rlock() -> Any:
    """The same, for what a signal handler may call in the middle of: its thread has it twice."""
    return original("_thread", "RLock")()


def thread_id() -> int:
    """The number of the OS thread that asks; the same in all of its greenlets."""
    return int(original("_thread", "get_ident")())


def strand() -> tuple[int, object]:
    """The OS thread that asks, and its greenlet, if there are any."""
    greenlet = sys.modules.get("greenlet")
    return thread_id(), greenlet.getcurrent() if greenlet is not None else None


class Stop:
    """A flag that one real thread can wait for."""

    def __init__(self) -> None:
        self._set = False
        self._lock = new_lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return self._set

    def set(self) -> None:
        """Raise the flag and wake who waits for it; again is harmless."""
        if not self._set:
            self._set = True
            # Two threads may set it at once; the lock is released by the first.
            with contextlib.suppress(RuntimeError):
                self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`; whether the flag is up."""
        if not self._set and self._lock.acquire(True, max(0.0, seconds)):
            self._lock.release()
        return self._set


class Bell:
    """Wakes the one real thread that waits for it; several rings before it looks are one."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake it now, or as soon as it waits. Never blocks."""
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`; whether it rang."""
        return bool(self._lock.acquire(True, max(0.0, seconds)))


class Thread:
    """A real OS thread that runs `target`; it never keeps the interpreter from ending."""

    def __init__(self, target: Callable[[], None]) -> None:
        self._target = target
        self._ended = Stop()
        original("_thread", "start_new_thread")(self._run, ())

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._ended.set()

    def join(self, timeout: float) -> bool:
        """Wait until the thread has ended; whether it has."""
        return self._ended.wait(timeout)
