"""A heartbeat in a process of its own, for drivers in which C code keeps the GIL.

The driver's side is `HeartbeatProcess`; `python -m rsreg.helper PARENT` is what it starts.
On the standard input and output of the process go JSON lines: what there is to tell one way, and
what is to be logged the other, after a greeting.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from typing import Any

from rsreg import child, config, timing, wire
from rsreg.address import Finder
from rsreg.calls import Registration
from rsreg.child import Child
from rsreg.errors import ConfigurationError
from rsreg.heartbeat import Heartbeat
from rsreg.native import Stop, Thread, new_lock
from rsreg.presence import Presence
from rsreg.timing import Backoff

log = logging.getLogger(__name__)

_WHAT, _MODULE = 'heartbeat="process"', "rsreg.helper"
#: What the process says first: only then it is one of ours.
_GREETING = _MODULE.encode()
#: Seconds that it may take to say so, and how often it is started before it once did.
_START, _STARTS = 20.0, 3
#: Seconds between two looks at what there is to tell.
_LOOK = 1.0
#: Seconds at most until the process knows that the main loop was fed, and the part of a watchdog.
_FEED, _FEED_PART = 1.0, 0.1
#: Seconds between two lines to it at least.
_TELL_GAP = 0.05
#: Seconds before a process that ended is started anew: at first, and at most.
_AGAIN_FIRST, _AGAIN_MOST = 0.1, 5.0


class HeartbeatProcess(Heartbeat):
    """A heartbeat that hands over to a process once the service is registered.

    The process ends with this one, on `kill -9` too, and is started anew if it ends before. Its
    thread here only passes on what the driver says; but it beats itself if what was started is no
    process of ours. Raises ConfigurationError where no Python can be started.
    """

    def __init__(self, presence: Presence, endpoint: str, interval: float | None = None) -> None:
        config.python_program(_WHAT)
        super().__init__(presence, endpoint, interval)
        self._process: Child | None = None
        self._process_lock = new_lock()
        #: Whether a process of ours was ever there.
        self._greeted = False
        self._starts = 0

    def run(self) -> None:
        """Register if that is still to be done, then keep the process going until `stop`."""
        delay = 0.0 if self.presence.service_id is not None else self._backoff.next()
        while self.presence.service_id is None and self._wait(delay):
            delay = self.step()
        self._channel.close()
        try:
            self._keep_going()
        except (OSError, ConfigurationError) as error:
            log.error("%s: can't start a heartbeat process, a thread beats: %s", self._name, error)
            self.presence.bell.ring()
            super().run()

    def _keep_going(self) -> None:
        again = Backoff(_AGAIN_FIRST, _AGAIN_MOST)
        while process := self._begin():
            began = timing.steady()
            self._pass_on(process)
            if self._stop.is_set():
                break
            late = timing.steady() - began > _START
            if not self._greeted and (late or self._starts == _STARTS):
                raise ConfigurationError(f"{sys.executable} does not start one")
            if timing.steady() - began > _AGAIN_MOST:
                again.reset()
            if self._stop.wait(again.next()):
                break
            if self._greeted:
                log.warning("%s: its heartbeat process ended, another starts", self._name)
        self._end()

    def stop(self) -> None:
        """Stop beating; nothing is sent afterwards."""
        self._stop.set()
        self._end()
        super().stop()

    @property
    def _name(self) -> str:
        return self.presence.registration.name

    def _begin(self) -> Child | None:
        with self._process_lock:
            if self._stop.is_set():
                return None
            self._starts += 1
            self._process = child.start(_MODULE, _WHAT)
        self._process.tell(wire.encode(self._about()))
        return self._process

    def _pass_on(self, process: Child) -> None:
        """Tell the process what changes, until it ends or has to."""
        over, late = Stop(), timing.steady() + _START
        Thread(lambda: self._hear(process, over))
        watchdog = self.presence.vitals.watchdog
        look = _LOOK if watchdog is None else min(_FEED, watchdog * _FEED_PART)
        told = b""
        while not self._stop.is_set() and not over.is_set():
            self.presence.bell.wait(look)
            if not self._greeted and timing.steady() > late:
                break
            said = wire.encode(self._state())
            if said != told:
                told = said
                if not process.tell(said) or self._stop.wait(_TELL_GAP):
                    break
        process.end()
        over.wait(_LOOK)

    def _hear(self, process: Child, over: Stop) -> None:
        """Log what the process has to say, on a thread of its own; its end is noticed here."""
        for line in process.lines():
            self._greeted = self._greeted or line == _GREETING
            with suppress(ValueError, TypeError, KeyError):
                said = json.loads(line)
                log.log(said["level"], "%s", said["message"])
        over.set()
        self.presence.bell.ring()

    def _end(self) -> None:
        with self._process_lock:
            if self._process is not None:
                self._process.end()

    def _about(self) -> dict[str, Any]:
        finder = self.presence.finder
        return {
            "endpoint": self.endpoint,
            "interval": self.interval,
            "ttl": self.presence.registration.ttl,
            "service_id": self.presence.service_id,
            "watchdog": self.presence.vitals.watchdog,
            "finder": finder and [finder.endpoint, finder.network and str(finder.network)],
            **self._state(),
        }

    def _state(self) -> dict[str, Any]:
        presence = self.presence
        return {
            "info": presence.registration.info,
            "untold": presence.untold,
            "finds": presence.finder is not None,
            "vitals": presence.vitals.state(),
        }


class _ToParent(logging.Handler):
    """Sends what is logged here to the driver, which knows what to do with it."""

    def emit(self, record: logging.LogRecord) -> None:
        said = {"level": record.levelno, "message": record.getMessage()}
        with suppress(OSError):
            os.write(1, json.dumps(said).encode() + b"\n")


def main(parent: int) -> None:
    """Beat for the parent until it ends, which it may have done already."""
    os.write(1, _GREETING + b"\n")
    logging.basicConfig(handlers=[_ToParent()], level=logging.INFO)
    beating: Presence | None = None
    for line in child.orders(parent):
        said = json.loads(line)
        if beating is None:
            beating = _beat_for(said)
        else:
            beating.take(said["info"], said["untold"], said["finds"], said["vitals"])
    # The registration is the driver's, or left to its ttl: nothing is said, nothing waited for.
    os._exit(0)


def _beat_for(said: dict[str, Any]) -> Presence:
    wanted = Registration(said["info"], said["ttl"], said["service_id"])
    finder = Finder(*said["finder"]) if said["finder"] else None
    presence = Presence(wanted, finder, said["watchdog"])
    presence.vitals.restore(timing.steady(), said["vitals"])
    presence.follow(wanted)
    presence.untold = said["untold"]
    Heartbeat(presence, said["endpoint"], said["interval"]).start()
    return presence


if __name__ == "__main__":
    main(int(sys.argv[1]))
