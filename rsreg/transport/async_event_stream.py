"""The asyncio driver of what follows a registry: EventStream, as coroutines."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from typing import Any

import zmq
import zmq.asyncio

from rsreg import config, timing
from rsreg.config import ClientSettings
from rsreg.errors import Disconnected, RegistryError
from rsreg.protocol import calls, wire
from rsreg.protocol.calls import Record
from rsreg.system.threads import Stop
from rsreg.transport import sockets, subscription
from rsreg.transport.async_channel import AsyncChannel, find
from rsreg.transport.channel import STOP_LATENCY
from rsreg.transport.event_stream import BATCH, LEAST, MOMENT
from rsreg.transport.resolver import Numeric
from rsreg.transport.subscription import Listening


class AsyncEventStream:
    """See stream.EventStream."""

    def __init__(
        self,
        listening: Listening,
        settings: ClientSettings,
        context: zmq.asyncio.Context,
        stop: Stop,
    ) -> None:
        self._socket: Any = None
        self._address: Numeric | None = None
        self._listening = listening
        self._settings = settings
        self._context = context
        self._stop = stop
        self._channel = AsyncChannel(settings.req_endpoint, context)
        self._question: asyncio.Task[Any] | None = None
        self._kept: Record | None = None

    async def open(self) -> list[Record]:
        """See EventStream."""
        try:
            return self._listening.answered(await self._reply(self._settings.timeout))
        except BaseException:
            self.close()
            raise

    async def next(self, timeout: float = math.inf) -> list[Record]:
        """See EventStream."""
        if self._question is None:
            silence = self._listening.silence
            if silence > 0:
                if await self._readable(min(silence, timeout)):
                    return await self._received()
                if silence > timeout:
                    return []
            patience = min(self._settings.timeout, max(LEAST, timeout - silence))
            self._kept = None
            self._question = asyncio.create_task(self._reply(patience))
        question = self._question
        while not (await asyncio.wait({question}, timeout=MOMENT))[0]:
            if events := await self._meanwhile():
                return events
        self._question = None
        try:
            events = self._listening.answered(question.result())
        except RegistryError as error:
            self._listening.unanswered(error)
            return []
        return events if self._kept is None else events + self._listening.published(self._kept)

    async def events(self, kind: str | None) -> AsyncGenerator[Record, None]:
        """See EventStream; it is opened at the first step."""
        try:
            events = await self.open()
            while True:
                for event in events:
                    if subscription.concerns(event, kind):
                        yield event
                events = await self.next()
        except Disconnected:
            return
        finally:
            self.close()

    def close(self) -> None:
        """See EventStream."""
        question, self._question = self._question, None
        # In a loop that is closed it has come to its end.
        if question is not None and not question.get_loop().is_closed():
            question.cancel()
        self._channel.close()
        self._drop()

    async def _reply(self, timeout: float) -> Any:
        until = timing.steady() + timeout
        # It may have been closed, after a first try in vain.
        self._channel.open()
        if await self._channel.reopened(timeout) or self._address is None:
            await self._subscribe(until)
        return await self._channel.run(self._listening.question(), timing.left(until))

    async def _meanwhile(self) -> list[Record]:
        events: list[Record] = []
        while self._kept is None and len(events) < BATCH and await self._opened().poll(0):
            event = wire.read_event(await self._socket.recv_multipart(zmq.DONTWAIT))
            told = self._listening.published(event) if event else []
            self._kept = None if told else event
            events += told
        return events

    async def _received(self) -> list[Record]:
        events = []
        for _ in range(BATCH):
            event = wire.read_event(await self._socket.recv_multipart(zmq.DONTWAIT))
            events += self._listening.published(event) if event else []
            if not (self._listening.silence and await self._socket.poll(0)):
                break
        return events

    async def _readable(self, seconds: float) -> bool:
        socket = self._opened()
        while not self._stop.is_set():
            if await socket.poll(math.ceil(min(seconds, STOP_LATENCY) * 1000)):
                return True
            seconds -= STOP_LATENCY
            if seconds <= 0:
                return False
        raise Disconnected("it was closed while it waited")

    async def _subscribe(self, until: float) -> None:
        endpoint = self._settings.sub_endpoint
        if endpoint is None:
            about = await self._channel.run(calls.info(services=False), timing.left(until))
            endpoint = config.on_port(self._settings.req_endpoint, about["pub_port"])
        address = await find(endpoint, timing.left(until), self._stop)
        if address != self._address:
            if self._address is not None:
                self._drop()
            sockets.connect(self._opened(), address)
            self._address = address

    def _opened(self) -> Any:
        if self._socket is None:
            self._socket = sockets.subscriber(self._context)
        return self._socket

    def _drop(self) -> None:
        socket, self._socket, self._address = self._socket, None, None
        if socket is not None:
            socket.close()
