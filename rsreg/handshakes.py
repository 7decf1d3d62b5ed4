"""Answers ZeroMQ's questions who may connect, from watchers of the hub."""

from __future__ import annotations

import logging
from typing import Any

import gevent
import zmq

from rsreg import zap
from rsreg.draining import Drain
from rsreg.timing import Clock
from rsreg.zap import Gate

log = logging.getLogger(__name__)

#: Seconds between two looks whether somebody has waited long enough.
_LOOK = 0.02


class Handshakes:
    """Asks a gate about each, on a socket of `sockets.handshakes`.

    Whatever goes wrong, nobody is let in for it.
    """

    def __init__(self, socket: zmq.Socket[bytes], gate: Gate, clock: Clock) -> None:
        self.gate = gate
        self._socket = socket
        self._clock = clock
        self._drain = Drain(socket, self._read)
        self._timer: Any = gevent.get_hub().loop.timer(_LOOK, _LOOK)

    def _read(self) -> None:
        frames = self._socket.recv_multipart(zmq.DONTWAIT)
        try:
            answer = self.gate.asked(frames, self._clock())
        except Exception:
            log.exception("a handshake was refused")
            answer = zap.refused(frames)
        if answer is not None:
            self._socket.send_multipart(answer, zmq.DONTWAIT)
        elif not self._timer.active:
            self._timer.start(self._look)

    def _look(self) -> None:
        try:
            for answer in self.gate.due(self._clock()):
                self._socket.send_multipart(answer, zmq.DONTWAIT)
            if not self.gate.busy:
                self._timer.stop()
        except Exception:
            log.exception("handshakes wait")
        self._drain.look()

    def close(self) -> None:
        """Answer nothing more; before the socket is closed."""
        self._timer.stop()
        self._timer.close()
        self._drain.close()
