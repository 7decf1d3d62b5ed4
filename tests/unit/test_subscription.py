"""Events in order, once each, without gaps: told by hand what arrives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsreg.errors import RequestTimeout
from rsreg.protocol.calls import Record
from rsreg.transport.subscription import Subscription, concerns
from tests.helpers import ManualClock


def event(seq: int, epoch: str = "e") -> Record:
    """An event as it comes over the wire."""
    return {"type": "register", "seq": seq, "epoch": epoch, "data": {"service_id": str(seq)}}


def answer(*seqs: int, seq: int, epoch: str = "e", reset: bool = False) -> Record:
    """The answer to `events`."""
    return {"events": [event(n) for n in seqs], "seq": seq, "epoch": epoch, "reset": reset}


def asked(follower: Subscription) -> dict[str, Any]:
    """What it would ask now."""
    call = follower.next_request()
    assert call.action == "events"
    return dict(call.params)


@pytest.fixture
def follower() -> Subscription:
    """One that begins after event 5."""
    follower = Subscription(ManualClock())
    assert follower.seconds_until_next_request == 0.0
    assert asked(follower) == {}
    assert follower.on_reply(answer(seq=5)) == []
    return follower


def seqs(events: list[Record]) -> list[int]:
    """The numbers of events."""
    return [one["seq"] for one in events]


def test_nothing_is_taken_before_the_position_is_known() -> None:
    follower = Subscription(ManualClock())
    assert follower.on_event(event(6)) == []
    assert follower.seconds_until_next_request == 0.0


def test_events_in_order(follower: Subscription) -> None:
    assert asked(follower) == {"since": 5, "epoch": "e"}
    assert seqs(follower.on_event(event(6))) == [6]
    assert seqs(follower.on_event(event(7))) == [7]
    assert follower.seconds_until_next_request > 0
    assert asked(follower) == {"since": 7, "epoch": "e"}


def test_what_it_has_already_is_dropped(follower: Subscription) -> None:
    assert follower.on_event(event(5)) == []
    assert follower.on_event(event(4)) == []
    assert follower.seconds_until_next_request > 0
    follower.on_event(event(6))
    assert follower.on_event(event(6)) == []


def test_a_gap_is_asked_for_at_once(follower: Subscription) -> None:
    assert follower.on_event(event(8)) == []
    assert follower.seconds_until_next_request == 0.0
    assert asked(follower) == {"since": 5, "epoch": "e"}
    assert seqs(follower.on_reply(answer(6, 7, 8, seq=8))) == [6, 7, 8]
    assert follower.seconds_until_next_request > 0
    assert follower.on_event(event(8)) == []
    assert seqs(follower.on_event(event(9))) == [9]


def test_a_long_gap_is_asked_for_in_parts(follower: Subscription) -> None:
    assert seqs(follower.on_reply(answer(6, 7, seq=9))) == [6, 7]
    assert follower.seconds_until_next_request == 0.0
    assert asked(follower) == {"since": 7, "epoch": "e"}
    assert seqs(follower.on_reply(answer(8, 9, seq=9))) == [8, 9]
    assert follower.seconds_until_next_request > 0


def test_events_that_arrived_meanwhile_are_not_handed_on_twice(follower: Subscription) -> None:
    follower.on_event(event(6))
    assert seqs(follower.on_reply(answer(6, 7, seq=7))) == [7]
    assert follower.on_reply(answer(6, 7, seq=7)) == []


def test_silence_is_asked_about_less_and_less_often(follower: Subscription) -> None:
    silences = []
    for _ in range(8):
        silences.append(follower.seconds_until_next_request)
        assert follower.on_reply(answer(seq=5)) == []
    assert silences == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0]
    follower.on_reply(answer(6, seq=6))
    assert follower.seconds_until_next_request == 0.25


def test_a_registry_that_does_not_answer_is_asked_again_later(follower: Subscription) -> None:
    follower.on_event(event(8))
    follower.on_failure(RequestTimeout("away"))
    assert follower.seconds_until_next_request == 5.0
    assert asked(follower) == {"since": 5, "epoch": "e"}


def test_another_epoch_is_asked_about(follower: Subscription) -> None:
    assert follower.on_event(event(6, epoch="new")) == []
    assert follower.seconds_until_next_request == 0.0
    assert asked(follower) == {"since": 5, "epoch": "e"}


def test_what_was_missed_for_good_is_said(
    follower: Subscription, caplog: pytest.LogCaptureFixture
) -> None:
    (reset,) = follower.on_reply(answer(seq=2, epoch="new", reset=True))
    assert reset == {"type": "reset", "seq": 2, "epoch": "new", "mark": None, "data": {}}
    assert [record.getMessage() for record in caplog.records] == [
        "events were missed for good: the journal does not reach back, or is another"
    ]
    assert asked(follower) == {"since": 2, "epoch": "new"}
    assert follower.seconds_until_next_request > 0
    assert seqs(follower.on_event(event(3, epoch="new"))) == [3]


def test_the_first_answer_is_no_loss(caplog: pytest.LogCaptureFixture) -> None:
    follower = Subscription(ManualClock())
    assert follower.on_reply(answer(seq=5)) == []
    assert follower.seconds_until_next_request == 0.25
    assert caplog.records == []


def test_it_may_begin_in_the_past() -> None:
    follower = Subscription(ManualClock(), since=3)
    assert follower.seconds_until_next_request == 0.0
    assert asked(follower) == {"since": 3}
    assert seqs(follower.on_reply(answer(4, 5, seq=6))) == [4, 5]
    assert follower.seconds_until_next_request == 0.0
    assert asked(follower) == {"since": 5, "epoch": "e"}
    assert seqs(follower.on_reply(answer(6, seq=6))) == [6]
    assert seqs(follower.on_event(event(7))) == [7]


def test_a_past_that_is_forgotten_is_said() -> None:
    follower = Subscription(ManualClock(), since=3, epoch="old")
    assert asked(follower) == {"since": 3, "epoch": "old"}
    (reset,) = follower.on_reply(answer(seq=90, reset=True))
    assert (reset["type"], reset["seq"], reset["epoch"]) == ("reset", 90, "e")
    assert seqs(follower.on_event(event(91))) == [91]


def test_silence_is_counted_from_the_last_event() -> None:
    clock = ManualClock()
    follower = Subscription(clock)
    follower.on_reply(answer(seq=5))
    clock.advance(0.2)
    assert follower.seconds_until_next_request == pytest.approx(0.05)
    follower.on_event(event(6))
    assert follower.seconds_until_next_request == pytest.approx(0.25)
    clock.advance(1)
    assert follower.seconds_until_next_request == 0.0


def test_an_event_concerns_what_its_service_is_found_under() -> None:
    info = {"type": "PUNA", "tags": ["optics"], "metadata": {"type": "HEXAPOD"}}
    about = {"type": "expire", "data": {"service_id": "x", "service_info": info}}
    for kind in (None, "PUNA", "optics", "HEXAPOD"):
        assert concerns(about, kind)
    assert not concerns(about, "TEMP")
    assert concerns({"type": "reset", "data": {}}, "TEMP")


def test_an_outage_is_said_when_it_begins_and_when_it_is_over(
    follower: Subscription, caplog: pytest.LogCaptureFixture
) -> None:
    outage = [
        "lost the event stream, retrying: away",
        "the registry answers again; events go on from #5",
    ]
    for times in (1, 2):
        for _ in range(3):
            follower.on_failure(RequestTimeout("away"))
        for _ in range(3):
            follower.on_reply(answer(seq=5))
        assert [record.getMessage() for record in caplog.records] == outage * times


@given(st.lists(st.sampled_from(["event", "lost", "again", "ask", "ask in vain"]), max_size=60))
def test_whatever_is_lost_every_event_comes_once_in_order(happenings: list[str]) -> None:
    """Against a registry with a journal, and a network that loses and repeats events."""
    follower, newest, got = Subscription(ManualClock()), 0, []
    follower.on_reply(answer(seq=0))
    for what in [*happenings, "ask"]:
        if what in ("event", "lost"):
            newest += 1
        if what == "event":
            got += follower.on_event(event(newest))
        elif what == "again" and newest:
            got += follower.on_event(event(max(1, newest - 1)))
        elif what == "ask":
            missed = range(asked(follower)["since"] + 1, newest + 1)
            got += follower.on_reply(answer(*missed, seq=newest))
        elif what == "ask in vain":
            follower.on_failure(RequestTimeout("away"))
        assert seqs(got) == list(range(1, len(got) + 1))
        if what == "event" and len(got) < newest:
            assert follower.seconds_until_next_request == 0.0
    assert len(got) == newest


LATE = "events come late"


def answers(clock: ManualClock, follower: Subscription, first: int, last: int) -> None:
    """Events that nobody hears of but by asking, one every three seconds."""
    for seq in range(first, last + 1):
        clock.advance(3)
        assert seqs(follower.on_reply(answer(seq, seq=seq))) == [seq]


def test_that_events_come_late_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    follower = Subscription(clock)
    follower.on_reply(answer(seq=0))
    answers(clock, follower, 1, 2)
    assert LATE not in caplog.text, "a subscription may take a moment"
    answers(clock, follower, 3, 9)
    assert caplog.text.count(LATE) == 1
    assert "--events" in caplog.text
    assert seqs(follower.on_event(event(10))) == [10]
    assert caplog.text.count("arrive by themselves again") == 1
    answers(clock, follower, 11, 13)
    assert caplog.text.count(LATE) == 2


def test_events_that_got_lost_are_no_sign_of_a_blocked_port(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    follower = Subscription(clock)
    follower.on_reply(answer(seq=0))
    for seq in range(1, 20, 3):
        answers(clock, follower, seq, seq)
        follower.on_event(event(seq))
        follower.on_event(event(seq + 2))
        assert follower.seconds_until_next_request == 0.0, "there is a gap"
        follower.on_reply(answer(seq + 1, seq + 2, seq=seq + 2))
    for seq in range(22, 40):
        answers(clock, follower, seq, seq)
        follower.on_failure(RequestTimeout("away"))
        follower.on_reply(answer(seq=seq))
    assert LATE not in caplog.text
