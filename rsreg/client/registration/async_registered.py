"""Registered for as long as a block or a coroutine function of asyncio runs."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rsreg.awaitable import Done
from rsreg.client.registration.local_service import Busy
from rsreg.client.registration.registered import Registered
from rsreg.client.registration.registration import UpdateFields
from rsreg.errors import ConfigurationError

if TYPE_CHECKING:
    from typing_extensions import Unpack

F = TypeVar("F", bound=Callable[..., Any])


class AsyncRegistered:
    """Registered for asyncio: for `async with`, and as a decorator of coroutine functions.

    What waits for the registry does so on another thread, so it never blocks the loop.
    """

    def __init__(self, registered: Registered) -> None:
        self._registered = registered

    def __repr__(self) -> str:
        return f"<Async{repr(self._registered)[1:]}"

    async def __aenter__(self) -> AsyncRegistered:
        entering = asyncio.ensure_future(asyncio.to_thread(self._registered.enter))
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            # The thread can't be stopped, so what it registers has to be taken back.
            await asyncio.wait([entering])
            if entering.exception() is None:
                await asyncio.to_thread(self._registered.leave)
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await asyncio.to_thread(self._registered.leave)

    def __call__(self, function: F) -> F:
        """Register the service while `function`, a coroutine function, runs."""
        if not inspect.iscoroutinefunction(function):
            raise ConfigurationError(
                f"{function.__name__} is no coroutine function",
                hint="use RegistryClient.registered",
            )

        @functools.wraps(function)
        async def registered(*args: Any, **named: Any) -> Any:
            async with self:
                return await function(*args, **named)

        return cast(F, registered)

    @property
    def service_id(self) -> str | None:
        """The id, once it is registered."""
        return self._registered.service_id

    def status(
        self, text: str | None = None, *, progress: float | None = None, load: float | None = None
    ) -> Awaitable[None]:
        """See RegistryClient; await it or not."""
        self._registered.status(text, progress=progress, load=load)
        return Done()

    def busy(self, text: str, max: float) -> Busy:
        """See RegistryClient; for `with` and `async with`."""
        return self._registered.busy(text, max)

    def feed(self) -> Awaitable[None]:
        """See RegistryClient; await it or not."""
        self._registered.feed()
        return Done()

    async def ready(self) -> bool:
        """See RegistryClient."""
        return await asyncio.to_thread(self._registered.ready)

    async def update(self, **changes: Unpack[UpdateFields]) -> bool:
        """See Registered."""
        return await asyncio.to_thread(self._registered.update, **changes)
