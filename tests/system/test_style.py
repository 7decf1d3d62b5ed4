"""The source passes the tools that pyproject.toml sets up."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.source import FILES, module_of

#: The server and its files are not for Windows; what imports them does so as if it were here.
CLIENT_SIDE = [
    str(path.relative_to(ROOT))
    for path in FILES
    if not module_of(path).startswith(("server.", "system.private"))
]
TOOLS = {
    "ruff check": [],
    "ruff format --check": [],
    "mypy": [],
    # Nobody here has these systems: what they have not is found by its own check.
    "mypy --platform darwin --cache-dir .mypy_cache/darwin": ["rsreg"],
    "mypy --platform win32 --cache-dir .mypy_cache/win32 --follow-imports silent": CLIENT_SIDE,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_source_passes(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *tool.split(), *TOOLS[tool]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout


def test_nothing_is_excepted_from_the_checks() -> None:
    marks = ("type: " + "ignore", "no" + "qa", "pragma: no " + "cover")
    files = [
        path for folder in ("rsreg", "tests", "docs") for path in (ROOT / folder).rglob("*.py")
    ]
    assert [(path.name, mark) for path in files for mark in marks if mark in path.read_text()] == []
