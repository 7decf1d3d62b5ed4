"""A service whose owner lives stays; one whose owner died goes. Real drivers, real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from rsreg import RegistryClient
from rsreg.errors import ConfigurationError
from tests.helpers import ROOT, ServerProcess, killed_at_the_end, wait_until

#: How a driver blocks in its own code, without and with gevent's patches.
WAYS = ["sleep", "ccall", "loop", "sleep-patched", "ccall-patched", "loop-patched"]


@contextmanager
def driver(endpoint: str, way: str, ttl: float, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A driver process that has registered; `.stdout` has given its id."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "driver.py"), endpoint, way, str(ttl), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with killed_at_the_end(process):
        yield process


def id_of(process: subprocess.Popen[str]) -> str:
    """What the driver printed: its service's id."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def running(process: ServerProcess) -> ServerProcess:
    """A server process that serves."""
    return process.start()


@pytest.fixture
def watcher(running: ServerProcess) -> Iterator[RegistryClient]:
    """A client of that process."""
    with RegistryClient(running.endpoint, timeout=10) as client:
        yield client


def test_drivers_that_block_stay_registered(
    running: ServerProcess, watcher: RegistryClient
) -> None:
    expired: list[str] = []
    watcher.on_event("expire", lambda data: expired.append(data["service_id"]))
    watcher.start_event_listener()
    with ExitStack() as stack:
        drivers = [stack.enter_context(driver(running.endpoint, way, 3, 10)) for way in WAYS]
        ids = {id_of(process) for process in drivers}
        assert len(ids) == len(WAYS)
        critical = []
        until = time.monotonic() + 10
        while time.monotonic() < until:
            health = {service["id"]: service["health"] for service in watcher.list_services()}
            critical += [known for known in ids if health.get(known) != "passing"]
            time.sleep(0.1)
        assert critical == []
        assert expired == []
        assert [process.wait(20) for process in drivers] == [0] * len(WAYS)


def test_a_killed_driver_is_out_after_its_ttl_and_expires_once(
    running: ServerProcess, watcher: RegistryClient
) -> None:
    expired: list[str] = []
    watcher.on_event("expire", lambda data: expired.append(data["service_id"]))
    watcher.start_event_listener()
    with driver(running.endpoint, "sleep", 1.5, 60) as process:
        service_id = id_of(process)
        assert watcher.discover_service("sleep") is not None
        process.kill()
        killed = time.monotonic()
        wait_until(lambda: watcher.discover_service("sleep") is None)
        assert time.monotonic() - killed > 0.5, "it went before its lease could have lapsed"
        wait_until(lambda: expired)
        assert watcher.get_service(service_id) is None
        journal = watcher.events_since(0)
        kinds = [(event["type"], event["data"]["service_id"]) for event in journal["events"]]
        assert kinds == [(kind, service_id) for kind in ("register", "critical", "expire")]
        assert expired == [service_id]


def test_a_restarted_registry_forgets_nobody(
    process: ServerProcess,
) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        kept = {"version": "1.4", "device": {"id": "H_3456"}}
        service_id = client.register("puna_cs", "egse3", 5000, "PUNA", kept, 2, tags=["optics"])
        client.start_heartbeat()
        before = client.get_service(service_id)
        process.kill()
        time.sleep(4)  # Longer than the ttl: it is the outage that is tested.
        process.start()
        after = wait_until(lambda: client.get_service(service_id))
        until = time.monotonic() + 4
        while time.monotonic() < until:
            found = client.discover_service("PUNA")
            assert found is not None
            assert found["id"] == service_id
            time.sleep(0.1)
        for record in (before, after):
            assert record is not None
            del record["last_heartbeat"]
        assert after == before
        journal = client.events_since(0)
        assert [event["type"] for event in journal["events"]] == ["register"]


def test_services_come_back_in_full_to_an_empty_registry(
    process: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rsreg")
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        service_id = client.register(
            "puna_cs", "egse3", 5000, "PUNA", {"version": "1.4"}, 1.5, tags=["optics", "spare"]
        )
        before = client.get_service(service_id)
        client.start_heartbeat()
        process.kill()
        wait_until(lambda: "retrying" in caplog.text)
        assert process.store is not None
        for file in process.store.parent.iterdir():
            file.unlink()
        process.start()
        after = wait_until(lambda: client.get_service(service_id))
        wait_until(lambda: len(caplog.records) >= 2)
        for record in (before, after):
            assert record is not None
            del record["last_heartbeat"]
        assert after == before
        assert len(caplog.records) == 2, caplog.text
        assert "puna_cs: heartbeat failed, retrying" in caplog.messages[0]
        assert f"it no longer knew {service_id}" in caplog.messages[1]


def test_a_driver_with_a_heartbeat_exits_at_once(
    running: ServerProcess, watcher: RegistryClient
) -> None:
    with driver(running.endpoint, "exit", 30, 0) as process:
        id_of(process)
        started = time.monotonic()
        assert process.wait(20) == 0
        assert time.monotonic() - started < 5


def test_stopping_is_quick_also_with_the_registry_gone(process: ServerProcess) -> None:
    process.start()
    client = RegistryClient(process.endpoint, timeout=10)
    client.register("puna_cs", "egse3", 5000, ttl=1)
    client.start_heartbeat()
    client.start_event_listener()
    process.kill()
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 2


def test_a_heartbeat_can_be_stopped_while_its_first_try_waits(process: ServerProcess) -> None:
    process.start()
    process.kill()
    client = RegistryClient(process.endpoint, timeout=0.2)
    with client.registered("puna_cs", port=5000, ttl=60):
        started = time.monotonic()
    assert time.monotonic() - started < 2
    client.close()


def test_a_refusal_in_the_background_is_said_once_and_tried_on(
    process: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rsreg")
    process.start()
    impatient = RegistryClient(process.endpoint, timeout=0.3)
    with RegistryClient(process.endpoint, timeout=10) as client, impatient:
        holder = client.register("laser_cs", "egse3", 5000, exclusive=True)
        process.signal(signal.SIGSTOP)
        with impatient.registered("laser_cs", port=5001, ttl=60, exclusive=True) as second:
            process.signal(signal.SIGCONT)
            wait_until(lambda: "is registered already" in caplog.text)
            # It is tried again, and again, and each try is refused.
            time.sleep(2)
            assert [service["id"] for service in client.list_services()] == [holder]
            assert client.deregister(holder)
            wait_until(lambda: second.service_id)
            impatient.settings.timeout = 10
    said = [message for message in caplog.messages if "laser_cs:" in message]
    assert len(said) == 3, said
    assert "not registered yet, retrying: no registry answers" in said[0]
    assert "on egse3:5000" in said[1]
    assert "it is registered now" in said[2]


def test_an_interval_has_a_range(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        with pytest.raises(ConfigurationError, match="nothing to keep alive"):
            client.start_heartbeat()
        client.register("puna_cs", "egse3", 5000)
        for interval in (0, -1, float("nan"), float("inf"), 86_401):
            with pytest.raises(ConfigurationError, match="a heartbeat interval is"):
                client.start_heartbeat(interval)
