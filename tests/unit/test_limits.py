"""The bounds: what they are, how they are given, and rates with the clock in the hand."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsreg.errors import ConfigurationError
from rsreg.server import limits
from rsreg.server.limits import BURST, WORDS, Limits, Rate, is_loopback, read_limits
from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()


def test_the_one_table_has_all_of_them_with_their_defaults() -> None:
    table = PAGE.partition("## Bounds")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| ([0-9,]+) \|", table, re.MULTILINE)
    shown = {name: int(number.replace(",", "")) for name, number in rows}
    defaults = Limits()
    assert shown == {name: getattr(defaults, name.replace("-", "_")) for name in limits.names()}
    assert {field.name for field in fields(Limits)} == {*WORDS, "gateways"}


@pytest.mark.parametrize(
    ("bounds", "gateways", "why"),
    [
        ({"servcies": 1}, (), "unknown limit 'servcies'"),
        ({"tags": 0}, (), "the limit tags is a whole number from 1 up, not 0"),
        ({"tags": True}, (), "the limit tags is a whole number from 1 up, not True"),
        ({}, ("lab1",), "neither an address nor a network: 'lab1'"),
        ({}, ("10.0.0.0/33",), "neither an address nor a network"),
    ],
)
def test_wrong_ones_are_named(bounds: dict[str, int], gateways: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        read_limits(bounds, gateways)


def test_they_are_given_as_they_are_shown() -> None:
    given_ones = read_limits({"services-per-address": 7, "tags": 3})
    assert (given_ones.services_per_address, given_ones.tags) == (7, 3)
    assert given_ones.body()["services_per_address"] == 7


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        ("10.3.0.1", True),
        ("10.3.255.255", True),
        ("::ffff:10.3.0.1", True),
        ("10.4.0.1", False),
        ("fd00::7", True),
        ("fd00:0:0:1::7", False),
        ("", False),
        ("no address", False),
    ],
)
def test_a_gateway_is_an_address_or_a_network(address: str, is_one: bool) -> None:
    assert Limits(gateways=("10.3.0.0/16", "fd00::/64")).is_gateway(address) == is_one
    assert not Limits().is_gateway(address)


@pytest.mark.parametrize(
    ("address", "is_one"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("", False),
    ],
)
def test_loopback(address: str, is_one: bool) -> None:
    assert is_loopback(address) == is_one


def test_an_error_says_which_and_what_to_do() -> None:
    error = Limits().reached("services_per_address", "10.3.0.1")
    assert str(error) == "The limit of services that one address registered is 1000"
    assert error.hint == (
        'the registry can be started with "--limit services-per-address=NUMBER"; '
        'with "--gateway 10.3.0.1" if many machines are behind that address'
    )
    assert error.body()["limit"] == "services_per_address"
    assert error.body()["bound"] == 1000


def test_a_rate_is_of_each_address() -> None:
    rate = Rate(10)
    for _ in range(50):
        assert rate.wait("a", 100.0) == 0.0
        rate.take("a", 100.0)
    assert rate.wait("a", 100.0) == pytest.approx(0.1)
    assert rate.wait("b", 100.0) == 0.0
    assert rate.wait("a", 100.11) == 0.0


def test_what_costs_more_than_is_left_is_paid_for_later() -> None:
    rate = Rate(10)
    rate.take("a", 0.0, cost=150)
    assert rate.wait("a", 0.0) == pytest.approx(10.1)
    assert rate.wait("a", 10.05) > 0.0
    assert rate.wait("a", 10.2) == 0.0


def test_an_address_that_was_silent_is_forgotten() -> None:
    rate = Rate(10)
    for number in range(1_000):
        rate.take(f"10.0.{number // 256}.{number % 256}", number / 100)
    for number in range(1_000):
        rate.take("b", 20.0 + number / 100)
    assert list(rate._left) == ["b"]


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0.1, 30)), max_size=50), st.floats(1, 100))
def test_no_address_gets_more_than_its_rate(asked: list[tuple[float, float]], most: float) -> None:
    """Over any time, but for what came at once at its begin, and the last one."""
    rate, now, taken = Rate(most), 0.0, 0.0
    for pause, cost in asked:
        now += pause
        if rate.wait("a", now) == 0.0:
            assert taken <= most * (BURST + now) + 1e-6
            rate.take("a", now, cost)
            taken += cost
