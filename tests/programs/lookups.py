"""What programs share that look names of hosts up: how long a call took, and a name server."""

import json
import socket
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from rsreg.errors import RegistryError

P = ParamSpec("P")
T = TypeVar("T")


def timed(action: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> tuple[T | str, float]:
    """What a call returns, or with what error it fails, and the seconds that it took."""
    began = time.monotonic()
    result: T | str
    try:
        result = action(*arguments, **named)
    except RegistryError as error:
        result = f"{type(error).__name__}: {error}"
    return result, time.monotonic() - began


def tell(*values: object) -> None:
    """Print a line for the test."""
    print(json.dumps(values), flush=True)


class SilentNameServer:
    """A name server that takes questions and never answers."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.53", 53))

    def wait_for_question(self) -> None:
        """Take a question; fail if none comes."""
        self._socket.settimeout(20)
        self._socket.recv(2000)

    def question(self) -> bytes | None:
        """A question that is there already."""
        self._socket.settimeout(0)
        try:
            return self._socket.recv(2000)
        except BlockingIOError:
            return None
