"""When to ask again for services that are not there yet, and when to give up."""

from __future__ import annotations

import pytest
from helpers import HandClock

from rsreg.errors import RequestTimeout
from rsreg.waiting import Waiting


def waiting(clock: HandClock, *kinds: str, timeout: float = 10.0) -> Waiting:
    """A wait of ten seconds."""
    return Waiting(kinds or ("A", "B"), timeout, clock)


def test_it_is_over_when_all_are_found(clock: HandClock) -> None:
    wait = waiting(clock)
    assert wait.missing() == ["A", "B"]
    assert wait.pause() is not None
    wait.found["B"] = {"id": "b"}
    assert wait.missing() == ["A"]
    assert wait.pause() is not None
    wait.found["A"] = {"id": "a"}
    assert wait.missing() == []
    assert wait.pause() is None
    assert wait.found == {"A": {"id": "a"}, "B": {"id": "b"}}


def test_there_may_be_nothing_to_wait_for(clock: HandClock) -> None:
    wait = Waiting((), 10.0, clock)
    assert wait.pause() is None
    assert wait.found == {}


def test_it_asks_less_and_less_often_until_the_time_is_over(clock: HandClock) -> None:
    wait = waiting(clock)
    pauses = []
    while (pause := wait.pause()) is not None:
        pauses.append(pause)
        clock.advance(pause)
    assert sum(pauses) == pytest.approx(10.0)
    assert pauses[0] <= 0.1
    assert 0.4 < max(pauses) <= 1.0
    assert len(pauses) < 30
    assert wait.missing() == ["A", "B"]


def test_a_question_may_take_what_is_left(clock: HandClock) -> None:
    wait = waiting(clock)
    assert wait.patience() == 10.0
    clock.advance(9.0)
    assert wait.patience() == 1.0
    clock.advance(5.0)
    assert wait.patience() == pytest.approx(0.1)


def test_a_registry_that_never_answered_is_an_error_at_the_end(clock: HandClock) -> None:
    wait = waiting(clock)
    wait.failure = RequestTimeout("nobody there")
    assert wait.pause() is not None
    clock.advance(10.0)
    with pytest.raises(RequestTimeout, match="nobody there"):
        wait.pause()


def test_a_registry_that_answered_in_the_end_is_none(clock: HandClock) -> None:
    wait = waiting(clock)
    wait.failure = RequestTimeout("nobody there")
    clock.advance(9.9)
    wait.failure = None
    clock.advance(0.1)
    assert wait.pause() is None
