"""Delays that grow and spread."""

from __future__ import annotations

import ast
import sys
import time

import pytest

from rsreg.timing import Backoff, jitter, steady
from tests.helpers import ROOT


def test_backoff_doubles_up_to_its_limit_and_starts_again() -> None:
    backoff = Backoff(0.25, 5.0)
    parts = []
    for _ in range(100):
        parts += [backoff.next() / ceiling for ceiling in (0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0)]
        backoff.reset()
    assert 0.5 <= min(parts) < 0.55
    assert 0.95 < max(parts) <= 1.0


def test_backoff_never_waits_longer_than_its_limit() -> None:
    assert all(0.05 <= Backoff(2.0, 0.1).next() <= 0.1 for _ in range(50))


def test_clients_do_not_come_back_in_step() -> None:
    firsts = sorted(Backoff(1.0, 8.0).next() for _ in range(200))
    assert firsts[-1] - firsts[0] > 0.3


def test_jitter_stays_within_its_part_and_uses_it() -> None:
    delays = [jitter(10.0) for _ in range(500)]
    assert 9.0 <= min(delays) < 9.5
    assert 10.5 < max(delays) <= 11.0
    assert all(5.0 <= jitter(10.0, 0.5) <= 15.0 for _ in range(50))


@pytest.mark.skipif(sys.platform != "linux", reason="the clock has another name elsewhere")
def test_time_that_passes_while_the_machine_sleeps_is_time() -> None:
    before, now, after = (
        time.clock_gettime(time.CLOCK_BOOTTIME),
        steady(),
        time.clock_gettime(time.CLOCK_BOOTTIME),
    )
    assert before <= now <= after


@pytest.mark.unmeasured
def test_nothing_is_judged_by_a_clock_that_stops_while_the_machine_sleeps() -> None:
    """Leases, watchdogs, backoff and freshness all go by `timing.steady`."""
    stopping = [
        f"{path.name}:{node.lineno}"
        for path in (ROOT / "rsreg").rglob("*.py")
        if path.name != "timing.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("monotonic", "perf_counter")
    ]
    assert stopping == []
