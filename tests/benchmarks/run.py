"""Measures the registry against servers that only echo JSON, and prints tables.

    python -m tests.benchmarks.run [--rounds 5] [--seconds 0.5] [PART ...]

Parts: requests, events, sizes, heartbeats, client, cache, held; all of them by default. Everything
runs on loopback, in turns within a round; each figure is the median of its rounds, and the ratios
are those of the same run. docs/performance.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks import parts, systems
from tests.benchmarks.load import Measured, measure, undo

ACTIONS = ["renew", "get", "discover", "list", "register"]
#: What is counted of a measurement, and by what it is multiplied to be read.
FIGURES = {"cpu": 1e6, "p50": 1e6, "p99": 1e6, "throughput": 1}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    for row in (header, ["---"] * len(header), *rows):
        sys.stdout.write(f"| {' | '.join(row)} |\n")
    sys.stdout.write("\n")
    sys.stdout.flush()


def requests(options: argparse.Namespace, folder: Path) -> None:
    """Each action with 1 and 16 connections, on each system."""
    found: dict[tuple[str, str, int], list[Measured]] = defaultdict(list)
    with ExitStack() as stack:
        all_systems = [
            systems.echo(stack, "bare", folder),
            systems.echo(stack, "green", folder),
            systems.registry(stack, "1,000 services", folder, 1_000, 10),
            systems.registry(stack, "10,000 services", folder, 10_000, 100),
        ]
        sources = {
            (one.name, action): systems.requests(action, one.count, one.kinds)
            for one in all_systems
            for action in ACTIONS
        }
        for _ in range(options.rounds):
            for action in ACTIONS:
                for connections in (1, 16):
                    for one in all_systems:
                        source = sources[one.name, action]
                        done = measure(one.pid, one.endpoint, connections, source, options.seconds)
                        found[one.name, action, connections].append(done)
                        if action == "register":
                            undo(one.endpoint, done.replies)
                        done.replies.clear()
    names = [one.name for one in all_systems]
    for connections in (1, 16):
        for figure, factor in FIGURES.items():
            sys.stdout.write(f"{figure}, {connections} connections\n\n")
            rows = []
            for action in ACTIONS:
                rounds = [
                    [getattr(done, figure) for done in found[name, action, connections]]
                    for name in names
                ]
                values = [f"{statistics.median(each) * factor:,.0f}" for each in rounds]
                to_bare = [f"{ratio(each, rounds[0]):.2f}" for each in rounds[2:]]
                to_green = [f"{ratio(each, rounds[1]):.2f}" for each in rounds[2:]]
                rows.append([action, *values, *to_bare, *to_green])
            ratios = [f"{short} to {to}" for to in ("bare", "green") for short in ("1k", "10k")]
            table(["action", *names, *ratios], rows)


def ratio(values: Sequence[float], reference: Sequence[float]) -> float:
    """The median of the ratios of each round."""
    return statistics.median(value / other for value, other in zip(values, reference, strict=True))


def printed(part: parts.Part) -> Callable[[argparse.Namespace, Path], None]:
    """Run a part and print its table."""
    return lambda options, folder: table(*part(options, folder))


PARTS = {"requests": requests, **{name: printed(part) for name, part in parts.PARTS.items()}}


def main() -> None:
    """Run the parts that were asked for."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    options = parser.parse_args()
    for name in options.parts or PARTS:
        sys.stdout.write(f"## {name}\n\n")
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](options, Path(folder))


if __name__ == "__main__":
    main()
