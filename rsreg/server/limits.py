"""The bounds of a server: how much one peer, and all together, may take. No I/O, no clock.

docs/security.md ("Bounds") is their one table.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from rsreg.errors import ConfigurationError, LimitReached, SlowDown

#: What each bound is of, in words that stand before its number.
WORDS = {
    "record_bytes": "bytes of one record",
    "tags": "tags of one service",
    "services": "services in all",
    "services_per_address": "services that one address registered",
    "bytes_per_address": "bytes of memory for the services that one address registered",
    "services_per_name": "services of one name",
    "maintenance": "maintenance entries",
    "writes_per_second": "changes a second from one address",
    "flaps_per_second": "changes of health a second that one address causes",
    "waiting_bytes": "bytes of replies that wait for one address",
    "reply_bytes_per_second": "bytes a second of long replies to one address",
    "connections_per_address": "connections from one address to one port",
    "handshakes_per_second": "new connections a second from one address",
    "subscriptions": "subscriptions of one connection",
    "topic_bytes": "bytes of one subscription",
}
#: How many seconds' worth of a rate may come at once.
BURST = 5.0

#: Addresses whose kind is remembered.
_ADDRESSES = 10_000


@dataclass(frozen=True)
class Limits:
    """What a server takes at most; whole numbers from 1 up.

    The bounds of an address do not hold for those of `gateways`, each an address or a network
    (`10.3.0.0/24`): many machines are behind them. Those of connections do not hold for loopback.
    Raises ConfigurationError.
    """

    record_bytes: int = 16 * 1024
    tags: int = 16
    services: int = 20_000
    services_per_address: int = 1_000
    bytes_per_address: int = 16 * 1024 * 1024
    services_per_name: int = 200
    maintenance: int = 100
    writes_per_second: int = 200
    flaps_per_second: int = 200
    waiting_bytes: int = 32 * 1024 * 1024
    reply_bytes_per_second: int = 64 * 1024 * 1024
    connections_per_address: int = 1_000
    handshakes_per_second: int = 200
    subscriptions: int = 64
    topic_bytes: int = 255
    gateways: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in WORDS:
            bound = getattr(self, name)
            if not isinstance(bound, int) or isinstance(bound, bool) or bound < 1:
                raise ConfigurationError(
                    f"the limit {dashed(name)} is a whole number from 1 up, not {bound!r}"
                )
        for gateway in self.gateways:
            _network(gateway)

    def body(self) -> dict[str, Any]:
        """Return all of them, as `info` shows them."""
        return {**asdict(self), "gateways": list(self.gateways)}

    def is_gateway(self, address: str) -> bool:
        """Return whether many machines may be behind an address, so that its bounds don't hold."""
        return bool(self.gateways) and _among(address, self.gateways)

    def reached(self, name: str, address: str | None = None) -> LimitReached:
        """Return the error for what is beyond a bound; of an `address`, where it has its own."""
        return LimitReached(
            f"The limit of {WORDS[name]} is {getattr(self, name)}",
            hint=self._hint(name, address),
            details={"limit": name, "bound": getattr(self, name)},
        )

    def slow_down(self, name: str, address: str, seconds: float) -> SlowDown:
        """Return the error that a request may come again in so many seconds."""
        return SlowDown(
            f"The limit of {WORDS[name]} is {getattr(self, name)}",
            hint=self._hint(name, address),
            details={
                "limit": name,
                "bound": getattr(self, name),
                # Never 0, which would be "at once".
                "retry_after": max(0.001, round(seconds, 3)),
            },
        )

    def _hint(self, name: str, address: str | None) -> str:
        option = f'the registry can be started with "--limit {dashed(name)}=NUMBER"'
        if not address:
            return option
        return f'{option}; with "--gateway {address}" if many machines are behind that address'


def read_limits(bounds: Mapping[str, int], gateways: Iterable[str] = ()) -> Limits:
    """Return limits by their names, with dashes or not; ConfigurationError for one that is none."""
    given = {name.replace("-", "_"): bound for name, bound in bounds.items()}
    for name in given:
        if name not in WORDS:
            raise ConfigurationError(
                f"unknown limit {dashed(name)!r}", hint="the limits are " + ", ".join(names())
            )
    return Limits(**given, gateways=tuple(gateways))


def names() -> list[str]:
    """Return the names of all limits, as they are given on the command line."""
    return [dashed(field.name) for field in fields(Limits) if field.name in WORDS]


def dashed(name: str) -> str:
    """Return the name of a limit as it is given on the command line."""
    return name.replace("_", "-")


class Rate:
    """How often each address may do something: so many times a second, and `BURST` seconds' worth.

    What costs more than is left is done once, and paid for by who comes next. Remembers only those
    who have not all of it: an address that was silent for `BURST` seconds is forgotten.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = per_second * BURST
        #: Address -> what was left at a moment.
        self._left: dict[str, tuple[float, float]] = {}
        self._swept = 0.0

    def wait(self, address: str, now: float) -> float:
        """Return the seconds until an address may do it once more, 0 for now."""
        return max(0.0, (1 - self._now_left(address, now)) / self._per_second)

    def take(self, address: str, now: float, cost: float = 1.0) -> None:
        """Count that an address did it."""
        self._left[address] = (self._now_left(address, now) - cost, now)
        if now >= self._swept + BURST:
            self._swept = now
            for known in [one for one in self._left if self._now_left(one, now) >= self._most]:
                del self._left[known]

    def forget(self, address: str) -> None:
        """Take it for somebody new."""
        self._left.pop(address, None)

    def _now_left(self, address: str, now: float) -> float:
        left, since = self._left.get(address, (self._most, now))
        return min(self._most, left + (now - since) * self._per_second)


@lru_cache(_ADDRESSES)
def is_loopback(address: str) -> bool:
    """Return whether an address is of this machine, and of no network."""
    ip = _read(address)
    return ip is not None and ip.is_loopback


@lru_cache(_ADDRESSES)
def _among(address: str, gateways: tuple[str, ...]) -> bool:
    ip = _read(address)
    return ip is not None and any(ip in _network(gateway) for gateway in gateways)


def _read(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address, without its interface; one of IPv4 as such, however it is written."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ConfigurationError(
            f"neither an address nor a network: {text!r}", hint="write 10.3.0.1 or 10.3.0.0/24"
        ) from None
