"""Runs the fault tests in their long form, and prints what each showed as a table.

    python -m tests.faults.run [pytest's options, or tests]

Needs root, strace, libfaketime, nftables and iproute2 for all of it; what is missing is skipped.
Takes about half an hour, on loopback and in network namespaces of its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def main(options: list[str]) -> int:
    """Run, print the table, and give pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures"
        figures.touch()
        paths = [option for option in options if Path(option.partition("::")[0]).exists()]
        fixed = ["--full", "--figures", str(figures), "-p", "no:randomly", "-n0", "--timeout=1800"]
        code = pytest.main([*fixed, *options, *([] if paths else [str(HERE)])])
        rows = [json.loads(line) for line in figures.read_text().splitlines()]
    sys.stdout.write("\n| fault | how injected | promise | figure |\n| --- | --- | --- | --- |\n")
    for row in rows:
        sys.stdout.write(f"| {' | '.join(row)} |\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
