"""Messages that no client of the registry would send."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

#: Values of JSON that are seldom meant, as text: some are no JSON.
_ODD = [
    *("null", "true", "false", "0", "-1", "-0.0", "1e308", "1e999", "-1e999", "1e-999"),
    *("NaN", "Infinity", "-Infinity", "9" * 400, str(2**63), str(2**64), "0.1", "65536", "1e3"),
    *('""', '" "', '"\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"', '"' + "x" * 300 + '"', "'x'"),
    *("[]", "{}", "[[]]", '{"": ""}', "[" * 40 + "]" * 40, '{"a":' * 33 + "1" + "}" * 33),
    *('["a", 1]', '{"type": []}', '{"type": "' + "t" * 999 + '"}', '["' + '","' * 100 + '"]'),
]
_NO_JSON = [
    *(b"", b" ", b"{", b"}", b"null", b"[]", b"1", b'"health"', b"\xff\xfe", b"\xc3\x28", b"\x00"),
    *(b"\xef\xbb\xbf{}", '{"action": "health"}'.encode("utf-16"), b'{"action": "health"} x'),
    *(b'{"action": "health",}', b'{"action": "health" "a": 1}', b"{'action': 'health'}"),
    *(b'{"action": "health", "action": "x"}', b'{"action": "health", "request_id": "\\ud800"}'),
]
_READS: list[dict[str, Any]] = [
    {"action": "health"},
    {"action": "list", "service_type": "VICTIM"},
    {"action": "get", "service_id": "nobody"},
    {"action": "discover", "service_type": "VICTIM"},
    {"action": "renew", "service_id": "nobody"},
    {"action": "events", "since": 0, "limit": 3},
    {"action": "info", "services": False},
]
_CHANGES: list[dict[str, Any]] = [
    {"action": "deregister", "service_id": "nobody"},
    {
        "action": "register",
        "ttl": 3600,
        "service_info": {
            "name": "hostile",
            "host": "127.0.0.1",
            "port": 5000,
            "type": "HOSTILE",
            "tags": ["a", "b"],
            "metadata": {"a": {"b": [1, 2.5, None]}},
            "id": "hostile",
        },
    },
]


class Hostile:
    """A source of hostile messages, the same for the same seed: frames as a DEALER sends them.

    With `changes` some of them try to register and deregister, and some will.
    """

    def __init__(self, seed: int, *, changes: bool) -> None:
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._seeds = _READS + _CHANGES * 2 if changes else _READS
        self._payloads: list[Callable[[], bytes]] = [
            self._valid,
            self._odd_value,
            self._odd_value,
            self._mutated,
            self._mutated,
            self._noise,
            self._nested,
            lambda: self._random.choice(_NO_JSON),
        ]

    def message(self) -> list[bytes]:
        """The next one; most have a framing that is answered."""
        pick = self._random.random()
        if pick < 0.1:
            count = self._random.randint(1, 12)
            return [self._random.choice([b"", b"REQ", self._noise()]) for _ in range(count)]
        payload = self._random.choice(self._payloads)()
        framings: list[list[bytes]] = [
            *([[b"", payload]] * 5),
            [b"REQ", payload],
            [b"REQ_NO_REPLY", payload],
            [b"NO-REQ", payload],
            [payload],
            [b"\x00\x01\x02\x03", b"", payload],
            [*[b"hop"] * self._random.randint(1, 12), b"", payload],
            [b"", payload, payload],
            [b"", b"", payload],
            [payload, b""],
            [b"RESPONSE", payload],
        ]
        return self._random.choice(framings)

    def _request(self) -> dict[str, Any]:
        request = json.loads(json.dumps(self._random.choice(self._seeds)))
        if self._random.random() < 0.3:
            request["request_id"] = f"id-{next(self._numbers)}"
        return dict(request)

    def _valid(self) -> bytes:
        return json.dumps(self._request()).encode()

    def _odd_value(self) -> bytes:
        """A request with another value in one place."""
        request = self._request()
        inner = request.get("service_info", request)
        target = self._random.choice([request, inner])
        target[self._random.choice([*target, "request_id", "epoch", "extra"])] = "@ODD@"
        return json.dumps(request).replace('"@ODD@"', self._random.choice(_ODD)).encode()

    def _mutated(self) -> bytes:
        """A request with some bytes changed, gone or doubled."""
        data = bytearray(self._valid())
        for _ in range(self._random.randint(1, 5)):
            if not data:
                break
            at = self._random.randrange(len(data))
            what = self._random.randrange(4)
            if what == 0:
                data[at] = self._random.randrange(256)
            elif what == 1:
                del data[at : at + self._random.randint(1, 8)]
            elif what == 2:
                data[at:at] = data[at : at + self._random.randint(1, 8)]
            else:
                data[at] ^= 1 << self._random.randrange(8)
        return bytes(data)

    def _noise(self) -> bytes:
        return self._random.randbytes(self._random.choice([0, 1, 10, 200, 5_000]))

    def _nested(self) -> bytes:
        """Many levels; the deepest make a request that is too long, but not for an answer."""
        depth = self._random.choice([31, 32, 33, 100, 5_000, 60_000, 250_000])
        opening, closing = self._random.choice([(b"[", b"]"), (b'{"a":', b"}")])
        depth = min(depth, 250_000 // len(opening + closing))
        inside = opening * depth + b"1" + (closing * depth if self._random.random() < 0.7 else b"")
        return self._random.choice([inside, b'{"action":"health","x":' + inside + b"}"])


def is_answered(frames: Sequence[bytes]) -> bool:
    """Whether docs/protocol.md promises an answer to these frames of a DEALER."""
    if len(frames) == 2 and frames[0] in (b"REQ", b"REQ_NO_REPLY", b"NO-REQ"):
        return frames[0] == b"REQ"
    if len(frames) == 1:
        return True
    return b"" in frames[:8] and sum(map(len, frames[: frames.index(b"")])) <= 64 * 1024
