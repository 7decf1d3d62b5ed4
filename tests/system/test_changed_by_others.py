"""The owner notices: what a heartbeat makes of somebody else's change of its entry."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from rsreg import AsyncRegistryClient, InMemoryBackend, RegistryClient, RegistryServer
from rsreg.client.registration import owner
from rsreg.client.registration.heartbeat import HeartbeatRules
from rsreg.client.registration.local_service import LocalService, declared_fields
from rsreg.client.registration.own_services import OwnServices
from rsreg.client.registration.registration import Registration
from rsreg.errors import DuplicateName, OwnedByOther, RequestTimeout
from rsreg.protocol import wire
from rsreg.protocol.calls import Entry, Record
from tests.helpers import ServerProcess, present, raw_socket, received, serving, wait_until

EVIL = {"pid": 66, "user": "eve", "host": "evil"}
#: Seconds between two beats of the drivers here.
BEAT = 0.2
Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    """A server in memory."""
    with serving(backend=InMemoryBackend()) as running:
        yield running


@contextmanager
def raw(endpoint: str, address: str = "127.0.0.2") -> Iterator[Ask]:
    """Asks from another address of this machine, as a program that knows only the protocol."""
    numbers = itertools.count()
    where = endpoint.removeprefix("tcp://")
    with raw_socket(zmq.DEALER, f"tcp://{address}:0;{where}") as socket:

        def ask(action: str, **said: Any) -> dict[str, Any]:
            said |= {"action": action, "request_id": str(next(numbers))}
            socket.send_multipart([b"", json.dumps(said).encode()])
            return dict(json.loads(received(socket)[1]))

        yield ask


def redirect(ask: Ask, service_id: str, host: str = "66.6.6.6", **said: Any) -> None:
    """Take an entry, and lead elsewhere; all its other fields are as in the public list."""
    record = ask("get", service_id=service_id)["service"]
    info = {**record, "host": host, "owner": EVIL, **said}
    assert ask("register", service_info=info, ttl=30)["code"] == "owned-by-other"
    assert ask("register", service_info=info, ttl=30, force=True)["success"]


def host_of(client: RegistryClient) -> str | None:
    """Where discovery leads."""
    found = client.discover_service("HEXAPOD")
    return None if found is None else str(found["host"])


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines that are loud."""
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]


def check_alarm(line: str, name: str = "hexapod") -> None:
    """It says which service, what from what to what, and who."""
    assert line.startswith(f"{name}: somebody else changed its entry {name}-")
    assert "host from '127.0.0.1' to '66.6.6.6'" in line
    assert re.search(r"owner from pid \d+ of \S+ on \S+ to pid 66 of eve on evil", line)
    assert "registered from 127.0.0.2 by pid 66 of eve on evil" in line


# -- the attack, end to end


