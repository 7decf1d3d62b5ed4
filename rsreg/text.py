"""How things are said to people: in the terminal, in the log."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


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
