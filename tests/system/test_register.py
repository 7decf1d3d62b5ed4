"""A register is one question where nobody has the name, and two where somebody is to be judged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rsreg import AsyncRegistryClient, RegistryClient
from rsreg.client.registration import owner
from tests.helpers import scripted_server, start_program, wait_until


def by_register(endpoint: str) -> None:
    with RegistryClient(endpoint, timeout=10) as client:
        client.register("puna_cs", "lab", 5000)


def by_asyncio(endpoint: str) -> None:
    async def run() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as client:
            await client.register("puna_cs", "lab", 5000)

    asyncio.run(run())


def by_registered(endpoint: str) -> None:
    with RegistryClient(endpoint, timeout=10) as client:
        client.registered("puna_cs", "lab", 5000).enter()
        client.stop_heartbeat()


WAYS = {"register": by_register, "asyncio": by_asyncio, "registered": by_registered}


def dead_process() -> dict[str, Any]:
    """The owner that a process was which has ended."""
    process = start_program("tell_owner")
    said, _ = process.communicate()
    found: dict[str, Any] = json.loads(said)
    return found


@contextmanager
def registry(namesakes: list[dict[str, Any]], *, knows: bool = True) -> Iterator[Any]:
    """A registry with these entries of the name; its endpoint, and what it was asked."""
    asked: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        if request.get("judges") and namesakes and knows:
            refusal = {"success": False, "error": "first", "code": "judge-first"}
            return {**refusal, "namesakes": namesakes}
        return {"success": True, "service_id": "puna-1"}

    with scripted_server(answer) as endpoint:
        yield endpoint, asked


def entry(service_id: str, of: dict[str, Any], name: str = "puna_cs") -> dict[str, Any]:
    """The record of one, as far as it matters."""
    return {"id": service_id, "name": name, "owner": of, "port": 5000}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_it_is_one_question_where_nobody_has_the_name(way: Any) -> None:
    with registry([]) as (endpoint, asked):
        way(endpoint)
    registers = [request for request in asked if request["action"] in ("register", "list")]
    assert [request["action"] for request in registers] == ["register"]
    assert registers[0]["judges"] is True
    assert "replaces" not in registers[0]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_dead_are_replaced_and_the_living_are_not(way: Any) -> None:
    dead, living = dead_process(), owner.this_process()
    namesakes = [entry("dead", dead), entry("living", living), entry("other", dead, "other")]
    with registry(namesakes) as (endpoint, asked):
        way(endpoint)
    first, second = [request for request in asked if request["action"] == "register"]
    assert second["replaces"] == {"dead": dead}
    assert "judges" not in second
    assert second["service_info"] == first["service_info"]
    assert second["request_id"] != first["request_id"]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_if_all_live_it_is_registered_beside_them(way: Any) -> None:
    with registry([entry("living", owner.this_process())]) as (endpoint, asked):
        way(endpoint)
    first, second = [request for request in asked if request["action"] == "register"]
    assert not {"judges", "replaces"} & second.keys()
    assert second["service_info"] == first["service_info"]


def test_a_registry_that_does_not_know_it_registers() -> None:
    with (
        registry([entry("dead", dead_process())], knows=False) as (endpoint, asked),
        RegistryClient(endpoint, timeout=10) as client,
    ):
        assert client.register("puna_cs", "lab", 5000) == "puna-1"
    assert [request["action"] for request in asked] == ["register"]


def test_an_id_of_ones_own_is_not_judged() -> None:
    with (
        registry([entry("dead", dead_process())]) as (endpoint, asked),
        RegistryClient(endpoint, timeout=10) as client,
    ):
        client.register("puna_cs", "lab", 5000, service_id="puna-1")
        client.reregister()
    assert [request.get("judges") for request in asked] == [None, None]


def test_a_heartbeat_judges_too() -> None:
    """With the registry away at first, it is the heartbeat that registers."""
    dead = dead_process()
    asked: list[dict[str, Any]] = []

    def answer(request: dict[str, Any]) -> dict[str, Any] | None:
        asked.append(request)
        registers = [each for each in asked if each["action"] == "register"]
        if request["action"] == "list":
            return {"success": True, "services": []}
        if len({each["request_id"] for each in registers}) == 1:
            return None
        if request.get("judges"):
            refusal = {"success": False, "error": "first", "code": "judge-first"}
            return {**refusal, "namesakes": [entry("dead", dead)]}
        return {"success": True, "service_id": "puna-1"}

    with (
        scripted_server(answer) as endpoint,
        RegistryClient(endpoint, timeout=0.3) as client,
        client.registered("puna_cs", "lab", 5000, ttl=60) as puna,
    ):
        wait_until(lambda: puna.service_id == "puna-1")
    last = [request for request in asked if request["action"] == "register"][-1]
    assert last["replaces"] == {"dead": dead}
