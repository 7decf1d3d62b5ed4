"""Threads that last: they end when they are told to, whatever is raised in them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from rsreg.display import printable
from rsreg.errors import Disconnected
from rsreg.system.threads import Stop, Thread
from rsreg.timing import Backoff

#: Seconds before what failed is tried again: at first, and at most.
_AGAIN_FIRST, _AGAIN_MOST = 0.25, 5.0


def keep_on(
    step: Callable[[], object],
    stop: Stop,
    log: logging.Logger,
    what: str,
    pause: Callable[[float], object],
) -> None:
    """Call `step` again and again until `stop` is set.

    Whatever it raises is logged as a failure of `what`, once until all is well again; and it is
    called again after a `pause`, of seconds that grow.
    """
    troubles = Troubles(log, what)
    while not stop.is_set():
        with Caught() as caught:
            step()
        if not stop.is_set() and (seconds := troubles.after(caught.error)):
            pause(seconds)


class Troubles:
    """What goes wrong with something that is tried on and on: two lines, from first to last."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._again = Backoff(_AGAIN_FIRST, _AGAIN_MOST)
        self._failing = False

    def after(self, error: BaseException | None) -> float:
        """Note what a try raised, if anything; seconds until the next, 0.0 if it went well."""
        if error is not None:
            if not self._failing:
                text = "%s failed, trying on: %r"
                say(self._log, logging.ERROR, text, self._what, error, exc_info=error)
            self._failing = True
            return self._again.next()
        if self._failing:
            say(self._log, logging.INFO, "%s: all is well again", self._what)
            self._failing = False
            self._again.reset()
        return 0.0


class Caught:
    """Catches what is raised in its block, if it is of these kinds, and keeps it as `error`."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self.error: BaseException | None = None
        self._kinds = kinds or (Exception,)

    def __enter__(self) -> Caught:
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if isinstance(error, self._kinds):
            self.error = error
            return True
        return False


def say(
    log: logging.Logger,
    level: int,
    message: str,
    *values: object,
    exc_info: BaseException | None = None,
) -> None:
    """Log it, if that can be done: a closed stderr, or no memory for a line, ends no thread.

    Texts are made printable, as those of our errors are: what a registry or a service told writes
    no line of its own into the log of the program.
    """
    with contextlib.suppress(Exception):
        log.log(level, message, *map(_safe, values), exc_info=exc_info)


def _safe(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


def start_thread(target: Callable[[], None]) -> Thread:
    """Run `target` on a real OS thread; raises Disconnected if there can be no more of them."""
    try:
        return Thread(target)
    except RuntimeError as error:
        raise Disconnected(
            f"no thread can be started: {error}",
            hint="the limit of threads or of memory is reached: see ulimit -u and ulimit -v",
        ) from error
