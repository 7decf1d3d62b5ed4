"""Real OS threads and locks, also in a process that gevent has monkey-patched.

A heartbeat on a patched thread is a greenlet, and stops while the driver blocks. Therefore the
original functions are taken from gevent's record of what it replaced, at the time of each use.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable
from typing import Any


def original(module: str, name: str) -> Any:
    """Return the original of a name that gevent has replaced, or the name as it is."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    # The module is usually loaded, and the import system takes ten times as long.
    return getattr(sys.modules.get(module) or importlib.import_module(module), name)


def new_lock() -> Any:
    """Return a lock that blocks the OS thread, not the greenlet."""
    return original("_thread", "allocate_lock")()


def new_rlock() -> Any:
    """Return such a lock that its thread can take again, as a signal handler may have to."""
    return original("_thread", "RLock")()


def thread_id() -> int:
    """Return the number of the current OS thread; all its greenlets have the same."""
    return int(original("_thread", "get_ident")())


def strand() -> tuple[int, object]:
    """Return the current OS thread, and its greenlet if greenlets are used."""
    greenlet = sys.modules.get("greenlet")
    return thread_id(), greenlet.getcurrent() if greenlet is not None else None


class Stop:
    """A flag that one real thread can wait for."""

    def __init__(self) -> None:
        self._set = False
        self._lock = new_lock()
        self._lock.acquire()

    def is_set(self) -> bool:
        """Return whether `set` was called."""
        return self._set

    def set(self) -> None:
        """Set the flag, and wake the thread that waits for it; can be called again."""
        if not self._set:
            self._set = True
            # If two threads set it at once, the first releases the lock.
            with contextlib.suppress(RuntimeError):
                self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the flag; return whether it is set."""
        if not self._set and self._lock.acquire(True, max(0.0, seconds)):
            self._lock.release()
        return self._set


class WakeUp:
    """Wakes the one real thread that waits for it; set several times before, it wakes it once."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake the thread now, or as soon as it waits. Never blocks."""
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`; True if it was set."""
        return bool(self._lock.acquire(True, max(0.0, seconds)))


class Thread:
    """A real OS thread that runs `target`; the interpreter does not wait for it at its end."""

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
        """Wait up to `timeout` seconds for the end of the thread; return whether it has ended."""
        return self._ended.wait(timeout)
