"""Where others reach this machine: the address to advertise, found from routes and sockets.

No packet is sent: to connect a UDP socket asks the kernel which address it would send from.
"""

from __future__ import annotations

import ipaddress
from _socket import (
    AF_INET,
    AF_INET6,
    AI_NUMERICHOST,
    SOCK_DGRAM,
    getaddrinfo,
    gethostname,
    socket,
)
from collections.abc import Iterator
from typing import Any

import zmq

from rsreg.config import DEFAULT_TIMEOUT, advertised
from rsreg.errors import ConfigurationError, Disconnected, UnknownHost
from rsreg.protocol import calls
from rsreg.protocol.calls import CallSequence
from rsreg.transport import channel
from rsreg.transport.resolver import Numeric

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Addresses of no machine (RFC 5737, RFC 3849), which are reached by the default route if there is
#: one.
_ELSEWHERE = {AF_INET: "192.0.2.1", AF_INET6: "2001:db8::1"}
#: Names of what a server listens on, if it takes only connections of its own machine.
_LOOPBACK_NAMES = {"localhost", "lo", "lo0"}


class Finder:
    """Finds the host to advertise to the registry on `endpoint`, each time anew.

    It is the local address of the route to the registry, or into `network` ("10.3.0.0/24"). With
    the registry on this machine that would be 127.0.0.1, which to others is a port of their own:
    then it is the address of the default route, unless the registry is for this machine alone.
    Raises ConfigurationError for what is no network.
    """

    def __init__(self, endpoint: str, network: str | None = None) -> None:
        self.network = None if network is None else _network(network)
        self.endpoint = endpoint
        self._target: tuple[int, Any] | None = None
        #: Whether the registry takes only connections of its own machine; None until it is asked.
        self._for_itself: bool | None = None

    def find(
        self, timeout: float = DEFAULT_TIMEOUT, context: zmq.Context[Any] | None = None
    ) -> CallSequence[str]:
        """Find the address as it is now; asks the registry once, if its bind address matters.

        To find the registry's host may take `timeout` seconds; other greenlets of a green `context`
        go on meanwhile. Raises Disconnected without a route, ConfigurationError without
        an address in `network`.
        """
        if self.network is not None:
            return _local_in(self.network)
        host = self._route(timeout, context)
        if not ipaddress.ip_address(host).is_loopback:
            return host
        if self._for_itself is None:
            about = yield calls.info(services=False)
            self._for_itself = _is_loopback(str(about.get("bind", "*")))
        return host if self._for_itself else _outward() or host

    def _route(self, timeout: float, context: zmq.Context[Any] | None) -> str:
        """The local address of the route to the registry."""
        if not self.endpoint.startswith("tcp://"):
            return "127.0.0.1"
        try:
            if self._target is None:
                # A name is looked up once, and again only after it led nowhere.
                self._target = _target(channel.find(self.endpoint, timeout, context))
            return _source(*self._target)
        except (OSError, UnknownHost) as error:
            # A silent name server is an OSError, too: it is a timeout.
            self._target = None
            raise Disconnected(f"there is no way to {self.endpoint}: {error}") from error


def own_host() -> str:
    """Return what is advertised where no route is looked for: `RSREG_ADVERTISE`, or the host name.

    Raises ConfigurationError without an address in the network that it says.
    """
    host, network = advertised()
    return host or (gethostname() if network is None else _local_in(_network(network)))


def bound_to(bound: Any) -> tuple[str | None, int]:
    """Return the host and the port that a ZeroMQ socket is bound to; no host for any address.

    Raises ConfigurationError for anything else.
    """
    try:
        endpoint = bound.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
    except (AttributeError, zmq.ZMQError) as error:
        raise ConfigurationError(f"socket= is no open ZeroMQ socket: {bound!r}") from error
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not endpoint.startswith("tcp://"):
        raise ConfigurationError(
            f"socket= is not bound to a TCP port: {endpoint or 'it is not bound'}",
            hint='bind it first: socket.bind("tcp://*:0")',
        )
    address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    if address.is_unspecified:
        return None, int(port)
    if not address.is_link_local and not _is_here(address):
        raise ConfigurationError(
            f"socket= is connected, not bound: {endpoint} is no address of this machine"
        )
    return str(address), int(port)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ConfigurationError(
            f"advertise= is no network: {text!r}",
            hint='write it, or RSREG_ADVERTISE, like "10.3.0.0/24"',
        ) from error


def _local_in(network: Network) -> str:
    inside = next(iter(network.hosts()))
    try:
        host = _source(AF_INET if network.version == 4 else AF_INET6, (str(inside), 9))
    except OSError:
        host = None
    if host is None or ipaddress.ip_address(host) not in network:
        raise ConfigurationError(
            f"this machine has no address in {network}",
            hint="give a network that it is in with advertise=, or the host itself with host=",
        )
    return host


def _outward() -> str | None:
    """The address of the default route, else of the first interface that has one; or None."""
    for family, target in _ELSEWHERE.items():
        try:
            host = _source(family, (target, 9))
        except OSError:
            continue
        if not ipaddress.ip_address(host).is_loopback:
            return host
    return next(_of_interfaces(), None)


def _of_interfaces() -> Iterator[str]:
    """The IPv4 addresses of interfaces, in their order: a lab's network may lead nowhere else.

    Those that an interface without a network gives itself come last.
    """
    import psutil

    addresses = [
        ipaddress.IPv4Address(one.address)
        for ones in psutil.net_if_addrs().values()
        for one in ones
        if one.family == AF_INET
    ]
    others = (one for one in addresses if not one.is_loopback)
    return map(str, sorted(others, key=lambda one: one.is_link_local))


def _target(endpoint: Numeric) -> tuple[int, Any]:
    """Return the family of an address, and the address as a socket takes it."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    family = AF_INET6 if host.startswith("[") else AF_INET
    results = getaddrinfo(host.strip("[]"), int(port), family, SOCK_DGRAM, 0, AI_NUMERICHOST)
    return family, results[0][4]


def _source(family: int, target: Any) -> str:
    """The address from which this machine would send to another; raises OSError without a route."""
    asking = socket(family, SOCK_DGRAM)
    try:
        asking.connect(target)
        return str(asking.getsockname()[0]).partition("%")[0]
    finally:
        asking.close()


def _is_here(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    trying = socket(AF_INET if address.version == 4 else AF_INET6, SOCK_DGRAM)
    try:
        trying.bind((str(address), 0))
    except OSError:
        return False
    finally:
        trying.close()
    return True


def _is_loopback(listens_on: str) -> bool:
    try:
        return ipaddress.ip_address(listens_on.strip("[]")).is_loopback
    except ValueError:
        return listens_on in _LOOPBACK_NAMES
