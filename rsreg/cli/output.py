"""Output: data to stdout, all else to stderr; texts from the registry are made printable."""

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
#: Columns of a terminal below which a table is not readable; the gap between columns of a table.
_NARROW, _GAP = 60, "  "
#: Colours of words that should be noticed.
_COLORS = {
    "critical": "red",
    "degraded": "red",
    "warning": "yellow",
    "maintenance": "yellow",
    "starting": "cyan",
    "simulator": "magenta",
}


class CantWrite(RegistryError):
    """The output of a command can't be written to stdout."""


def write(text: str) -> None:
    """Write a line of data; like all functions that write data it raises CantWrite."""
    put(printable(text))


def write_json(body: Mapping[str, Any], *, indented: bool = True) -> None:
    """Write a JSON document: in one line, but indented on a terminal."""
    put(json_text(body, indented=indented))


def json_text(body: Mapping[str, Any], *, indented: bool = True) -> str:
    """Return the text that `write_json` writes."""
    return json.dumps(body, indent=2 if indented and _is_terminal() else None)


def note(text: str) -> None:
    """Write a line that is not data to stderr; no error is raised if that fails."""
    _write_to_stderr(printable(text))


def put(text: str) -> None:
    """Write data unchanged, and a line end."""
    if sys.stdout is None:
        raise CantWrite("can't write the answer: stdout is closed")
    try:
        click.echo(text)
    except OSError as error:
        raise CantWrite(f"can't write the answer: {error.strerror or error}") from error


def write_in_background(lines: Iterable[str]) -> Writer | None:
    """Write lines on a thread, for a reader that may be slow or gone; flush it at the end."""
    if sys.stdout is None:
        return None
    writer = Writer(_STDOUT, lambda count: f"{count} lines are missing", sys.stdout.encoding)
    for line in lines:
        writer.write(line if sys.stdout.isatty() else click.unstyle(line))
    return writer


def open_standard_streams() -> None:
    """Open /dev/null in place of a closed stdin, stdout or stderr, before another file takes it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def discard_output(stream: Any) -> None:
    """Drop what a stream could not write; otherwise Python tries again when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def write_error(text: str, hint: str | None) -> None:
    """Write why a command failed, and what to do."""
    for label, color, message in (("error:", "red", text), ("hint: ", "cyan", hint)):
        if message:
            lines = "\n".join(map(printable, message.splitlines()))
            _write_to_stderr(f"{_styled(label, color)} {lines}")


def write_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Write a label and a fact in each line; facts are not wrapped, so that they can be copied."""
    for line in fact_lines(facts):
        put(line)


def fact_lines(facts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the lines of `write_facts`."""
    lines = [(printable(label), printable(fact)) for label, fact in facts]
    width = max(len(label) for label, _ in lines)
    for label, fact in lines:
        color = _COLORS.get(label)
        yield f"{_styled(label.ljust(width), color)}   {_styled(fact, _COLORS.get(fact))}"


def write_table(columns: Mapping[str, bool], rows: Iterable[Sequence[str]]) -> None:
    """Write a table as wide as the terminal; `columns` says which columns can be wrapped.

    If the terminal is too narrow for the table, each row becomes a block of lines.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    width = shutil.get_terminal_size().columns if _is_terminal() else _WIDTH
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
    coloured = _is_terminal() and not config.no_color()
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
    """Yield lines for each cell that is not empty, beside the header of its column."""
    indent = max(map(len, columns)) + len(_GAP)
    for number, row in enumerate(rows):
        if number:
            yield ""
        for header, cell in zip(columns, row, strict=True):
            lines = textwrap.wrap(cell, max(width - indent, 1), break_on_hyphens=False)
            for part, line in enumerate(lines if cell != "-" else ()):
                label = "" if part else header
                yield f"{label.ljust(indent)}{_styled(line, _COLORS.get(cell))}"


def _write_to_stderr(line: str) -> None:
    try:
        click.echo(line, err=True)
    except OSError:
        discard_output(sys.stderr)


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _styled(text: str, color: str | None) -> str:
    """Return a text in colour, unless NO_COLOR is set; click removes it if there is no terminal."""
    return text if color is None or config.no_color() else click.style(text, fg=color, bold=True)


def confirm(question: str) -> None:
    """Ask a question; raises RegistryError unless the answer is yes."""
    try:
        agreed = click.confirm(printable(question), err=True)
    except click.Abort:
        click.echo(err=True)
        raise
    if not agreed:
        raise RegistryError("nothing was changed")


def check_can_confirm(yes: bool) -> None:
    """Raise ConfigurationError, before anything is sent, if nobody can answer a question."""
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError(
            "confirmation needed, and stdin is not a terminal",
            hint="use --yes to do it without confirmation",
        )
