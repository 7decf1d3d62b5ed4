"""Carries calls to a registry in asyncio: one DEALER socket, one call, one event loop at a time."""

from __future__ import annotations

import asyncio
import math
from typing import Any, TypeVar

import zmq
import zmq.asyncio

from rsreg import timing
from rsreg.errors import Disconnected, RequestTimeout, ServerError
from rsreg.protocol.calls import Call
from rsreg.system.threads import Stop
from rsreg.transport import resolver, sockets
from rsreg.transport.driver import drive_async
from rsreg.transport.exchange import exchange
from rsreg.transport.resolver import Numeric

T = TypeVar("T")


class _LoopSocket:
    """What belongs to one event loop: the socket, and whose turn it is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.turn = asyncio.Lock()
        self.socket: Any = None

    def drop(self) -> None:
        """Close the socket; the next call opens another."""
        socket, self.socket = self.socket, None
        if socket is not None:
            socket.close()


class AsyncChannel:
    """Carries calls to one endpoint, one at a time; opened when needed.

    With the first call from another event loop it goes over to that one. While the loop before
    still runs, that raises a RuntimeError.
    """

    def __init__(self, endpoint: str, context: zmq.asyncio.Context) -> None:
        self.endpoint = endpoint
        self._context = context
        self._held: _LoopSocket | None = None
        self._closed = False

    def open(self) -> None:
        """Take calls again after a `close`."""
        self._closed = False

    def close(self) -> None:
        """Take no more calls; one under way comes to its end, and closes the socket."""
        self._closed = True
        held = self._held
        if held is not None and not (held.turn.locked() and held.loop.is_running()):
            held.drop()

    async def reopened(self, timeout: float) -> bool:
        """Open the socket if it is not open; True if it was not. Raises as Channel.reopened."""
        held = self._here()
        if held.socket is not None:
            return False
        await self._open(held, timeout)
        return True

    async def run(self, call: Call[T], timeout: float) -> T:
        """Carry a call within `timeout` seconds; raises as Channel.run."""
        held, until = self._here(), timing.steady() + timeout
        try:
            # Without the wait where there is none: it costs as much as the call.
            if held.turn.locked():
                await asyncio.wait_for(held.turn.acquire(), timeout)
            else:
                await held.turn.acquire()
        except asyncio.TimeoutError:
            raise RequestTimeout(f"other tasks kept this client busy for {timeout:g} s") from None
        try:
            return await self._run(held, call, until)
        finally:
            if self._closed:
                held.drop()
            held.turn.release()

    async def _run(self, held: _LoopSocket, call: Call[T], until: float) -> T:
        if self._closed:
            raise Disconnected("this client is closed", hint="call connect() to use it again")
        try:
            if held.socket is None:
                await self._open(held, timing.left(until))
            return await self._exchange(held.socket, call, timing.left(until))
        except ServerError:
            # It is an answer, too.
            raise
        except zmq.ZMQError as error:
            held.drop()
            raise sockets.failed(f"can't reach the registry on {self.endpoint}", error) from error
        except BaseException:
            # What is still queued would be sent, stale, when the registry is back.
            held.drop()
            raise

    async def _open(self, held: _LoopSocket, timeout: float) -> None:
        address = await find(self.endpoint, timeout)
        held.socket = sockets.dealer(self._context, address)

    async def _exchange(self, socket: Any, call: Call[T], timeout: float) -> T:
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

    def _here(self) -> _LoopSocket:
        """Return what belongs to the running loop.

        What belongs to another one is dropped, with the calls that wait there.
        """
        loop, held = asyncio.get_running_loop(), self._held
        if held is None or held.loop is not loop:
            if held is not None:
                check_ended(held.loop)
                held.drop()
            held = self._held = _LoopSocket(loop)
        return held


def check_ended(loop: asyncio.AbstractEventLoop) -> None:
    """Check that a client may leave an event loop; raises RuntimeError while that runs."""
    if loop.is_running():
        raise RuntimeError(
            "this AsyncRegistryClient is used in another event loop, which still runs: "
            "give each event loop a client of its own"
        )


async def find(endpoint: str, timeout: float, stop: Stop | None = None) -> Numeric:
    """Find where to connect to for an endpoint, as channel.find."""
    return await drive_async(resolver.finding(endpoint, timeout, stop), asyncio.sleep)
