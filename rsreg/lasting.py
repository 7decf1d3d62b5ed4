"""Threads that last: they end when they are told to, whatever is raised in them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from rsreg.errors import Disconnected
from rsreg.native import Stop, Thread
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
    again = Backoff(_AGAIN_FIRST, _AGAIN_MOST)
    failing = False
    while not stop.is_set():
        with Caught() as caught:
            step()
        error = caught.error
        if error is not None and not stop.is_set():
            if not failing:
                say(log, logging.ERROR, "%s failed, trying on: %r", what, error, exc_info=error)
            failing = True
            pause(again.next())
        elif failing:
            say(log, logging.INFO, "%s: all is well again", what)
            failing = False
            again.reset()


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
    """Log it, if that can be done: a closed stderr, or no memory for a line, ends no thread."""
    with contextlib.suppress(Exception):
        log.log(level, message, *values, exc_info=exc_info)


def start_thread(target: Callable[[], None]) -> Thread:
    """Run `target` on a real OS thread; raises Disconnected if there can be no more of them."""
    try:
        return Thread(target)
    except RuntimeError as error:
        raise Disconnected(
            f"no thread can be started: {error}",
            hint="the limit of threads or of memory is reached: see ulimit -u and ulimit -v",
        ) from error
