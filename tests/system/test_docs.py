"""What the documents show is what happens: every block of every page is run, or comes from a file.

The word after a fence says what is done with a block, `CHECKED` has all of them. A page is run from
its top to its bottom in a shell of its own:

- `console` is typed, and what it prints is compared. A page that starts no registry has one.
- `python` that begins with "# name.py" is saved under that name, for the commands after it. Any
  other is a part of a program in docs/examples, word for word; those are run by their own tests.
- `pycon` is typed at the prompt of "rs_cs shell".
- "<!-- $ command -->" is typed, and not shown to the reader.
"""

from __future__ import annotations

import code
import contextlib
import inspect
import io
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import zmq

import rsreg
from rsreg import AsyncRegistryClient, InteractiveClient, RegistryClient, errors
from rsreg.cli.app import cli
from tests.helpers import ROOT, need

DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts),
]
every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT).with_suffix(""))
)
BLOCK = re.compile(r"^(`{3,})([^\n]*)\n(.*?)^\1$|^<!-- (\$ [^\n]*) -->$", re.MULTILINE | re.DOTALL)
DONE = "-- done --"
#: The kinds of blocks that a test here, or test_protocol, runs; `text` is a picture, and the rest
#: are directives, which are checked when the site is built.
CHECKED = {"console", "python", "pycon", "sh", "ini", "text"}
DIRECTIVES = {"{toctree}", "{literalinclude}", "{eval-rst}", "{glossary}"}


def fenced(page: Path) -> list[tuple[str, str]]:
    """The kind and the text of each block of a page; that of a hidden command is "hidden"."""
    return [
        (kind, body) if mark else ("hidden", hidden)
        for mark, kind, body, hidden in BLOCK.findall(page.read_text())
    ]


