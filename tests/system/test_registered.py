"""Registered for as long as a block runs: real drivers, that end in every way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import zmq

from rsreg import RegistryClient
from rsreg.errors import ConfigurationError, DuplicateName, InvalidRequest, RequestTimeout
from tests.helpers import (
    NetworkSpace,
    ServerProcess,
    bound_endpoint,
    present,
    printed,
    raw_socket,
    received,
    scripted_server,
    start_program,
    wait_until,
)


def kinds(client: RegistryClient) -> list[str]:
    """The types of all events so far."""
    return [event["type"] for event in client.events_since(0)["events"]]


def own_record(client: RegistryClient) -> dict[str, Any]:
    """The record of the one service there is."""
    (service,) = client.list_services(mode="any")
    return service


def shows(client: RegistryClient, **fields: object) -> Callable[[], bool]:
    """Whether the one service has these in its record."""
    return lambda: all(own_record(client).get(key) == value for key, value in fields.items())


@contextmanager
def driver(
    name: str, *arguments: object, under: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A file of tests/programs that runs, and is killed in the end."""
    process = start_program(name, *arguments, under=under)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# -- beginning and end


def test_a_block_registers_beats_and_deregisters(client: RegistryClient) -> None:
    with client.registered("puna_cs", port=5000, service_type="PUNA", ttl=1) as puna:
        record = client.get_service(puna.service_id)
        assert record is not None
        assert (record["name"], record["port"], record["type"]) == ("puna_cs", 5000, "PUNA")
        assert record["owner"]["pid"] == os.getpid()
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert client.discover_service("PUNA") is not None
            time.sleep(0.05)
    assert client.list_services() == []
    assert kinds(client) == ["register", "deregister"]


def test_an_exception_goes_through_and_the_service_goes_too(client: RegistryClient) -> None:
    with pytest.raises(ZeroDivisionError), client.registered("puna_cs", port=5000):
        raise ZeroDivisionError("division by zero")
    assert kinds(client) == ["register", "deregister"]


def test_a_decorated_function_is_a_service_each_time_it_runs(client: RegistryClient) -> None:
    @client.registered("puna_cs", port=5000)
    def serve(wanted: str) -> str:
        """Serves."""
        assert own_record(client)["name"] == "puna_cs"
        return wanted

    assert serve.__doc__ == "Serves."
    assert [serve("a"), serve(wanted="b")] == ["a", "b"]
    assert kinds(client) == ["register", "deregister"] * 2


def test_one_object_is_entered_once_at_a_time(client: RegistryClient) -> None:
    registered = client.registered("puna_cs", port=5000)
    for use in (registered.feed, registered.ready, lambda: registered.status("x")):
        with pytest.raises(RuntimeError, match="inside its with block"):
            use()
    with registered:
        with pytest.raises(RuntimeError, match="already"), registered:
            pass
        assert own_record(client)["id"] == registered.service_id
    assert registered.service_id is None
    with registered:
        assert own_record(client)["id"] == registered.service_id
    assert client.list_services() == []


def test_coroutine_functions_are_for_the_other_client(client: RegistryClient) -> None:
    async def serve() -> None:
        pass

    with pytest.raises(ConfigurationError, match="coroutine") as refused:
        client.registered("puna_cs", port=5000)(serve)
    assert "AsyncRegistryClient" in str(refused.value.hint)


ENDS = [
    "normal",
    "exception",
    "exit",
    "never left",
    "interrupt",
    "in a thread",
    "patched",
    "process",
    "interrupt right after it was registered",
]


@pytest.mark.parametrize("way", ENDS)
def test_every_end_of_the_interpreter_deregisters(
    way: str, client: RegistryClient, endpoint: str
) -> None:
    with driver("ends_registered", endpoint, way) as process:
        process.wait(30)
        assert kinds(client) == ["register", "deregister"]
        assert client.list_services() == []


def test_a_child_does_not_end_what_is_its_parents(client: RegistryClient, endpoint: str) -> None:
    with driver("forked_while_registered", endpoint) as process:
        service_id = printed(process)
        assert own_record(client)["id"] == service_id
        process.communicate("", timeout=20)
        assert kinds(client) == ["register", "deregister"]


