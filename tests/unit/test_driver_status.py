"""What a driver says of itself, on a clock held in the hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsreg.client.registration.driver_status import DriverStatus
from rsreg.errors import ConfigurationError

#: Seconds between the two clocks.
WALL = 1_790_000_000.0


def told(status: DriverStatus, now: float) -> dict[str, Any] | None:
    """The report of that moment; that `elapsed` and `since` say the same is seen here."""
    said = status.report(now, WALL + now)
    if said and "status" in said:
        assert abs(WALL + now - said["status"]["since"] - said["status"].pop("elapsed")) < 0.51
    return said


def test_nothing_is_said_until_there_is_something_to_say() -> None:
    status = DriverStatus(0)
    assert told(status, 5) is None
    assert status.set(10, "cooling to 180 K", 0.4, None)
    assert told(status, 12) == {
        "status": {"text": "cooling to 180 K", "progress": 0.4, "since": WALL + 10}
    }
    assert status.set(20, None, None, None)
    assert told(status, 21) == {}


def test_a_text_keeps_its_beginning_while_it_progresses() -> None:
    status = DriverStatus(0)
    status.set(10, "cooling", 0.4, 3)
    assert status.set(20, "cooling", 0.5, None)
    assert not status.set(21, "cooling", 0.5, None)
    assert told(status, 30) == {
        "status": {"text": "cooling", "progress": 0.5, "since": WALL + 10},
        "load": 3,
    }
    status.set(30, None, 0.6, None)
    status.set(30, None, None, 0)
    assert told(status, 30) == {
        "status": {"text": "cooling", "progress": 0.6, "since": WALL + 10},
        "load": 0,
    }
    status.set(40, "cold", None, None)
    assert told(status, 40) == {"status": {"text": "cold", "since": WALL + 40}, "load": 0}


def test_busy_blocks_are_nested() -> None:
    status = DriverStatus(0)
    status.set(1, "ready", None, None)
    outer = status.begin(10, "homing", 300)
    inner = status.begin(20, "axis 1", 60)
    assert told(status, 25) == {"status": {"text": "axis 1", "since": WALL + 20, "max": 60}}
    status.end(30, inner)
    status.set(40, "axis 2", 0.5, None)
    assert told(status, 41) == {
        "status": {"text": "axis 2", "progress": 0.5, "since": WALL + 10, "max": 300}
    }
    status.set(42, None, None, None)
    assert told(status, 43) == {"status": {"text": "homing", "since": WALL + 10, "max": 300}}
    status.end(50, outer)
    assert told(status, 51) == {"status": {"text": "ready", "since": WALL + 1}}


def test_blocks_of_two_threads_may_end_in_any_order() -> None:
    status = DriverStatus(0)
    first, second = status.begin(1, "a", 10), status.begin(2, "b", 10)
    status.end(3, first)
    assert told(status, 3) == {"status": {"text": "b", "since": WALL + 2, "max": 10}}
    status.end(4, second)
    assert told(status, 4) == {}


def test_a_watchdog_that_is_not_fed() -> None:
    status = DriverStatus(100, 60)
    assert told(status, 100) == {"fed": 0, "watchdog": 60}
    assert status.due(100) == pytest.approx(30, abs=0.1)
    assert not status.feed(130)
    assert status.due(130) == pytest.approx(30, abs=0.1)
    assert told(status, 161) == {"fed": 31, "watchdog": 60}
    assert status.due(161) == pytest.approx(29, abs=0.1)
    assert told(status, 200) == {"fed": 70, "watchdog": 60}
    assert status.due(200) is None
    assert status.feed(210)
    assert told(status, 210) == {"fed": 0, "watchdog": 60}


def test_the_moment_that_is_due_is_one_at_which_a_limit_is_crossed() -> None:
    status = DriverStatus(0, 1)
    half = status.due(0)
    assert half is not None
    assert told(status, half) is not None
    assert 0.5 < (told(status, half) or {})["fed"] < 1
    whole = status.due(half)
    assert whole is not None
    assert (told(status, half + whole) or {})["fed"] > 1
    assert status.due(half + whole) is None


def test_who_is_busy_is_fed_but_no_longer_than_announced() -> None:
    status = DriverStatus(0, 10)
    block = status.begin(5, "homing", 100)
    assert (told(status, 104) or {})["fed"] == 0
    assert status.due(5) == pytest.approx(105, abs=0.1)
    assert (told(status, 111) or {})["fed"] == 6
    status.end(112, block)
    assert (told(status, 113) or {})["fed"] == 1


def test_without_a_watchdog_there_is_nothing_to_feed() -> None:
    status = DriverStatus(0)
    assert status.due(100) is None
    with pytest.raises(ConfigurationError, match="no watchdog"):
        status.feed(1)


NAN, INF = math.nan, math.inf
#: Where a number belongs.
TEXT: Any = "60"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda status: status.set(0, "", None, None),
        lambda status: status.set(0, "x" * 257, None, None),
        lambda status: status.set(0, 5, None, None),
        lambda status: status.set(0, None, 0.5, None),
        lambda status: status.set(0, "x", -0.1, None),
        lambda status: status.set(0, "x", 1.1, None),
        lambda status: status.set(0, "x", NAN, None),
        lambda status: status.set(0, "x", True, None),
        lambda status: status.set(0, "x", None, -1),
        lambda status: status.set(0, "x", None, INF),
        lambda status: status.set(0, "x", None, "much"),
        lambda status: status.begin(0, "", 10),
        lambda status: status.begin(0, "x", 0),
        lambda status: status.begin(0, "x", -1),
        lambda status: status.begin(0, "x", 86_401),
        lambda status: status.begin(0, "x", NAN),
        lambda _: DriverStatus(0, 0.5),
        lambda _: DriverStatus(0, 86_401),
        lambda _: DriverStatus(0, cast(float, "60")),
    ],
)
def test_bad_values_are_refused_and_change_nothing(wrong: Callable[[DriverStatus], object]) -> None:
    status = DriverStatus(0)
    with pytest.raises(ConfigurationError):
        wrong(status)
    assert told(status, 1) is None


def test_another_process_has_news_of_all_but_the_feeding() -> None:
    here, there = DriverStatus(0, 20), DriverStatus(0, 20)

    def news(now: float) -> bool:
        return there.restore(now, here.state())

    here.feed(5)
    assert not news(5)
    here.set(5, "cooling", None, None)
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
    here, now = DriverStatus(0, 20), 0.0
    blocks: list[object] = []
    for step, seconds, text in steps:
        now += seconds
        if step == "say":
            here.set(now, text, 0.5, 2)
        elif step == "clear":
            here.set(now, None, None, None)
        elif step == "begin":
            blocks.append(here.begin(now, text, 30))
        elif step == "end" and blocks:
            here.end(now, blocks.pop(0))
        elif step == "feed":
            here.feed(now)
        there = DriverStatus(0, 20)
        there.restore(now, json.loads(json.dumps(here.state())))
        for later in (now, now + 5, now + 100):
            assert told(there, later) == told(here, later)
            assert there.due(later) == here.due(later)
    for block in blocks:
        here.end(now, block)
    shown = (told(here, now) or {}).get("status", {})
    assert "max" not in shown, "all blocks are over"
