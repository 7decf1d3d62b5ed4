"""Follows a registry, blocking: one SUB socket for events, and a channel for requests."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from typing import Any

import zmq

from rsreg.config import ClientSettings
from rsreg.errors import Disconnected
from rsreg.protocol.calls import Record
from rsreg.system.threads import Stop
from rsreg.transport import stream_rules, subscription
from rsreg.transport.channel import Channel, find, readable
from rsreg.transport.driver import drive
from rsreg.transport.stream_rules import Begin, Find, Open, Poll, Read, Reply, StreamRules
from rsreg.transport.subscription import EventConsumer

#: Seconds without an answer to a request after which it is looked whether events have come.
MOMENT = 0.1


class EventStream:
    """Brings the events of one registry to a consumer, and its requests to the registry.

    Used by one thread or greenlet at a time; sockets are opened when needed. With a `stop`, waiting
    ends with Disconnected soon after it is set.
    """

    def __init__(
        self,
        consumer: EventConsumer,
        settings: ClientSettings,
        context: zmq.Context[Any] | None,
        stop: Stop | None = None,
    ) -> None:
        self._rules = StreamRules(consumer, settings, context, stop)
        self._context = context
        self._stop = stop
        self._channel = Channel(settings.req_endpoint, context, stop)

    def open(self) -> list[Record]:
        """Follow from now on; the events of the first answer. Raises RegistryError."""
        try:
            return drive(self._rules.open(), self._do)
        except BaseException:
            self.close()
            raise

    def next(self, timeout: float = math.inf) -> list[Record]:
        """The events that come next, in order; none after a request, or `timeout` seconds.

        A request that is under way then may take half a second more.
        """
        return drive(self._rules.next(timeout), self._do)

    def events(self, service_type: str | None) -> Generator[Record, None, None]:
        """Open it; the events about a type, or all, until `stop` is set; then it is closed."""
        return self._events(self.open(), service_type)

    def close(self) -> None:
        """Close the sockets."""
        request, self._rules.request = self._rules.request, None
        if request is not None:
            request.close()
        self._channel.close()
        self._rules.close_socket()

    def __del__(self) -> None:
        # A generator that nobody began to iterate over is forgotten, not closed.
        self.close()

    def _events(
        self, events: list[Record], service_type: str | None
    ) -> Generator[Record, None, None]:
        try:
            while True:
                yield from (each for each in events if subscription.concerns(each, service_type))
                events = self.next()
        except Disconnected:
            return
        finally:
            self.close()

    def _do(self, step: Poll | Read | Begin | stream_rules.Look) -> Any:
        if isinstance(step, Read):
            socket = self._rules.socket
            return socket.recv_multipart(zmq.DONTWAIT) if socket.poll(0) else None
        if isinstance(step, Poll):
            return readable(self._rules.socket, step.seconds, self._stop)
        if isinstance(step, Begin):
            self._rules.request = self._carried(step.request)
            return None
        return self._look()

    def _look(self) -> Reply | None:
        # What ends it otherwise than by a moment in vain, is its end.
        request, self._rules.request = self._rules.request, None
        try:
            next(request)
        except StopIteration as done:
            return Reply(done.value)
        self._rules.request = request
        return None

    def _carried(self, request: stream_rules.RequestSteps[Any]) -> Generator[None, None, Any]:
        """Make a request; gives way after each moment without an answer."""
        result: Any = None
        try:
            while True:
                step = request.send(result)
                if isinstance(step, Open):
                    result = self._channel.reopened(step.seconds)
                elif isinstance(step, Find):
                    result = find(step.endpoint, step.seconds, self._context, self._stop)
                else:
                    steps = self._channel.steps(step.call, step.timeout or 0.0, MOMENT)
                    with contextlib.closing(steps):
                        result = yield from steps
        except StopIteration as done:
            return done.value