def blocks(path: Path, kind: str) -> list[str]:
    """The fenced blocks of one kind."""
    return [body for found, body in fenced(path) if found == kind]


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at the moment."""
    sockets: list[zmq.Socket[bytes]] = [
        zmq.Context.instance().socket(zmq.REP) for _ in range(count)
    ]
    ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in sockets]
    for socket in sockets:
        socket.close(0)
    return ports


class Terminal:
    """A shell in which a reader types, with the ports of the documents moved to free ones."""

    def __init__(self, home: Path) -> None:
        self.home = home
        named = ("4242", "4243", "4244", "6000")
        self.ports = dict(zip(named, map(str, free_ports(4)), strict=True))
        tools = home / "bin"
        tools.mkdir()
        moved = "--req-port {4242} --pub-port {4243} --hb-port {4244}"
        for default, port in self.ports.items():
            moved = moved.replace(f"{{{default}}}", port)
        # Else a pass of the reaper may come between a lease's end and the look at it.
        moved += " --cleanup-interval 60"
        rs_cs = f"{sys.executable} -m rsreg"
        (tools / "rs_cs").write_text(
            f'#!/bin/sh\nif [ "$1" = start ]; then exec {rs_cs} "$@" {moved}; fi\n'
            f'exec {rs_cs} "$@"\n'
        )
        (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        for tool in tools.iterdir():
            tool.chmod(0o755)
        self.shell = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=home,
            start_new_session=True,
            env={
                **{key: it for key, it in os.environ.items() if not key.startswith("RSREG_")},
                "HOME": str(home),
                "XDG_STATE_HOME": "",
                "PYTHONPATH": str(ROOT),
                "PATH": f"{tools}:{os.environ['PATH']}",
                "RSREG_ENDPOINT": f"localhost:{self.ports['4242']}",
            },
        )
        # A terminal has jobs (%1), and does not tell of their ends in the middle of an output.
        self.type("set -m")

    def type(self, command: str) -> str:
        """What the command prints."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{self.moved(command)}\necho '{DONE}'\n")
        self.shell.stdin.flush()
        lines = []
        for line in self.shell.stdout:
            if line.strip() == DONE:
                break
            # What jobs say on the side comes when it comes.
            if not re.match(r"bash: line|\[\d+\]|\w+: heartbeat failed", line):
                lines.append(line)
        return "".join(lines)

    def save(self, program: str) -> str:
        """Save a program under the name that its first line says; the name."""
        name = program.partition("\n")[0].removeprefix("# ")
        (self.home / name).write_text(self.moved(program))
        return name

    def moved(self, text: str) -> str:
        """The text with the ports of the documents moved to free ones."""
        for default, port in self.ports.items():
            text = re.sub(rf"\b{default}\b", port, text)
        return text

    def close(self) -> None:
        """End all that was started here."""
        self.type("rs_cs stop --yes; kill -9 $(jobs -p)")
        os.killpg(self.shell.pid, signal.SIGKILL)
        self.shell.communicate()

    def as_read(self, text: str) -> list[str]:
        """The lines, with what differs each time made equal."""
        for default, port in self.ports.items():
            text = text.replace(port, default)
        text = text.replace(str(self.home), "/home/rik")
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
        text = re.sub(r"\bpid \d+", "pid N", text)
        text = re.sub(r"[\w.-]+@[\w.-]+", "rik@HOST", text)
        text = re.sub(r"\b(\d{4}-\d\d-\d\d )?\d\d:\d\d\b", "HH:MM", text)
        text = re.sub(r"\b[\d.]+( ?)(ms|s)\b", r"N\1\2", text)
        text = re.sub(r"(tcp://|on )(?!localhost)[\w.-]+(?=[:,])", r"\1HOST", text)
        # What the system gave, and not we.
        text = re.sub(r"(?<=tcp://HOST:)(3[2-9]|[45]\d|60)\d{3}\b", "PORT", text)
        text = re.sub(r"\b\d{8}-\d{6}\b", "DATE", text)
        return [re.sub(r" +", " ", line).strip() for line in text.strip().splitlines()]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A shell for transcripts."""
    opened = Terminal(tmp_path)
    yield opened
    opened.close()


def check(terminal: Terminal, transcript: str) -> int:
    """Type what a transcript shows, and compare what comes; how many commands that were."""
    parts = transcript.removeprefix("$ ").split("\n$ ")
    for part in parts:
        command, _, shown = part.partition("\n")
        printed = terminal.type(command)
        assert terminal.as_read(printed) == terminal.as_read(shown), f"$ {command}\n{printed}"
    return len(parts)


@every_page
def test_every_block_is_of_a_kind_that_is_checked(page: Path) -> None:
    if page.name == "protocol.md":
        pytest.skip("its blocks are those of test_protocol")
    kinds = {kind.partition(" ")[0] for kind, _ in fenced(page)} - {"hidden"}
    assert kinds <= CHECKED | DIRECTIVES
    assert page.read_text().count("\n```") == 2 * len(
        [1 for kind, _ in fenced(page) if kind != "hidden"]
    )
    for picture in blocks(page, "text"):
        assert not re.search(r"^(\$|>>>) ", picture, re.MULTILINE), "that is no picture"


def has_to_run(page: Path) -> bool:
    """Whether something on a page is typed into a shell."""
    return bool(blocks(page, "console") or blocks(page, "pycon"))


@pytest.mark.parametrize(
    "page",
    [*filter(has_to_run, PAGES)],
    ids=lambda page: str(page.relative_to(ROOT).with_suffix("")),
)
def test_a_page_shows_what_happens(
    page: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "$ rs_cs start" not in page.read_text():
        terminal.type("rs_cs start --background")
    monkeypatch.setenv("RSREG_ENDPOINT", f"localhost:{terminal.ports['4242']}")
    (terminal.home / "examples").symlink_to(EXAMPLES)
    for kind, text in fenced(page):
        if kind == "hidden":
            terminal.type(text.removeprefix("$ "))
        elif kind == "console":
            check(terminal, text)
        elif kind == "pycon":
            type_in_python(terminal, text)
        elif kind == "python" and text.startswith("# "):
            terminal.save(text)


def type_in_python(terminal: Terminal, transcript: str) -> None:
    """Type what is shown at the prompt of Python, which has a `reg`, and compare what comes."""
    with InteractiveClient() as reg:
        console = code.InteractiveConsole({"reg": reg})
        for part in transcript.removeprefix(">>> ").split("\n>>> "):
            command, _, shown = part.partition("\n")
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                assert not console.push(command), "it goes on in another line"
            assert terminal.as_read(printed.getvalue()) == terminal.as_read(shown), command


@every_page
def test_python_is_a_part_of_an_example_or_is_run(page: Path) -> None:
    if page.name == "protocol.md":
        pytest.skip("its program is run by test_protocol")
    examples = [path.read_text() for path in EXAMPLES.glob("*.py")]
    for program in blocks(page, "python"):
        if program.startswith("# "):
            name = program.partition("\n")[0].removeprefix("# ")
            typed = "".join(blocks(page, "console"))
            assert name in typed or "pytest" in typed, f"{name} is not run"
        else:
            indented = (textwrap.indent(program, " " * depth) for depth in (0, 4, 8, 12, 16))
            assert any(
                lines in example for lines, example in itertools.product(indented, examples)
            ), program


def test_every_example_is_run() -> None:
    tests = "".join(path.read_text() for path in ROOT.glob("tests/**/*.py"))
    for path in EXAMPLES.iterdir():
        if path.suffix != ".console" and path.is_file():
            assert f'"{path.stem}"' in tests or path.name in tests, path.name


@every_page
def test_commands_that_are_not_run_here_are_commands(page: Path) -> None:
    """Those of blocks of `sh` and of units, in whole; and each that is named in the text."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    for unit in blocks(page, "ini"):
        lines += [value for key, value in settings(unit) if key == "ExecStart"]
    for command in re.split(r"&&|\n", "\n".join(lines)):
        program, *arguments = shlex.split(command, comments=True) or [""]
        if Path(program).name == "rs_cs":
            name, *arguments = arguments
            with click.Context(cli) as context:
                cli.commands[name].make_context(name, arguments, parent=context)
        elif program == "python" and arguments[0] != "-m":
            assert (ROOT / arguments[0]).exists(), command
    for name in re.findall(r"`rs_cs ([a-z]+)", page.read_text()):
        assert name in cli.commands, name


