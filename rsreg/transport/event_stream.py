"""The blocking driver of what follows a registry: one SUB, and a channel for questions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from typing import Any

import zmq

from rsreg import config, timing
from rsreg.config import ClientSettings
from rsreg.errors import Disconnected, RegistryError
from rsreg.protocol import calls, wire
from rsreg.protocol.calls import Call, Record
from rsreg.system.threads import Stop
from rsreg.transport import sockets, subscription
from rsreg.transport.channel import Channel, find, readable
from rsreg.transport.resolver import Numeric
from rsreg.transport.subscription import Listening

#: Seconds that a question may take, at least, whatever the time for which events are waited for: a
#: registry that was not given the time to answer would count as away.
LEAST = 0.5
#: Events that are read at once, at most.
BATCH = 100
#: Seconds without an answer to a question after which it is looked whether events have come.
MOMENT = 0.1


class EventStream:
    """Brings the events of one registry to a follower, and its questions to the registry.

    Used by one thread or greenlet at a time; sockets are opened when needed. Where the events are
    published is asked of the registry, if the settings don't say it; after a question without an
    answer it is asked anew, for the registry may have moved. Events that come while a question is
    not answered are handed on; the first that has to wait for the answer, since there is a gap
    before it, is kept for then, and those after it stay in the socket. With a `stop`, waiting ends
    with Disconnected soon after it is set.
    """

    def __init__(
        self,
        listening: Listening,
        settings: ClientSettings,
        context: zmq.Context[Any] | None,
        stop: Stop | None = None,
    ) -> None:
        self._socket: Any = None
        #: What the socket is connected to.
        self._address: Numeric | None = None
        self._listening = listening
        self._settings = settings
        self._context = context
        self._stop = stop
        self._channel = Channel(settings.req_endpoint, context, stop)
        self._question: Generator[list[Record], None, list[Record]] | None = None
        self._kept: Record | None = None

    def open(self) -> list[Record]:
        """Follow from now on; the events of the first answer. Raises RegistryError."""
        events: list[Record] = []
        self._question = self._asking(self._settings.timeout)
        try:
            while self._question is not None:
                events += self._answer()
        except BaseException:
            self.close()
            raise
        return events

    def next(self, timeout: float = math.inf) -> list[Record]:
        """The events that come next, in order; none after a silence, or `timeout` seconds.

        A question that is under way then may take half a second more.
        """
        if self._question is None:
            silence = self._listening.silence
            if silence > 0:
                if readable(self._opened(), min(silence, timeout), self._stop):
                    return self._received()
                if silence > timeout:
                    return []
            self._question = self._asking(
                min(self._settings.timeout, max(LEAST, timeout - silence))
            )
        try:
            return self._answer()
        except RegistryError as error:
            if self._stop is not None and self._stop.is_set():
                raise Disconnected("it was closed while it waited") from error
            self._listening.unanswered(error)
            return []

    def events(self, kind: str | None) -> Generator[Record, None, None]:
        """Open it; the events about `kind`, or all, until `stop` is set; then it is closed."""
        return self._events(self.open(), kind)

    def close(self) -> None:
        """Close the sockets."""
        if self._question is not None:
            self._question.close()
            self._question = None
        self._channel.close()
        self._drop()

    def __del__(self) -> None:
        # A generator that nobody began to iterate over is forgotten, not closed.
        self.close()

    def _events(self, events: list[Record], kind: str | None) -> Generator[Record, None, None]:
        try:
            while True:
                yield from (event for event in events if subscription.concerns(event, kind))
                events = self.next()
        except Disconnected:
            return
        finally:
            self.close()

    def _answer(self) -> list[Record]:
        """The next events that the question brings; it is None once it is answered, or in vain."""
        question, self._question = self._question, None
        assert question is not None
        try:
            events = next(question)
        except StopIteration as done:
            last: list[Record] = done.value
            return last
        self._question = question
        return events

    def _asking(self, timeout: float) -> Generator[list[Record], None, list[Record]]:
        """Ask; gives the events that come meanwhile, and at last those of the answer."""
        until = timing.steady() + timeout
        self._kept = None
        if self._channel.reopened(timeout) or self._address is None:
            yield from self._subscribe(until)
        reply = yield from self._reply(self._listening.question(), until)
        events = self._listening.answered(reply)
        return events if self._kept is None else events + self._listening.published(self._kept)

    def _reply(self, call: Call[Any], until: float) -> Generator[list[Record], None, Any]:
        steps = self._channel.steps(call, timing.left(until), MOMENT)
        with contextlib.closing(steps):
            try:
                while True:
                    next(steps)
                    if events := self._meanwhile():
                        yield events
            except StopIteration as done:
                return done.value

    def _meanwhile(self) -> list[Record]:
        events: list[Record] = []
        while self._kept is None and len(events) < BATCH and self._opened().poll(0):
            event = wire.read_event(self._socket.recv_multipart(zmq.DONTWAIT))
            told = self._listening.published(event) if event else []
            self._kept = None if told else event
            events += told
        return events

    def _received(self) -> list[Record]:
        events = []
        for _ in range(BATCH):
            event = wire.read_event(self._socket.recv_multipart(zmq.DONTWAIT))
            events += self._listening.published(event) if event else []
            # After a gap there is no use in what comes next.
            if not (self._listening.silence and self._socket.poll(0)):
                break
        return events

    def _subscribe(self, until: float) -> Generator[list[Record], None, None]:
        """Connect to where the events are now; the socket stays as it is where that is the same."""
        endpoint = self._settings.sub_endpoint
        if endpoint is None:
            about = yield from self._reply(calls.info(services=False), until)
            endpoint = config.on_port(self._settings.req_endpoint, about["pub_port"])
        address = find(endpoint, timing.left(until), self._context, self._stop)
        if address != self._address:
            if self._address is not None:
                self._drop()
            sockets.connect(self._opened(), address)
            self._address = address

    def _opened(self) -> Any:
        """The socket for events; it can be waited on before it is connected."""
        if self._socket is None:
            self._socket = sockets.subscriber(self._context or sockets.own_context())
        return self._socket

    def _drop(self) -> None:
        socket, self._socket, self._address = self._socket, None, None
        if socket is not None:
            socket.close()
