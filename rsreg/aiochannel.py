"""The asyncio driver of an exchange: one DEALER, one call at a time."""

from __future__ import annotations

import asyncio
import math
from typing import Any, TypeVar

import zmq
import zmq.asyncio

from rsreg import sockets, timing
from rsreg.errors import Disconnected, RequestTimeout
from rsreg.exchange import Call, exchange

T = TypeVar("T")


class AsyncChannel:
    """Carries calls to one endpoint, one at a time; opened when needed."""

    def __init__(self, endpoint: str, context: zmq.asyncio.Context) -> None:
        self.endpoint = endpoint
        self._context = context
        self._socket: Any = None
        self._turn = asyncio.Lock()
        self._closed = False

    def open(self) -> None:
        """Take calls again after a `close`."""
        self._closed = False

    def close(self) -> None:
        """Take no more calls; one that is under way comes to its end, and closes the socket."""
        self._closed = True
        if not self._turn.locked():
            self._drop_socket()

    async def run(self, call: Call[T], timeout: float) -> T:
        """The call's answer, or what `exchange` raises; Disconnected if the socket fails."""
        start = timing.steady()
        try:
            # Without the wait where there is none: it costs as much as the call.
            if self._turn.locked():
                await asyncio.wait_for(self._turn.acquire(), timeout)
            else:
                await self._turn.acquire()
        except asyncio.TimeoutError:
            raise RequestTimeout(f"other tasks kept this client busy for {timeout:g} s") from None
        try:
            return await self._exchange(call, max(0.0, timeout - (timing.steady() - start)))
        finally:
            if self._closed:
                self._drop_socket()
            self._turn.release()

    async def _exchange(self, call: Call[T], timeout: float) -> T:
        if self._closed:
            raise Disconnected("this client is closed", hint="call connect() to use it again")
        if self._socket is None:
            self._socket = sockets.dealer(self._context, self.endpoint)
        socket = self._socket
        flow = exchange(call, timeout=timeout, endpoint=self.endpoint, clock=timing.steady)
        try:
            step = next(flow)
            while True:
                if step.frames:
                    await socket.send_multipart(step.frames, zmq.DONTWAIT)
                ready = await socket.poll(math.ceil(step.wait * 1000))
                step = flow.send(await socket.recv_multipart(zmq.DONTWAIT) if ready else None)
        except StopIteration as done:
            answer: T = done.value
            return answer
        except (RequestTimeout, asyncio.CancelledError):
            # What is still queued would be sent, stale, when the registry is back.
            self._drop_socket()
            raise
        except zmq.ZMQError as error:
            self._drop_socket()
            raise Disconnected(f"can't reach the registry on {self.endpoint}: {error}") from error

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
