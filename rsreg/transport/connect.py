"""Connecting to one of several services, and waiting until it really is there."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import zmq

from rsreg import timing
from rsreg.config import SIMULATOR, check_timeout
from rsreg.errors import ConfigurationError, NoService, RegistryError, Unreachable
from rsreg.protocol import records
from rsreg.protocol.health import PASSING, announced
from rsreg.protocol.records import ServiceRecord
from rsreg.transport import sockets
from rsreg.transport.driver import Ask, Receive
from rsreg.transport.resolver import Finding

T = TypeVar("T")

#: Monitor events of a connection that libzmq has to try again.
_TROUBLE = (
    zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _TROUBLE
#: Seconds without an answer of one service, before the next one is tried beside it.
_HEAD_START = 0.5
#: Seconds between two looks at the other services that are tried beside the latest one.
_LOOK = 0.02
#: Services that are tried at once, and named in an error, at most.
_AT_ONCE, _NAMED = 8, 5


def check(socket_type: int, timeout: float) -> None:
    """Check the arguments of `connect_to`; raises ConfigurationError."""
    if isinstance(socket_type, bool) or socket_type not in [each.value for each in zmq.SocketType]:
        raise ConfigurationError(
            f"not a type of socket: {socket_type!r}", hint="write zmq.REQ or zmq.SUB"
        )
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise ConfigurationError(f"timeout is a number of seconds, not {timeout!r}")
    check_timeout(timeout)


def require(service: ServiceRecord | None, service_type: str) -> ServiceRecord:
    """Return the service that was discovered; raises NoService for none."""
    if service is None:
        raise NoService(
            f"no passing service of type {service_type!r}", hint="wait=30 waits for one"
        )
    return service


#: A generator of what has to be done to connect.
Steps = Generator[Receive | Ask, Any, T]
#: Finds the other services that may be meant, within so many seconds.
Others = Callable[[float], Steps[list[ServiceRecord]]]


def others(
    first: ServiceRecord, services: Iterable[ServiceRecord], mode: str | None
) -> list[ServiceRecord]:
    """Return the other services of a type that may be meant, in random order.

    Without a `mode` a simulator is one only if there is no hardware at all, passing or not.
    """
    services = list(services)
    if mode is None and any(records.mode_of(each) != SIMULATOR for each in [first, *services]):
        services = [each for each in services if records.mode_of(each) != SIMULATOR]
    random.shuffle(services)
    return [
        each
        for each in services
        if each["id"] != first["id"] and announced(each["health"]) == PASSING
    ]


class _Attempt:
    """A socket that connects to one service, and the monitor of its connection.

    To connect a ZeroMQ socket never fails, also where nobody listens; what is sent would wait
    forever.
    """

    def __init__(
        self, context: zmq.Context[Any], socket_type: int, name: str, endpoint: str, timeout: float
    ) -> None:
        self.there = False
        #: Whether to try another service beside this one, and whether to give up this one.
        self.trouble, self.lost = False, False
        self._who = f"{name} can't be reached on {endpoint}"
        self._timeout = timeout
        self._socket_type = zmq.SocketType(socket_type).name
        self._listens = False
        self._why: RegistryError | None = None
        self._finding: Finding | None = Finding(endpoint, timeout)
        self.socket = sockets.peer(context, socket_type, timeout)
        try:
            self.monitor: Any = sockets.monitor(self.socket, _EVENTS)
        except BaseException:
            self.socket.close()
            raise

    def pause(self) -> float:
        """Connect once its address is found; returns the seconds after which to call this again."""
        pause = self._finding.pause() if self._finding is not None else math.inf
        if not pause:
            self._connect()
        return pause or math.inf

    def _connect(self) -> None:
        finding, self._finding = self._finding, None
        assert finding is not None
        try:
            sockets.connect(self.socket, finding.address())
        except RegistryError as error:
            self._why = error
            self.give_up()

    def on_monitor_message(self, message: list[bytes]) -> None:
        """Note what the monitor tells of the connection."""
        # zmq.utils.monitor would load asyncio.
        (event,) = struct.unpack_from("=H", message[0])
        self.there = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        self._listens = self._listens or event == zmq.EVENT_CONNECTED
        self.trouble = self.trouble or bool(event & _TROUBLE)

    def failure(self) -> Unreachable:
        """Return the error to raise when the time is over."""
        if self._finding is not None:
            self._connect()
        if self._why is not None:
            return Unreachable(f"{self._who}: {self._why}", hint=self._why.hint)
        if self._listens:
            return Unreachable(
                f"{self._who}: what listens there is no ZeroMQ socket that a {self._socket_type} "
                "goes with",
                hint="see which of the service's ports is meant, and which type of socket it has",
            )
        return Unreachable(
            f"{self._who}: nothing there takes a connection within {self._timeout:g} s",
            hint="see whether the service runs, binds that address and port, and whether a "
            "firewall or another network is in between",
        )

    def give_up(self) -> None:
        """Give this service up."""
        self.trouble = self.lost = True
        self.close(keep=False)

    def close(self, *, keep: bool) -> None:
        """Stop monitoring, and close the socket unless it is to be kept."""
        if not self.socket.closed:
            self.socket.disable_monitor()
        self.monitor.close(0)
        if not keep:
            self.socket.close()


class _Race:
    """Connects to the service that answers first of several.

    One is tried, and has all the time if it is the only one. The next is tried beside it as soon as
    the first is in trouble, or has not answered for a while.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        socket_type: int,
        endpoint: str | None,
        timeout: float,
        others: Others,
    ) -> None:
        self._context = context
        self._others = others
        self._socket_type = socket_type
        self._endpoint = endpoint
        self._timeout = timeout
        self._until = timing.steady() + timeout
        #: Until when no other service is tried beside the latest one.
        self._alone = -math.inf
        self._attempts: list[_Attempt] = []
        self._unfit: ConfigurationError | None = None

    def run(self, first: ServiceRecord) -> Steps[Any]:
        """Connect to `first` or one of the others; see `racing`."""
        winner: _Attempt | None = None
        candidates, asked_for_others = [first], False
        try:
            while winner is None:
                more = bool(candidates) or not asked_for_others
                if more and (self._in_trouble() or timing.steady() >= self._alone):
                    if candidates:
                        self._try(candidates.pop(), len(candidates))
                    else:
                        candidates = yield from self._others(timing.left(self._until) / 2)
                        asked_for_others = True
                    continue
                winner = yield from self._look(self._alone if more else math.inf)
            return winner.socket
        finally:
            for each in self._attempts:
                each.close(keep=each is winner)

    def _in_trouble(self) -> bool:
        return not self._attempts or self._attempts[-1].trouble

    def _try(self, service: ServiceRecord, others: int) -> None:
        try:
            address = records.endpoint_of(service, self._endpoint)
        except ConfigurationError as error:
            self._unfit = self._unfit or error
            return
        waiting = self._waiting()
        if len(waiting) >= _AT_ONCE:
            waiting[0].give_up()
        left = timing.left(self._until)
        self._attempts.append(
            _Attempt(self._context, self._socket_type, service["name"], address, self._timeout)
        )
        self._alone = timing.steady() + min(_HEAD_START, left / (others + 2))

    def _waiting(self) -> list[_Attempt]:
        return [each for each in self._attempts if not each.lost]

    def _look(self, until: float) -> Steps[_Attempt | None]:
        """Look once at all that are tried; wait for the latest of them, at most until then."""
        waiting, left = self._waiting(), timing.left(self._until)
        if not waiting or not left:
            raise self._failure()
        for each in waiting:
            latest = each is waiting[-1]
            longest = (left if len(waiting) == 1 else _LOOK) if latest else 0.0
            seconds = min(longest, timing.left(until), each.pause())
            message = None if each.lost else (yield Receive(each.monitor, seconds))
            if message is not None:
                each.on_monitor_message(message)
            if each.there:
                return each
        return None

    def _failure(self) -> RegistryError:
        failures = [each.failure() for each in self._attempts]
        if not failures and self._unfit is not None:
            return self._unfit
        if len(failures) == 1:
            return failures[0]
        more = "; …" if len(failures) > _NAMED else ""
        reasons = "; ".join(map(str, failures[:_NAMED]))
        return Unreachable(
            f"none of {len(failures)} services can be reached: {reasons}{more}",
            hint=failures[0].hint,
        )


def racing(
    context: zmq.Context[Any],
    socket_type: int,
    first: ServiceRecord,
    endpoint: str | None,
    timeout: float,
    others: Others,
) -> Steps[Any]:
    """Connect a socket to `first`, or else to one of the others, within `timeout` seconds.

    One without that `endpoint` is passed over. Raises Unreachable, ConfigurationError.
    """
    return _Race(context, socket_type, endpoint, timeout, others).run(first)
