"""Frames <-> messages: the framings, JSON and its limits. No sockets, no clock.

docs/protocol.md is the normative text. A request is recognised by its framing alone and answered in
the framing it came in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from rsreg.errors import ConfigurationError, InvalidJSON, InvalidRequest
from rsreg.protocol.limits import MAX_DEPTH, MAX_FRAMES, MAX_REQUEST, MAX_REQUEST_ID

#: Bytes that a registration leaves for what goes with it when it is sent again: an id, a report.
_ROOM = 4096

#: A text in JSON; one kind of brackets for both; and all bytes that are none.
_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"')
_ROUND = bytes.maketrans(b"[]{}", b"()()")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_WITH_REPLY = b"REQ"
_WITHOUT_REPLY = (b"REQ_NO_REPLY", b"NO-REQ")
#: The reply frame of CGSE since summer 2025, and the one of the months before.
CGSE_REPLY = b"RESPONSE"
CGSE_REPLY_2025 = b"REP"


class Envelope(NamedTuple):
    """An opened request: what its JSON is, and what stands before the reply's.

    `reply_to` is None where no reply is wanted.
    """

    payload: bytes
    reply_to: list[bytes] | None


class _Named(Struct):
    """All that is read of a request that is too long."""

    request_id: str | None = None


_named = msgspec.json.Decoder(_Named)


def open_request(frames: Sequence[bytes], cgse_reply: bytes = CGSE_REPLY) -> Envelope | None:
    """Return the envelope of a request that a ROUTER received; None if it can't be answered.

    A payload that breaks the rules of framing is empty; `read_request` then refuses it.
    """
    identity, rest = frames[0], list(frames[1:])
    if len(rest) == 2 and rest[0]:
        if rest[0] == _WITH_REPLY:
            return Envelope(rest[1], [identity, cgse_reply])
        if rest[0] in _WITHOUT_REPLY:
            return Envelope(rest[1], None)
    if b"" in rest[:MAX_FRAMES]:
        end = rest.index(b"") + 1
        # They are kept until the reply is read.
        if sum(map(len, rest[:end])) > MAX_REQUEST:
            return None
        payload = rest[end] if len(rest) == end + 1 and len(rest) <= MAX_FRAMES else b""
        return Envelope(payload, [identity, *rest[:end]])
    if len(rest) == 1:
        return Envelope(rest[0], [identity])
    return None


def read_request(payload: bytes) -> dict[str, Any]:
    """Return the JSON object of a request; raises InvalidJSON or InvalidRequest.

    Of one that is too long, only its `request_id`: `check_limits` then refuses it.
    """
    if len(payload) > MAX_REQUEST:
        return {"request_id": _request_id_in(payload)}
    try:
        request = msgspec.json.decode(payload)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidJSON("Invalid JSON format", hint=str(error)) from error
    if not isinstance(request, dict):
        raise InvalidRequest(f"A request is a JSON object, not {_json_type(request)}")
    return request


def looks_long(payload: bytes) -> bool:
    """Guess whether the answer to a request may be long, without reading its JSON."""
    return b'"list"' in payload or b'"info"' in payload


def _request_id_in(payload: bytes) -> str | None:
    try:
        return _named.decode(payload).request_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def check_limits(payload: bytes) -> None:
    """Raise InvalidRequest for too many bytes or levels.

    Apart from `read_request`, since this refusal echoes a `request_id`.
    """
    if len(payload) > MAX_REQUEST:
        raise InvalidRequest(
            f"The request is too long: it has {len(payload)} bytes",
            hint=f"a request has at most {MAX_REQUEST} bytes; put large data elsewhere, and "
            "register where it is",
        )
    # Fewer brackets than levels allowed, which is so for nearly all requests, can't be too deep.
    if payload.count(b"{") + payload.count(b"[") > MAX_DEPTH and _is_too_deep(payload):
        raise _too_deep()


def request_id_of(request: Mapping[str, Any]) -> str | None:
    """Return the `request_id` to echo; raises InvalidRequest if it is not a short string."""
    request_id = request.get("request_id")
    if request_id is None:
        return None
    if not isinstance(request_id, str) or len(request_id.encode()) > MAX_REQUEST_ID:
        raise InvalidRequest(
            "Invalid request_id", hint=f"a request_id is a string of at most {MAX_REQUEST_ID} bytes"
        )
    return request_id


class RequestNumber(NamedTuple):
    """The number of a request among those of its sender: a later one has a higher number."""

    sender: str
    number: int

    def __str__(self) -> str:
        return f"{self.sender}#{self.number}"


def request_number_of(request: Mapping[str, Any]) -> RequestNumber | None:
    """Return the number that the `request_id` of a request has, if it has one."""
    return read_request_number(request.get("request_id") or "")


def read_request_number(text: str) -> RequestNumber | None:
    """Return the number in a text of the form `sender#number`, None in any other."""
    sender, _, number = text.rpartition("#")
    if not (sender and number.isascii() and number.isdecimal()):
        return None
    return RequestNumber(sender, int(number))


def fingerprint(request: Mapping[str, Any]) -> str | None:
    """Return a token that two requests share only if one is a resend of the other.

    None without a `request_id`: then nobody can tell a resend from a second request. It covers the
    whole request, so two clients that both count from 1 are not taken for one.
    """
    if request.get("request_id") is None:
        return None
    canonical = msgspec.json.encode(request, order="deterministic")
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def close_reply(reply_to: list[bytes], payload: bytes) -> list[bytes]:
    """Return the frames of a reply with this JSON."""
    return [*reply_to, payload]


def encode(body: Mapping[str, Any]) -> bytes:
    """Return a message of the server as JSON; a `msgspec.Raw` in it is JSON already."""
    return msgspec.json.encode(body)


def check_registration(info: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a `service_info` that can't be sent, at once and later."""
    request_frames({"service_info": info}, _ROOM)


