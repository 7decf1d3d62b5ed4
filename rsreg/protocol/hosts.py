"""What a host of a service may be, and how each host is spelled."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from functools import lru_cache

from rsreg.errors import InvalidRequest

#: Hosts that are looked at once: a lab has no more.
_HOSTS = 1_000
#: Of what a host name consists; `\w` has the letters of all languages, and "_".
_HOST_NAME = re.compile(r"\w[\w-]*(?:\.[\w-]+)*\.?")
#: What may stand after the "%" of an IPv6 address; Python takes anything there.
_INTERFACE = re.compile(r"[\w.-]+")
#: How each host that means the machine itself is spelled.
LOOPBACK = "localhost"
_FOUR_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+){3}")


def spelled(host: str) -> str:
    """Return the one spelling of a host by which two hosts are compared."""
    bare = host.strip("[]").removesuffix(".").lower()
    if bare == LOOPBACK or bare.startswith("127."):
        return LOOPBACK
    if ":" in bare:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(bare)
            return LOOPBACK if address.is_loopback else str(address)
    # Not the copy, which would cost memory for each service.
    return host if host == bare else bare


def check_host(host: str, label: str) -> None:
    """Raise InvalidRequest for a host that no client can connect to."""
    if (why := _unreachable(host)) is not None:
        hint = "register the name or the address that others reach it by, such as lab1 or 10.0.0.7"
        raise InvalidRequest(f"Invalid {label}: {host!r} is {why}", hint=hint)


@lru_cache(_HOSTS)
def _unreachable(host: str) -> str | None:
    """Why no client can connect to a host, or None; a name may be of any network."""
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(inner)
    except ValueError:
        return _no_name(host)
    if not _INTERFACE.fullmatch(getattr(address, "scope_id", None) or "0"):
        return "an address with an interface that has no such name"
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_unspecified:
        return "no host, but all addresses of a machine"
    if mapped.is_multicast or str(mapped) == "255.255.255.255":
        return "the address of no one machine"
    return "no address, but for the brackets" if inner != host and address.version == 4 else None


def _no_name(host: str) -> str | None:
    if host == "*":
        return "no host, but all addresses of a machine"
    if "://" in host:
        return "an endpoint, not a host"
    if re.fullmatch(r"[^:]+:[0-9]*|\[.*\]:[0-9]*", host):
        return "a host with a port, which has a field of its own"
    if not _HOST_NAME.fullmatch(host):
        return "no name of a host and no address"
    if _FOUR_NUMBERS.fullmatch(host):
        return "no address"
    try:
        # "0" is such a number: one that means 0.0.0.0.
        means_all = not any(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None
    return "no host, but all addresses of a machine" if means_all else None
