"""Background threads that survive errors: they end only when they are stopped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from rsreg.display import printable
from rsreg.errors import Disconnected
from rsreg.system.threads import Stop, Thread
from rsreg.timing import Backoff

#: Seconds before a failed step is called again: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0


def keep_on(
    step: Callable[[], object],
    stop: Stop,
    log: logging.Logger,
    what: str,
    pause: Callable[[float], object],
) -> None:
    """Call `step` again and again until `stop` is set.

    An error in it is logged as a failure of `what`, once until `step` succeeds again. Before the
    next call `pause` is called with a number of seconds, which grows with each failure.
    """
    troubles = Troubles(log, what)
    while not stop.is_set():
        with Caught() as caught:
            step()
        if not stop.is_set() and (seconds := troubles.after(caught.error)):
            pause(seconds)


class Troubles:
    """Logs the failures of something that is repeated: one line when they begin, one at the end."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._failing = False

    def after(self, error: BaseException | None) -> float:
        """Note the error of a call, or None; return the seconds to wait, 0.0 if there was none."""
        if error is not None:
            if not self._failing:
                text = "%s failed, retrying: %r"
                say(self._log, logging.ERROR, text, self._what, error, exc_info=error)
            self._failing = True
            return self._backoff.next()
        if self._failing:
            say(self._log, logging.INFO, "%s works again", self._what)
            self._failing = False
            self._backoff.reset()
        return 0.0


class Caught:
    """Catches errors of these classes in its block, by default any, and keeps one as `error`."""

    def __init__(self, *classes: type[BaseException]) -> None:
        self.error: BaseException | None = None
        self._classes = classes or (Exception,)

    def __enter__(self) -> Caught:
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if isinstance(error, self._classes):
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
    """Log a message; if that fails, because stderr is closed for example, no error is raised.

    Texts among the values are made printable, as in our errors: what another program sent must not
    write lines of its own into the log.
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
