"""A heartbeat in a process of its own, for drivers in which C code keeps the GIL.

The driver's side is `HeartbeatProcess`; `python -m rsreg.helper PARENT` is what it starts.
They share a socket pair, the standard input and output of the process: JSON lines, what there is to
tell one way, and what is to be logged the other.
"""

from __future__ import annotations

import _socket
import json
import logging
import math
import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from rsreg import beater, config, timing, wire
from rsreg.address import Finder
from rsreg.calls import Registration
from rsreg.errors import ConfigurationError, Disconnected, RegistryError
from rsreg.heartbeat import Heartbeat
from rsreg.lasting import keep_on, say, start_thread
from rsreg.native import Bell, Stop, Thread, new_rlock, original
from rsreg.presence import Presence
from rsreg.timing import Backoff

log = logging.getLogger(__name__)

#: Seconds after which the process looks whether its parent is still there.
_LOOK = 1.0
#: Seconds at most until the process knows that the main loop was fed, and the part of a watchdog.
_FEED, _FEED_PART = 1.0, 0.1
#: Seconds between two lines to it at least.
_TELL_GAP = 0.05
#: Seconds after which it looks whether it is registered; and that `stop` waits for the thread.
_HAND_OVER, _JOIN = 0.1, 1.0
#: Seconds before a process that ended is started anew: at first, and at most.
_AGAIN_FIRST, _AGAIN_MOST = 0.1, 5.0
_LINE = 65_536
#: No SIGPIPE from a process that has ended, whatever the driver does with it (not on macOS).
_NO_SIGNAL: int = getattr(_socket, "MSG_NOSIGNAL", 0)


class HeartbeatProcess(Heartbeat):
    """A heartbeat that hands over to a process once the service is registered.

    The process ends with this one, on `kill -9` too, and is started anew if it ends before. Its
    thread here only passes on what the driver says.
    """

    def __init__(self, presence: Presence, endpoint: str, interval: float | None = None) -> None:
        if not sys.executable:
            raise ConfigurationError(
                'heartbeat="process" needs a Python program to start',
                hint='use heartbeat="thread", or set sys.executable',
            )
        super().__init__(presence, endpoint, interval)
        self._process: _Process | None = None
        self._process_lock = new_rlock()
        self._stop, self._bell = Stop(), Bell()
        self._again = Backoff(_AGAIN_FIRST, _AGAIN_MOST)
        self._began = -math.inf
        self._told = b""
        watchdog = presence.vitals.watchdog
        self._look = _LOOK if watchdog is None else min(_FEED, watchdog * _FEED_PART)
        self._thread: Thread | None = None

    def start(self, why: RegistryError | None = None) -> None:
        """Register if that is still to be done, then keep a process going until `stop`."""
        if self.presence.service_id is None:
            super().start(why)
        self._thread = start_thread(self.run)

    def run(self) -> None:
        """Wait until it is registered, then keep the process going until `stop`."""
        while self.presence.service_id is None:
            if self._stop.wait(_HAND_OVER):
                return
        beater.end(self)
        self.presence.wake = self._bell.ring
        what = f"{self._name}: its heartbeat process"
        keep_on(self._keep, self._stop, log, what, self._stop.wait)
        self._end()

    def stop(self) -> None:
        """Stop beating; nothing is sent afterwards."""
        self._stop.set()
        self._bell.ring()
        self._end()
        super().stop()
        if self._thread is not None:
            self._thread.join(_JOIN)

    def _keep(self) -> None:
        """One turn: see that a process runs, and tell it what has changed."""
        if self._process is None or self._process.ended:
            self._begin()
        self._bell.wait(self._look)
        process, said = self._process, wire.encode(self._state())
        if process is not None and said != self._told and not self._stop.is_set():
            self._told = said
            process.ended = not process.tell(said) or process.ended
            self._stop.wait(_TELL_GAP)

    @property
    def _name(self) -> str:
        return self.presence.registration.name

    def _begin(self) -> None:
        if self._process is not None:
            self._process.end()
            if timing.steady() - self._began > _AGAIN_MOST:
                self._again.reset()
            if self._stop.wait(self._again.next()):
                return
            say(log, logging.WARNING, "%s: its heartbeat process ended, another starts", self._name)
        with self._process_lock:
            if self._stop.is_set():
                return
            self._process = None
            self._process, self._told = _Process(self._about()), b""
            self._began = timing.steady()
        process = self._process
        try:
            start_thread(lambda: self._log(process))
        except Disconnected:
            process.ended = True
            raise

    def _log(self, process: _Process) -> None:
        """Log what the process has to say, on a thread of its own; its end is noticed here."""
        for line in process.lines():
            with suppress(ValueError, TypeError, KeyError):
                said = json.loads(line)
                say(log, said["level"], "%s", said["message"])
        process.ended = True
        self._bell.ring()

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


class _Process:
    """The process, as the driver has it. It may be ended from any thread."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.ended = False
        self._lock = new_rlock()
        self._here, there = _socket.socketpair()
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        environment = {**config.environment(), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
        try:
            # What gevent puts in its place would want to watch the child.
            self._pid: int | None = original("os", "posix_spawn")(
                sys.executable,
                [sys.executable, "-m", __name__, str(os.getpid())],
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, there.fileno(), fd) for fd in (0, 1)],
                # A Ctrl-C is for the driver, which then ends this process in its own time.
                setsigmask=[signal.SIGINT],
            )
        except OSError:
            self._here.close()
            raise
        finally:
            there.close()
        self.tell(wire.encode(about))

    def tell(self, line: bytes) -> bool:
        """Send a line; whether there is somebody to take it."""
        try:
            self._here.sendall(line + b"\n", _NO_SIGNAL)
        except OSError:
            return False
        return True

    def lines(self) -> Iterator[bytes]:
        """What it has to say, until it ends."""
        rest = b""
        with suppress(OSError):
            while data := self._here.recv(_LINE):
                *whole, rest = (rest + data).split(b"\n")
                yield from whole
        self._here.close()

    def end(self) -> None:
        """Kill it, in the middle of a call perhaps: it holds nothing to be put in order."""
        with self._lock:
            pid, self._pid = self._pid, None
        if pid is None:
            return
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            original("os", "waitpid")(pid, 0)
        with suppress(OSError):
            self._here.shutdown(_socket.SHUT_RDWR)


class _ToParent(logging.Handler):
    """Sends what is logged here to the driver, which knows what to do with it.

    A driver that does not read it, while C code keeps its GIL, stops no beat.
    """

    def __init__(self) -> None:
        super().__init__()
        os.set_blocking(1, False)

    def emit(self, record: logging.LogRecord) -> None:
        said = {"level": record.levelno, "message": record.getMessage()}
        with suppress(OSError):
            os.write(1, json.dumps(said).encode() + b"\n")


def main(parent: int) -> None:
    """Beat for the parent until it ends, which it may have done already."""
    # What else this process got from the driver, its devices for one, is not for it to hold.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    logging.basicConfig(handlers=[_ToParent()], level=logging.INFO)
    rest = b""
    beating: Presence | None = None
    while os.getppid() == parent:
        if not select.select([0], [], [], _LOOK)[0]:
            continue
        try:
            data = os.read(0, _LINE)
        except OSError:
            break
        if not data:
            break
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
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
