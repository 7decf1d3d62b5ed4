"""Conditions, modes and strategies: which service a question gets."""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from typing import Any

import pytest

from rsreg import InMemoryBackend
from rsreg.errors import ConfigurationError, InvalidRequest, NoService
from rsreg.server.backends.stored import Service
from rsreg.server.rules.selection import Strategies, read_filter
from tests.harness import RegistryHarness


def found(harness: RegistryHarness, kind: str | None = None, **asked: Any) -> list[str]:
    """The names of who is listed under conditions."""
    listed = json.loads(bytes(harness.registry.list_services(kind, read_filter(asked))))
    return [record["name"] for record in listed]


# -- modes


def test_no_simulator_among_a_thousand_answers(harness: RegistryHarness) -> None:
    hardware = {harness.register(f"h{number}", type="A") for number in range(3)}
    for number in range(30):
        harness.register(f"s{number}", type="A", mode="simulator")
    assert {harness.discover("A") for _ in range(1_000)} <= hardware
    assert {harness.discover("A", mode="hardware") for _ in range(100)} <= hardware
    assert not {harness.discover("A", mode="simulator") for _ in range(100)} & hardware


def test_a_simulator_only_where_no_hardware_is_registered_at_all(harness: RegistryHarness) -> None:
    simulator = harness.register("sim", 100, type="A", tags=["x"], mode="simulator")
    assert harness.discover("A") == harness.discover("x") == simulator
    hardware = harness.register("hex", 10, type="A", mode="hardware")
    assert harness.discover("A") == hardware
    assert harness.discover("x") == simulator, "of that kind there is no hardware"
    harness.pass_time(10)
    with pytest.raises(NoService) as refusal:
        harness.discover("A")
    hint = "sim on 10.0.0.5:5000 is a simulator; hex on 10.0.0.5:5000 is critical"
    assert refusal.value.hint == hint
    assert harness.discover("A", mode="simulator") == simulator
    with pytest.raises(NoService):
        harness.discover("A", mode="hardware")
    assert harness.expire() == [hardware]
    assert harness.discover("A") == simulator


def test_lists_show_all_modes_unless_one_is_asked_for(harness: RegistryHarness) -> None:
    harness.register("hex", type="A")
    harness.register("sim", type="A", mode="simulator")
    assert found(harness) == found(harness, "A") == ["hex", "sim"]
    assert found(harness, mode="hardware") == ["hex"]
    assert found(harness, "A", mode="simulator") == ["sim"]


# -- conditions


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ({"version": ">=1.10"}, ["new", "newest"]),
        ({"version": ">=1.4,<2"}, ["old", "new"]),
        ({"version": "!=1.9"}, ["new", "newest"]),
        ({"version": "~=1.9"}, ["old", "new"]),
        ({"version": "1.10"}, ["new"]),
        ({"version": ">=1.10", "site": "leuven"}, ["new"]),
        ({"site": "leuven"}, ["old", "new"]),
        ({"channels": 4}, ["old"]),
        ({"channels": "4"}, ["old"]),
        ({"channels": ">=5"}, ["new"]),
        ({"host": "lab2"}, ["newest"]),
        ({"rack": 7}, ["new"]),
        ({"cooled": True}, ["old"]),
        ({"cooled": 1}, []),
        ({"nothing": None}, ["old", "new", "newest"]),
        ({"nothing": "x"}, []),
        ({}, ["old", "new", "newest"]),
    ],
)
def test_where(harness: RegistryHarness, where: dict[str, Any], names: list[str]) -> None:
    harness.register(
        "old", metadata={"version": "1.9", "site": "leuven", "channels": 4, "cooled": True}
    )
    harness.register("new", rack=7, metadata={"version": "1.10", "site": "leuven", "channels": 16})
    harness.register("newest", host="lab2", metadata={"version": "2.0rc1", "site": "delft"})
    assert found(harness, where=where) == names


def test_tags_and_names(harness: RegistryHarness) -> None:
    harness.register("a", type="A", tags=["cryo", "red"])
    harness.register("b", type="A", tags=["cryo", "spare"])
    harness.register("a", type="B", tags=["cryo"])
    assert found(harness, tags=["cryo"]) == ["a", "b", "a"]
    assert found(harness, "A", tags=["cryo", "!spare"]) == ["a"]
    assert found(harness, tags=["cryo", "red"]) == ["a"]
    assert found(harness, name="a") == ["a", "a"]
    assert found(harness, "A", name="b", tags=["!red"]) == ["b"]
    assert found(harness, name="nobody") == []
    assert harness.discover("A", tags=["spare"])
    with pytest.raises(NoService):
        harness.discover("A", tags=["cryo", "!cryo"])


