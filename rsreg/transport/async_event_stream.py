"""Follows a registry in asyncio: one SUB socket for events, and a channel for requests."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from typing import Any

import zmq
import zmq.asyncio

from rsreg.config import ClientSettings
from rsreg.errors import Disconnected
from rsreg.protocol.calls import Record
from rsreg.system.threads import Stop
from rsreg.transport import stream_rules, subscription
from rsreg.transport.async_channel import AsyncChannel, find
from rsreg.transport.channel import STOP_LATENCY
from rsreg.transport.driver import Ask, drive_async
from rsreg.transport.event_stream import MOMENT
from rsreg.transport.stream_rules import Begin, Find, Open, Poll, Read, Reply, StreamRules
from rsreg.transport.subscription import EventConsumer


class AsyncEventStream:
    """EventStream for asyncio: used by one task at a time; a request under way is a task."""

    def __init__(
        self,
        consumer: EventConsumer,
        settings: ClientSettings,
        context: zmq.asyncio.Context,
        stop: Stop,
    ) -> None:
        self._rules = StreamRules(consumer, settings, context, stop)
        self._stop = stop
        self._channel = AsyncChannel(settings.req_endpoint, context)

    async def open(self) -> list[Record]:
        """Follow from now on; the events of the first answer. Raises RegistryError."""
        try:
            return await drive_async(self._rules.open(), self._do)
        except BaseException:
            self.close()
            raise

    async def next(self, timeout: float = math.inf) -> list[Record]:
        """The events that come next, in order; none after a request, or `timeout` seconds."""
        return await drive_async(self._rules.next(timeout), self._do)

    async def events(self, service_type: str | None) -> AsyncGenerator[Record, None]:
        """Open it at the first step; the events about a type, or all, until `stop` is set."""
        try:
            events = await self.open()
            while True:
                for event in events:
                    if subscription.concerns(event, service_type):
                        yield event
                events = await self.next()
        except Disconnected:
            return
        finally:
            self.close()

    def close(self) -> None:
        """Close the sockets."""
        request, self._rules.request = self._rules.request, None
        # In a loop that is closed it has come to its end.
        if request is not None and not request.get_loop().is_closed():
            request.cancel()
        self._channel.close()
        self._rules.close_socket()

    async def _do(self, step: Poll | Read | Begin | stream_rules.Look) -> Any:
        if isinstance(step, Read):
            socket = self._rules.socket
            return await socket.recv_multipart(zmq.DONTWAIT) if await socket.poll(0) else None
        if isinstance(step, Poll):
            return await self._readable(step.seconds)
        if isinstance(step, Begin):
            self._rules.request = asyncio.create_task(drive_async(step.request, self._ask))
            return None
        return await self._look()

    async def _look(self) -> Reply | None:
        request = self._rules.request
        if not (await asyncio.wait({request}, timeout=MOMENT))[0]:
            return None
        self._rules.request = None
        return Reply(request.result())

    async def _ask(self, step: Open | Find | Ask) -> Any:
        if isinstance(step, Open):
            # It may have been closed, after a first try in vain.
            self._channel.open()
            return await self._channel.reopened(step.seconds)
        if isinstance(step, Find):
            return await find(step.endpoint, step.seconds, self._stop)
        return await self._channel.run(step.call, step.timeout or 0.0)

    async def _readable(self, seconds: float) -> bool:
        socket = self._rules.socket
        while not self._stop.is_set():
            if await socket.poll(math.ceil(min(seconds, STOP_LATENCY) * 1000)):
                return True
            seconds -= STOP_LATENCY
            if seconds <= 0:
                return False
        raise Disconnected("the client was closed while a call was waiting")
