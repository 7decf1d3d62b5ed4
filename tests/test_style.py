"""The source passes the tools that pyproject.toml sets up."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import ROOT


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy"])
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
