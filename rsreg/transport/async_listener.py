"""Hands the events of a registry to handlers, in a task of the event loop that uses the client."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass

from rsreg import timing
from rsreg.errors import RegistryError
from rsreg.protocol.calls import Record
from rsreg.system.background import Caught, Troubles, say
from rsreg.transport.async_channel import check_ended
from rsreg.transport.async_event_stream import AsyncEventStream
from rsreg.transport.listener import Handlers
from rsreg.transport.subscription import EventConsumer, Subscription

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Run:
    """A listening task, in one event loop."""

    subscription: Subscription
    stream: AsyncEventStream
    task: asyncio.Task[None]

    def is_here(self) -> bool:
        """True if that loop runs now."""
        return self.task.get_loop() is asyncio.get_running_loop()


class AsyncListener:
    """EventListener for asyncio; handlers may be coroutines too. `open_stream` makes its streams.

    A task ends with its event loop. `go_on` starts another one in the loop that runs now, which
    begins where the last one ended: no event is missed.
    """

    def __init__(
        self, handlers: Handlers, open_stream: Callable[[EventConsumer], AsyncEventStream]
    ) -> None:
        self._handlers = handlers
        self._open_stream = open_stream
        self._run: _Run | None = None

    async def start(self) -> None:
        """Listen from now on; raises RegistryError."""
        await self.stop()
        subscription = Subscription(timing.steady)
        stream = self._open_stream(subscription)
        await self._hand_on(await stream.open())
        self._run = _Run(subscription, stream, asyncio.create_task(self._listen(stream)))

    def go_on(self) -> bool:
        """Go over to the running loop, if it was started in another one; True if it listens.

        Raises RuntimeError if that one still runs.
        """
        run = self._run
        if run is None or run.is_here():
            return run is not None and not run.task.done()
        check_ended(run.task.get_loop())
        run.stream.close()
        with contextlib.suppress(RuntimeError):
            # It is for the case that its loop goes on; a closed one says so.
            run.task.cancel()
        stream = self._open_stream(run.subscription)
        task = asyncio.create_task(self._resume(stream, run.subscription))
        self._run = _Run(run.subscription, stream, task)
        return True

    async def stop(self) -> None:
        """Stop listening; a handler may call it too."""
        self.go_on()
        run, self._run = self._run, None
        if run is not None:
            run.task.cancel()
            if run.task is not asyncio.current_task():
                await asyncio.wait([run.task])

    async def _resume(self, stream: AsyncEventStream, subscription: Subscription) -> None:
        try:
            await self._hand_on(await stream.open())
        except RegistryError as error:
            subscription.on_failure(error)
        await self._listen(stream)

    async def _listen(self, stream: AsyncEventStream) -> None:
        troubles = Troubles(log, "the listener to events")
        try:
            while True:
                with Caught() as caught:
                    await self._hand_on(await stream.next())
                if seconds := troubles.after(caught.error):
                    await asyncio.sleep(seconds)
        finally:
            stream.close()

    async def _hand_on(self, events: list[Record]) -> None:
        for event in events:
            for handler, argument in self._handlers.calls_for(event):
                with Caught() as caught:
                    result = handler(argument)
                    if inspect.isawaitable(result):
                        await result
                if (error := caught.error) is not None:
                    text = "a handler of %r events failed"
                    say(log, logging.ERROR, text, event["type"], exc_info=error)