def request_frames(message: Mapping[str, Any], room: int = 0) -> list[bytes]:
    """Return the frames of a request for a DEALER; raises ConfigurationError if it can't be sent.

    The request has to leave `room` bytes of the limit free.
    """
    payload = _plain(message)
    plain = payload is not None
    try:
        # `json` takes tuples, and says what it can't write; `msgspec` is six times as fast.
        payload = payload or json.dumps(message, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"this request can't be written as JSON: {error}",
            hint="metadata holds texts, finite numbers, booleans, None, lists and dicts",
        ) from error
    if len(payload) > MAX_REQUEST - room:
        raise ConfigurationError(
            f"this request has {len(payload)} bytes, the registry takes {MAX_REQUEST - room}",
            hint="metadata is for small facts; put large data elsewhere and register where it is",
        )
    try:
        # `_plain` has read what it wrote; what `json` wrote is read here for the first time.
        if not plain:
            read_request(payload)
        check_limits(payload)
    except InvalidRequest as error:
        raise ConfigurationError(f"the registry does not take this: {error}") from error
    return [b"", payload]


def _plain(message: Mapping[str, Any]) -> bytes | None:
    """Return a message as JSON by `msgspec`, which is quick; None if it is another when read back.

    `msgspec` writes null for NaN, and text for bytes: then the message read back is another one.
    """
    try:
        payload = msgspec.json.encode(message)
        return payload if msgspec.json.decode(payload) == message else None
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return None


def read_reply(frames: Sequence[bytes]) -> dict[str, Any] | None:
    """Return the JSON object of a reply that a DEALER received; None if it is not a reply."""
    return _object(frames[1]) if len(frames) == 2 and not frames[0] else None


def read_event(frames: Sequence[bytes]) -> dict[str, Any] | None:
    """Return the JSON object of an event that a SUB received; None if it is not an event."""
    event = _object(frames[1]) if len(frames) == 2 else None
    return event if event and isinstance(event.get("data"), dict) else None


def _object(payload: bytes) -> dict[str, Any] | None:
    try:
        message = msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, list):
        return "an array"
    return "a string" if isinstance(value, str) else "a number"


def _is_too_deep(payload: bytes) -> bool:
    """Return whether JSON has too many levels of arrays and objects.

    It counts brackets in the text: ten times as fast as in the values, where there are thousands.
    """
    brackets = _TEXT.sub(b"", payload).translate(_ROUND, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        # The innermost level goes.
        brackets = brackets.replace(b"()", b"")
    return bool(brackets)


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The request is nested deeper than {MAX_DEPTH} levels")
