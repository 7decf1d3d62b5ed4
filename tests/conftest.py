"""Fixtures that tests share; helpers.py holds what they are made of."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from rsreg import InMemoryBackend, RegistryClient, RegistryServer, SQLiteBackend
from tests.harness import RegistryHarness
from tests.helpers import FAR, ManualClock, ServerProcess, serving

# A loaded machine is no failure.
settings.register_profile("rsreg", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rsreg")


def pytest_configure() -> None:
    """Let signals through: a suite in the background inherits that some are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the fault tests; see faults/run.py."""
    parser.addoption("--full", action="store_true", help="fault tests in their long form")
    parser.addoption("--figures", metavar="PATH", help="where fault tests write their figures")


@pytest.fixture
def clock() -> ManualClock:
    """A clock that the test moves."""
    return ManualClock()


@pytest.fixture
def harness() -> Iterator[RegistryHarness]:
    """A registry in memory, with clocks that the test moves."""
    made = RegistryHarness(InMemoryBackend, limits=FAR)
    yield made
    made.store.close()


@pytest.fixture
def on_file(tmp_path: Path) -> Iterator[RegistryHarness]:
    """The same on a file."""
    made = RegistryHarness(lambda: SQLiteBackend(tmp_path / "registry.db"), limits=FAR)
    yield made
    made.store.close()


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    """A server in this process, in memory, on free ports."""
    with serving(backend=InMemoryBackend()) as running:
        yield running


@pytest.fixture
def endpoint(server: RegistryServer) -> str:
    """Where `server` takes requests."""
    return f"tcp://127.0.0.1:{server.req_port}"


@pytest.fixture
def client(endpoint: str) -> Iterator[RegistryClient]:
    """A client of `server`."""
    with RegistryClient(endpoint, timeout=10) as connected:
        yield connected


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server process on a file, not started yet."""
    server = ServerProcess(tmp_path / "registry.db")
    yield server
    server.stop()
