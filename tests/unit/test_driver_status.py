"""What a driver says of itself, on a clock held in the hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsreg.client.registration.driver_status import Vitals
from rsreg.errors import ConfigurationError

#: Seconds between the two clocks.
WALL = 1_790_000_000.0


def told(vitals: Vitals, now: float) -> dict[str, Any] | None:
    """The report of that moment; that `elapsed` and `since` say the same is seen here."""
    said = vitals.report(now, WALL + now)
    if said and "status" in said:
        assert abs(WALL + now - said["status"]["since"] - said["status"].pop("elapsed")) < 0.51
    return said


def test_nothing_is_said_until_there_is_something_to_say() -> None:
    vitals = Vitals(0)
    assert told(vitals, 5) is None
    assert vitals.say(10, "cooling to 180 K", 0.4, None)
    assert told(vitals, 12) == {
        "status": {"text": "cooling to 180 K", "progress": 0.4, "since": WALL + 10}
    }
    assert vitals.say(20, None, None, None)
    assert told(vitals, 21) == {}


def test_a_text_keeps_its_beginning_while_it_progresses() -> None:
    vitals = Vitals(0)
    vitals.say(10, "cooling", 0.4, 3)
    assert vitals.say(20, "cooling", 0.5, None)
    assert not vitals.say(21, "cooling", 0.5, None)
    assert told(vitals, 30) == {
        "status": {"text": "cooling", "progress": 0.5, "since": WALL + 10},
        "load": 3,
    }
    vitals.say(30, None, 0.6, None)
    vitals.say(30, None, None, 0)
    assert told(vitals, 30) == {
        "status": {"text": "cooling", "progress": 0.6, "since": WALL + 10},
        "load": 0,
    }
    vitals.say(40, "cold", None, None)
    assert told(vitals, 40) == {"status": {"text": "cold", "since": WALL + 40}, "load": 0}


def test_busy_blocks_are_nested() -> None:
    vitals = Vitals(0)
    vitals.say(1, "ready", None, None)
    outer = vitals.begin(10, "homing", 300)
    inner = vitals.begin(20, "axis 1", 60)
    assert told(vitals, 25) == {"status": {"text": "axis 1", "since": WALL + 20, "max": 60}}
    vitals.end(30, inner)
    vitals.say(40, "axis 2", 0.5, None)
    assert told(vitals, 41) == {
        "status": {"text": "axis 2", "progress": 0.5, "since": WALL + 10, "max": 300}
    }
    vitals.say(42, None, None, None)
    assert told(vitals, 43) == {"status": {"text": "homing", "since": WALL + 10, "max": 300}}
    vitals.end(50, outer)
    assert told(vitals, 51) == {"status": {"text": "ready", "since": WALL + 1}}


def test_blocks_of_two_threads_may_end_in_any_order() -> None:
    vitals = Vitals(0)
    first, second = vitals.begin(1, "a", 10), vitals.begin(2, "b", 10)
    vitals.end(3, first)
    assert told(vitals, 3) == {"status": {"text": "b", "since": WALL + 2, "max": 10}}
    vitals.end(4, second)
    assert told(vitals, 4) == {}


def test_a_watchdog_that_is_not_fed() -> None:
    vitals = Vitals(100, 60)
    assert told(vitals, 100) == {"fed": 0, "watchdog": 60}
    assert vitals.due(100) == pytest.approx(30, abs=0.1)
    assert not vitals.feed(130)
    assert vitals.due(130) == pytest.approx(30, abs=0.1)
    assert told(vitals, 161) == {"fed": 31, "watchdog": 60}
    assert vitals.due(161) == pytest.approx(29, abs=0.1)
    assert told(vitals, 200) == {"fed": 70, "watchdog": 60}
    assert vitals.due(200) is None
    assert vitals.feed(210)
    assert told(vitals, 210) == {"fed": 0, "watchdog": 60}


def test_the_moment_that_is_due_is_one_at_which_a_limit_is_crossed() -> None:
    vitals = Vitals(0, 1)
    half = vitals.due(0)
    assert half is not None
    assert told(vitals, half) is not None
    assert 0.5 < (told(vitals, half) or {})["fed"] < 1
    whole = vitals.due(half)
    assert whole is not None
    assert (told(vitals, half + whole) or {})["fed"] > 1
    assert vitals.due(half + whole) is None


def test_who_is_busy_is_fed_but_no_longer_than_announced() -> None:
    vitals = Vitals(0, 10)
    block = vitals.begin(5, "homing", 100)
    assert (told(vitals, 104) or {})["fed"] == 0
    assert vitals.due(5) == pytest.approx(105, abs=0.1)
    assert (told(vitals, 111) or {})["fed"] == 6
    vitals.end(112, block)
    assert (told(vitals, 113) or {})["fed"] == 1


def test_without_a_watchdog_there_is_nothing_to_feed() -> None:
    vitals = Vitals(0)
    assert vitals.due(100) is None
    with pytest.raises(ConfigurationError, match="no watchdog"):
        vitals.feed(1)


NAN, INF = math.nan, math.inf
#: Where a number belongs.
TEXT: Any = "60"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda vitals: vitals.say(0, "", None, None),
        lambda vitals: vitals.say(0, "x" * 257, None, None),
        lambda vitals: vitals.say(0, 5, None, None),
        lambda vitals: vitals.say(0, None, 0.5, None),
        lambda vitals: vitals.say(0, "x", -0.1, None),
        lambda vitals: vitals.say(0, "x", 1.1, None),
        lambda vitals: vitals.say(0, "x", NAN, None),
        lambda vitals: vitals.say(0, "x", True, None),
        lambda vitals: vitals.say(0, "x", None, -1),
        lambda vitals: vitals.say(0, "x", None, INF),
        lambda vitals: vitals.say(0, "x", None, "much"),
        lambda vitals: vitals.begin(0, "", 10),
        lambda vitals: vitals.begin(0, "x", 0),
        lambda vitals: vitals.begin(0, "x", -1),
        lambda vitals: vitals.begin(0, "x", 86_401),
        lambda vitals: vitals.begin(0, "x", NAN),
        lambda _: Vitals(0, 0.5),
        lambda _: Vitals(0, 86_401),
        lambda _: Vitals(0, TEXT),
    ],
)
def test_bad_values_are_refused_and_change_nothing(wrong: Callable[[Vitals], object]) -> None:
    vitals = Vitals(0)
    with pytest.raises(ConfigurationError):
        wrong(vitals)
    assert told(vitals, 1) is None


def test_another_process_has_news_of_all_but_the_feeding() -> None:
    here, there = Vitals(0, 20), Vitals(0, 20)

    def news(now: float) -> bool:
        return there.restore(now, here.state())

    here.feed(5)
    assert not news(5)
    here.say(5, "cooling", None, None)
    assert news(5)
    assert not news(6)
    here.feed(17)
    assert news(17), "it had been silent for too long"
    block = here.begin(18, "homing", 10)
    assert news(18)
    here.end(19, block)
    assert news(19)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["say", "clear", "begin", "end", "feed"]),
        st.floats(0, 50),
        st.text(min_size=1, max_size=8),
    ),
    max_size=20,
)


@given(STEPS)
def test_another_process_says_the_same(steps: list[tuple[str, float, str]]) -> None:
    here, now = Vitals(0, 20), 0.0
    blocks: list[object] = []
    for step, seconds, text in steps:
        now += seconds
        if step == "say":
            here.say(now, text, 0.5, 2)
        elif step == "clear":
            here.say(now, None, None, None)
        elif step == "begin":
            blocks.append(here.begin(now, text, 30))
        elif step == "end" and blocks:
            here.end(now, blocks.pop(0))
        elif step == "feed":
            here.feed(now)
        there = Vitals(0, 20)
        there.restore(now, json.loads(json.dumps(here.state())))
        for later in (now, now + 5, now + 100):
            assert told(there, later) == told(here, later)
            assert there.due(later) == here.due(later)
    for block in blocks:
        here.end(now, block)
    shown = (told(here, now) or {}).get("status", {})
    assert "max" not in shown, "all blocks are over"
