"""Who may connect: ZeroMQ's questions (ZAP, RFC 27), and when each is answered. No I/O, no clock.

A question is asked at each handshake with a socket that has a domain, and nobody is let in without
an answer. Who has a name here, has it from the answer alone: the empty one says that nobody has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from rsreg.limits import Limits, Rate, is_loopback

#: Seconds that an answer may wait: well below the time in which libzmq ends a handshake itself.
#: Whoever would wait longer gets no answer, and tries again; a refusal would be for good.
_PATIENCE = 3
_VERSION = b"1.0"


class Question(NamedTuple):
    """Somebody wants to connect."""

    #: The frames before an answer.
    envelope: tuple[bytes, ...]
    address: str
    #: How it says who it is; NULL for not at all.
    mechanism: str
    credentials: tuple[bytes, ...]


def read(frames: Sequence[bytes]) -> Question | None:
    """The question in the frames that a ROUTER received; None if it is none."""
    if len(frames) < 8 or frames[1] or frames[2] != _VERSION:
        return None
    asker, _, _, request_id, _domain, address, _identity, mechanism, *credentials = frames
    return Question(
        (asker, b"", _VERSION, request_id),
        address.decode("ascii", "replace"),
        mechanism.decode("ascii", "replace"),
        tuple(credentials),
    )


def let_in(question: Question) -> list[bytes]:
    """The answer that lets somebody in, as nobody known: what it calls itself does not count."""
    return [*question.envelope, b"200", b"OK", b"", b""]


def refused(frames: Sequence[bytes]) -> list[bytes]:
    """The answer to frames that are no question, or not one for us; a client then gives up."""
    asker, request_id = (frames[0] if frames else b""), (frames[3] if len(frames) > 3 else b"1")
    return [asker, b"", _VERSION, request_id, b"400", b"Not taken", b"", b""]


class Gate:
    """Lets everybody in, but from each address so many a second: who comes sooner has to wait."""

    def __init__(self, limits: Limits) -> None:
        #: Answers that had to wait, or were never given.
        self.delayed = 0
        self._limits = limits
        self._rate = Rate(limits.handshakes_per_second)
        self._most = limits.handshakes_per_second * _PATIENCE
        #: Address -> the questions that wait.
        self._waiting: dict[str, deque[Question]] = {}

    @property
    def busy(self) -> bool:
        """Whether questions wait."""
        return bool(self._waiting)

    def asked(self, frames: Sequence[bytes], now: float) -> list[bytes] | None:
        """The answer to a question, or None if it comes later."""
        question = read(frames)
        if question is None or question.mechanism != "NULL":
            return refused(frames)
        address = question.address
        if is_loopback(address) or self._limits.is_gateway(address):
            return let_in(question)
        if address not in self._waiting and not self._rate.wait(address, now):
            self._rate.take(address, now)
            return let_in(question)
        self.delayed += 1
        waiting = self._waiting.setdefault(address, deque())
        if len(waiting) < self._most:
            waiting.append(question)
        return None

    def due(self, now: float) -> list[list[bytes]]:
        """The answers whose time has come."""
        answers = []
        for address, waiting in list(self._waiting.items()):
            while waiting and not self._rate.wait(address, now):
                self._rate.take(address, now)
                answers.append(let_in(waiting.popleft()))
            if not waiting:
                del self._waiting[address]
        return answers
