"""Has the kernel take no new connections from some addresses for a while.

It drops the first packet of each, as if it had been lost: who connects sends it again by himself,
after one second, then after two. Only on Linux.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
import sys
from collections.abc import Collection

#: Addresses of one program, which may be 4096 instructions long.
MOST = 200

#: Of Linux, which Python has no names for.
_ATTACH, _DETACH = 26, 27
#: Instructions of BPF: load a byte or four, shift right, skip if equal, skip, return.
_LOAD_BYTE, _LOAD, _SHIFT, _IF_EQUAL, _SKIP, _RETURN = 0x30, 0x20, 0x74, 0x15, 0x05, 0x06
#: Where a packet begins, and where its two kinds have the address of who sent it.
_PACKET = 0xFFF00000
_SOURCE_4, _SOURCE_6 = _PACKET + 12, _PACKET + 8
_DROP, _TAKE = 0, 0xFFFFFFFF


def bar(listener: socket.socket, addresses: Collection[str]) -> bool:
    """Take no new connections from these addresses, and from all others; whether that works."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        if addresses:
            code = program(addresses)
            kept = ctypes.create_string_buffer(code, len(code))
            what = struct.pack("@HP", len(code) // 8, ctypes.addressof(kept))
            listener.setsockopt(socket.SOL_SOCKET, _ATTACH, what)
        else:
            listener.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
    except OSError:
        return False
    return True


def program(addresses: Collection[str]) -> bytes:
    """Return a program of classic BPF that drops what comes from these addresses."""
    fours, sixes = b"", b""
    for address in addresses:
        ip = ipaddress.ip_address(address)
        ip = getattr(ip, "ipv4_mapped", None) or ip
        words = struct.unpack(f">{len(ip.packed) // 4}I", ip.packed)
        if len(words) == 1:
            fours += _code(_IF_EQUAL, words[0], otherwise=1) + _code(_RETURN, _DROP)
        else:
            for place, word in enumerate(words):
                sixes += _code(_LOAD, _SOURCE_6 + 4 * place)
                sixes += _code(_IF_EQUAL, word, otherwise=7 - 2 * place)
            sixes += _code(_RETURN, _DROP)
    fours = _code(_LOAD, _SOURCE_4) + fours + _code(_RETURN, _TAKE)
    sixes += _code(_RETURN, _TAKE)
    version = _code(_LOAD_BYTE, _PACKET) + _code(_SHIFT, 4) + _code(_IF_EQUAL, 6, otherwise=1)
    return version + _code(_SKIP, len(fours) // 8) + fours + sixes


def _code(what: int, value: int, otherwise: int = 0) -> bytes:
    """One instruction, which skips so many where its condition does not hold."""
    return struct.pack("=HBBI", what, 0, otherwise, value)
