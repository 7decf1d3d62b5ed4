"""What the fault tests share: how much of a fault, what it needs, and the figure it gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import FAR, ServerProcess

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here is of the kind `fault`."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.fault)


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the long form was asked for (run.py), or the short one of the default suite."""
    return bool(request.config.getoption("--full"))


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Write down what a fault showed: `figure(fault, injected, promise, what_was_measured)`."""
    path: str | None = request.config.getoption("--figures")

    def note(fault: str, injected: str, promise: str, measured: str) -> None:
        row = [fault, injected, promise, measured]
        if path is not None:
            with Path(path).open("a") as file:
                file.write(json.dumps(row) + "\n")

    return note


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server process on a file, not started yet; the long forms come to no bound of services."""
    server = ServerProcess(tmp_path / "registry.db", limits=FAR)
    yield server
    server.stop()
