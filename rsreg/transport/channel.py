"""Carries calls to a registry, blocking: one DEALER socket, one call at a time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from typing import Any, TypeVar

import zmq

from rsreg import timing
from rsreg.errors import Disconnected, ServerError, TransportError
from rsreg.protocol.calls import Call
from rsreg.system import threads
from rsreg.system.threads import Stop
from rsreg.transport import resolver, sockets
from rsreg.transport.driver import drive
from rsreg.transport.exchange import exchange
from rsreg.transport.resolver import Numeric

T = TypeVar("T")

#: Seconds after which a waiting thread looks whether it has to stop.
STOP_LATENCY = 0.2


class Channel:
    """Carries calls to one endpoint. Used by one thread or greenlet at a time; opened when needed.

    `context` may be a `zmq.green.Context`: only calls that cooperate there are used. With a `stop`,
    a call under way ends with Disconnected soon after it is set.
    """

    def __init__(
        self, endpoint: str, context: zmq.Context[Any] | None = None, stop: Stop | None = None
    ) -> None:
        self._socket: Any = None
        self.endpoint = endpoint
        self._context = context
        self._stop = stop

    def open(self) -> None:
        """Open the socket now, if no name has to be found for that; raises ConfigurationError.

        Else the first call does it.
        """
        with contextlib.suppress(TransportError):
            self.reopened(0.0)

    def reopened(self, timeout: float) -> bool:
        """Open the socket if it is not open; True if it was not.

        To find its host may take `timeout` seconds. Raises UnknownHost, RequestTimeout,
        Disconnected, ConfigurationError.
        """
        if self._socket is not None:
            return False
        address = find(self.endpoint, timeout, self._context, self._stop)
        self._socket = sockets.dealer(self._context or sockets.own_context(), address)
        return True

    def close(self) -> None:
        """Close the socket; the next call opens another."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def __del__(self) -> None:
        # A one-line script does not close its client; that deserves no warning.
        self.close()

    def run(self, call: Call[T], timeout: float) -> T:
        """Return the answer to a call; raises as `exchange`, and Disconnected if the socket fails.

        Whatever else ends the call, nothing of it is sent later.
        """
        steps = self.steps(call, timeout)
        try:
            while True:
                next(steps)
        except StopIteration as done:
            answer: T = done.value
            return answer

    def steps(
        self, call: Call[T], timeout: float, moment: float = math.inf
    ) -> Generator[None, None, T]:
        """Do what `run` does, but yield after each `moment` seconds without an answer.

        To close the generator gives the call up.
        """
        try:
            if self._socket is None:
                until = timing.steady() + timeout
                self.reopened(timeout)
                timeout = timing.left(until)
            return (yield from self._exchange(call, timeout, moment))
        except ServerError:
            # It is an answer, too.
            raise
        except zmq.ZMQError as error:
            self.close()
            raise sockets.failed(f"can't reach the registry on {self.endpoint}", error) from error
        except BaseException:
            # What is still queued would be sent, stale, when the registry is back.
            self.close()
            raise

    def _exchange(self, call: Call[T], timeout: float, moment: float) -> Generator[None, None, T]:
        flow = exchange(call, timeout=timeout, endpoint=self.endpoint, clock=timing.steady)
        try:
            step = next(flow)
            while True:
                if step.frames:
                    self._socket.send_multipart(step.frames, zmq.DONTWAIT)
                step = flow.send((yield from self._receive(step.wait, moment)))
        except StopIteration as done:
            answer: T = done.value
            return answer

    def _receive(self, seconds: float, moment: float) -> Generator[None, None, list[bytes] | None]:
        until = timing.steady() + seconds
        while not readable(self._socket, min(seconds, moment), self._stop):
            seconds = until - timing.steady()
            if seconds <= 0 or moment == math.inf:
                return None
            yield
        frames: list[bytes] = self._socket.recv_multipart(zmq.DONTWAIT)
        return frames


def find(
    endpoint: str, timeout: float, context: zmq.Context[Any] | None, stop: Stop | None = None
) -> Numeric:
    """Find the address of an endpoint within `timeout` seconds; other greenlets go on.

    Raises UnknownHost, RequestTimeout; Disconnected once `stop` is set.
    """
    return drive(resolver.finding(endpoint, timeout, stop), lambda pause: _sleep(context, pause))


def _sleep(context: object, seconds: float) -> None:
    if sockets.is_green(context):
        import gevent

        gevent.sleep(seconds)
    else:
        threads.original("time", "sleep")(seconds)


def readable(socket: Any, seconds: float, stop: Stop | None) -> bool:
    """Wait at most `seconds` for something to read; raises Disconnected once `stop` is set."""
    if stop is None:
        return bool(socket.poll(math.ceil(seconds * 1000)))
    until = timing.steady() + seconds
    while not stop.is_set():
        seconds_left = until - timing.steady()
        if socket.poll(math.ceil(max(0.0, min(seconds_left, STOP_LATENCY)) * 1000)):
            return True
        if seconds_left <= 0:
            return False
    raise Disconnected("the client was closed while a call was waiting")
