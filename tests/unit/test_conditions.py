"""The one rule for texts, numbers and versions in `where`."""

from __future__ import annotations

import json
import operator
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsreg import RegistryClient
from rsreg.errors import InvalidRequest
from rsreg.server.rules.conditions import Condition

ORDERS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
}
NUMBERS = st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("wanted", "value", "holds"),
    [
        # A text is the number that it is in JSON, wherever the number stands.
        ("8", 8, True),
        (8, "8", True),
        (8, 8.0, True),
        (8.0, "8", True),
        ("8", "8.0", False),
        ("1.10", 1.1, True),
        (1.1, "1.10", True),
        ("1.1", "1.10", False),
        (7, "007", False),
        (1000, "1_000", False),
        (5, "+5", False),
        (8, " 8", False),
        (3, "\N{ARABIC-INDIC DIGIT THREE}", False),
        (0.5, ".5", False),
        (10**30, str(10**30), True),
        (10**30, str(10**30 + 1), False),
        (1e22, "1e22", True),
        (1, 10**400, False),
        (1, "1e999", False),
        # And so for the other values.
        ("true", True, True),
        (True, "true", True),
        (True, 1, False),
        (1, True, False),
        ("1", True, False),
        ("True", True, False),
        ("null", None, True),
        (None, None, True),
        (None, "", False),
        ("[1, 2]", [1, 2.0], True),
        ([1], [True], False),
        ('{"a": 1}', {"a": 1}, True),
        ({"a": [1]}, {"a": [True]}, False),
        # Numbers are compared as numbers, however they are written.
        ("<0", -5, True),
        ("<0", "-5", True),
        ("<1", 1e-7, True),
        ("<1", "1e-07", True),
        (">5", 1e22, True),
        (">5", "1e22", True),
        ("<=-200", -250, True),
        ("<=-200", "-200", True),
        ("<=-200", "-10", False),
        ("> -5, <5", 0, True),
        (">=0.25", 0.5, True),
        ("=5", 5, True),
        ("==5.0", 5, True),
        ("=5", "5", True),
        ("!=5", 5, False),
        ("!=5", 5.5, True),
        # Two texts that are versions are compared as versions.
        (">1.9", "1.10", True),
        (">=1.4,<2", "1.10", True),
        ("==1.10.0", "1.10", True),
        ("~=1.4", "1.9", True),
        ("~=1.4", 1.9, True),
        ("==1.4.*", "1.4.2", True),
        (">=1.4", "2.0rc1", True),
        ("===1.0", "1.0", True),
        (">=007", "8", True),
        (">=2.0.0", 2.5, True),
        # Any two values are the same, or not.
        ("==leuven", "leuven", True),
        ("!=leuven", "delft", True),
        ("!=1.9", "spare", True),
        ("==true", True, True),
        # What is not there, or can't be compared, does not fit.
        ("!=leuven", None, False),
        (">=5", None, False),
        (">=5", "eight", False),
        (">=5", True, False),
        (">=5", [6], False),
        ("<0", "1.2.3", False),
    ],
)
def test_the_rule(wanted: Any, value: Any, holds: bool) -> None:
    condition = Condition("key", wanted)
    assert condition(value) is holds
    assert (condition.against(value) is None) is holds


@given(NUMBERS, NUMBERS, st.sampled_from(sorted(ORDERS)), st.booleans())
def test_numbers_are_compared_as_python_does(
    value: float, limit: float, sign: str, as_text: bool
) -> None:
    condition = Condition("key", f"{sign}{json.dumps(limit)}")
    expected = ORDERS[sign](value, limit)
    assert condition(value) is expected
    # A text that has a sign or an exponent can't be a version.
    said = json.dumps(value)
    if as_text and set(said) & set("-e"):
        assert condition(said) is expected


@given(VALUES)
def test_a_value_is_found_by_itself_and_by_what_a_command_line_has_for_it(value: Any) -> None:
    told = json.loads(json.dumps(value))
    if not isinstance(value, str):
        assert Condition("key", value)(told)
        if len(json.dumps(value)) <= 256:
            assert Condition("key", json.dumps(value))(told)
            assert Condition("key", value)(json.dumps(value))


@given(st.text(max_size=20) | st.from_regex(r"[<>=!~]{1,3} ?[-0-9.a-e*]{0,6}"), VALUES)
def test_any_condition_holds_or_not_of_any_value(wanted: str, value: Any) -> None:
    try:
        condition = Condition("key", wanted)
    except InvalidRequest:
        return
    assert condition(value) is (condition.against(value) is None)
    assert wanted.startswith(("<", ">", "=", "!", "~")) or condition(wanted)


