"""What the documents show is what happens: console blocks are run and compared, names exist."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from rsreg import AsyncRegistryClient, RegistryClient, RegistryServer, ServiceCache, errors
from rsreg.cli.app import cli
from tests.helpers import ROOT, need

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DONE = "-- done --"


def blocks(path: Path, kind: str) -> list[str]:
    """The fenced blocks of one kind."""
    return [body for found, body in BLOCK.findall(path.read_text()) if found == kind]


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
                **os.environ,
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
        for default, port in self.ports.items():
            command = re.sub(rf"\b{default}\b", port, command)
        self.shell.stdin.write(f"{command}\necho '{DONE}'\n")
        self.shell.stdin.flush()
        lines = []
        for line in self.shell.stdout:
            if line.strip() == DONE:
                break
            # What jobs say on the side comes when it comes.
            if not line.startswith(("bash: line", "[1]", "puna_cs: heartbeat failed")):
                lines.append(line)
        return "".join(lines)

    def close(self) -> None:
        """End all that was started here."""
        self.type("rs_cs stop --yes")
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
        text = re.sub(r"\b[\d.]+ (ms|s)\b", r"N \1", text)
        text = re.sub(r"(tcp://|on )(?!localhost)[\w.-]+(?=[:,])", r"\1HOST", text)
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


def test_the_readme_shows_what_happens(terminal: Terminal) -> None:
    readme = ROOT / "README.md"
    for program in blocks(readme, "python"):
        name = program.split("\n", 1)[0].removeprefix("# ")
        (terminal.home / name).write_text(program)
    assert sum(check(terminal, block) for block in blocks(readme, "console")) > 10


@pytest.mark.parametrize(
    "transcript",
    sorted((ROOT / "docs" / "examples").glob("*.console")),
    ids=lambda transcript: transcript.stem,
)
def test_the_transcripts_show_what_happens(terminal: Terminal, transcript: Path) -> None:
    terminal.type("rs_cs start --background")
    assert check(terminal, transcript.read_text()) > 1


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_python_in_the_documents_is_python(page: Path) -> None:
    for program in blocks(page, "python"):
        compile(program, page.name, "exec")


def test_the_reference_names_every_method() -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    for cls in (RegistryClient, AsyncRegistryClient, ServiceCache, RegistryServer):
        for name, _ in inspect.getmembers(cls, inspect.isfunction):
            assert name.startswith("_") or f"{name}(" in reference, f"{cls.__name__}.{name}"
    signature = "register(name, host, port, service_type=None, metadata=None, ttl=30, "
    assert signature in reference


def test_sync_and_async_clients_have_the_same_methods() -> None:
    def methods(cls: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(function).parameters)
            for name, function in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(RegistryClient) == methods(AsyncRegistryClient)


def test_the_tree_of_errors_is_the_real_one() -> None:
    """In the module's docstring and in the reference, with the codes on the wire."""
    lines: list[str] = []

    def draw(cls: type[Exception], depth: int) -> None:
        lines.append(f"{depth} {cls.__name__} {getattr(cls, 'code', '')}".rstrip())
        for child in cls.__subclasses__():
            if child.__module__ == errors.__name__:
                draw(child, depth + 1)

    draw(errors.RegistryError, 0)
    pictures = (errors.__doc__ or "", (ROOT / "docs" / "api.md").read_text())
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


UNIT = (ROOT / "docs" / "examples" / "rsreg.service").read_text()


def settings(unit: str) -> list[tuple[str, str]]:
    """What a unit says, without its comments."""
    return re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE)


def test_the_unit_for_systemd(tmp_path: Path) -> None:
    said = dict(settings(UNIT))
    assert said["Wants"] == said["After"], "to be after a target does not start it"
    shown = next(text for text in blocks(ROOT / "docs" / "operations.md", "ini"))
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