def test_a_redirected_driver_is_right_again_within_a_beat(
    server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    with RegistryClient(server.endpoint, timeout=10) as client, raw(server.endpoint) as eve:
        service_id = client.register("hexapod", "127.0.0.1", 5000, "HEXAPOD")
        client.start_heartbeat(BEAT)
        redirect(eve, service_id)
        wait_until(lambda: host_of(client) == "127.0.0.1", 5)
        (line,) = alarms(caplog)
        check_alarm(line)
        assert line.endswith("it is registered again as it was")
        beats_on(client, service_id)
        assert len(alarms(caplog)) == 1
        events = client.events_since(0)["events"]
    last = events[-1]
    assert last["data"]["service_info"]["owner"] == owner.this_process()
    assert [(one["type"], one["by"]) for one in events] == [
        ("register", "127.0.0.1"),
        ("register", "127.0.0.2"),
        ("register", "127.0.0.1"),
    ]


def beats_on(client: RegistryClient, service_id: str, beats: int = 3) -> None:
    """Wait for some more beats of it."""
    heartbeat = client._session.own._beating[-1]
    for _ in range(beats):
        last = heartbeat._last
        wait_until(lambda last=last: heartbeat._last != last)
    assert client.get_service(service_id)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"host": "66.6.6.6"}, "host from '127.0.0.1' to '66.6.6.6'"),
        ({"endpoints": {"command": 6}}, "endpoints from nothing to"),
        ({"protocol": "ipc"}, "protocol from nothing to 'ipc'"),
        ({"metadata": {"data_port": 6}}, "metadata from"),
        ({"ready": False}, "ready from nothing to False"),
        ({"tags": ["x"]}, "tags from [] to ['x']"),
        ({"host": "a\n", "protocol": "x\x1b[31m\nCRITICAL"}, None),
        ({"metadata": {"v": "\x1b[31m\nCRITICAL root: on fire"}}, r"\x1b[31m\nCRITICAL"),
    ],
)
def test_every_change_is_told_and_put_right(
    server: RegistryServer, caplog: pytest.LogCaptureFixture, change: Any, told: str | None
) -> None:
    with RegistryClient(server.endpoint, timeout=10) as client, raw(server.endpoint) as eve:
        service_id = client.register("hexapod", "127.0.0.1", 5000, "HEXAPOD", {"v": 1})
        before = said(client, service_id)
        client.start_heartbeat(BEAT)
        asked = {"service_id": service_id, "service_info": change, "owner": EVIL, "force": True}
        if told is None:
            assert not eve("update", **asked)["success"]
            return
        assert eve("update", **asked)["success"]
        wait_until(lambda: said(client, service_id) == before, 5)
        (line,) = alarms(caplog)
    assert told in line
    assert "changed from 127.0.0.2 by pid 66 of eve on evil, registered from 127.0.0.1" in line
    assert "\n" not in line
    assert "\x1b" not in line


def said(client: RegistryClient, service_id: str) -> dict[str, Any]:
    """A record, but for what changes by itself."""
    record = client.get_service(service_id)
    assert record is not None
    return {key: record[key] for key in record if key not in ("last_heartbeat", "health")}


