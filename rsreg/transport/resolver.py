"""Finds the addresses of hosts where waiting harms nobody: each look-up on a thread of its own.

libzmq would do it on the one thread that carries all messages of a process: while a name server is
silent, that stands still. So its sockets are connected to numbers only.
"""

from __future__ import annotations

import ipaddress
import math
import os
from _socket import AF_INET, AF_INET6, SOCK_STREAM
from collections.abc import Generator
from typing import NewType

from rsreg import timing
from rsreg.errors import Disconnected, RequestTimeout, UnknownHost
from rsreg.system import threads
from rsreg.system.threads import Stop

#: An endpoint in which there is no name to be looked up.
Numeric = NewType("Numeric", str)

#: Seconds between two looks whether a look-up is over: at first, and at most.
_PAUSE_FIRST, _PAUSE_MOST = 0.001, 0.05
#: Seconds for which an answer is good; one that took long, for so many times as long: whoever asked
#: for it may have given up, and comes again.
_FRESH, _FRESH_TIMES = 1.0, 3.0
#: Seconds that a new answer is waited for where an older one is earlier.
_PATIENCE = 0.5
#: Names that are remembered, about.
_MOST = 1000


class Finding:
    """An endpoint on its way to numbers: wait for each `pause` until it is 0.0, take `address`.

    That takes `timeout` seconds at most, and no time for what is numeric already. A name without
    brackets stands for an IPv4 address. If it can't be found out now, an address that it had before
    is taken, unless there is no time at all.
    """

    def __init__(self, endpoint: str, timeout: float) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._pause = _PAUSE_FIRST / 2
        self._look_up: _LookUp | None = None
        scheme, _, rest = endpoint.partition("://")
        host, _, self._port = rest.rpartition(":")
        if scheme == "tcp" and host == "localhost":
            self._endpoint = f"tcp://127.0.0.1:{self._port}"
        elif scheme == "tcp" and _is_name(host):
            self._look_up = _of_this_process().find(host)
            self._older = self._look_up.older if timeout else None
            patience = timeout if self._older is None else min(_PATIENCE, timeout / 2)
            self._until = timing.steady() + patience

    def pause(self) -> float:
        """Seconds to wait now; 0.0 once there is nothing to wait for."""
        if self._look_up is None or self._look_up.over:
            return 0.0
        self._pause = min(2 * self._pause, _PAUSE_MOST)
        return max(0.0, min(self._pause, self._until - timing.steady()))

    def address(self) -> Numeric:
        """What to connect to; raises UnknownHost, or RequestTimeout for a silent name server."""
        look_up = self._look_up
        if look_up is None:
            return Numeric(self._endpoint)
        address = look_up.address or self._older
        if address is not None:
            return Numeric(f"tcp://{address}:{self._port}")
        if not look_up.over:
            raise RequestTimeout(
                f"no name server said within {self._timeout:.3g} s where {look_up.host!r} is",
                hint="see whether the name server answers, or write the address: 10.3.0.5, say",
            )
        raise UnknownHost(
            f"there is no host {look_up.host!r}: {look_up.error}",
            hint="see whether the name is right, and known to a name server or in /etc/hosts; or "
            "write the address: 10.3.0.5, say",
        )


def finding(
    endpoint: str, timeout: float, stop: Stop | None = None
) -> Generator[float, None, Numeric]:
    """Find the address of an endpoint; yields the seconds to wait before the next look.

    Raises UnknownHost, RequestTimeout; Disconnected once `stop` is set.
    """
    search = Finding(endpoint, timeout)
    while pause := search.pause():
        if stop is not None and stop.is_set():
            raise Disconnected("the client was closed while a call was waiting")
        yield pause
    return search.address()


class _LookUp:
    """One look-up of a host, under way or over; `older` is the address of an earlier one."""

    def __init__(self, host: str, older: str | None) -> None:
        self.host = host
        self.older = older
        self.address: str | None = None
        self.error: Exception | None = None
        self._began = timing.steady()
        self._ended = math.inf
        try:
            threads.Thread(self._run)
        except RuntimeError as error:
            self.error, self._ended = error, self._began

    @property
    def over(self) -> bool:
        """Whether there is an answer, or none to come."""
        return self._ended < math.inf

    @property
    def outdated(self) -> bool:
        """Whether the next who asks needs another."""
        if self.address is None:
            return self.over
        return timing.steady() > self._ended + _FRESH + _FRESH_TIMES * (self._ended - self._began)

    def _run(self) -> None:
        family, name = (AF_INET6 if self.host.startswith("[") else AF_INET), self.host.strip("[]")
        look_up = threads.original("socket", "getaddrinfo")
        try:
            address = str(look_up(name, None, family, SOCK_STREAM)[0][4][0])
            self.address = f"[{address}]" if family == AF_INET6 else address
        except (OSError, ValueError, LookupError) as error:
            self.error = error
        finally:
            self._ended = timing.steady()


class _LookUps:
    """The look-ups of a process, by host: who asks for the same one waits for the same thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        # A signal handler may ask in the middle of a question.
        self._lock = threads.new_rlock()
        self._by_host: dict[str, _LookUp] = {}

    def find(self, host: str) -> _LookUp:
        """One that is under way, or whose answer is good, else a new one."""
        with self._lock:
            earlier = self._by_host.get(host)
            if earlier is not None and not earlier.outdated:
                return earlier
            if len(self._by_host) >= _MOST:
                self._by_host = {
                    name: each for name, each in self._by_host.items() if not each.outdated
                }
            older = None if earlier is None else earlier.address or earlier.older
            self._by_host[host] = _LookUp(host, older)
            return self._by_host[host]


_look_ups = _LookUps()


def _of_this_process() -> _LookUps:
    """In a forked child none of the parent's threads runs."""
    global _look_ups
    if _look_ups.pid != os.getpid():
        _look_ups = _LookUps()
    return _look_ups


def _is_name(host: str) -> bool:
    """Whether it is to be looked up; what is neither that nor a number is for libzmq to refuse."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host not in ("", "*")
    return False
