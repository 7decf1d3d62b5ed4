"""What goes to the terminal: data to stdout, the rest to stderr; nothing raw from the registry."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

from rsreg import config
from rsreg.display import printable
from rsreg.errors import ConfigurationError, RegistryError
from rsreg.system.line_writer import Writer

_STDOUT = 1
#: Columns of a table that goes to a file or a pipe.
_WIDTH = 100
#: Columns of a terminal below which a table is no longer readable, and what is between two of them.
_NARROW, _GAP = 60, "  "
#: Words that are to catch the eye.
_COLORS = {
    "critical": "red",
    "degraded": "red",
    "warning": "yellow",
    "maintenance": "yellow",
    "starting": "cyan",
    "simulator": "magenta",
}


class CantWrite(RegistryError):
    """What a command has to say can't be written to stdout."""


def write(text: str) -> None:
    """A line of data; like all that writes data it raises CantWrite."""
    put(printable(text))


def write_json(body: Mapping[str, Any], *, indented: bool = True) -> None:
    """One JSON document: a line, but indented for people's eyes."""
    put(json_text(body, indented=indented))


def json_text(body: Mapping[str, Any], *, indented: bool = True) -> str:
    """The text of `write_json`."""
    return json.dumps(body, indent=2 if indented and _for_eyes() else None)


def note(text: str) -> None:
    """A line that is no data; nobody is told if it can't be written."""
    _remark(printable(text))


def put(text: str) -> None:
    """Data as it is, and a line's end."""
    if sys.stdout is None:
        raise CantWrite("can't write the answer: stdout is closed")
    try:
        click.echo(text)
    except OSError as error:
        raise CantWrite(f"can't write the answer: {error.strerror or error}") from error


def put_beside(lines: Iterable[str]) -> Writer | None:
    """Data for who may not read it: nobody waits for that, and it may fail. Flush it in the end."""
    if sys.stdout is None:
        return None
    writer = Writer(_STDOUT, lambda count: f"{count} lines are missing", sys.stdout.encoding)
    for line in lines:
        writer.write(line if sys.stdout.isatty() else click.unstyle(line))
    return writer


def open_what_is_closed() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed: the next file would be it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def forget(stream: Any) -> None:
    """Leave unwritten what a stream could not write: else Python tries again at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def say_error(text: str, hint: str | None) -> None:
    """Why it failed, and what to do."""
    for label, color, said in (("error:", "red", text), ("hint: ", "cyan", hint)):
        if said:
            lines = "\n".join(map(printable, said.splitlines()))
            _remark(f"{_styled(label, color)} {lines}")


def write_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Labels, and what there is to say on each, in one line: paths and ids are copied."""
    for line in fact_lines(facts):
        put(line)


def fact_lines(facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The lines of `write_facts`."""
    said = [(printable(label), printable(fact)) for label, fact in facts]
    width = max(len(label) for label, _ in said)
    for label, fact in said:
        color = _COLORS.get(label)
        yield f"{_styled(label.ljust(width), color)}   {_styled(fact, _COLORS.get(fact))}"


def write_table(columns: Mapping[str, bool], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as the terminal; `columns` says which may go on in the next line.

    On a narrow terminal that it does not fit, each row is a block of lines.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    width = shutil.get_terminal_size().columns if _for_eyes() else _WIDTH
    widest = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    fits = sum(widest) + len(_GAP) * (len(widest) - 1) <= width
    lines = (
        _table(columns, cells, width)
        if fits or width >= _NARROW
        else _blocks(columns, cells, width)
    )
    for line in lines:
        put(line)


def _table(columns: Mapping[str, bool], rows: Iterable[Sequence[str]], width: int) -> Iterator[str]:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold")
    for header, long in columns.items():
        table.add_column(header, overflow="fold", no_wrap=not long)
    for row in rows:
        table.add_row(*[Text(cell, style=_COLORS.get(cell, "")) for cell in row])
    drawn = io.StringIO()
    coloured = _for_eyes() and not config.no_color()
    console = Console(
        file=drawn,
        width=width,
        force_terminal=coloured,
        color_system="auto" if coloured else None,
    )
    console.print(table)
    for line in drawn.getvalue().splitlines():
        yield line.rstrip()


def _blocks(
    columns: Mapping[str, bool], rows: Iterable[Sequence[str]], width: int
) -> Iterator[str]:
    """Lines for each cell that says something, beside the head of its column."""
    indent = max(map(len, columns)) + len(_GAP)
    for number, row in enumerate(rows):
        if number:
            yield ""
        for header, cell in zip(columns, row, strict=True):
            said = textwrap.wrap(cell, max(width - indent, 1), break_on_hyphens=False)
            for part, line in enumerate(said if cell != "-" else ()):
                head = "" if part else header
                yield f"{head.ljust(indent)}{_styled(line, _COLORS.get(cell))}"


def _remark(line: str) -> None:
    try:
        click.echo(line, err=True)
    except OSError:
        forget(sys.stderr)


def _for_eyes() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _styled(text: str, color: str | None) -> str:
    """In colour, if any is wanted; click takes it out where there is no terminal."""
    return text if color is None or config.no_color() else click.style(text, fg=color, bold=True)


def ask(question: str) -> None:
    """Go on only if that is what is wanted; RegistryError if not."""
    try:
        agreed = click.confirm(printable(question), err=True)
    except click.Abort:
        click.echo(err=True)
        raise
    if not agreed:
        raise RegistryError("nothing was changed")


def check_can_ask(yes: bool) -> None:
    """Refuse before anything is sent where nobody is there to be asked."""
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError(
            "confirmation needed, and stdin is not a terminal",
            hint="use --yes to do it without confirmation",
        )
