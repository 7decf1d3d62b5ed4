"""Connecting to a service, and waiting until it really is there."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import zmq

from rsreg import records, sockets, timing
from rsreg.config import check_timeout
from rsreg.errors import ConfigurationError, NoService, Unreachable
from rsreg.records import ServiceRecord

_EVENTS = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED


def check(kind: int, timeout: float) -> None:
    """Raises ConfigurationError where there is no such connection."""
    if isinstance(kind, bool) or kind not in [each.value for each in zmq.SocketType]:
        raise ConfigurationError(f"not a kind of socket: {kind!r}", hint="write zmq.REQ or zmq.SUB")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise ConfigurationError(f"a timeout is a number of seconds, not {timeout!r}")
    check_timeout(timeout)


def found(service: ServiceRecord | None, service_type: str) -> ServiceRecord:
    """The service that was discovered; raises NoService for none."""
    if service is None:
        raise NoService(
            f"no passing service of type {service_type!r}", hint="wait=30 waits for one"
        )
    return service


class Connecting:
    """A socket on its way to a service, and `monitor`, whose messages `told` is to be told.

    To connect never fails by itself, also where nobody listens; what is sent would wait forever.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        kind: int,
        service: Mapping[str, Any],
        endpoint: str | None,
        timeout: float,
    ) -> None:
        self._service = service
        self._address = records.endpoint_of(service, endpoint)
        self._timeout = timeout
        self._until = timing.steady() + timeout
        self._listens = False
        self.socket = sockets.peer(context, kind, timeout)
        self.monitor: Any = self.socket.get_monitor_socket(_EVENTS)
        sockets.connect(self.socket, self._address)

    @property
    def left(self) -> int:
        """Milliseconds to wait for the next message of the monitor."""
        return max(0, math.ceil((self._until - timing.steady()) * 1000))

    def told(self, message: list[bytes]) -> bool:
        """Take in a message of the monitor; whether the service is there."""
        self._listens = True
        # zmq.utils.monitor would load asyncio.
        (event,) = struct.unpack_from("=H", message[0])
        return bool(event == zmq.EVENT_HANDSHAKE_SUCCEEDED)

    def failure(self) -> Unreachable:
        """What is wrong, when the time is over."""
        who = f"{self._service['name']} can't be reached on {self._address}"
        if self._listens:
            kind = zmq.SocketType(self.socket.type).name
            return Unreachable(
                f"{who}: what listens there is no ZeroMQ socket that a {kind} goes with",
                hint="see which of the service's ports is meant, and which kind of socket it has",
            )
        return Unreachable(
            f"{who}: nothing there takes a connection within {self._timeout:g} s",
            hint="see whether the service runs, binds that address and port, and whether a "
            "firewall or another network is in between",
        )

    def close(self, *, failed: bool) -> None:
        """Stop monitoring; the socket is the caller's, unless it failed."""
        if not self.socket.closed:
            self.socket.disable_monitor()
        self.monitor.close(0)
        if failed:
            self.socket.close()


def connect(
    context: zmq.Context[Any],
    kind: int,
    service: Mapping[str, Any],
    endpoint: str | None,
    timeout: float,
) -> Any:
    """A socket that is connected to a service; raises Unreachable."""
    connecting = Connecting(context, kind, service, endpoint, timeout)
    there = False
    try:
        while not there and connecting.monitor.poll(connecting.left):
            there = connecting.told(connecting.monitor.recv_multipart(zmq.DONTWAIT))
        if not there:
            raise connecting.failure()
        return connecting.socket
    finally:
        connecting.close(failed=not there)


async def connect_async(
    context: zmq.Context[Any],
    kind: int,
    service: Mapping[str, Any],
    endpoint: str | None,
    timeout: float,
) -> Any:
    """See connect; for a context of zmq.asyncio."""
    connecting = Connecting(context, kind, service, endpoint, timeout)
    there = False
    try:
        while not there and await connecting.monitor.poll(connecting.left):
            there = connecting.told(await connecting.monitor.recv_multipart(zmq.DONTWAIT))
        if not there:
            raise connecting.failure()
        return connecting.socket
    finally:
        connecting.close(failed=not there)
