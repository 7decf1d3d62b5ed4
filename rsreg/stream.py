"""The blocking driver of what follows a registry: one SUB, and a channel for questions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from typing import Any

import zmq

from rsreg import calls, config, follower, sockets, wire
from rsreg.calls import Record
from rsreg.channel import Channel, readable
from rsreg.config import ClientSettings
from rsreg.errors import Disconnected, RegistryError
from rsreg.follower import Listening
from rsreg.native import Stop

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
    published is asked of the registry, if the settings don't say it. Events that come while a
    question is not answered are handed on; the first that has to wait for the answer, since there
    is a gap before it, is kept for then, and those after it stay in the socket. With a `stop`,
    waiting ends with Disconnected soon after it is set.
    """

    def __init__(
        self,
        listening: Listening,
        settings: ClientSettings,
        context: zmq.Context[Any] | None,
        stop: Stop | None = None,
    ) -> None:
        self._socket: Any = None
        self._subscribed = False
        self._listening = listening
        self._settings = settings
        self._context = context
        self._stop = stop
        self._channel = Channel(settings.req_endpoint, context, stop)
        self._question: Generator[list[Record], None, list[Record]] | None = None
        self._kept: Record | None = None

    def open(self) -> list[Record]:
        """Follow from now on; the events of the first answer. Raises RegistryError."""
        try:
            return self._ask(self._settings.timeout)
        except RegistryError:
            self.close()
            raise

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
            return next(self._question)
        except StopIteration as done:
            self._question = None
            events: list[Record] = done.value
            return events
        except RegistryError as error:
            self._question = None
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
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._subscribed = False

    def __del__(self) -> None:
        # A generator that nobody began to iterate over is forgotten, not closed.
        self.close()

    def _events(self, events: list[Record], kind: str | None) -> Generator[Record, None, None]:
        try:
            while True:
                yield from (event for event in events if follower.concerns(event, kind))
                events = self.next()
        except Disconnected:
            return
        finally:
            self.close()

    def _ask(self, timeout: float) -> list[Record]:
        if not self._subscribed:
            self._subscribe(timeout)
        return self._listening.answered(self._channel.run(self._listening.question(), timeout))

    def _asking(self, timeout: float) -> Generator[list[Record], None, list[Record]]:
        """Ask; gives the events that come meanwhile, and at last those of the answer."""
        if not self._subscribed:
            self._subscribe(timeout)
        self._kept = None
        steps = self._channel.steps(self._listening.question(), timeout, MOMENT)
        with contextlib.closing(steps):
            try:
                while True:
                    next(steps)
                    events = self._meanwhile()
                    if events:
                        yield events
            except StopIteration as done:
                events = self._listening.answered(done.value)
        return events if self._kept is None else events + self._listening.published(self._kept)

    def _meanwhile(self) -> list[Record]:
        events: list[Record] = []
        while self._kept is None and len(events) < BATCH and self._socket.poll(0):
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

    def _subscribe(self, timeout: float) -> None:
        endpoint = self._settings.sub_endpoint
        if endpoint is None:
            about = self._channel.run(calls.info(services=False), timeout)
            endpoint = config.on_port(self._settings.req_endpoint, about["pub_port"])
        sockets.connect(self._opened(), endpoint)
        self._subscribed = True

    def _opened(self) -> Any:
        """The socket for events; it can be waited on before it is connected."""
        if self._socket is None:
            self._socket = sockets.subscriber(self._context or sockets.own_context())
        return self._socket
