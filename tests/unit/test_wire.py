"""Frames and JSON: what is understood, what is refused, and that nothing makes it raise."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import json
import time
import uuid
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rsreg.errors import ConfigurationError, InvalidJSON, InvalidRequest
from rsreg.protocol import limits, wire
from tests.helpers import present

ID = b"\x00peer"
JSON = b'{"action":"health"}'


# -- framings


@pytest.mark.parametrize(
    ("frames", "prefix"),
    [
        # A REQ socket, or a DEALER of ours.
        ([b"", JSON], [b""]),
        # REQ_CORRELATE adds a frame; proxies may add more.
        ([b"\x00\x00\x00\x01", b"", JSON], [b"\x00\x00\x00\x01", b""]),
        (
            [b"1", b"2", b"3", b"4", b"5", b"6", b"", JSON],
            [b"1", b"2", b"3", b"4", b"5", b"6", b""],
        ),
        ([b"REQ", b"", JSON], [b"REQ", b""]),
        # CGSE's DEALER.
        ([b"REQ", JSON], [b"RESPONSE"]),
        # CGSE's heartbeat port.
        ([JSON], []),
    ],
)
def test_a_request_is_answered_in_its_framing(frames: list[bytes], prefix: list[bytes]) -> None:
    envelope = present(wire.open_request([ID, *frames]))
    assert (envelope.payload, envelope.reply_to) == (JSON, [ID, *prefix])
    assert wire.close_reply(envelope.reply_to or [], b"{}") == [ID, *prefix, b"{}"]


def test_the_reply_frame_of_mid_2025() -> None:
    assert wire.CGSE_REPLY_2025 == b"REP"
    assert wire.open_request([ID, b"REQ", JSON], wire.CGSE_REPLY_2025) == (JSON, [ID, b"REP"])
    assert wire.open_request([ID, b"", JSON], wire.CGSE_REPLY_2025) == (JSON, [ID, b""])


@pytest.mark.parametrize("payload", [JSON, b""])
@pytest.mark.parametrize("frame", [b"REQ_NO_REPLY", b"NO-REQ"])
def test_some_want_no_reply(frame: bytes, payload: bytes) -> None:
    assert wire.open_request([ID, frame, payload]) == (payload, None)


def test_a_request_of_cgse_that_says_nothing_is_answered_in_its_framing() -> None:
    assert wire.open_request([ID, b"REQ", b""]) == (b"", [ID, b"RESPONSE"])


@pytest.mark.parametrize(
    ("frames", "prefix"),
    [
        ([b"", b""], [b""]),
        ([b"", JSON, JSON], [b""]),
        ([b"", b"", JSON], [b""]),
        ([b"", b"REQ", JSON], [b""]),
        ([b""], [b""]),
        ([b"x", b""], [b"x", b""]),
        ([b"", *[b"x"] * 10], [b""]),
        # As much as is echoed.
        ([b"x" * 65_536, b"", b""], None),
        # Nine frames.
        ([b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"", JSON], None),
    ],
)
def test_broken_framing_that_can_be_answered_is_refused(
    frames: list[bytes], prefix: list[bytes] | None
) -> None:
    envelope = wire.open_request([ID, *frames])
    assert envelope is not None
    assert envelope.reply_to == [ID, *(frames[:-1] if prefix is None else prefix)]
    with pytest.raises(InvalidJSON):
        wire.read_request(envelope.payload)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"HELLO", JSON],
        [b"req", JSON],
        [b"REQ", JSON, JSON],
        [b"x"] * 3,
        [b"x"] * 8 + [b"", JSON],
        [b"x" * 65_537, b"", JSON],
        [b"x" * 30_000] * 3 + [b"", JSON],
    ],
)
def test_other_framings_are_dropped(frames: list[bytes]) -> None:
    assert wire.open_request([ID, *frames]) is None


FRAME = st.one_of(
    st.sampled_from([b"", b"REQ", b"REQ_NO_REPLY", b"NO-REQ", JSON, b"x"]), st.binary(max_size=20)
)


@given(st.lists(FRAME, max_size=12))
def test_no_frames_raise_and_every_answer_can_be_routed(frames: list[bytes]) -> None:
    envelope = wire.open_request([ID, *frames])
    if envelope is None:
        return
    assert envelope.payload in [b"", *frames]
    if envelope.reply_to is not None:
        echoed = envelope.reply_to[1:]
        assert envelope.reply_to[0] == ID
        assert echoed == [b"RESPONSE"] or echoed == frames[: len(echoed)]
        assert len(echoed) <= limits.MAX_FRAMES


# -- JSON


@pytest.mark.parametrize(
    ("payload", "request_"),
    [
        (b"{}", {}),
        (b' {"a" : 1}\r\n', {"a": 1}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":"\\u0000\\ud83d\\ude00"}', {"a": "\0\U0001f600"}),
        ('{"Ω":"\U0001f600"}'.encode(), {"Ω": "\U0001f600"}),
        (b'{"a":18446744073709551616}', {"a": 2**64}),
        (b'{"a":-9223372036854775809}', {"a": -(2**63) - 1}),
        (b'{"a":%s}' % (b"1" * 4000), {"a": int("1" * 4000)}),
        (b'{"a":1e308}', {"a": 1e308}),
        (b'{"a":[null,true,-0.5]}', {"a": [None, True, -0.5]}),
    ],
)
def test_json_that_is_read(payload: bytes, request_: dict[str, Any]) -> None:
    assert wire.read_request(payload) == request_


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"{",
        b"{}{}",
        b"{}x",
        b"hello",
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":01}',
        b'{"a":"\n"}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
        b'{"a":%s}' % (b"1" * 5000),
        b'{"a":"\\ud800"}',
        b'{"a":"\\udc00x"}',
        b'{"\\ud800":1}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\xaf"}',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        "{}".encode("utf-32"),
    ],
)
def test_what_is_no_json_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidJSON, match=r"^Invalid JSON format$") as caught:
        wire.read_request(payload)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        (b"null", "null"),
        (b"[]", "an array"),
        (b'[{"action":"health"}]', "an array"),
        (b'"health"', "a string"),
        (b"5", "a number"),
        (b"5.5", "a number"),
        (b"true", "a boolean"),
    ],
)
def test_a_request_is_an_object(payload: bytes, what: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^A request is a JSON object, not {what}$"):
        wire.read_request(payload)


def test_size_limit() -> None:
    frame = b'{"a":"%s"}'
    largest = frame % (b"x" * (limits.MAX_REQUEST - len(frame) + 2))
    assert len(largest) == limits.MAX_REQUEST == 65536
    wire.check_limits(largest)
    longer = largest + b" "
    with pytest.raises(
        InvalidRequest, match=r"^The request is too long: it has 65537 bytes$"
    ) as caught:
        wire.check_limits(longer)
    assert caught.value.hint
    assert caught.value.hint.startswith("a request has at most 65536 bytes; ")


LONG = b" " * limits.MAX_REQUEST


@pytest.mark.parametrize(
    ("payload", "request_id"),
    [
        (b'{"action":"health","request_id":"7"}', "7"),
        (b'{"a":%s,"request_id":"7"}' % (b"[" * 900 + b"]" * 900), "7"),
        (b'{"service_info":{"request_id":"8"},"request_id":"7"}', "7"),
        (b'{"service_info":{"request_id":"8"}}', None),
        (b'{"request_id":null}', None),
        (b'{"request_id":7}', None),
        (b'{"request_id":[%s1]}' % (b"[]," * 60_000), None),
        (b'["request_id","7"]', None),
        (b'{"request_id":"7"', None),
        (b"{" + b"[" * 200_000, None),
        (b"\xff", None),
        (b'{"a":"%s"}' % ("é" * 90_000).encode(), None),
        (b"[" * (limits.MAX_FRAME - len(LONG)), None),
    ],
)
def test_only_the_request_id_is_read_of_what_is_too_long(
    payload: bytes, request_id: str | None
) -> None:
    payload += LONG
    started = time.thread_time()
    request = wire.read_request(payload)
    with pytest.raises(InvalidRequest, match=rf"it has {len(payload)} bytes$"):
        wire.check_limits(payload)
    assert time.thread_time() - started < 0.01, "less than a request of the longest"
    assert request == {"request_id": request_id}


def nested(levels: int, opening: bytes, closing: bytes) -> bytes:
    """An object with that many levels, itself included."""
    return b'{"a":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_limit(opening: bytes, closing: bytes) -> None:
    payload = nested(32, opening, closing)[:-1] + b',"b":[[]]}'
    wire.check_limits(payload)
    payload = nested(33, opening, closing)
    with pytest.raises(InvalidRequest, match=r"^The request is nested deeper than 32 levels$"):
        wire.check_limits(payload)


@given(
    st.recursive(
        st.none() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=20,
    )
)
def test_depth_is_that_of_what_it_says(value: Any) -> None:
    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth, inner), default=0) if isinstance(value, (dict, list)) else 0

    for levels in range(20, 34):
        payload = json.dumps({"a": nest(value, levels), "b": '[{"[{'}).encode()
        assert wire._is_too_deep(payload) == (1 + levels + depth(value) > 32)


def nest(value: Any, levels: int) -> Any:
    """It, so many levels down."""
    for level in range(levels):
        value = [0, value] if level % 2 else {"[": value}
    return value


def test_brackets_beside_each_other_are_not_deep() -> None:
    payload = b'{"a":[' + b"[],{}," * 100 + b'"[[[[{{{{"]}'
    wire.check_limits(payload)


@pytest.mark.parametrize(
    "payload",
    [nested(30_000, b"[", b"]"), b"[" * 65_536, nested(10_000, b'{"a":', b"}"), b"[" * 100_000],
)
def test_bottomless_nesting_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"nested deeper than 32 levels|has \d+ bytes"):
        wire.check_limits(payload)


@given(st.binary(max_size=60))
@example(b"\xff")
@example(b'{"a":' * 5_000)
def test_any_bytes_are_an_object_or_refused(payload: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert isinstance(wire.read_request(payload), dict)


TEXT = st.text(st.characters(exclude_categories=()), max_size=10)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(ANY)
def test_any_json_of_others_is_an_object_or_refused(value: Any) -> None:
    """Python writes NaN and lone surrogates as JSON; such a request is refused, not half read."""
    payload = json.dumps(value).encode()
    try:
        request = wire.read_request(payload)
    except InvalidRequest:
        return
    assert request == json.loads(payload)
    assert json.loads(wire.encode(request)) == request


@pytest.mark.parametrize("body", [{"a": "\0 Ω \U0001f600"}, {"a": [1.5, None, {"b": True}]}])
def test_a_reply_is_standard_json(body: dict[str, Any]) -> None:
    assert json.loads(wire.encode(body)) == body


# -- request_id


@pytest.mark.parametrize("request_id", ["", "7", "x" * 64, "Ω" * 32])
def test_a_request_id_is_a_short_string(request_id: str) -> None:
    assert wire.request_id_of({"request_id": request_id}) == request_id


@pytest.mark.parametrize("asked", [{}, {"request_id": None}])
def test_a_request_id_may_be_left_out(asked: dict[str, Any]) -> None:
    assert wire.request_id_of(asked) is None


@pytest.mark.parametrize("request_id", ["x" * 65, "Ω" * 33, 5, True, [], {}, 1.5])
def test_another_request_id_is_refused(request_id: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^Invalid request_id$") as caught:
        wire.request_id_of({"request_id": request_id})
    assert caught.value.hint == "a request_id is a string of at most 64 bytes"


ASKED = {"action": "register", "service_info": {"name": "a", "port": 1}, "request_id": "7"}


def test_a_resend_has_the_same_fingerprint_however_it_is_written() -> None:
    other_order = {
        "request_id": "7",
        "service_info": {"port": 1, "name": "a"},
        "action": "register",
    }
    token = wire.fingerprint(ASKED)
    assert token
    assert wire.fingerprint(other_order) == token


@pytest.mark.parametrize(
    "other",
    [
        {**ASKED, "request_id": "8"},
        {**ASKED, "request_id": ""},
        {**ASKED, "action": "deregister"},
        {**ASKED, "service_info": {"name": "b", "port": 1}},
        {**ASKED, "service_info": {"name": "a", "port": "1"}},
        {**ASKED, "more": None},
    ],
)
def test_another_request_has_another_fingerprint(other: dict[str, Any]) -> None:
    token = wire.fingerprint(other)
    assert token
    assert token != wire.fingerprint(ASKED)


@pytest.mark.parametrize("request_id", [{}, {"request_id": None}])
def test_without_a_request_id_nobody_can_tell_a_resend(request_id: dict[str, Any]) -> None:
    assert wire.fingerprint({"action": "register", **request_id}) is None


# -- our own requests, replies, events


@pytest.mark.parametrize(
    "metadata",
    [
        {"at": float("nan")},
        {"at": float("inf")},
        {"at": object()},
        {"at": b"bytes"},
        {"at": {1, 2}},
        {"at": "\ud800"},
        {("a", "b"): 1},
        {"at": 10**5000},
    ],
)
def test_what_is_no_json_is_refused_before_it_is_sent(metadata: dict[Any, Any]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^this request can't be written as JSON: "
    ) as caught:
        wire.request_frames({"action": "register", "service_info": {"metadata": metadata}})
    assert caught.value.hint


def test_a_loop_in_a_request_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ConfigurationError, match=r"^this request can't be written as JSON: "):
        wire.request_frames({"a": loop})


class Colour(str, enum.Enum):
    RED = "red"


class Other(enum.Enum):
    A = 1


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        b"bytes",
        bytearray(b"bytes"),
        {1, 2},
        datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
        datetime.timedelta(1),
        decimal.Decimal(1),
        uuid.UUID(int=1),
        Other.A,
        "\ud800",
        {"\ud800": 1},
        object(),
        2j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_json_has_not_is_refused_before_it_is_sent(value: object) -> None:
    """Whichever encoder is the quick one: none of it arrives as something else."""
    for message in ({"a": value}, {"a": [{"b": value}]}):
        with pytest.raises(ConfigurationError, match="this request can't be written as JSON"):
            wire.request_frames(message)


@pytest.mark.parametrize(
    "value", [(1, 2), {1: 2}, {None: 1}, Colour.RED, True, -0.0, 1e22, 2**63, "é\u2028", [[]]]
)
def test_what_json_has_arrives(value: object) -> None:
    (_, payload) = wire.request_frames({"a": value})
    assert json.loads(payload) == json.loads(json.dumps({"a": value}))


def test_too_large_a_request_is_refused_before_it_is_sent() -> None:
    assert wire.request_frames({"a": "x" * 65_528})
    with pytest.raises(
        ConfigurationError, match=r"^this request has 65537 bytes, the registry takes 65536$"
    ):
        wire.request_frames({"a": "x" * 65_529})


@pytest.mark.parametrize("levels", [32, 500, 100_000])
def test_too_deep_a_request_is_refused_before_it_is_sent(levels: int) -> None:
    value: Any = 1
    for _ in range(levels):
        value = (value,)
    with pytest.raises(
        ConfigurationError, match=r"^.* JSON: .*recursion|^the registry .* 32 levels$"
    ):
        wire.request_frames({"a": value})


@given(st.dictionaries(TEXT, ANY, max_size=5))
def test_the_registry_reads_what_we_send(message: dict[str, Any]) -> None:
    try:
        frames = wire.request_frames(message)
    except ConfigurationError:
        with pytest.raises(ValueError, match=r"not JSON compliant|surrogates not allowed"):
            json.dumps(message, allow_nan=False, ensure_ascii=False).encode()
        return
    envelope = wire.open_request([ID, *frames])
    assert envelope is not None
    request = wire.read_request(envelope.payload)
    wire.check_limits(envelope.payload)
    assert request == message
    reply = wire.close_reply(envelope.reply_to or [], wire.encode(request))
    assert reply[0] == ID
    assert wire.read_reply(reply[1:]) == message


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b'{"success":true}'],
        [b"x", b'{"success":true}'],
        [b"", b'{"success":true}', b""],
        [b"", b"[]"],
        [b"", b"null"],
        [b"", b""],
        [b"", b"{"],
        [b"", b"\xff"],
        [b"", b'{"a":"\xff"}'],
        [b"", b"[" * 100_000],
    ],
)
def test_what_is_no_reply(frames: list[bytes]) -> None:
    assert wire.read_reply(frames) is None


def test_a_reply_may_be_longer_than_a_request() -> None:
    reply = {"services": ["x" * 1_000] * 1_000}
    assert wire.read_reply([b"", json.dumps(reply).encode()]) == reply


def test_an_event() -> None:
    event = {"type": "expire", "data": {"service_id": "a"}, "seq": 5, "epoch": "e"}
    assert wire.read_event([b"expire", json.dumps(event).encode()]) == event


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"expire"],
        [b'{"data":{}}'],
        [b"expire", b'{"data":{}}', b""],
        [b"expire", b"{}"],
        [b"expire", b'{"data":null}'],
        [b"expire", b'{"data":[]}'],
        [b"expire", b"[]"],
        [b"expire", b"\xff"],
    ],
)
def test_what_is_no_event(frames: list[bytes]) -> None:
    assert wire.read_event(frames) is None


@given(st.lists(FRAME, max_size=4))
def test_no_reply_and_no_event_raises(frames: list[bytes]) -> None:
    for message in (wire.read_reply(frames), wire.read_event(frames)):
        assert message is None or isinstance(message, dict)


@pytest.mark.parametrize(
    ("request_id", "turn"),
    [
        ("f00#17", ("f00", 17)),
        ("a#b#3", ("a#b", 3)),
        ("#3", None),
        ("f00#", None),
        ("f00#x", None),
        ("f00#-1", None),
        ("f00#\u0663", None),
        ("17", None),
        (None, None),
    ],
)
def test_a_request_id_may_tell_whose_turn_it_is(request_id: str | None, turn: object) -> None:
    assert wire.request_number_of({"request_id": request_id}) == turn
