"""Carries many requests at once: one DEALER socket, used by one thread."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

import zmq

from rsreg import timing
from rsreg.config import DEFAULT_TIMEOUT
from rsreg.errors import Disconnected, RegistryError, RequestTimeout
from rsreg.protocol import wire
from rsreg.system import threads
from rsreg.system.background import Caught
from rsreg.transport import resolver, sockets
from rsreg.transport.exchange import Step

#: A request, or several: an exchange, or a conversation.
Flow = Generator[Step, "list[bytes] | None", Any]
#: Called with the result of a flow, or with the error that ended it.
Done = Callable[[Any, "BaseException | None"], None]

#: Flows under way at once, at most: a server that has 200 replies for one peer, which does not
#: read them, drops what is more.
MOST = 100
#: Replies that are read at once, at most.
_BATCH = 100
#: Seconds between two looks whether the host is found.
_PAUSE = 0.02


class Talk:
    """A flow, with its current request: until when it waits, and when it was sent."""

    def __init__(self, flow: Flow, done: Done) -> None:
        self.flow = flow
        self.done = done
        self.request_id = ""
        self.until = math.inf
        #: The numbers of its first and its last sending, counted over all flows.
        self.first = self.last = -1


class SharedChannel:
    """Carries many flows to one endpoint; they wait for each other only beyond `MOST`.

    What a `done` raises goes to the caller of `step`. The socket is opened when it is needed.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._socket: Any = None
        self._finding: resolver.Finding | None = None
        self._under_way: dict[str, Talk] = {}
        self._waiting: deque[Talk] = deque()
        self._ends: list[tuple[float, int, Talk]] = []
        self._count = itertools.count()
        #: The number of the last request that was answered: all before it have left the socket.
        self._through = -1

    @property
    def busy(self) -> bool:
        """True if there is something to send, or an answer to wait for."""
        return bool(self._under_way or self._waiting)

    def open(self) -> bool:
        """Open the socket once its host is found; True if it is open.

        Raises UnknownHost, RequestTimeout, Disconnected; ConfigurationError for the endpoint.
        """
        if self._socket is None:
            finding = self._finding or resolver.Finding(self.endpoint, DEFAULT_TIMEOUT)
            self._finding = finding if finding.pause() else None
            if self._finding is None:
                context = sockets.own_context("heartbeats")
                self._socket = sockets.dealer(context, finding.address())
        return self._socket is not None

    def close(self) -> None:
        """Close the socket: what is queued is not sent, and the next to send opens another.

        What is under way is sent again there, each in its own time.
        """
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def begin(self, talk: Talk) -> None:
        """Begin a flow, as soon as fewer than `MOST` are under way."""
        self._waiting.append(talk)
        self._fill()

    def forget(self, talk: Talk) -> None:
        """Send nothing more of a flow, not even what is queued; its `done` is not called."""
        if self._under_way.pop(talk.request_id, None) is not None:
            self.close()
        elif talk in self._waiting:
            self._waiting.remove(talk)
        talk.flow.close()
        self._fill()

    def step(self, seconds: float) -> None:
        """Wait at most `seconds` for answers; continue the flows with them, or after their time."""
        if self._ends:
            seconds = min(seconds, self._ends[0][0] - timing.steady())
        for frames in self._received(max(0.0, seconds)):
            reply = wire.read_reply(frames)
            request_id = None if reply is None else reply.get("request_id")
            if isinstance(request_id, str) and request_id in self._under_way:
                talk = self._under_way[request_id]
                self._through = max(self._through, talk.first)
                self._go_on(talk, frames)
        now = timing.steady()
        while self._ends and self._ends[0][0] <= now:
            until, _, talk = heapq.heappop(self._ends)
            if talk.until == until and self._under_way.get(talk.request_id) is talk:
                self._go_on(talk, None)
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._under_way) < MOST and self._ready():
            self._go_on(self._waiting.popleft(), None)

    def _ready(self) -> bool:
        """Open the socket; True if it is open. An error ends all flows."""
        try:
            return self.open()
        except RegistryError as error:
            talks = [*self._under_way.values(), *self._waiting]
            self._waiting.clear()
            for talk in talks:
                self._end(talk, None, error)
            return False

    def _go_on(self, talk: Talk, received: list[bytes] | None) -> None:
        """Continue a flow with an answer, or with None after its time."""
        self._under_way.pop(talk.request_id, None)
        with Caught() as caught:
            try:
                step = talk.flow.send(received)
            except StopIteration as end:
                self._end(talk, end.value, None)
                return
            if step.frames:
                self._send(step.frames)
                talk.last = next(self._count)
                if talk.request_id != step.request_id:
                    talk.first = talk.last
            talk.request_id, talk.until = step.request_id, timing.steady() + step.wait
            self._under_way[talk.request_id] = talk
            heapq.heappush(self._ends, (talk.until, next(self._count), talk))
        if caught.error is not None:
            if isinstance(caught.error, RequestTimeout) and self._through < talk.last:
                # What is still queued would be sent, stale, when the registry is back.
                self.close()
            self._end(talk, None, caught.error)

    def _end(self, talk: Talk, result: Any, error: BaseException | None) -> None:
        self._under_way.pop(talk.request_id, None)
        talk.done(result, error)

    def _send(self, frames: list[bytes]) -> None:
        # While the host is looked for it is sent at the next try.
        if self.open():
            try:
                self._socket.send_multipart(frames, zmq.DONTWAIT)
            except zmq.ZMQError as error:
                raise self._failed(error) from error

    def _received(self, seconds: float) -> list[list[bytes]]:
        received: list[list[bytes]] = []
        try:
            if not self._ready():
                _sleep(min(seconds, _PAUSE))
            elif self._socket.poll(math.ceil(seconds * 1000)):
                while len(received) < _BATCH and self._socket.events & zmq.POLLIN:
                    received.append(self._socket.recv_multipart(zmq.DONTWAIT))
        except zmq.ZMQError as error:
            failure = self._failed(error)
            for talk in list(self._under_way.values()):
                self._end(talk, None, failure)
        return received

    def _failed(self, error: zmq.ZMQError) -> Disconnected:
        self.close()
        return sockets.failed(f"can't reach the registry on {self.endpoint}", error)


def _sleep(seconds: float) -> None:
    threads.original("time", "sleep")(seconds)
