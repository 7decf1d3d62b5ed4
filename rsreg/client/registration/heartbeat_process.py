"""A heartbeat in a process of its own, for drivers in which C code keeps the GIL.

The driver's side is `HeartbeatProcess`; it starts this module: `python -m … PARENT`. The driver
writes the state of its service to the standard input of the process, as JSON lines. The process
writes a greeting to its standard output, then what is to be logged, as JSON lines.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from contextlib import suppress
from typing import Any

from rsreg import config, timing
from rsreg.client.registration import heartbeat_thread
from rsreg.client.registration.address import Finder
from rsreg.client.registration.local_service import LocalService
from rsreg.client.registration.own_services import Heartbeat
from rsreg.client.registration.registration import Registration
from rsreg.errors import ConfigurationError, Disconnected, RegistryError
from rsreg.protocol import wire
from rsreg.system import child_process
from rsreg.system.background import keep_on, say, start_thread
from rsreg.system.child_process import Child
from rsreg.system.threads import Stop, Thread, WakeUp, new_rlock
from rsreg.timing import Backoff

log = logging.getLogger(__name__)

_WHAT, _MODULE = 'heartbeat="process"', "rsreg.client.registration.heartbeat_process"
#: The first line that the process writes: only then it is one of ours.
_GREETING = _MODULE.encode()
#: Seconds until that line, at most, and how often a process is started that never writes it.
_START, _STARTS = 20.0, 3
#: Seconds between two looks whether the state has changed.
_LOOK = 1.0
#: Seconds at most until the process knows of a call of `feed`, and the part of a watchdog.
_FEED, _FEED_PART = 1.0, 0.1
#: Seconds between two lines to it at least.
_TELL_GAP = 0.05
#: Seconds after which it looks whether it is registered; and that `stop` waits for the thread.
_HAND_OVER, _JOIN = 0.1, 1.0
#: Seconds before a process that ended is started anew: at first, and at most.
_AGAIN_FIRST, _AGAIN_MOST = 0.1, 5.0


class HeartbeatProcess(Heartbeat):
    """A heartbeat that hands over to a process once the service is registered.

    The process ends with this one, on `kill -9` too, and is started anew if it ends before. The
    thread here only passes on what the driver reports. If what was started is no process of ours, a
    thread sends the heartbeats after all. Raises ConfigurationError where no Python can be started.
    """

    def __init__(
        self,
        service: LocalService,
        endpoint: str,
        interval: float | None = None,
        *,
        reclaim: bool = True,
    ) -> None:
        config.python_program(_WHAT)
        super().__init__(service, endpoint, interval, reclaim=reclaim)
        self._process: Child | None = None
        self._process_lock = new_rlock()
        self._stop, self._wake_up = Stop(), WakeUp()
        #: Set once a thread beats for good.
        self._alone = Stop()
        self._again = Backoff(_AGAIN_FIRST, _AGAIN_MOST)
        self._began = -math.inf
        #: Whether the process has ended; whether one of ours was ever there; how many were started.
        self._ended = self._greeted = False
        self._starts = 0
        self._sent = b""
        watchdog = service.driver_status.watchdog
        self._look = _LOOK if watchdog is None else min(_FEED, watchdog * _FEED_PART)
        self._thread: Thread | None = None

    def start(self, why: RegistryError | None = None) -> None:
        """Register the service if it is not yet, then keep a process going until `stop`."""
        if self.service.service_id is None:
            super().start(why)
        self._thread = start_thread(self.run)

    def run(self) -> None:
        """Wait until it is registered, then keep the process going until `stop`."""
        while self.service.service_id is None:
            if self._stop.wait(_HAND_OVER):
                return
        heartbeat_thread.end(self)
        self.service.wake = self._wake_up.set
        what = f"{self._name}: its heartbeat process"
        keep_on(self._keep, self._alone, log, what, self._stop.wait)
        self._end()

    def stop(self) -> None:
        """Stop the heartbeat; nothing is sent afterwards."""
        self._stop.set()
        self._alone.set()
        self._wake_up.set()
        self._end()
        super().stop()
        if self._thread is not None:
            self._thread.join(_JOIN)

    def _keep(self) -> None:
        """See that a process runs, and send it what has changed."""
        if self._process is None or self._ended:
            self._begin()
        self._wake_up.wait(self._look)
        if self._alone.is_set():
            return
        late = timing.steady() - self._began > _START
        if not self._greeted and (late or (self._ended and self._starts == _STARTS)):
            self._beat_alone(f"{sys.executable} does not start one")
            return
        process, state = self._process, wire.encode(self._state())
        if process is not None and state != self._sent:
            self._sent = state
            self._ended = not process.tell(state) or self._ended
            self._stop.wait(_TELL_GAP)

    def _beat_alone(self, why: object) -> None:
        """Send the heartbeats from a thread from now on: there is no process of ours."""
        text = "%s: can't start a heartbeat process, a thread sends the heartbeats instead: %s"
        say(log, logging.ERROR, text, self._name, why)
        self._end()
        with self._process_lock:
            if not self._stop.is_set():
                super().start()
        self._alone.set()

    @property
    def _name(self) -> str:
        return self.service.registration.name

    def _begin(self) -> None:
        if self._process is not None:
            self._process.end()
            if timing.steady() - self._began > _AGAIN_MOST:
                self._again.reset()
            if self._stop.wait(self._again.next()):
                return
            if self._greeted:
                text = "%s: its heartbeat process ended, another one is started"
                say(log, logging.WARNING, text, self._name)
        with self._process_lock:
            if self._stop.is_set():
                return
            self._process = None
            self._starts += 1
            try:
                self._process = process = child_process.start(_MODULE, _WHAT)
            except (OSError, ConfigurationError) as error:
                self._beat_alone(error)
                return
            self._began, self._ended, self._sent = timing.steady(), False, b""
        process.tell(wire.encode(self._about()))
        try:
            start_thread(lambda: self._hear(process))
        except Disconnected:
            self._ended = True
            raise

    def _hear(self, process: Child) -> None:
        """Log what the process writes, on a thread of its own; its end is noticed here."""
        for line in process.lines():
            self._greeted = self._greeted or line == _GREETING
            with suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                say(log, entry["level"], "%s", entry["message"])
        if process is self._process:
            self._ended = True
            self._wake_up.set()

    def _end(self) -> None:
        with self._process_lock:
            if self._process is not None:
                self._process.end()

    def _about(self) -> dict[str, Any]:
        finder = self.service.finder
        return {
            "endpoint": self.endpoint,
            "interval": self.interval,
            "reclaim": self.reclaim,
            "ttl": self.service.registration.ttl,
            "service_id": self.service.service_id,
            "watchdog": self.service.driver_status.watchdog,
            "finder": finder and [finder.endpoint, finder.network and str(finder.network)],
            **self._state(),
        }

    def _state(self) -> dict[str, Any]:
        service = self.service
        return {
            "info": service.registration.info,
            "pending_update": service.pending_update,
            "unconfirmed": service.unconfirmed,
            "finds": service.finder is not None,
            "driver_status": service.driver_status.state(),
        }


class _ToParent(logging.Handler):
    """Sends what is logged here to the driver, which logs it.

    A driver that does not read it, while C code keeps its GIL, stops no heartbeat.
    """

    def __init__(self) -> None:
        super().__init__()
        if sys.platform != "win32":
            os.set_blocking(1, False)

    def emit(self, record: logging.LogRecord) -> None:
        entry = {"level": record.levelno, "message": record.getMessage()}
        with suppress(OSError):
            os.write(1, json.dumps(entry).encode() + b"\n")


def main(parent: int) -> None:
    """Send heartbeats for the parent until it ends, which may have happened already."""
    os.write(1, _GREETING + b"\n")
    logging.basicConfig(handlers=[_ToParent()], level=logging.INFO)
    beating: LocalService | None = None
    for line in child_process.orders(parent):
        state = json.loads(line)
        if beating is None:
            beating = _beat_for(state)
        else:
            fields = ("info", "pending_update", "unconfirmed", "finds", "driver_status")
            beating.take_state(*(state[field] for field in fields))
    # The driver ends its registration, or the ttl does: there is nothing to send or to wait for.
    os._exit(0)


def _beat_for(state: dict[str, Any]) -> LocalService:
    registration = Registration(state["info"], state["ttl"], state["service_id"])
    finder = Finder(*state["finder"]) if state["finder"] else None
    service = LocalService(registration, finder, state["watchdog"])
    service.driver_status.restore(timing.steady(), state["driver_status"])
    service.follow(registration)
    service.pending_update, service.unconfirmed = state["pending_update"], state["unconfirmed"]
    heartbeat = Heartbeat(service, state["endpoint"], state["interval"], reclaim=state["reclaim"])
    heartbeat.looks_twice = True
    heartbeat.start()
    return service


if __name__ == "__main__":
    main(int(sys.argv[1]))
