"""The status that a driver reports, and whether its main loop still runs. No I/O.

`now` is always a moment of `timing.steady`, `wall` one of `time.time`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rsreg.errors import ConfigurationError
from rsreg.protocol.limits import MAX_TEXT, MAX_TTL
from rsreg.system import threads

#: Seconds after a limit of the watchdog at which it is surely crossed.
_BEYOND = 0.02


@dataclass
class _Doing:
    """One task of the driver: its ordinary work, or a busy block inside."""

    #: What a busy block is called; None for the ordinary work.
    name: str | None
    began: float
    #: Seconds that it may take; None for the ordinary work.
    limit: float | None
    text: str | None
    progress: float | None = None


class DriverStatus:
    """The status of one driver; threads may share it.

    With a `watchdog` (1 to 86400 seconds) the main loop has to call `feed`. In a busy block, until
    its time is over, the watchdog counts as fed. Raises ConfigurationError for bad values.
    """

    def __init__(self, now: float, watchdog: float | None = None) -> None:
        check_watchdog(watchdog)
        self.watchdog = watchdog
        self._lock = threads.new_rlock()
        self._doing = [_Doing(None, now, None, None)]
        self._load: float | None = None
        self._fed = now
        #: Whether anything was ever set: then an empty report has to clear it.
        self._ever_set = False

    def set(self, now: float, text: str | None, progress: float | None, load: float | None) -> bool:
        """Set a new status; True if that changed anything.

        A new text replaces the old text and its progress. `progress` alone updates the progress of
        the current text. The load stays until another is set. Without any value all are cleared.
        Inside a busy block the call changes the block's own text; clearing it shows the block's
        name again.
        """
        _check_text(text)
        if progress is not None:
            _check("progress", progress, 0, 1)
        if load is not None:
            _check("a load", load, 0, math.inf)
        with self._lock:
            doing = self._doing[-1]
            before = (doing.text, doing.progress, self._load)
            if text is None and progress is not None and doing.text is None:
                raise ConfigurationError(
                    "progress needs a text", hint="give the text in the same call"
                )
            if text is not None or progress is not None:
                if doing.name is None and text not in (None, doing.text):
                    doing.began = now
                doing.text, doing.progress = text or doing.text, progress
            elif load is None:
                doing.text, doing.progress, self._load = doing.name, None, None
            if load is not None:
                self._load = load
            self._ever_set = True
            return before != (doing.text, doing.progress, self._load)

    def begin(self, now: float, text: str, most: float) -> object:
        """Begin a busy block of at most `most` seconds, for `end`. Blocks may be nested."""
        check_busy(text, most)
        block = _Doing(text, now, most, text)
        with self._lock:
            self._doing.append(block)
            self._ever_set = True
        return block

    def end(self, now: float, block: object) -> None:
        """End a busy block, which feeds the watchdog; the status from before it is shown again."""
        with self._lock:
            self._doing = [doing for doing in self._doing if doing is not block]
            self._fed = max(self._fed, now)

    def feed(self, now: float) -> bool:
        """Feed the watchdog; True if that was later than half of its time."""
        if self.watchdog is None:
            raise ConfigurationError(
                "there is no watchdog to feed", hint="write registered(..., watchdog=60)"
            )
        with self._lock:
            silent = now - self._alive_until() > self.watchdog / 2
            self._fed = max(self._fed, now)
        return silent

    def report(self, now: float, wall: float) -> dict[str, Any] | None:
        """Return what a heartbeat reports; {} clears an earlier report, None reports nothing."""
        with self._lock:
            doing = self._doing[-1]
            report: dict[str, Any] = {}
            if doing.text is not None:
                status = {
                    "text": doing.text,
                    "progress": doing.progress,
                    # By our clock, for a registry that does not know `elapsed` yet.
                    "since": round(wall - (now - doing.began)),
                    "elapsed": round(max(0.0, now - doing.began), 3),
                    "max": doing.limit,
                }
                report["status"] = {
                    key: value for key, value in status.items() if value is not None
                }
            if self._load is not None:
                report["load"] = self._load
            if self.watchdog is not None:
                report["fed"] = round(max(0.0, now - self._alive_until()), 3)
                report["watchdog"] = self.watchdog
            return report if report or self._ever_set else None

    def alarm(self, now: float) -> int:
        """Return 1 after half of the watchdog's time without `feed`, 2 after all of it, else 0."""
        if self.watchdog is None:
            return 0
        with self._lock:
            silent = now - self._alive_until()
        return (silent > self.watchdog / 2) + (silent > self.watchdog)

    def due(self, now: float) -> float | None:
        """Return the seconds until the alarm rises without `feed`; None if it can't."""
        if self.watchdog is None:
            return None
        with self._lock:
            alive_until = self._alive_until()
        for limit in (self.watchdog / 2, self.watchdog):
            if now - alive_until <= limit:
                return alive_until + limit - now + _BEYOND
        return None

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON, for `restore` in another process of this machine."""
        with self._lock:
            doing = [asdict(doing) for doing in self._doing]
            return {"doing": doing, "load": self._load, "fed": self._fed, "spoke": self._ever_set}

    def restore(self, now: float, state: Mapping[str, Any]) -> bool:
        """Take over what `state` gave; True if it brings anything new to report."""
        with self._lock:
            before = (self._doing, self._load, self._ever_set, self.alarm(now))
            self._doing = [_Doing(**doing) for doing in state["doing"]]
            self._load, self._fed, self._ever_set = state["load"], state["fed"], state["spoke"]
            return before != (self._doing, self._load, self._ever_set, self.alarm(now))

    def _alive_until(self) -> float:
        """Return until when the watchdog counts as fed; in the future inside a busy block."""
        busy = (doing.began + doing.limit for doing in self._doing if doing.limit is not None)
        return max(self._fed, *busy, -math.inf)


def check_watchdog(watchdog: float | None) -> None:
    """Check the seconds of a watchdog; raises ConfigurationError."""
    if watchdog is not None:
        _check("a watchdog", watchdog, 1, MAX_TTL, "seconds")


def check_busy(text: str, most: float) -> None:
    """Check the arguments of a busy block; raises ConfigurationError."""
    _check_text(text)
    _check("the seconds of a busy block", most, 0, MAX_TTL)
    if most == 0:
        raise ConfigurationError("a busy block takes more than 0 seconds")


def _check_text(text: object) -> None:
    if text is not None and not (isinstance(text, str) and 1 <= len(text) <= MAX_TEXT):
        raise ConfigurationError(f"a status is a text of 1 to {MAX_TEXT} characters, not {text!r}")


def _check(what: str, value: float, least: float, most: float, unit: str = "") -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and least <= value <= most and math.isfinite(value):
        return
    span = f"from {least:g} to {most:g}" if most < math.inf else f"of at least {least:g}"
    raise ConfigurationError(f"{what} is a number {span}{unit and ' ' + unit}, not {value!r}")