def test_an_end_without_a_registry_is_quick(process: ServerProcess) -> None:
    process.start()
    with driver("driver_until_told", process.endpoint) as running:
        printed(running)
        process.kill()
        started = time.monotonic()
        running.communicate("", timeout=20)
        assert running.returncode == 0
        assert time.monotonic() - started < 4


def test_a_client_that_deregisters_stops_the_heartbeat(client: RegistryClient) -> None:
    with client.registered("puna_cs", port=5000, ttl=1):
        assert client.deregister()
        time.sleep(1)
        assert client.list_services() == []
    assert kinds(client) == ["register", "deregister"]


# -- a registry that is away


@pytest.fixture
def later(process: ServerProcess) -> ServerProcess:
    """A server process whose port is known, and that does not run."""
    process.start()
    process.kill()
    return process


def test_the_order_of_start_does_not_matter(
    later: ServerProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rsreg")
    impatient = RegistryClient(later.endpoint, timeout=0.3)
    with impatient, impatient.registered("puna_cs", port=5000, ready=False) as puna:
        assert puna.service_id is None
        puna.status("warming up")
        assert puna.ready() is False
        later.start()
        wait_until(lambda: puna.service_id)
        with RegistryClient(later.endpoint, timeout=10) as client:
            record = own_record(client)
            assert record["id"] == puna.service_id
            assert record["status"]["text"] == "warming up"
            assert record["health"] == "passing"
            impatient.settings.timeout = 10
            puna.__exit__()
            assert client.list_services() == []
    said = [record.getMessage() for record in caplog.records if "puna_cs" in record.getMessage()]
    assert len(said) == 2, said
    assert "not registered yet, retrying" in said[0]
    assert "it is registered now" in said[1]


def test_what_is_required_has_to_be_there(later: ServerProcess) -> None:
    with RegistryClient(later.endpoint, timeout=0.3) as client:
        with (
            pytest.raises(RequestTimeout),
            client.registered("puna_cs", port=5000, required=True),
        ):
            pytest.fail("it is not registered")
        with pytest.raises(ConfigurationError, match="nothing is registered"):
            client.status("x")


@contextmanager
def losing_answers(endpoint: str, to_register: int) -> Iterator[str]:
    """A registry before a registry, which loses the first answers to `register`."""
    lost: list[bool] = []

    def relay(request: dict[str, Any]) -> dict[str, Any] | None:
        with raw_socket(zmq.REQ, endpoint) as socket:
            socket.send_json(request)
            answer: dict[str, Any] = json.loads(received(socket)[0])
        if request["action"] == "register" and len(lost) < to_register:
            lost.append(True)
            return None
        return answer

    with scripted_server(relay) as before:
        yield before


def test_an_answer_that_got_lost_makes_no_second_service(
    client: RegistryClient, endpoint: str
) -> None:
    with (
        losing_answers(endpoint, 3) as before,
        RegistryClient(before, timeout=0.5) as other,
        other.registered("puna_cs", port=5000, ttl=60) as puna,
    ):
        wait_until(lambda: puna.service_id)
        assert own_record(client)["id"] == puna.service_id


def test_what_may_be_registered_is_deregistered(client: RegistryClient, endpoint: str) -> None:
    with losing_answers(endpoint, 1000) as before, RegistryClient(before, timeout=0.5) as other:
        with other.registered("puna_cs", port=5000, ttl=60) as puna:
            assert puna.service_id is None
            assert own_record(client)["port"] == 5000
            other.settings.timeout = 10
        assert client.list_services() == []


def test_a_registry_that_comes_back_empty_gets_all_again(process: ServerProcess) -> None:
    process.store = None
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        with client.registered("puna_cs", port=5000, ttl=1.5, endpoints={"monitor": 5001}) as puna:
            puna.status("cooling")
            before = wait_until(lambda: own_record(client).get("status") and own_record(client))
            assert isinstance(before, dict)
            process.kill()
            process.start()
            after = present(wait_until(lambda: client.get_service(puna.service_id)))
            for record in (before, after):
                del record["last_heartbeat"]
            # It is reckoned from whole seconds of the clock at each heartbeat.
            began = [record["status"].pop("since") for record in (before, after)]
            assert abs(began[1] - began[0]) <= 1
            assert after == before
        assert client.list_services() == []


# -- back after a crash


def test_a_driver_that_starts_again_takes_the_place_of_the_dead_one(
    client: RegistryClient, endpoint: str
) -> None:
    with driver("driver_on_random_port", endpoint) as first:
        dead_port = int(printed(first))
        before = own_record(client)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert own_record(client)["port"] == dead_port
        with driver("driver_on_random_port", endpoint) as second:
            port = int(printed(second))
            assert port != dead_port
            found = [client.get_endpoint("PUNA") for _ in range(1_000)]
            assert {str(endpoint).rpartition(":")[2] for endpoint in found} == {str(port)}
            assert own_record(client)["id"] == before["id"]
            second.communicate("", timeout=20)
    assert kinds(client) == ["register", "replace", "register", "deregister"]
    replaced = client.events_since(1)["events"][0]["data"]["service_info"]
    assert replaced["port"] == dead_port


def test_plain_registrations_do_so_too(client: RegistryClient, endpoint: str) -> None:
    for _ in range(2):
        with driver("register_and_die", endpoint) as process:
            process.wait(20)
    assert kinds(client) == ["register", "replace", "register"]


def test_who_lives_is_left_alone(client: RegistryClient, endpoint: str) -> None:
    with (
        driver("driver_on_random_port", endpoint) as first,
        driver("driver_on_random_port", endpoint) as second,
    ):
        ports = {int(printed(first)), int(printed(second))}
        assert {service["port"] for service in client.list_services()} == ports
        assert kinds(client) == ["register", "register"]


def test_a_second_one_of_an_exclusive_name_is_refused(
    client: RegistryClient, endpoint: str
) -> None:
    with driver("driver_on_random_port", endpoint, "exclusive") as first:
        port = int(printed(first))
        holder = own_record(client)
        with (
            pytest.raises(DuplicateName, match="puna_cs is registered already") as refused,
            client.registered("puna_cs", port=5000, exclusive=True),
        ):
            pytest.fail("it is not registered")
        assert refused.value.details["existing_service_id"] == holder["id"]
        for told in (f"pid {first.pid}", holder["owner"]["host"], f":{port}", "since 20"):
            assert told in str(refused.value.hint)
        first.send_signal(signal.SIGKILL)
        first.wait()
        with client.registered("puna_cs", port=5000, exclusive=True):
            assert own_record(client)["port"] == 5000


# -- where it is


def test_the_port_and_the_address_of_a_socket(client: RegistryClient) -> None:
    for bind, fixed in (("tcp://127.0.0.1:*", "127.0.0.1"), ("tcp://*:*", "127.0.0.1")):
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
        socket.bind(bind)
        port = int(bound_endpoint(socket).rpartition(":")[2])
        with client.registered("puna_cs", socket=socket, port=port):
            assert (own_record(client)["host"], own_record(client)["port"]) == (fixed, port)
        with client.registered("puna_cs", host="egse3.lab", socket=socket):
            assert own_record(client)["host"] == "egse3.lab"
        wrong = client.registered("puna_cs", socket=socket, port=port % 60000 + 1)
        with pytest.raises(ConfigurationError, match="port="), wrong:
            pass
        socket.close(0)
        with pytest.raises(ConfigurationError, match="no open"), wrong:
            pass


def test_the_port_of_the_command_endpoint_is_the_main_one(client: RegistryClient) -> None:
    for ports, main in (({"monitor": 5001, "command": 5000}, 5000), ({"monitor": 5001}, 5001)):
        with client.registered("puna_cs", endpoints=ports):
            record = own_record(client)
            assert (record["endpoints"], record["port"]) == (ports, main)


def test_a_found_address_follows_and_a_given_one_stays(process: ServerProcess) -> None:
    with NetworkSpace() as space:
        space.ip("address", "add", "10.8.0.5/24", "dev", "lab")
        process.under = space.inside
        process.start()
        with driver("driver_with_two_hosts", process.endpoint, under=space.inside) as running:

            def hosts() -> str:
                assert running.stdin is not None
                running.stdin.write("\n")
                running.stdin.flush()
                return printed(running)

            assert hosts() == "found 10.8.0.5 given 10.8.0.5"
            # With its first address an interface loses those that were added to it.
            space.ip("address", "delete", "10.8.0.5/24", "dev", "lab")
            space.ip("address", "add", "10.8.0.6/24", "dev", "lab")
            wait_until(lambda: hosts() == "found 10.8.0.6 given 10.8.0.5")
        process.stop()


# -- what it says of itself


def test_a_status_is_in_the_record_at_once(client: RegistryClient) -> None:
    with client.registered("puna_cs", port=5000) as puna:
        puna.status("cooling to 180 K", progress=0.4, load=2)
        wait_until(lambda: own_record(client).get("status"))
        record = own_record(client)
        assert record["status"]["text"] == "cooling to 180 K"
        assert record["status"]["progress"] == 0.4
        assert abs(record["status"]["since"] - time.time()) < 30
        assert record["load"] == 2
        with client.busy("homing", max=300):
            wait_until(lambda: own_record(client)["status"].get("max") == 300)
            assert own_record(client)["status"]["text"] == "homing"
        wait_until(lambda: own_record(client)["status"]["text"] == "cooling to 180 K")
        puna.status()
        wait_until(lambda: "status" not in own_record(client))
        assert "load" not in own_record(client)
        assert kinds(client) == ["register"], "what a driver says is no event"


def test_a_driver_that_renews_by_hand_says_it_too(client: RegistryClient) -> None:
    with pytest.raises(ConfigurationError, match="nothing is registered"):
        client.status("cooling")
    client.register("puna_cs", "egse3", 5000)
    client.status("cooling")
    assert "status" not in own_record(client)
    assert client.renew()
    assert own_record(client)["status"]["text"] == "cooling"
    assert client.reregister()
    assert own_record(client)["status"]["text"] == "cooling"
    client.start_heartbeat()
    client.status("cold")
    wait_until(lambda: own_record(client)["status"]["text"] == "cold")


def test_a_thousand_changes_are_a_few_beats(client: RegistryClient) -> None:
    requests: list[str] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        requests.append(request["action"])
        return {"success": True, "services": [], "service_id": "puna-1", "bind": "*"}

    with (
        scripted_server(answer) as endpoint,
        RegistryClient(endpoint, timeout=10) as other,
        other.registered("puna_cs", port=5000) as puna,
    ):
        until, count = time.monotonic() + 1.5, 0
        while time.monotonic() < until:
            puna.status(f"step {count}")
            count += 1
        assert count > 1000
        assert requests.count("renew") <= 9


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_beating_is_not_alive(client: RegistryClient, endpoint: str, kind: str) -> None:
    with driver("driver_that_hangs", endpoint, kind) as process:
        wait_until(lambda: any("status" in service for service in client.list_services()))
        assert own_record(client)["health"] == "passing"
        assert process.stdin is not None
        process.stdin.write("6\n")
        process.stdin.flush()
        wait_until(lambda: own_record(client)["health"] == "warning")
        assert client.discover_service("PUNA") is not None
        wait_until(shows(client, health="critical", reason="stalled"))
        assert client.discover_service("PUNA") is None
        wait_until(lambda: client.discover_service("PUNA"))
    assert kinds(client) == ["register", "critical", "recovered"]


def test_a_hung_main_loop_is_out_within_its_watchdog(client: RegistryClient) -> None:
    with client.registered("puna_cs", port=5000, ttl=60, watchdog=1) as puna:
        puna.feed()
        started = time.monotonic()
        wait_until(lambda: own_record(client)["health"] == "critical")
        assert 0.9 < time.monotonic() - started < 10
        puna.feed()
        wait_until(lambda: own_record(client)["health"] == "passing")


def test_who_is_busy_need_not_feed(client: RegistryClient) -> None:
    with client.registered("puna_cs", port=5000, ttl=60, watchdog=1) as puna:
        with puna.busy("homing", max=60):
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                assert own_record(client)["health"] == "passing"
                time.sleep(0.05)
        with puna.busy("homing", max=0.5):
            wait_until(lambda: own_record(client)["health"] == "critical")
        wait_until(lambda: own_record(client)["health"] == "passing")


# -- changes


def test_changes_of_a_registration(client: RegistryClient) -> None:
    with client.registered("puna_cs", "egse3", 5000, "PUNA", ready=False) as puna:
        assert own_record(client)["health"] == "starting"
        assert client.discover_service("PUNA") is None
        assert puna.ready()
        assert client.discover_service("PUNA") is not None
        assert puna.update(metadata={"version": "2"}, tags=["optics"], port=5001)
        record = own_record(client)
        assert (record["metadata"], record["tags"]) == ({"version": "2"}, ["optics"])
        assert (record["host"], record["port"]) == ("egse3", 5001)
        assert client.update(host="egse4", endpoints={"command": 5001})
        assert own_record(client)["host"] == "egse4"
        wrongs: list[dict[str, Any]] = [{}, {"endpoints": {}}, {"tags": "optics"}]
        for wrong in wrongs:
            with pytest.raises(ConfigurationError):
                puna.update(**wrong)
        with pytest.raises(InvalidRequest):
            puna.update(port=70000)
        assert own_record(client)["port"] == 5001
    assert kinds(client) == ["register", "update", "update", "update", "deregister"]


def test_what_was_changed_is_registered_again_so(client: RegistryClient, endpoint: str) -> None:
    with client.registered("puna_cs", "egse3", 5000, ttl=1) as puna:
        puna.update(port=5001)
        with RegistryClient(endpoint, timeout=10) as other:
            assert other.deregister(puna.service_id)
        wait_until(client.list_services)
        assert own_record(client)["port"] == 5001


# -- what is refused


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"port": 5000, "host": "egse3", "advertise": "10.3.0.0/24"},
        {"port": 5000, "advertise": "10.3.0"},
        {"port": 5000, "heartbeat": "greenlet"},
        {"port": 5000, "watchdog": 0},
        {"port": 5000, "watchdog": 86401},
        {"port": 5000, "mode": "dream"},
        {"port": 5000, "mode": "any"},
        {"port": 5000, "endpoints": {}},
        {"port": 5000, "endpoints": [5000]},
        {"port": 5000, "endpoints": {"command": 0}},
        {"port": 5000, "tags": "optics"},
        {"port": 5000, "ttl": 0.5},
        {"port": 5000, "host": ""},
        {"port": 0},
        {"port": 70000},
    ],
)
def test_bad_options_are_refused_before_anything_is_sent(wrong: dict[str, Any]) -> None:
    with RegistryClient("127.0.0.1:1", timeout=10) as client:
        started = time.monotonic()
        with pytest.raises(ConfigurationError):
            client.registered("puna_cs", **wrong)
        assert time.monotonic() - started < 5


def test_a_mode_of_the_client_is_that_of_what_it_registers(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RegistryClient(endpoint, timeout=10, mode="simulator") as client:
        with client.registered("sim", port=5000):
            assert own_record(client)["mode"] == "simulator"
        with client.registered("real", port=5000, mode="hardware"):
            assert own_record(client)["mode"] == "hardware"
    monkeypatch.setenv("RSREG_MODE", "simulator")
    with RegistryClient(endpoint, timeout=10) as client, client.registered("sim", port=5000):
        assert own_record(client)["mode"] == "simulator"
    with RegistryClient(endpoint, mode="any") as client, client.registered("real", port=5000):
        assert "mode" not in own_record(client)
    with pytest.raises(ConfigurationError, match="unknown mode 'dream'"):
        RegistryClient(endpoint, mode="dream")
    monkeypatch.setenv("RSREG_MODE", "dream")
    with pytest.raises(ConfigurationError, match="unknown mode 'dream'"):
        RegistryClient(endpoint)
