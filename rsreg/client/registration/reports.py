"""What a driver reports of one of its services: status, tasks that take a while, and life signs."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, ParamSpec

from rsreg.awaitable import Done
from rsreg.client.registration.local_service import Busy, LocalService

P = ParamSpec("P")


class _Reporting(ABC):
    """The part that is the same in asyncio."""

    @abstractmethod
    def _reporting(self) -> LocalService:
        """Return the service that the reports are about."""

    def busy(self, text: str, max: float) -> Busy:
        """Report a task that takes a while: `with service.busy("homing", max=300): …`.

        Args:
            text: Shown as the status meanwhile.
            max: Seconds that it may take; for so long the watchdog need not be fed.

        Returns:
            An object for `with` and `async with`.

        Raises:
            ConfigurationError: A value is not valid, or the client has registered nothing.
            RuntimeError: A `registered` block is not entered, or has been left.
        """
        return self._reporting().busy(text, max)


class Reports(_Reporting):
    """The reports of a driver, for a client and for a `registered` block."""

    def status(
        self, text: str | None = None, *, progress: float | None = None, load: float | None = None
    ) -> None:
        """Report what the driver is doing; lists show it.

        It is sent with the next heartbeat. Without any argument it clears all three. In asyncio it
        may be awaited or not.

        Args:
            text: The status, like "homing"; it replaces the old text and its progress.
            progress: 0 to 1, of the text.
            load: At least 0, in a unit of your own; it stays until another is reported.

        Raises:
            ConfigurationError: A value is not valid, or the client has registered nothing.
            RuntimeError: A `registered` block is not entered, or has been left.
        """
        self._reporting().status(text, progress=progress, load=load)

    def feed(self) -> None:
        """Tell the `watchdog` of `registered` that the main loop runs.

        In asyncio it may be awaited or not.

        Raises:
            ConfigurationError: There is no watchdog, or the client has registered nothing.
            RuntimeError: A `registered` block is not entered, or has been left.
        """
        self._reporting().feed()


def _awaitable(
    method: Callable[Concatenate[Any, P], None],
) -> Callable[Concatenate[Any, P], Awaitable[None]]:
    """Make the same method with a result that may be awaited."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Awaitable[None]:
        method(self, *args, **kwargs)
        return Done()

    return call


class AsyncReports(_Reporting):
    """The same for asyncio, where the results may be awaited; none of them waits."""

    status = _awaitable(Reports.status)
    feed = _awaitable(Reports.feed)
