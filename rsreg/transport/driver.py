"""Drives generators that hold the rules of something and do no I/O: blocking, and in asyncio.

Such a generator yields what has to be done, and is sent the result. So the rules are written once,
for the blocking client and for asyncio.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, NamedTuple, TypeVar

import zmq

from rsreg.errors import RegistryError
from rsreg.protocol.calls import Call

Step = TypeVar("Step")
T = TypeVar("T")

#: What a generator may handle. Whatever else ends a step, such as Ctrl-C, closes the generator.
_HANDLED = (RegistryError, zmq.ZMQError, OSError, MemoryError)


class Ask(NamedTuple):
    """Carry a call to the registry, within `timeout` seconds if the client's are more.

    `changes` says that the call may change the registry: then the client's cache has to be told.
    """

    call: Call[Any]
    timeout: float | None = None
    changes: bool = False


class Receive(NamedTuple):
    """Wait at most `seconds` for a message on a socket; the result is its frames, or None."""

    socket: Any
    seconds: float


def drive(generator: Generator[Step, Any, T], do: Callable[[Step], Any]) -> T:
    """Run a generator to its end, and return its result; `do` does what it yields."""
    try:
        step = generator.send(None)
        while True:
            try:
                result = do(step)
            except _HANDLED as error:
                step = generator.throw(error)
            else:
                step = generator.send(result)
    except StopIteration as done:
        returned: T = done.value
        return returned
    finally:
        generator.close()


async def drive_async(
    generator: Generator[Step, Any, T], do: Callable[[Step], Awaitable[Any]]
) -> T:
    """Run a generator to its end, and return its result; `do` is a coroutine function."""
    try:
        step = generator.send(None)
        while True:
            try:
                result = await do(step)
            except _HANDLED as error:
                step = generator.throw(error)
            else:
                step = generator.send(result)
    except StopIteration as done:
        returned: T = done.value
        return returned
    finally:
        generator.close()