@pytest.mark.parametrize(
    "transcript",
    sorted(EXAMPLES.glob("*.console")),
    ids=lambda transcript: transcript.stem,
)
def test_the_transcripts_show_what_happens(terminal: Terminal, transcript: Path) -> None:
    terminal.type("rs_cs start --background")
    assert check(terminal, transcript.read_text()) > 1


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_decisions_name_modules_that_exist() -> None:
    """After "Where": the first in full, and those after it perhaps without its package."""
    places = re.findall(
        r"\*Where:\* (.+?)\.\n\n", (DOCS / "architecture.md").read_text(), re.DOTALL
    )
    assert len(places) > 50
    for place in places:
        package = ""
        for name in re.findall(r"`([a-z_.]+)`", place):
            full = name if "." in name else f"{package}.{name}"
            package = full.rpartition(".")[0]
            path = (ROOT / "rsreg").joinpath(*full.split("."))
            assert path.with_suffix(".py").exists() or path.is_dir(), full


def public_methods(cls: type) -> list[str]:
    """The methods and properties of a class that users call."""
    return [
        name
        for name, _ in inspect.getmembers(
            cls, lambda member: inspect.isfunction(member) or isinstance(member, property)
        )
        if not name.startswith("_")
    ]


def test_the_site_is_built_and_its_reference_has_every_public_name(tmp_path: Path) -> None:
    site = tmp_path / "site"
    options = ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    command = [sys.executable, *options, str(DOCS), str(site)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    pages = "".join(page.read_text() for page in site.glob("*.html"))
    known = set(re.findall(r' id="rsreg\.([\w.]+)"', pages))
    offered = {
        **{name: getattr(rsreg, name) for name in rsreg.__all__},
        **{f"server.{name}": getattr(rsreg.server, name) for name in rsreg.server.__all__},
        **{f"errors.{name}": value for name, value in vars(errors).items() if is_error(value)},
    }
    del offered["server.RegistryServer"], offered["server.RegistryBackend"]
    assert {*offered} - known == set()
    classes = {value: name for name, value in offered.items() if inspect.isclass(value)}
    for cls in classes:
        # What a class has from another one in the reference stands there.
        documented = [classes[base] for base in cls.__mro__ if base in classes]
        for method in [] if is_error(cls) else public_methods(cls):
            assert {f"{name}.{method}" for name in documented} & known, f"{cls}: {method}"


def is_error(value: object) -> bool:
    """Whether something in the module of errors is one of them."""
    return inspect.isclass(value) and issubclass(value, errors.RegistryError)


def test_the_page_of_settings_has_every_variable() -> None:
    def variables(path: Path) -> set[str]:
        return set(re.findall(r"RSREG_[A-Z]+", path.read_text()))

    for_processes_of_ours = {"RSREG_STARTED", "RSREG_PATH"}
    known = variables(ROOT / "rsreg" / "config.py") - for_processes_of_ours
    assert variables(DOCS / "settings.md") == known
    for page in PAGES:
        assert variables(page) <= known, page.name


def test_sync_and_async_clients_have_the_same_methods() -> None:
    def methods(cls: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(function).parameters)
            for name, function in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(RegistryClient) == methods(AsyncRegistryClient)


def test_the_tree_of_errors_is_the_real_one() -> None:
    """In the module's docstring and on the page of errors, with the codes on the wire."""
    lines: list[str] = []

    def draw(cls: type[Exception], depth: int) -> None:
        lines.append(f"{depth} {cls.__name__} {getattr(cls, 'code', '')}".rstrip())
        for child in cls.__subclasses__():
            if child.__module__ == errors.__name__:
                draw(child, depth + 1)

    draw(errors.RegistryError, 0)
    pictures = (errors.__doc__ or "", (DOCS / "errors.md").read_text())
    for picture in pictures:
        drawn = []
        for line in picture.splitlines():
            found = re.match(r"^ {0,4}((?:│   |    )*)(├── |└── )?([A-Z]\w+)(?:  +(\S+))?", line)
            if found and hasattr(errors, found[3]):
                depth = len(found[1]) // 4 + bool(found[2])
                code = getattr(errors, found[3]).__dict__.get("code", "")
                assert not code or code == "error" or found[4] == code, line
                drawn.append(f"{depth} {found[3]}")
        assert drawn == [line.rsplit(" ", line.count(" ") - 1)[0] for line in lines]


UNIT = (EXAMPLES / "rsreg.service").read_text()


def settings(unit: str) -> list[tuple[str, str]]:
    """What a unit says, without its comments."""
    return re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE)


def test_the_unit_for_systemd(tmp_path: Path) -> None:
    said = dict(settings(UNIT))
    assert said["Wants"] == said["After"], "to be after a target does not start it"
    shown = next(text for text in blocks(DOCS / "howto" / "systemd.md", "ini"))
    assert set(settings(shown)) <= set(settings(UNIT))
    need("systemd-analyze")
    path = tmp_path / "rsreg.service"
    path.write_text(UNIT.replace(said["ExecStart"].split()[0], sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_leaves_no_right_that_is_not_needed(tmp_path: Path) -> None:
    need("systemd-analyze")
    path = tmp_path / "rsreg.service"
    path.write_text(UNIT)
    done = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("needs systemd 250")
    assert done.returncode == 0, done.stdout


def test_the_unit_starts_what_there_is() -> None:
    _, command, *options = dict(settings(UNIT))["ExecStart"].split()
    known = {name for param in cli.commands[command].params for name in param.opts}
    assert {option for option in options if option.startswith("-")} <= known
    folder = dict(settings(UNIT))["StateDirectory"]
    assert options[options.index("--db") + 1].startswith(f"/var/lib/{folder}/")
