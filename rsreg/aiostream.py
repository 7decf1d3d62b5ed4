"""The asyncio driver of what follows a registry: EventStream, as coroutines."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from typing import Any

import zmq
import zmq.asyncio

from rsreg import calls, config, follower, sockets, timing, wire
from rsreg.aiochannel import AsyncChannel, find
from rsreg.calls import Record
from rsreg.channel import STOP_LATENCY
from rsreg.config import ClientSettings
from rsreg.errors import Disconnected, RegistryError
from rsreg.follower import Listening
from rsreg.names import Numeric
from rsreg.native import Stop
from rsreg.stream import BATCH, LEAST


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

    async def open(self) -> list[Record]:
        """See EventStream."""
        try:
            return await self._ask(self._settings.timeout)
        except BaseException:
            self.close()
            raise

    async def next(self, timeout: float = math.inf) -> list[Record]:
        """See EventStream."""
        silence = self._listening.silence
        if silence > 0:
            if await self._readable(min(silence, timeout)):
                return await self._received()
            if silence > timeout:
                return []
        try:
            return await self._ask(min(self._settings.timeout, max(LEAST, timeout - silence)))
        except RegistryError as error:
            self._listening.unanswered(error)
            return []

    async def events(self, kind: str | None) -> AsyncGenerator[Record, None]:
        """See EventStream; it is opened at the first step."""
        try:
            events = await self.open()
            while True:
                for event in events:
                    if follower.concerns(event, kind):
                        yield event
                events = await self.next()
        except Disconnected:
            return
        finally:
            self.close()

    def close(self) -> None:
        """See EventStream."""
        self._channel.close()
        self._drop()

    async def _ask(self, timeout: float) -> list[Record]:
        until = timing.steady() + timeout
        # It may have been closed, after a first try in vain.
        self._channel.open()
        if await self._channel.reopened(timeout) or self._address is None:
            await self._subscribe(until)
        reply = await self._channel.run(self._listening.question(), timing.left(until))
        return self._listening.answered(reply)

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
        if self._socket is not None:
            self._socket.close()
            self._socket, self._address = None, None