@pytest.mark.parametrize(
    "asked",
    [
        {"tags": "cryo"},
        {"tags": [1]},
        {"where": ["version"]},
        {"where": {"version": ">=one"}},
        {"where": {"version": ">="}},
        {"where": {"version": ">=1,"}},
        {"where": {"version": "~"}},
        {"where": {"version": ">=" + 5000 * "9"}},
        {"where": {"version": ",".join(9 * [">=1"])}},
        {"where": dict.fromkeys("abcdefghi", 1)},
        {"mode": "simulated"},
        {"mode": ""},
        {"name": 5},
    ],
)
def test_wrong_conditions_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=f"^Invalid {next(iter(asked))}"):
        read_filter(asked)


# -- strategies


def test_round_robin_takes_turns_whatever_is_asked_in_between(harness: RegistryHarness) -> None:
    for kind in ("A", "B"):
        for number in range(2):
            harness.register(f"{kind}{number}", type=kind)
    answers = [harness.discover(kind, "round-robin") for _ in range(10) for kind in ("A", "B")]
    assert set(collections.Counter(answers).values()) == {5}
    late = harness.register("A9", type="A")
    assert [harness.discover("A", "round-robin") for _ in range(3)].count(late) == 1


@pytest.mark.parametrize("busy_by", ["update", "register", "new id"])
def test_who_registers_or_updates_between_questions_has_no_turn_more(
    harness: RegistryHarness, busy_by: str
) -> None:
    ids = [harness.register(f"a{n}", type="A") for n in range(3)]
    answers: collections.Counter[str] = collections.Counter()
    for number in range(60):
        if busy_by == "update":
            harness.registry.update(ids[0], {"metadata": {"n": number}}, {}, None)
            harness.commit()
        elif busy_by == "register":
            harness.register("a0", id=ids[0], type="A", metadata={"n": number})
        else:
            harness.registry.deregister(ids[0], None)
            ids[0] = harness.register("a0", type="A")
        chosen = harness.discover("A", "round-robin")
        answers["a0" if chosen == ids[0] else chosen] += 1
    if busy_by == "new id":
        assert answers["a0"] <= 20, answers
    else:
        assert set(answers.values()) == {20}


def test_least_loaded(harness: RegistryHarness) -> None:
    one, two, three = (harness.register(name, type="A") for name in "abc")
    harness.report(one, load=0.5)
    harness.report(two, load=0.2)
    harness.report(three, load=0.9)
    assert {harness.discover("A", "least-loaded") for _ in range(20)} == {two}
    harness.report(three)
    assert {harness.discover("A", "least-loaded") for _ in range(20)} == {three}, "none said is 0"


def test_same_host(harness: RegistryHarness) -> None:
    near = harness.register("a", host="lab1", type="A", owner={"boot": "b1"})
    far = harness.register("b", host="lab2", type="A", owner={"boot": "b2"})
    named = harness.register("c", host="Lab3", type="A")

    def ask(**asker: str) -> set[str]:
        return {harness.discover("A", "same-host", asker=asker) for _ in range(60)}

    assert ask(boot="b1", host="lab2") == {near}, "the boot tells better than a name"
    assert ask(host="lab3") == {named}
    assert ask(boot="b9", host="lab9") == {near, far, named}, "else any"
    assert ask() == {near, far, named}


def test_strategies_of_ones_own_have_names() -> None:
    def first(services: Sequence[Service]) -> Service:
        return min(services, key=lambda service: service.name)

    def last(services: Sequence[Service]) -> Service:
        return max(services, key=lambda service: service.name)

    harness = RegistryHarness(
        InMemoryBackend, strategy="last", strategies={"first": first, "last": last}
    )
    one, two = harness.register("a", type="A"), harness.register("b", type="A")
    assert harness.discover("A") == two
    assert harness.discover("A", "first") == one
    assert {harness.discover("A", "random") for _ in range(60)} == {one, two}
    with pytest.raises(InvalidRequest, match="Invalid strategy: 'best' is unknown") as refusal:
        harness.discover("A", "best")
    assert str(refusal.value.hint).endswith("same-host, first, last")
    with pytest.raises(InvalidRequest, match="Invalid strategy"):
        harness.discover("nothing", "best")
    harness.store.close()


def test_wrong_strategies_are_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="there is a strategy 'random' already"):
        Strategies("random", {"random": lambda services: services[0]})
    with pytest.raises(ConfigurationError, match="unknown strategy 'best'"):
        Strategies("best", {})