def test_told_otherwise_it_only_tells(
    server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    with RegistryClient(server.endpoint, timeout=10) as client, raw(server.endpoint) as eve:
        service_id = client.register("hexapod", "127.0.0.1", 5000, "HEXAPOD")
        client.start_heartbeat(BEAT, reclaim=False)
        redirect(eve, service_id)
        wait_until(lambda: alarms(caplog))
        beats_on(client, service_id)
        (line,) = alarms(caplog)
        check_alarm(line)
        assert line.endswith("it is left so")
        assert host_of(client) == "66.6.6.6"
        with pytest.raises(
            OwnedByOther, match=r"hexapod on 66\.6\.6\.6:5000 belongs to pid 66 of eve"
        ):
            client.update(port=5001)
        assert client.update(force=True, port=5001)


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_registered_block_takes_back_its_entry(
    server: RegistryServer, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    where = ("127.0.0.1", 5000, "HEXAPOD")
    with (
        RegistryClient(server.endpoint, timeout=10) as client,
        raw(server.endpoint) as eve,
        client.registered("hexapod", *where, ttl=3, heartbeat=kind) as hexapod,
    ):
        assert hexapod.service_id is not None
        if kind == "process":
            wait_until(lambda: has_greeted(client))
        redirect(eve, hexapod.service_id)
        wait_until(lambda: host_of(client) == "127.0.0.1", 10)
        (line,) = wait_until(lambda: alarms(caplog))
        check_alarm(line)
        hexapod.update(metadata={"v": 2})
        eve("update", service_id=hexapod.service_id, service_info={"port": 6}, force=True)
        wait_until(lambda: client.list_services()[0]["port"] == 5000, 10)
        assert client.list_services()[0]["metadata"] == {"v": 2}
        wait_until(lambda: len(alarms(caplog)) == 2)
    with RegistryClient(server.endpoint, timeout=10) as client:
        assert client.list_services() == []


def test_what_a_driver_says_while_its_entry_is_anothers_is_told_later(
    server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    where = ("127.0.0.1", 5000, "HEXAPOD")
    with (
        RegistryClient(server.endpoint, timeout=10) as client,
        raw(server.endpoint) as eve,
        client.registered("hexapod", *where) as hexapod,
        client.registered("other", *where, reclaim=False) as other,
    ):
        for one in (hexapod, other):
            assert one.service_id is not None
            redirect(eve, one.service_id)
        assert hexapod.update(metadata={"v": 2}) is False
        wait_until(lambda: present(client.get_service(hexapod.service_id))["metadata"] == {"v": 2})
        with pytest.raises(OwnedByOther):
            other.update(metadata={"v": 2})
    assert "hexapod: somebody else changed" in caplog.text


def test_an_asyncio_driver_takes_back_its_entry(
    server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def drive() -> None:
        async with AsyncRegistryClient(server.endpoint, timeout=10) as driver:
            await driver.register("hexapod", "127.0.0.1", 5000, "HEXAPOD")
            await driver.start_heartbeat(BEAT)
            assert await driver.update(metadata={"v": 2})
            await asyncio.to_thread(attack)
            assert await driver.deregister()

    def attack() -> None:
        with RegistryClient(server.endpoint, timeout=10) as client, raw(server.endpoint) as eve:
            redirect(eve, client.list_services()[0]["id"])
            wait_until(lambda: host_of(client) == "127.0.0.1", 5)
            assert client.list_services()[0]["metadata"] == {"v": 2}

    asyncio.run(drive())
    (line,) = alarms(caplog)
    check_alarm(line)


def test_two_drivers_of_one_id_do_not_flood(
    server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each says so once, and takes it back once a beat at most."""
    with (
        RegistryClient(server.endpoint, timeout=10) as one,
        RegistryClient(server.endpoint, timeout=10) as other,
    ):
        one.register("hexapod", "127.0.0.1", 5000, "HEXAPOD", service_id="hexapod")
        other.register("hexapod", "127.0.0.1", 5001, "HEXAPOD", service_id="hexapod")
        one.start_heartbeat(BEAT)
        other.start_heartbeat(BEAT)
        since = one.events_since()["seq"]
        wait_until(lambda: one.events_since()["seq"] > since + 6)
        beats_on(one, "hexapod", 5)
        lines = alarms(caplog)
        first, second = (client._session.own._beating[0] for client in (one, other))
        assert first._foreign.keys() != second._foreign.keys()
    assert len(lines) == 2
    assert set(re.findall(r"port from (\d+)", "\n".join(lines))) == {"5000", "5001"}


def test_a_name_that_was_taken_meanwhile_is_told(
    server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    with RegistryClient(server.endpoint, timeout=10) as client, raw(server.endpoint) as eve:
        service_id = client.register("hexapod", "127.0.0.1", 5000, "HEXAPOD", exclusive=True)
        client.start_heartbeat(1)
        info = {"name": "hexapod", "host": "66.6.6.6", "port": 6, "exclusive": True, "owner": EVIL}
        assert eve("deregister", service_id=service_id, force=True)["success"]
        assert eve("register", service_info=info)["success"]
        said = r"is registered already: pid 66 of eve on evil, registered from 127.0.0.2, has it on"
        wait_until(lambda: said in caplog.text)
        assert "66.6.6.6:6" in caplog.text
        with pytest.raises(DuplicateName):
            client.reregister()


# -- no false alarm


def test_a_driver_that_changes_its_own_entry_is_no_stranger(
    server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    with RegistryClient(server.endpoint, timeout=10) as client:
        service_id = client.register("hexapod", "127.0.0.1", 5000, "HEXAPOD", ready=False)
        client.start_heartbeat(0.01)

        def change() -> None:
            for number in range(60):
                client.update(metadata={"n": number}, tags=[f"t{number}"])

        threads = [threading.Thread(target=change) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(30):
            client.register("hexapod", "127.0.0.1", 5000 + number, "HEXAPOD", service_id=service_id)
            client.ready()
        for thread in threads:
            thread.join()
        beats_on(client, service_id, 5)
    assert alarms(caplog) == []


def has_greeted(client: RegistryClient) -> bool:
    """Whether the heartbeat process of the last registration is at work."""
    heartbeat: Any = client._session.own._beating[-1]
    return bool(heartbeat._greeted)


def test_a_heartbeat_process_takes_its_driver_for_no_stranger(
    server: RegistryServer, caplog: pytest.LogCaptureFixture
) -> None:
    where = ("127.0.0.1", 5000, "HEXAPOD")
    with (
        RegistryClient(server.endpoint, timeout=10) as client,
        client.registered("hexapod", *where, ttl=3, heartbeat="process", ready=False) as hexapod,
    ):
        wait_until(lambda: has_greeted(client))
        for number in range(40):
            hexapod.update(metadata={"n": number}, ready=True)
        beat = client.list_services()[0]["last_heartbeat"]
        wait_until(lambda: client.list_services()[0]["last_heartbeat"] > beat + 1)
        assert client.list_services()[0]["metadata"] == {"n": 39}
    assert alarms(caplog) == []


def test_a_restart_of_the_registry_is_no_stranger(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        ServerProcess(tmp_path / "registry.db") as process,
        RegistryClient(process.endpoint, timeout=10) as client,
    ):
        info: dict[str, Any] = {
            "metadata": {"gain": 5.0, "pair": (1, 2)},
            "endpoints": {"data": 5001},
        }
        service_id = client.register("hexapod", "127.0.0.1", 5000, "HEXAPOD", **info)
        entry = client._session.own.of_last().fingerprint
        client.start_heartbeat(BEAT)
        process.kill()
        process.start()
        wait_until(lambda: client.health_check())
        beats_on(client, service_id)
        assert client._session.own.of_last().fingerprint == entry
    assert alarms(caplog) == []


# -- what is own, and what is not; without a registry


def local_service(**said: Any) -> tuple[LocalService, dict[str, Any]]:
    """A registered service, and its record."""
    wanted = Registration.of("puna", "egse3", 5000, None, {"at": (1, 2)}, 30, **said)
    made = LocalService(wanted)
    made.on_registered(wanted, Entry("puna-1", "f1"))
    return made, {
        **declared_fields(wanted),
        "id": "puna-1",
        "health": "passing",
        "by_later_versions": 1,
    }


def test_a_record_is_own_if_it_says_what_was_said() -> None:
    puna, record = local_service(tags=["x"], singleton=True)
    assert puna.foreign_changes(record, puna.version) == {}
    assert puna.foreign_changes({**record, "host": "x"}, puna.version) == {"host": "egse3"}
    without = {key: value for key, value in record.items() if value is not None}
    assert puna.foreign_changes(without, puna.version) == {}
    assert puna.foreign_changes({**without, "endpoints": {"a": 1}}, puna.version) == {
        "endpoints": None
    }


def test_nothing_is_said_of_a_record_from_before_a_change() -> None:
    puna, record = local_service()
    version = puna.version
    puna.change({"port": 6}, "f2")
    assert puna.foreign_changes(record, version) is None
    assert puna.foreign_changes(record, puna.version) == {"port": 6}


def test_what_is_still_to_be_told_is_no_difference() -> None:
    puna, record = local_service()
    puna.change({"port": 6})
    assert puna.foreign_changes(record, puna.version) == {}


def test_a_change_without_an_answer_may_have_happened() -> None:
    puna, record = local_service()
    with contextlib.suppress(RequestTimeout), puna.changing({"port": 6}):
        assert puna.foreign_changes(record, puna.version) is None
        raise RequestTimeout("no answer")
    for port in (5000, 6):
        assert puna.foreign_changes({**record, "port": port}, puna.version) == {}
    assert puna.foreign_changes({**record, "port": 7}, puna.version) == {"port": 5000}
    with puna.changing({"tags": ["x"]}):
        puna.change({"tags": ["x"]}, "f2")
    own = {**record, "tags": ["x"]}
    assert puna.foreign_changes({**own, "port": 6}, puna.version) == {"port": 5000}, (
        "that was long ago"
    )


def test_a_refused_change_did_not_happen() -> None:
    puna, record = local_service()
    with pytest.raises(OwnedByOther), puna.changing({"port": 6}):
        raise OwnedByOther("no")
    assert puna.foreign_changes({**record, "port": 6}, puna.version) == {"port": 5000}


def test_what_a_client_registers_again_is_its_own() -> None:
    own = OwnServices(RegistryClient("tcp://nobody:1").settings)
    wanted = Registration.of("puna", "egse3", 5000, None, None, 30, service_id="puna-1")
    with own.registering(wanted):
        own.on_registered(wanted, Entry("puna-1", "f1"))
    puna = own.of_last()
    again = Registration.of("puna", "egse3", 6, "PUNA", None, 60, service_id="puna-1")
    with contextlib.suppress(RequestTimeout), own.registering(again):
        assert puna.foreign_changes(declared_fields(wanted), puna.version) is None
        raise RequestTimeout("no answer")
    for one in (wanted, again):
        assert puna.foreign_changes(declared_fields(one), puna.version) == {}
    mixed = {**declared_fields(again), "port": 7}
    assert puna.foreign_changes(mixed, puna.version) == {"port": 5000}


def test_a_registry_of_an_older_version_is_never_asked_what_it_has() -> None:
    puna, _ = local_service()
    beat = HeartbeatRules(puna, "tcp://nobody:1").beat()
    assert next(beat).action == "renew"
    with pytest.raises(StopIteration):
        beat.send("")


def test_a_process_beside_the_driver_looks_twice(caplog: pytest.LogCaptureFixture) -> None:
    puna, record = local_service()
    heartbeat = HeartbeatRules(puna, "tcp://nobody:1")
    heartbeat.looks_twice = True
    theirs: tuple[Record, Record] = ({**record, "host": "x"}, {})
    for again in (False, True):
        beat = heartbeat.beat()
        next(beat)
        assert beat.send("f2").action == "get"
        if again:
            call = beat.send(theirs)
            assert (call.action, call.params["force"]) == ("register", True)
        else:
            with pytest.raises(StopIteration):
                beat.send(theirs)
            assert alarms(caplog) == []
            assert puna.has_changes, "it looks again soon"
    assert len(alarms(caplog)) == 1


def test_a_record_of_many_values_is_a_line_of_some_length(
    caplog: pytest.LogCaptureFixture,
) -> None:
    puna, record = local_service()
    beat = HeartbeatRules(puna, "tcp://nobody:1").beat()
    next(beat)
    beat.send("f2")
    change = {"by": "10.0.0.66", "says": "eve\nCRITICAL root: on fire"}
    beat.send(({**record, "metadata": {"x": "y" * 60_000}}, change))
    assert len(alarms(caplog)[0]) < 1000
    assert "\n" not in alarms(caplog)[0]


def test_a_request_says_who_asks() -> None:
    with (
        serving(backend=InMemoryBackend()) as server,
        RegistryClient(server.endpoint, timeout=10) as client,
    ):
        client.register("a", "h", 1, owned=False)
        client.update(port=2)
        client.deregister()
        events = client.events_since(0)["events"]
    assert {one["says"].partition(" of ")[0] for one in events} == {
        f"pid {owner.this_process()['pid']}"
    }
    assert wire.encode(events[0]).count(b'"owner"') == 0
