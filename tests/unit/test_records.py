"""What is said about a service: what is taken, what is refused, what it is found under."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsreg.errors import AmbiguousName, InvalidRequest
from rsreg.protocol import messages, records
from rsreg.protocol.records import ServiceList, ServiceRecord
from rsreg.server.backends.stored import Service
from rsreg.server.rules.selection import read_filter

ASKED = {"name": "hexapod", "host": "10.0.0.5", "port": 5000}


def service(**fields: Any) -> Service:
    """A service with these fields."""
    known: dict[str, Any] = {
        "id": "hexapod-1",
        "type": None,
        "tags": [],
        "metadata": {},
        "ttl": 30,
        "extra": {},
        "last_heartbeat": 1_000,
    }
    return Service(**{**ASKED, **known, **fields})


def test_the_fields_of_a_service_info() -> None:
    info, extra = messages.read_service_info(
        {
            **ASKED,
            "type": "PUNA",
            "tags": ["optics", "bench 2"],
            "metadata": {"version": "1.0", "deep": [{"a": None}]},
            "id": "mine",
            "singleton": True,
            "allow_duplicate_service_type": False,
            "protocol": "udp",
            "weights": [1, 2.5],
        }
    )
    assert (info.name, info.host, info.port) == ("hexapod", "10.0.0.5", 5000)
    assert (info.type, info.tags, info.id) == ("PUNA", ["optics", "bench 2"], "mine")
    assert info.metadata == {"version": "1.0", "deep": [{"a": None}]}
    assert (info.singleton, info.allow_duplicate_service_type) == (True, False)
    assert extra == {"protocol": "udp", "weights": [1, 2.5]}


def test_most_may_be_left_out_or_null() -> None:
    bare, _ = messages.read_service_info(ASKED)
    optional = ("type", "tags", "metadata", "id", "singleton", "allow_duplicate_service_type")
    with_nulls, extra = messages.read_service_info({**ASKED, **dict.fromkeys(optional)})
    assert bare == with_nulls
    assert extra == {}


def test_what_the_registry_computes_is_not_taken_from_a_service() -> None:
    _, extra = messages.read_service_info(
        {**ASKED, "health": "passing", "last_heartbeat": 5, "ttl": 9}
    )
    assert extra == {}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("name", ["", "x" * 257, 5, None, [], True]),
        ("host", ["", "x" * 257, 5, None, {}]),
        ("port", [0, 65536, -1, 10**30, -(10**30), "5000", 5.5, True, None, []]),
        ("type", ["", "x" * 257, 5, []]),
        ("tags", ["optics", 5, {"a": 1}, ["a"] * 65]),
        ("metadata", ["x", 5, ["x"], True]),
        ("id", ["", "x" * 513, 5]),
        ("singleton", [1, "yes", []]),
        ("allow_duplicate_service_type", [0, "no"]),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(InvalidRequest) as caught:
            messages.read_service_info({**ASKED, field: value})
        assert str(caught.value).startswith(f"Invalid service_info.{field}: expected "), value
        assert caught.value.hint is None or field.rstrip("s") in caught.value.hint
        assert caught.value.hint or field in ("singleton", "allow_duplicate_service_type")


@pytest.mark.parametrize(
    ("host", "why"),
    [
        *((host, "all addresses") for host in ("0.0.0.0", "::", "[::]", "*", "0", "::0", "0.0")),
        ("::ffff:0.0.0.0", "all addresses"),
        ("224.0.0.1", "no one machine"),
        ("ff02::1", "no one machine"),
        ("255.255.255.255", "no one machine"),
        *((host, "an endpoint") for host in ("tcp://lab1", "tcp://lab1:5000", "http://lab1/x")),
        *((host, "with a port") for host in ("lab1:5000", "10.0.0.7:5000", "[::1]:80", "lab1:")),
        *((host, "no name") for host in ("lab 1", " lab1", "lab1\n", "lab1/x", "[]", "[", ".")),
        *((host, "no name") for host in ("-.", "a..b", "la\0b", "rik@lab1", "lab1,lab2")),
        *((host, "no name") for host in ("\x1b[2J", ":::")),
        ("300.1.2.3", "no address"),
        ("[10.0.0.7]", "but for the brackets"),
    ],
)
def test_a_host_that_no_client_can_connect_to_is_refused(host: str, why: str) -> None:
    for read in (
        lambda: messages.read_service_info({**ASKED, "host": host}),
        lambda: messages.read_change({"host": host}),
    ):
        with pytest.raises(InvalidRequest, match=r"^Invalid service_info.host: ") as caught:
            read()
        assert why in str(caught.value)
        assert "others reach it" in str(caught.value.hint)


def test_an_empty_list_and_an_empty_object_are_taken_for_each_other() -> None:
    """In some languages they are one, written as one of the two."""
    info, extra = messages.read_service_info({**ASKED, "metadata": [], "tags": {}, "notes": []})
    assert (info.metadata, info.tags) == ({}, [])
    assert extra == {"notes": []}, "what the protocol does not know is kept as it is"
    change, _ = messages.read_change({"metadata": [], "tags": {}})
    assert change == {"metadata": {}, "tags": []}
    assert not read_filter({"tags": {}, "where": []}).narrows
    with pytest.raises(InvalidRequest, match=r"^Invalid service_info.port: "):
        messages.read_service_info({**ASKED, "metadata": [], "port": "x"})


@pytest.mark.parametrize("tag", ["", "x" * 257, 5, None])
def test_a_wrong_tag_is_refused_by_its_place(tag: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^Invalid service_info.tags\[1\]: ") as caught:
        messages.read_service_info({**ASKED, "tags": ["fine", tag]})
    assert caught.value.hint == "tags are a list of at most 64 texts of 1 to 256 characters"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, "x") for field in ("name", "host", "type", "id")),
        ("tags", ["x"]),
        ("tags", []),
        ("name", "x" * 256),
        ("host", "x" * 256),
        ("host", "lab1.example.org."),
        ("host", "plato_egse-3"),
        ("host", "Käferstraße"),
        ("host", "10.0.0.7"),
        ("host", "127.0.0.1"),
        ("host", "::1"),
        ("host", "[fe80::1]"),
        ("host", "fe80::1%eth0"),
        ("host", "2001:db8::7"),
        ("host", "4711"),
        ("type", "x" * 256),
        ("id", "x" * 512),
        ("port", 1),
        ("port", 65535),
        ("tags", ["x" * 256] * 64),
        ("name", "Ωμέγα \0 \U0001f52d"),
    ],
)
def test_the_smallest_and_the_largest_that_are_taken(field: str, value: object) -> None:
    info, _ = messages.read_service_info({**ASKED, field: value})
    assert getattr(info, field) == value


@pytest.mark.parametrize("field", ["name", "host", "port"])
def test_what_must_be_said(field: str) -> None:
    asked = {key: value for key, value in ASKED.items() if key != field}
    with pytest.raises(InvalidRequest, match=f"^Missing required field in service_info: {field}$"):
        messages.read_service_info(asked)


@pytest.mark.parametrize("asked", [None, [], "x", 5, True])
def test_a_service_info_is_an_object(asked: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^Invalid service_info: expected an object$"):
        messages.read_service_info(asked)


@pytest.mark.parametrize(
    ("asked", "ttl"),
    [(1, 1), (86400, 86400), (1.0, 1), (1.5, 1.5), (86400.0, 86400), (30, 30)],
)
def test_a_ttl_is_whole_where_it_can_be(asked: float, ttl: float) -> None:
    got = messages.read_ttl(asked)
    assert got == ttl
    assert type(got) is type(ttl)


@pytest.mark.parametrize(
    "asked",
    [
        *(0, 0.999, 86400.5, 86401, -1, -1.5, 10**30, 1e308, float("nan"), float("inf")),
        *(True, False, None, "30", [], {}),
    ],
)
def test_a_ttl_outside_is_refused(asked: object) -> None:
    with pytest.raises(InvalidRequest, match=r"^Invalid ttl: expected ") as caught:
        messages.read_ttl(asked)
    assert caught.value.hint == "a ttl is a number of seconds from 1 to 86400"


@pytest.mark.parametrize(
    ("fields", "kinds", "effective"),
    [
        ({}, set(), None),
        ({"type": "PUNA"}, {"PUNA"}, "PUNA"),
        ({"tags": ["a", "b", "a"]}, {"a", "b"}, None),
        ({"metadata": {"type": "PUNA"}}, {"PUNA"}, "PUNA"),
        (
            {"type": "PUNA", "tags": ["optics"], "metadata": {"type": "old"}},
            {"PUNA", "optics", "old"},
            "PUNA",
        ),
        ({"metadata": {"type": 5}}, set(), None),
        ({"metadata": {"type": ["PUNA"]}, "tags": ["a"]}, {"a"}, None),
        ({"metadata": {"type": ""}}, set(), ""),
    ],
)
def test_what_a_service_is_found_under(
    fields: dict[str, Any], kinds: set[str], effective: str | None
) -> None:
    assert service(**fields).service_types() == kinds
    assert service(**fields).effective_type == effective


def test_the_record_on_the_wire() -> None:
    shown = service(type="PUNA", tags=["a"], metadata={"v": 1}, extra={"protocol": "udp"}).body()
    assert shown == {
        "id": "hexapod-1",
        **ASKED,
        "type": "PUNA",
        "tags": ["a"],
        "metadata": {"v": 1},
        "protocol": "udp",
        "ttl": 30,
    }


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("hexapod", "hexapod"),
        ("Puna CS #2", "puna-cs-2"),
        ("a_b.c", "a_b.c"),
        ("--x--", "x"),
        ("Ωμέγα", "service"),
        ("///", "service"),
    ],
)
def test_the_readable_half_of_an_id(name: str, slug: str) -> None:
    assert records.slug(name) == slug


@pytest.mark.parametrize(
    ("fields", "endpoint"),
    [
        ({"host": "10.0.0.5"}, "tcp://10.0.0.5:5000"),
        ({"host": "::1"}, "tcp://[::1]:5000"),
        ({"host": "[::1]"}, "tcp://[::1]:5000"),
        ({"host": "lab", "protocol": "udp"}, "udp://lab:5000"),
    ],
)
def test_the_endpoint_of_a_record(fields: dict[str, object], endpoint: str) -> None:
    assert records.endpoint_of({"port": 5000, **fields}) == endpoint


KNOWN = [
    {"id": "hexapod-1", "name": "hexapod"},
    {"id": "hexapod-2", "name": "hexapod"},
    {"id": "filter-1", "name": "filter wheel"},
    {"id": "filter wheel", "name": "odd one"},
    {"id": "camera-1", "name": "cam"},
]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("hexapod-2", "hexapod-2"),
        ("cam", "camera-1"),
        ("camer", "camera-1"),
        ("odd", "filter wheel"),
        ("nothing", None),
    ],
)
def test_a_name_means_one_service(name: str, found: str | None) -> None:
    picked = records.pick_by_name(KNOWN, name)
    assert (picked and picked["id"]) == found


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("hexapod", ["hexapod-1", "hexapod-2"]),
        ("hexapod-", ["hexapod-1", "hexapod-2"]),
        ("filter", ["filter-1", "filter wheel"]),
        ("filter wheel", ["filter-1", "filter wheel"]),  # the name of one, the id of another
    ],
)
def test_a_name_that_means_several_is_refused(name: str, candidates: list[str]) -> None:
    with pytest.raises(AmbiguousName, match=f"^'{name}' fits 2 services$") as caught:
        records.pick_by_name(KNOWN, name)
    assert caught.value.candidates == candidates


@pytest.mark.parametrize("name", ["puna_cs", "puna_cs-f47ac10b"])
def test_nobody_takes_the_place_of_another_by_an_id_or_a_name(name: str) -> None:
    real = {"id": "puna_cs-f47ac10b", "name": "puna_cs"}
    strangers = [{"id": "puna_cs", "name": "x"}, {"id": "y", "name": "puna_cs-f47ac10b"}]
    assert records.pick_by_name([real], name) == real
    with pytest.raises(AmbiguousName):
        records.pick_by_name([real, *strangers], name)
    with pytest.raises(AmbiguousName):
        records.pick_by_name([*strangers, real], name)


# -- records as clients get them

FIELDS = {
    "id": "puna_cs-1",
    "name": "puna_cs",
    "host": "egse3",
    "port": 5000,
    "type": "PUNA",
    "tags": ["optics"],
    "metadata": {"version": "1.4.2"},
    "ttl": 30,
    "last_heartbeat": 1_795_463_066,
    "health": "passing",
}
#: What would clear a screen, turn the text around, or run in a notebook.
NASTY = 'a\x1b[2Jb\nc\u202e<script>&"d'

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def record(**fields: Any) -> ServiceRecord:
    """A record with these fields."""
    return ServiceRecord({**FIELDS, **fields})


def test_a_record_is_a_dict() -> None:
    one = record()
    assert one == FIELDS
    assert dict(one) == FIELDS
    assert isinstance(one, dict)
    assert (one["host"], one.get("host"), one.get("nix", 5)) == ("egse3", "egse3", 5)
    assert list(one) == list(FIELDS)
    assert {**one} == one | {} == FIELDS
    assert json.loads(json.dumps(one)) == FIELDS
    assert msgspec.json.decode(msgspec.json.encode({"service": one}))["service"] == FIELDS
    one["host"] = "egse4"
    assert one.host == one["host"] == "egse4"


COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda one: one.copy(),
    *(
        lambda one, protocol=protocol: pickle.loads(pickle.dumps(one, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
]


@given(extra=st.dictionaries(st.text() | st.sampled_from(["__setstate__", "__reduce__"]), JSON))
def test_copies_of_a_record_are_records(extra: dict[str, Any]) -> None:
    one = record(**extra)
    for make in COPIES:
        other = make(one)
        assert other == one
        assert type(other) is ServiceRecord
        other["name"] = object()
        assert other != one
    assert copy.deepcopy(one).metadata is not one.metadata
    services = copy.deepcopy(ServiceList([one]))
    assert (type(services), services) == (ServiceList, [one])


def test_fields_are_attributes() -> None:
    one = record(protocol="udp", endpoints={"commands": 5001})
    assert (one.host, one.port, one.tags, one.protocol) == ("egse3", 5000, ["optics"], "udp")
    assert one.endpoint == "udp://egse3:5000"
    assert one.endpoints == {"commands": 5001}
    assert {"host", "endpoint", "protocol", "items", "keys"} <= set(dir(one))
    assert getattr(one, "hots", None) is None


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(AttributeError) as raised:
        _ = record(**{NASTY: 1}).hots
    said = str(raised.value)
    assert said.startswith(
        "this service has no 'hots'; it has endpoint, id, name, host, port, type"
    )
    assert said.isprintable()
    with pytest.raises(AttributeError):
        record().__setattr__("host", "egse4")


def test_methods_of_dicts_stay_methods() -> None:
    one = record(items=1, copy=2, _repr_markdown_=3, __class__=4, endpoint=5)
    assert dict(one.items())["items"] == 1
    assert one.copy()["copy"] == 2
    assert not hasattr(one, "_repr_markdown_")
    assert type(one) is one.__class__ is ServiceRecord
    assert (one.endpoint, one["endpoint"]) == ("tcp://egse3:5000", 5)


def test_a_record_in_one_line() -> None:
    assert repr(record()) == "<PUNA puna_cs tcp://egse3:5000 passing>"
    assert repr(record(type=None, health="critical")) == "<puna_cs tcp://egse3:5000 critical>"
    assert repr(record(mode="simulator")) == "<PUNA puna_cs tcp://egse3:5000 passing simulator>"
    assert repr(record(host="fe80::1")) == "<PUNA puna_cs tcp://[fe80::1]:5000 passing>"
    assert f"{[record()]}" == "[<PUNA puna_cs tcp://egse3:5000 passing>]"
    assert repr(ServiceRecord(name="half")) == "{'name': 'half'}"
    assert repr(ServiceRecord(FIELDS, host=None)).startswith("{'id': ")


@given(
    fields=st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)),
    removed=st.sets(st.sampled_from(sorted(FIELDS))),
)
def test_whatever_a_record_holds_it_can_be_shown(fields: dict[str, Any], removed: set[str]) -> None:
    one = record(**fields)
    for field in removed:
        del one[field]
    assert repr(one).isprintable()


def test_no_name_talks_to_a_terminal_or_a_notebook() -> None:
    one = record(name=NASTY, host=NASTY, type=NASTY, tags=[NASTY], **{NASTY: {NASTY: NASTY}})
    assert repr(one).isprintable()
    for shown in (one._repr_html_(), ServiceList([one, one])._repr_html_()):
        assert shown.isprintable()
        assert "<script" not in shown
        assert "&lt;script&gt;&amp;" in shown
        assert shown.count("<table>") == shown.count("</table>") == 1


def test_a_list_of_records_is_a_list_and_a_table_in_a_notebook() -> None:
    services = ServiceList([record(type=None, mode="simulator"), record(name="a")])
    assert services == [record(type=None, mode="simulator"), record(name="a")]
    assert repr(services) == repr(list(services))
    assert json.loads(json.dumps(services)) == services
    assert services.rows() == [
        ("-", "puna_cs", "tcp://egse3:5000", "simulator", "passing"),
        ("PUNA", "a", "tcp://egse3:5000", "hardware", "passing"),
    ]
    shown = services._repr_html_()
    assert shown.startswith("<table><tr><th>TYPE</th><th>NAME</th>")
    assert "<td>tcp://egse3:5000</td><td>simulator</td><td>passing</td></tr>" in shown


def test_the_record_that_a_name_means_is_a_record() -> None:
    found = records.pick_by_name([record()], "puna")
    assert found is not None
    assert found.host == "egse3"


@pytest.mark.parametrize("since", [253_402_214_400, 10**400])
def test_a_status_is_not_since_a_time_that_no_calendar_has(since: int) -> None:
    with pytest.raises(InvalidRequest, match=r"report\.status\.since"):
        messages.read_report({"status": {"text": "cooling", "since": since, "max": 5}}, 0.0)
