"""How things are said to people: what may have been meant by a word, in any language, at once."""

from __future__ import annotations

import time

import pytest

from rsreg import display


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("puna", ["PUNA", "CAM"], "PUNA"),
        ("Kuhler", ["Kühler"], "Kühler"),
        ("\uff30\uff35\uff2e\uff21", ["PUNA"], "PUNA"),
        ("hexapot", ["HEXAPOD", "CAM"], "HEXAPOD"),
        ("puna", ["\ufdfa" * 20_000, "PUNA"], None),
        ("x" * 600, ["X" * 600], None),
        ("x" * 200, ["X" * 200], "X" * 200),
        ("x" * 200, ["x" * 201], None),
    ],
)
def test_what_was_meant(word: str, known: list[str], meant: str | None) -> None:
    assert display.near(word, known) == meant


@pytest.mark.unmeasured
@pytest.mark.parametrize(
    ("letters", "count"),
    [
        ("\ufdfa" * 250, 10_000),  # Each of these is 18 letters, once taken apart.
        ("\ufb03" * 250, 10_000),
        ("ab" * 60, 199),
        ("ab" * 15, 199),
        ("\u00e9" * 250, 199),
        ("\u0301" * 250, 10_000),
    ],
)
def test_a_guess_takes_no_time(letters: str, count: int) -> None:
    known = [f"{letters}{number:05}" for number in range(count)]
    began = time.process_time()
    display.near(f"{letters}99999", known)
    assert time.process_time() - began < 0.15
