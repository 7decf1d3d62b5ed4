"""The source passes the tools that pyproject.toml sets up."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import ROOT

#: What a system does not have is found by its own check: nobody here has a Windows.
TOOLS = ["ruff check", "ruff format --check", "mypy"] + [
    f"mypy --platform {system} --cache-dir=.mypy_cache/{system}" for system in ("win32", "darwin")
]


@pytest.mark.parametrize("tool", TOOLS)
def test_the_source_passes(tool: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *tool.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout
