"""What goes to the terminal: data to stdout, the rest to stderr; nothing raw from the registry."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from rsreg import config
from rsreg.text import printable

#: Columns of a table that goes to a file or a pipe.
_WIDTH = 100
#: Words that are to catch the eye.
_COLORS = {
    "critical": "red",
    "degraded": "red",
    "warning": "yellow",
    "maintenance": "yellow",
    "starting": "cyan",
    "simulator": "magenta",
}


def write(text: str) -> None:
    """A line of data."""
    click.echo(printable(text))


def write_json(body: Mapping[str, Any], *, indented: bool = True) -> None:
    """One JSON document: a line, but indented for people's eyes."""
    click.echo(json.dumps(body, indent=2 if indented and sys.stdout.isatty() else None))


def note(text: str) -> None:
    """A line that is no data."""
    click.echo(printable(text), err=True)


def say_error(text: str, hint: str | None) -> None:
    """Why it failed, and what to do."""
    for label, color, said in (("error:", "red", text), ("hint: ", "cyan", hint)):
        if said:
            lines = "\n".join(map(printable, said.splitlines()))
            click.echo(f"{_styled(label, color)} {lines}", err=True)


def write_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Labels, and what there is to say on each, in one line: paths and ids are copied."""
    said = [(printable(label), printable(fact)) for label, fact in facts]
    width = max(len(label) for label, _ in said)
    for label, fact in said:
        color = _COLORS.get(label)
        click.echo(f"{_styled(label.ljust(width), color)}   {_styled(fact, _COLORS.get(fact))}")


def write_table(columns: Mapping[str, bool], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as the terminal; `columns` says which may go on in the next line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header, long in columns.items():
        table.add_column(header, overflow="fold", no_wrap=not long)
    for row in rows:
        table.add_row(*[Text(printable(cell), style=_COLORS.get(cell, "")) for cell in row])
    terminal = sys.stdout.isatty()
    console = Console(
        width=None if terminal else _WIDTH,
        color_system="auto" if terminal and not config.no_color() else None,
    )
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        click.echo(line.rstrip())


def _styled(text: str, color: str | None) -> str:
    """In colour, if any is wanted; click takes it out where there is no terminal."""
    return text if color is None or config.no_color() else click.style(text, fg=color, bold=True)
