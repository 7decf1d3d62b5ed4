"""Text for people: safe on a terminal and in a log, tables, ages, hints."""

from __future__ import annotations

import difflib
import html
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice

#: Most words that are searched for a similar one, and most that are compared letter by letter.
_MOST_WORDS, _MOST_COMPARED = 10_000, 200
#: Longest word that a similar one is searched for, and longest that is compared letter by letter:
#: the time for that grows with the square of the length.
_LONGEST, _LONGEST_COMPARED = 512, 32
#: Most characters in words that are not ASCII: to decompose one takes up to 2 microseconds.
_MOST_FOREIGN = 10_000
#: Characters that people forget, or type differently.
_IGNORED = str.maketrans("", "", " -_.\t\n\xa0")


def printable(text: object) -> str:
    """Return a text that is safe on a terminal: each unprintable character becomes an escape."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in line
    )


def age(seconds: float) -> str:
    """Return a length of time in a fitting unit: "12 s", "3 min", "5 h", "4 d"."""
    for unit, length, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{max(0, int(seconds / length))} {unit}"
    return f"{int(seconds / 86400)} d"


def near(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most similar to a mistyped one, or None; only for hints.

    Case, accents, spaces, dots, hyphens and underscores are ignored. If no word is equal then, and
    there are few words, one or two letters may differ.
    """
    if len(word) > _LONGEST:
        return None
    folded, short = _folded(word), {}
    words = _few(known)
    for one in words:
        spelled = _folded(one)
        if one != word and spelled == folded:
            return one
        if one != word and len(spelled) <= _LONGEST_COMPARED:
            short[spelled] = one
    if len(words) > _MOST_COMPARED or len(folded) > _LONGEST_COMPARED:
        return None
    similar = difflib.get_close_matches(folded, short, n=1, cutoff=0.8)
    return short[similar[0]] if similar else None


def did_you_mean(word: str) -> str:
    """Return the question for a hint."""
    return f"did you mean {word!r}?"


def _few(known: Iterable[str]) -> list[str]:
    """Return the first words, as many as can be searched while somebody waits."""
    words, foreign = [], 0
    for word in islice(known, _MOST_WORDS):
        foreign += 0 if word.isascii() else len(word)
        if foreign > _MOST_FOREIGN:
            break
        words.append(word)
    return words


def _folded(word: str) -> str:
    if not word.isascii():
        parts = unicodedata.normalize("NFKD", word)
        word = "".join(part for part in parts if not unicodedata.combining(part))
    return word.casefold().translate(_IGNORED)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as plain text; each column is as wide as its widest cell."""
    lines = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as HTML, for a notebook."""
    lines = [_html_row("th", header), *(_html_row("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def as_html(text: object) -> str:
    """Return a text that is safe in HTML."""
    return html.escape(printable(text))


def _html_row(tag: str, cells: Sequence[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{as_html(cell)}</{tag}>' for cell in cells)}</tr>"
