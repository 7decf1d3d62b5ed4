"""How things are said to people: in the terminal, in the log."""

from __future__ import annotations

import difflib
import html
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice

#: Words that are looked at for one that was meant, and those that are compared letter by letter.
_MOST_WORDS, _MOST_COMPARED = 10_000, 200
#: Characters of a word that may have been meant otherwise, and of those that are compared so: the
#: time for that grows with the square of the length.
_LONGEST, _LONGEST_COMPARED = 512, 32
#: Characters of all words that are not ASCII: to take one of them apart takes up to 2 microseconds.
_MOST_FOREIGN = 10_000
#: What is easily forgotten, or written otherwise.
_LEFT_OUT = str.maketrans("", "", " -_.\t\n\xa0")


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


def near(word: str, known: Iterable[str]) -> str | None:
    """The known word that was meant by one that is not known, or None: for a hint, never more.

    Case, accents, spaces, dots, hyphens and underscores don't count; if that does not help, and
    there are few words, a letter or two.
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
    found = difflib.get_close_matches(folded, short, n=1, cutoff=0.8)
    return short[found[0]] if found else None


def did_you_mean(word: str) -> str:
    """The question, for a hint."""
    return f"did you mean {word!r}?"


def _few(known: Iterable[str]) -> list[str]:
    """The first words, as many as can be looked at while somebody waits."""
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
    return word.casefold().translate(_LEFT_OUT)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as plain text, its columns as wide as what stands in them."""
    lines = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def html_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The same as HTML, for a notebook."""
    lines = [_html_row("th", header), *(_html_row("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def as_html(text: object) -> str:
    """A text that is safe in HTML."""
    return html.escape(printable(text))


def _html_row(tag: str, cells: Sequence[object]) -> str:
    return f"<tr>{''.join(f'<{tag}>{as_html(cell)}</{tag}>' for cell in cells)}</tr>"
