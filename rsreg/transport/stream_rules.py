"""When an event stream reads, when it asks, and where it connects to: the rules, and no waiting.

`EventStream` and `AsyncEventStream` drive these generators, blocking and in asyncio.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

import zmq

from rsreg import config, timing
from rsreg.config import ClientSettings
from rsreg.errors import Disconnected, RegistryError
from rsreg.protocol import calls, wire
from rsreg.protocol.calls import Record
from rsreg.system.threads import Stop
from rsreg.transport import sockets
from rsreg.transport.driver import Ask
from rsreg.transport.resolver import Numeric
from rsreg.transport.subscription import EventConsumer

#: Seconds that a request may take, at least, whatever the time for which events are waited for: a
#: registry that was not given the time to answer would count as away.
_LEAST = 0.5
#: Events that are read at once, at most.
_BATCH = 100

T = TypeVar("T")


class Open(NamedTuple):
    """Open the channel for requests, within so many seconds; True if it was not open."""

    seconds: float


class Find(NamedTuple):
    """Find the address of an endpoint, within so many seconds."""

    endpoint: str
    seconds: float


class Poll(NamedTuple):
    """Wait at most so many seconds for an event; True if one can be read."""

    seconds: float


class Read(NamedTuple):
    """Read an event that has arrived: its frames, or None."""


class Begin(NamedTuple):
    """Begin the request that is made by a generator of `Open`, `Find` and `Ask`."""

    request: Generator[Any, Any, Any]


class Look(NamedTuple):
    """Wait a moment for the request under way: its Reply, or None; raises what ended it."""


class Reply(NamedTuple):
    """The answer to a request."""

    value: Any


Steps = Generator[Poll | Read | Begin | Look, Any, T]
RequestSteps = Generator[Open | Find | Ask, Any, T]


class StreamRules:
    """Brings the events of one registry to a consumer, and the consumer's requests to the registry.

    The registry is asked where it publishes events, if the settings don't say it; after a request
    without an answer it is asked anew, for it may have moved. Events that arrive while a request is
    under way are handed on. The first that has to wait for the answer, since there is a gap before
    it, is kept until then; those after it stay in the socket.
    """

    def __init__(
        self,
        consumer: EventConsumer,
        settings: ClientSettings,
        context: zmq.Context[Any] | None,
        stop: Stop | None,
    ) -> None:
        #: The request under way, if any, as the driver has it.
        self.request: Any = None
        self._consumer = consumer
        self._settings = settings
        self._context = context
        self._stop = stop
        self._socket: Any = None
        #: What the socket is connected to.
        self._address: Numeric | None = None
        self._kept: Record | None = None

    @property
    def socket(self) -> Any:
        """The socket for events; it can be waited on before it is connected."""
        if self._socket is None:
            self._socket = sockets.subscriber(self._context or sockets.own_context())
        return self._socket

    def open(self) -> Steps[list[Record]]:
        """Follow from now on; the events of the first answer. Raises RegistryError."""
        events: list[Record] = []
        yield self._begin(self._settings.timeout)
        while (reply := (yield Look())) is None:
            events += yield from self._meanwhile()
        return events + self._answered(reply)

    def next(self, timeout: float) -> Steps[list[Record]]:
        """The events that come next, in order; none after `timeout` seconds, or a request."""
        if self.request is None:
            seconds = self._consumer.seconds_until_next_request
            if seconds > 0:
                if (yield Poll(min(seconds, timeout))):
                    return (yield from self._received())
                if seconds > timeout:
                    return []
            yield self._begin(min(self._settings.timeout, max(_LEAST, timeout - seconds)))
        try:
            while (reply := (yield Look())) is None:
                if events := (yield from self._meanwhile()):
                    return events
            return self._answered(reply)
        except RegistryError as error:
            if self._stop is not None and self._stop.is_set():
                raise Disconnected("the client was closed while a call was waiting") from error
            self._consumer.on_failure(error)
            return []

    def close_socket(self) -> None:
        """Close the socket for events; it is opened again when it is needed."""
        socket, self._socket, self._address = self._socket, None, None
        if socket is not None:
            socket.close()

    def _begin(self, timeout: float) -> Begin:
        self._kept = None
        return Begin(self._asking(timeout))

    def _asking(self, timeout: float) -> RequestSteps[Any]:
        """Make the consumer's next request, on a subscribed socket; the answer."""
        until = timing.steady() + timeout
        if (yield Open(timeout)) or self._address is None:
            yield from self._subscribe(until)
        return (yield Ask(self._consumer.next_request(), timing.left(until)))

    def _subscribe(self, until: float) -> RequestSteps[None]:
        """Connect to where the events are now; the socket stays as it is where that is the same."""
        endpoint = self._settings.sub_endpoint
        if endpoint is None:
            about = yield Ask(calls.info(services=False), timing.left(until))
            endpoint = config.on_port(self._settings.req_endpoint, about["pub_port"])
        address = yield Find(endpoint, timing.left(until))
        if address != self._address:
            if self._address is not None:
                self.close_socket()
            sockets.connect(self.socket, address)
            self._address = address

    def _answered(self, reply: Reply) -> list[Record]:
        events = self._consumer.on_reply(reply.value)
        return events if self._kept is None else events + self._consumer.on_event(self._kept)

    def _meanwhile(self) -> Steps[list[Record]]:
        """The events that have arrived during a request, up to one that has to wait for it."""
        events: list[Record] = []
        while self._kept is None and len(events) < _BATCH:
            frames = yield Read()
            if frames is None:
                break
            event = wire.read_event(frames)
            next_ones = self._consumer.on_event(event) if event else []
            self._kept = None if next_ones else event
            events += next_ones
        return events

    def _received(self) -> Steps[list[Record]]:
        """The events that have arrived, up to a gap."""
        events: list[Record] = []
        for _ in range(_BATCH):
            frames = yield Read()
            if frames is None:
                break
            event = wire.read_event(frames)
            events += self._consumer.on_event(event) if event else []
            # After a gap there is no use in what comes next.
            if not self._consumer.seconds_until_next_request:
                break
        return events