@pytest.mark.parametrize(
    ("wanted", "value", "why"),
    [
        (">=5", "eight", "is no number"),
        (">=5", True, "is no number"),
        (">=1.4.0", "eight", "is no version"),
        ("~=1.4", [], "is no version"),
        (">=5", 4, "is not >=5"),
        ("leuven", "delft", "is not 'leuven'"),
    ],
)
def test_why_it_does_not_hold(wanted: Any, value: Any, why: str) -> None:
    assert Condition("key", wanted).against(value) == why


DIGITS = "7" * 5_000
#: What somebody may call a version, or a number: too long for Python, or for anybody.
STRANGE = [
    DIGITS,
    f"{DIGITS}!1.0",
    f"1.0+{DIGITS}",
    f"1.{DIGITS}",
    f"1.0rc{DIGITS}",
    f"-{DIGITS}",
    f"1e{DIGITS}",
    f"0.{DIGITS}",
    "1e999",
    "-1e999",
    "[" * 200,
    "1+" + ".".join("a" * 120),
    int("9" * 4_299),
    -int("9" * 4_299),
    1.7e308,
]
WANTED = [">=1.4", "<2", "~=1.4", "==1.4.*", "===1.4", "==1.4", "!=1.4", ">=1!1.4", "<=5e300", 1]


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("value", STRANGE, ids=lambda value: f"{value!r:.12}")
def test_a_strange_value_fits_or_not_and_never_fails(wanted: Any, value: Any) -> None:
    condition = Condition("version", wanted)
    assert condition(value) is (condition.against(value) is None)


@pytest.mark.parametrize("sign", ["<", ">=", "~=", "===", "==", "!="])
@pytest.mark.parametrize("operand", STRANGE, ids=lambda operand: f"{operand!r:.12}")
def test_a_strange_condition_is_one_or_refused(sign: str, operand: Any) -> None:
    try:
        condition = Condition("version", f"{sign}{operand}")
    except InvalidRequest:
        return
    for value in ("1.4", 1.4, operand):
        assert condition(value) is (condition.against(value) is None)


_LIKE_VERSIONS = st.from_regex(
    r"v?([0-9]{1,80}!)?[0-9]{1,80}(\.[0-9]{1,80}|\.\*)*"
    r"([-_.]?(a|rc|post|dev|pre|po\u017ft)[0-9]{0,80})*(\+[a-z0-9.]{1,80})?",
    fullmatch=True,
)


@settings(max_examples=30)
@given(
    st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "~=", "===", "="]),
    _LIKE_VERSIONS,
    _LIKE_VERSIONS,
)
def test_what_looks_like_a_version_never_fails(sign: str, operand: str, value: str) -> None:
    try:
        condition = Condition("version", sign + operand)
    except InvalidRequest:
        return
    assert condition(value) is (condition.against(value) is None)


def test_a_text_of_more_than_64_characters_is_no_version() -> None:
    assert Condition("version", ">=1")(f"1.0.{'4' * 60}")
    assert Condition("version", ">=1").against(f"1.0.{'4' * 61}") == "is no number"
    assert not Condition("version", ">=1.0.0")(10**64)
    assert Condition("version", ">=1.0.0")(10**64 - 1)
    with pytest.raises(InvalidRequest):
        Condition("version", f">=1.{'4' * 62}.*")


def test_one_strange_service_takes_no_answer_from_the_others(client: RegistryClient) -> None:
    for number, value in enumerate(STRANGE):
        where = {"version": value, "load": value, "type": value}
        client.register(f"odd{number}", "lab", 1, service_type="CAM", metadata=where)
    client.register("good", "lab", 2, service_type="CAM", metadata={"version": "1.5"})
    for key in ("version", "load"):
        for wanted in WANTED:
            client.list_services("CAM", where={key: wanted})
    found = client.discover_service("CAM", where={"version": ">=1.4,<2"})
    assert found is not None
    assert found.name == "good"
    assert client.discover_service("CAM", where={"version": ">=3!2"}) is None


def test_long_versions_of_many_make_no_question_slow() -> None:
    conditions = [Condition("version", ",".join([">=0.1"] * 8)) for _ in range(8)]
    slow = ["1+" + ".".join("a" * 120), "1+" + ".".join("a" * 31), f"1.{'2.' * 30}3", "1" * 250]
    began = time.process_time()
    for number in range(300):
        all(condition(slow[number % len(slow)]) for condition in conditions)
    assert time.process_time() - began < 0.5
