"""How things are said to people: in the terminal, in the log."""

from __future__ import annotations


def printable(text: object) -> str:
    """A text that is safe on a terminal: what is no printable character is shown as an escape."""
    said = str(text)
    if said.isprintable():
        return said
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in said
    )


def age(seconds: float) -> str:
    """A length of time in the unit that says it best: "12 s", "3 min", "5 h", "4 d"."""
    for unit, length, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{max(0, int(seconds / length))} {unit}"
    return f"{int(seconds / 86400)} d"
