"""The beginning of a ZeroMQ connection, said by hand: ZMTP 3 with the mechanism NULL."""

from __future__ import annotations

import socket
import struct

_READY_BODY = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04" + bytes([len(_READY_BODY)]) + _READY_BODY


#: A connection of ZMTP 2 by a DEALER, and by a SUB, both without a name.
DEALER_2, SUB_2 = (b"\xff" + bytes(7) + b"\x01\x7f\x01" + kind + b"\0\0" for kind in (b"\5", b"\2"))


def frame(body: bytes, *, more: bool) -> bytes:
    """One frame of a message on the wire."""
    if len(body) < 256:
        return bytes([more, len(body)]) + body
    return bytes([more | 2]) + struct.pack(">Q", len(body)) + body


def dealer(port: int | None) -> socket.socket:
    """A connection to a ROUTER of this machine, after the handshake."""
    peer = socket.create_connection(("127.0.0.1", port), timeout=20)
    try:
        peer.sendall(GREETING + READY)
        said = b""
        while b"READY" not in said:
            more = peer.recv(1000)
            if not more:
                raise ConnectionError("no ROUTER")
            said += more
    except OSError:
        peer.close()
        raise
    return peer
