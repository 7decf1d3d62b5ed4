"""Registered for as long as a block or a coroutine function of asyncio runs."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from rsreg.client.registration.local_service import LocalService
from rsreg.client.registration.registered import Registered
from rsreg.client.registration.reports import AsyncReports
from rsreg.errors import ConfigurationError

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
T = TypeVar("T")


def _on_a_thread(
    method: Callable[Concatenate[Registered, P], T],
) -> Callable[Concatenate[AsyncRegistered, P], Coroutine[Any, Any, T]]:
    """Make the coroutine method that runs a method of Registered on a thread."""

    @functools.wraps(method)
    async def run(self: AsyncRegistered, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(method, self._registered, *args, **kwargs)

    return run


class AsyncRegistered(AsyncReports):
    """Keeps one service registered in an `async with` block, or while a coroutine function runs.

    It is made by `AsyncRegistryClient.registered`. What waits for the registry does so on another
    thread, so it never blocks the loop.

    Args:
        registered: The same for a thread.
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
        """Make a coroutine function that registers the service while `function` runs.

        Raises:
            ConfigurationError: It is no coroutine function.
        """
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
        """The id of the service; None until it is registered."""
        return self._registered.service_id

    ready = _on_a_thread(Registered.ready)
    update = _on_a_thread(Registered.update)

    def _reporting(self) -> LocalService:
        return self._registered._reporting()
