"""One request, from the first send to its answer: all of its behaviour, and no I/O.

`exchange` is a generator that says what to do next and is sent what came back. `channel.Channel`
drives it with blocking sockets, `async_channel.AsyncChannel` with asyncio; neither knows why it
waits.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, TypeVar

from rsreg import errors
from rsreg.protocol import wire
from rsreg.protocol.calls import Call, CallSequence
from rsreg.timing import Clock

T = TypeVar("T")

#: Times a request is sent within its timeout. A resend has the same id, so it is one request.
ATTEMPTS = 3
#: The part by which a wait that the registry asked for may be longer.
_SPREAD = 0.5


class _Numbered:
    """Makes request ids: this process, and a number that counts up over all its clients.

    So the registry can tell which of two requests is the older one, whichever way they took
    (docs/protocol.md, "Requests that overtake").
    """

    def __init__(self) -> None:
        self._pid = 0

    def next(self) -> str:
        """An id that no other request has."""
        if self._pid != os.getpid():
            self._pid, self._sender, self._count = (
                os.getpid(),
                secrets.token_hex(8),
                itertools.count(1),
            )
        return f"{self._sender}#{next(self._count)}"


_request_ids = _Numbered()


class Step(NamedTuple):
    """What the driver does: send `frames`, if any, then wait for a reply up to `wait` seconds.

    A driver of several exchanges hands each the replies that carry its `request_id`.
    """

    frames: list[bytes] | None
    wait: float
    request_id: str


def exchange(
    call: Call[T], *, timeout: float, endpoint: str, clock: Clock
) -> Generator[Step, list[bytes] | None, T]:
    """Run one call within `timeout` seconds in all.

    Sends, waits for the reply that carries the request's own id, drops any other (a late answer to
    a call given up on), sends the same request again after each third of the time, and gives up
    with RequestTimeout. A registry that wants it later gets it later, if there is time. Raises
    ServerError for a refusal, ConfigurationError before anything is sent if the request is no JSON.
    """
    request_id = _request_ids.next()
    message = {"action": call.action, **call.params, "request_id": request_id}
    frames = wire.request_frames(message)
    start = clock()
    ends = [start + timeout * attempt / ATTEMPTS for attempt in range(1, ATTEMPTS + 1)]
    while ends:
        reply = yield from _reply(frames, request_id, ends[0], clock)
        if reply is None:
            del ends[0]
        elif (again := _again(reply, clock(), ends[-1])) is None:
            return _answer(call, reply)
        else:
            yield from _pause(request_id, again, clock)
            ends = [end for end in ends if end > clock()]
    raise errors.RequestTimeout(
        f"no registry answers on {endpoint} within {timeout:.3g} s",
        hint='start one with "rs_cs start", or set RSREG_ENDPOINT to where it runs',
    )


def _reply(
    frames: list[bytes], request_id: str, until: float, clock: Clock
) -> Generator[Step, list[bytes] | None, dict[str, Any] | None]:
    """Send frames, and wait for the reply with an id until a moment; None without one."""
    received = yield Step(frames, max(0.0, until - clock()), request_id)
    while received is not None:
        reply = wire.read_reply(received)
        if reply is not None and reply.pop("request_id", None) == request_id:
            return reply
        seconds_left = until - clock()
        received = (yield Step(None, seconds_left, request_id)) if seconds_left > 0 else None
    return None


def _pause(
    request_id: str, until: float, clock: Clock
) -> Generator[Step, list[bytes] | None, None]:
    """Wait until a moment, whatever comes: another copy of the request may be refused as well."""
    while (seconds_left := until - clock()) > 0:
        yield Step(None, seconds_left, request_id)


def _again(reply: Mapping[str, Any], now: float, end: float) -> float | None:
    """When the registry takes the request, if it said that it comes too soon; None for an answer.

    A little later than it said, at random: else all who wait would come at once. None also where
    that is not before the `end`.
    """
    if reply.get("code") != errors.SlowDown.code:
        return None
    pause = errors.retry_after(reply)
    if pause is None or now + pause >= end:
        return None
    return min(now + pause * random.uniform(1, 1 + _SPREAD), (now + pause + end) / 2)


def conversation(
    verb: CallSequence[T], *, timeout: float, endpoint: str, clock: Clock
) -> Generator[Step, list[bytes] | None, T]:
    """Run a verb as `exchange` runs a call; `timeout` is for each of its calls."""
    answer = None
    try:
        while True:
            call = verb.send(answer)
            answer = yield from exchange(call, timeout=timeout, endpoint=endpoint, clock=clock)
    except StopIteration as done:
        result: T = done.value
        return result


def _answer(call: Call[T], reply: Mapping[str, Any]) -> T:
    if reply.get("success") is True:
        return _read(call, call.read, reply)
    error = errors.from_body(reply)
    if error.code not in call.otherwise:
        raise error
    return _read(call, call.otherwise[error.code], reply)


def _read(call: Call[T], read: Callable[[Mapping[str, Any]], T], reply: Mapping[str, Any]) -> T:
    try:
        return read(reply)
    except (KeyError, TypeError, ValueError) as fault:
        raise errors.ServerError(
            f"the registry's answer to {call.action} can't be understood: {fault!r}"
        ) from fault
