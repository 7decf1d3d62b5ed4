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

    def status(
        self, text: str | None = None, *, progress: float | None = None, load: float | None = None
    ) -> Awaitable[None]:
        """Report what the driver is doing; await it or not.

        It is sent with the next heartbeat. Without any argument it clears all three.

        Args:
            text: The status, like "homing"; it replaces the old text and its progress.
            progress: 0 to 1, of the text.
            load: At least 0, in a unit of your own; it stays until another is reported.

        Raises:
            ConfigurationError: A value is not valid.
            RuntimeError: It is used outside of its block.
        """
        self._registered.status(text, progress=progress, load=load)
        return Done()

    def busy(self, text: str, max: float) -> Busy:
        """Report a task that takes a while: `async with service.busy("homing", max=300): …`.

        Args:
            text: Shown as the status meanwhile.
            max: Seconds that it may take; for so long the watchdog need not be fed.

        Returns:
            An object for `with` and `async with`.

        Raises:
            ConfigurationError: A value is not valid.
            RuntimeError: It is used outside of its block.
        """
        return self._registered.busy(text, max)

    def feed(self) -> Awaitable[None]:
        """Tell the watchdog that the main loop runs; await it or not.

        Raises:
            ConfigurationError: There is no watchdog.
            RuntimeError: It is used outside of its block.
        """
        self._registered.feed()
        return Done()

    async def ready(self) -> bool:
        """Let a service that was registered with `ready=False` be discovered.

        Returns:
            False if the registry does not know it now; then it is told later.
        """
        return await asyncio.to_thread(self._registered.ready)

    async def update(self, **changes: Unpack[UpdateFields]) -> bool:
        """Change the registration; fields that are not given stay as they are.

        Args:
            **changes: `host`, `port`, `metadata`, `tags`, `endpoints` and `ready`, each as in
                `AsyncRegistryClient.register`; each replaces the whole field.

        Returns:
            False if the registry does not know the service now, or can't be reached: then the
            heartbeat sends the change later.

        Raises:
            ConfigurationError: Nothing is to change, or a value is not valid.
            OwnedByOther: Another process has the entry, and `reclaim` is off.
            RuntimeError: It is used outside of its block.
        """
        return await asyncio.to_thread(self._registered.update, **changes)
