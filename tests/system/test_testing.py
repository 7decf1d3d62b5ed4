"""The kit for tests of programs that use rsreg: its registry, its clock, its pytest plugin."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from rsreg import AsyncRegistryClient, RegistryClient, ServiceCache, pytest_plugin
from rsreg.errors import ConfigurationError, Disconnected, DuplicateServiceType, PortInUse
from rsreg.testing import LocalRegistry, ManualClock, advance, serving
from tests.helpers import ROOT, raw_socket, received, wait_until


@pytest.fixture
def local() -> Iterator[LocalRegistry]:
    """A registry whose time the test lets pass."""
    with LocalRegistry() as running:
        yield running


# -- time


def test_a_clock_in_the_hand() -> None:
    clock = ManualClock(5)
    assert (clock(), clock()) == (5, 5)
    clock.advance(2.5)
    assert clock() == 7.5


def test_time_passes_a_second_at_a_time_up_to_the_moment() -> None:
    clock, seen = ManualClock(0), []
    advance(clock, 2.5, lambda: seen.append(clock()))
    assert seen == [1, 1, 2, 2, 2.5, 2.5]
    advance(clock, 0, lambda: seen.append(clock()))
    assert len(seen) == 6


def test_a_lease_ends_when_the_test_says_so(local: LocalRegistry) -> None:
    client = local.client()
    long = client.register("long", "lab", 1, "T", ttl=3600)
    short = client.register("short", "lab", 2, "T", ttl=10)
    local.advance(9)
    assert {one.id: one.health for one in client.list_services()} == {
        long: "passing",
        short: "passing",
    }
    assert client.renew(short)
    local.advance(9.5)
    assert client.get_service(short) is not None
    local.advance(0.5)
    assert [one.id for one in client.list_services()] == [long]
    assert client.events_since(0)["events"][-1]["type"] == "expire"
    local.advance(3600)
    assert client.list_services() == []


def test_hundreds_of_leases_that_end_together_are_all_gone(local: LocalRegistry) -> None:
    client = local.client()
    for number in range(700):
        client.register(f"service-{number}", "lab", 1, "T", ttl=5)
    local.advance(5)
    assert client.list_services() == []


def test_no_time_passes_by_itself(local: LocalRegistry) -> None:
    client = local.client()
    service_id = client.register("puna", "lab", 1, ttl=1)
    before = local.clock()
    registered = time.monotonic()
    wait_until(lambda: time.monotonic() > registered + 1.5)
    local.advance(0)
    service = client.get_service(service_id)
    assert service is not None
    assert (service.health, service.last_heartbeat) == ("passing", int(before))
    assert local.clock() == before


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_time_does_not_pass_backwards_nor_for_ever(local: LocalRegistry, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="time can't advance by"):
        local.advance(seconds)


def test_a_driver_comes_back_after_its_lease_has_ended(local: LocalRegistry) -> None:
    client = local.client()
    service_id = client.register("puna", "lab", 1, "PUNA", ttl=30)
    client.start_heartbeat(0.1)
    local.advance(3600)
    wait_until(lambda: client.discover_service("PUNA"))
    assert client.get_service(service_id) is not None


# -- a registry in this process


def test_events_and_caches_have_it_too(local: LocalRegistry) -> None:
    with raw_socket(zmq.SUB, local.pub_endpoint, subscribe=b"") as subscriber:
        client = local.client()

        def heard() -> bool:
            client.register("puna", "lab", 1, "PUNA", service_id="one")
            return bool(subscriber.poll(100))

        wait_until(heard)
        assert received(subscriber)[0] == b"register"
    with ServiceCache(local.endpoint, timeout=20) as cache:
        assert cache.discover_service("PUNA") is not None
        local.advance(30)
        wait_until(lambda: cache.discover_service("PUNA") is None)


def test_its_clients_are_closed_at_the_end() -> None:
    with LocalRegistry() as local:
        client = local.client(client_id="mine")
        assert "mine" in repr(client)
        assert local.endpoint in repr(local)
        assert client.health_check()
    with pytest.raises(Disconnected, match="closed"):
        client.list_services()


def test_it_has_the_options_of_a_server() -> None:
    with LocalRegistry(unique_service_types=True) as local:
        client = local.client()
        client.register("puna", "lab", 1, "PUNA")
        with pytest.raises(DuplicateServiceType):
            client.register("other", "lab", 2, "PUNA")


def test_two_are_apart(local: LocalRegistry) -> None:
    with LocalRegistry() as other:
        local.client().register("puna", "lab", 1)
        assert other.client().list_services() == []
        other.advance(100)
        assert len(local.client().list_services()) == 1


def test_an_asyncio_program_finds_it(local: LocalRegistry) -> None:
    async def ask() -> None:
        async with AsyncRegistryClient(local.endpoint, timeout=20) as client:
            service_id = await client.register("puna", "lab", 1, "PUNA")
            local.advance(10)
            service = await client.get_service(service_id)
            assert service is not None
            assert service.endpoint == "tcp://lab:1"

    asyncio.run(ask())


def test_a_server_that_can_t_start_says_so() -> None:
    with LocalRegistry() as local, pytest.raises(PortInUse), serving(local.server.req_port, 0, 0):
        pass


# -- the plugin

#: Our own runs leave the plugin out; see pyproject.toml.
registry = pytest_plugin.registry


def test_a_program_finds_the_registry_of_its_test(registry: LocalRegistry) -> None:
    with RegistryClient(timeout=20) as program:
        program.register("puna_cs", "lab", 1, "PUNA")
    assert registry.client().get_endpoint("PUNA") == "tcp://lab:1"
    registry.advance(30)
    assert registry.client().list_services() == []


PROGRAMS = ROOT / "tests" / "programs"


def run_pytest(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as a user does, with the plugin as if rsreg were installed, and another registry.

    An installation may be older than the entry point, so the plugin is named.
    """
    command = [sys.executable, "-W", "error", "-m", "pytest", "-p", "rsreg.pytest_plugin"]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", "-p", "no:randomly", *words],
        cwd=folder,
        env={**os.environ, "RSREG_ENDPOINT": "nowhere:1", "RSREG_MODE": "simulator"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_example_runs(tmp_path: Path) -> None:
    for name in ("driver.py", "test_driver.py"):
        shutil.copy(ROOT / "docs" / "examples" / name, tmp_path)
    done = run_pytest(tmp_path, "-q", "test_driver.py")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_each_test_has_a_registry_of_its_own(tmp_path: Path) -> None:
    shutil.copy(PROGRAMS / "uses_the_registry_fixture.py", tmp_path / "test_mine.py")
    done = run_pytest(tmp_path, "-q")
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    listed = run_pytest(tmp_path, "--fixtures").stdout
    assert "A registry of this test's own, an rsreg.testing.LocalRegistry." in listed


@pytest.mark.unmeasured
def test_a_run_that_does_not_use_it_loads_nothing(tmp_path: Path) -> None:
    shutil.copy(PROGRAMS / "nothing_loaded.py", tmp_path / "test_theirs.py")
    done = run_pytest(tmp_path, "-q", "-p", "no:cov", "-p", "no:xdist", "-p", "no:hypothesispytest")
    assert done.returncode == 0, done.stdout


def test_it_is_offered_to_pytest_by_the_installation() -> None:
    said = (ROOT / "setup.py").read_text()
    assert '"pytest11": ["rsreg.pytest_plugin = rsreg.pytest_plugin"]' in said
