"""Fair turns among connections whose answers take long."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from rsreg.server.guard.fair_queue import FairQueue


def test_each_connection_has_its_turn_and_its_own_order() -> None:
    turns: FairQueue[str] = FairQueue()
    for request in ("a1", "a2", "a3", "b1", "c1", "c2"):
        assert turns.add(request[0], request, 0)
    assert [turns.take() for _ in range(7)] == ["a1", "b1", "c1", "a2", "c2", "a3", None]
    assert len(turns) == 0


def test_who_asks_too_much_is_refused_and_nobody_else() -> None:
    turns: FairQueue[int] = FairQueue()
    taken = sum(turns.add("flood", number, 0) for number in range(1_000))
    assert taken == 200
    for flood in range(30):
        for number in range(200):
            turns.add(flood, number, 0)
    assert len(turns) < 4_050
    assert turns.add("quiet", 1, 0)


def test_what_waits_is_not_served() -> None:
    turns: FairQueue[str] = FairQueue()
    assert turns.served(9.0) == 9.0
    turns.add("a", "a1", 3.0)
    turns.add("a", "a2", 4.0)
    turns.add("b", "b1", 5.0)
    assert turns.served(9.0) == 3.0
    assert turns.take() == "a1"
    assert turns.served(9.0) == 4.0
    assert [turns.take(), turns.take()] == ["b1", "a2"]
    assert turns.served(9.0) == 9.0


def test_who_was_slow_waits_until_it_is_quick_again() -> None:
    turns: FairQueue[str] = FairQueue()
    assert not turns.remembered
    turns.answered("a", slow=True)
    assert turns.remembered
    assert turns.are_due("a")
    assert not turns.are_due("b")
    turns.answered("a", slow=False)
    assert not turns.remembered
    turns.add("a", "a1", 0)
    assert turns.are_due("a")
    for number in range(5_000):
        turns.answered(number, slow=True)
    assert len(turns._slow) <= 1_000


@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 4), st.integers()))))
def test_nothing_is_lost_or_overtaken_within_a_connection(
    steps: list[tuple[int, int] | None],
) -> None:
    turns: FairQueue[tuple[int, int]] = FairQueue()
    model: dict[int, deque[tuple[int, int]]] = {}
    for step in steps:
        if step is not None:
            assert turns.add(step[0], step, 0)
            model.setdefault(step[0], deque()).append(step)
        else:
            taken = turns.take()
            assert (taken is None) is not any(model.values())
            if taken is not None:
                assert model[taken[0]].popleft() == taken
    assert len(turns) == sum(map(len, model.values()))
