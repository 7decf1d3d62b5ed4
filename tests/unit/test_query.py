"""Choosing among services: what is wrong is refused unsent, what is right the server evaluates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from rsreg import AsyncRegistryClient, RegistryClient, ServiceCache, config
from rsreg.errors import ConfigurationError, InvalidRequest, OwnedByOther, UnknownService
from rsreg.protocol import query
from rsreg.protocol.calls import Record
from tests.helpers import register_simulator, scripted_server, wait_until


@pytest.fixture
def unasked() -> Iterator[RegistryClient]:
    """A client of a registry that nothing may be asked of."""
    asked: list[Record] = []

    def answer(request: Record) -> None:
        asked.append(request)

    with scripted_server(answer) as endpoint, RegistryClient(endpoint, timeout=5) as client:
        yield client
    assert asked == []


WRONG = [
    ({"tag": ["optics"]}, "there is no option 'tag' here"),
    ({"tags": "optics"}, "tags are a list of texts"),
    ({"tags": [1]}, "tags are a list of texts"),
    ({"tags": [""]}, "tags are a list of texts"),
    ({"tags": ["x"] * 65}, "at most 64 tags"),
    ({"tags": ["optics", "!optics"]}, "no service has the tag 'optics' and does not have it"),
    ({"where": "version>=1"}, "where is a mapping"),
    ({"where": {1: 2}}, "where is a mapping"),
    ({"where": {"a": object()}}, "this request"),
    ({"mode": "simulation"}, "unknown mode 'simulation'"),
    ({"mode": True}, "unknown mode True"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_a_wrong_filter_is_refused_before_anything_is_sent(
    unasked: RegistryClient, options: Any, said: str
) -> None:
    for ask in (
        lambda: unasked.list_services(**options),
        lambda: unasked.discover_service("PUNA", **options),
        lambda: unasked.discover_service("PUNA", **options, wait=5),
        lambda: unasked.get_endpoint("PUNA", **options),
        lambda: unasked.connect_to("PUNA", **options),
    ):
        with pytest.raises(ConfigurationError, match=said) as refused:
            ask()
        assert isinstance(refused.value, ValueError)


def test_only_one_of_several_can_be_waited_for_or_chosen(unasked: RegistryClient) -> None:
    kind: Any
    strategy: Any
    options: dict[str, Any]
    for options in ({"wait": 3}, {"strategy": "random"}):
        with pytest.raises(ConfigurationError, match="there is no option"):
            unasked.list_services(**options)
    for kind in ("", None, ["PUNA"], 5, "x" * 257):
        with pytest.raises(ConfigurationError, match="a type is a text"):
            unasked.discover_service(kind)
        with pytest.raises(ConfigurationError, match="a type is a text"):
            unasked.wait_for("PUNA", kind)
    for strategy in ("", 1, "x" * 300):
        with pytest.raises(ConfigurationError, match="a strategy is a text"):
            unasked.discover_service("PUNA", strategy=strategy)


def test_what_is_not_said_is_not_sent() -> None:
    empty: dict[str, Any] = {"tags": None, "where": None, "mode": None}
    asked: Any
    for asked in ({}, empty, {"tags": [], "where": {}}):
        assert query.filter_params(asked, None) == {}
        assert query.filter_params(asked, "simulator") == {"mode": "simulator"}
    assert query.filter_params({"mode": "any"}, "simulator") == {}
    assert query.filter_params({"mode": "hardware"}, "simulator") == {"mode": "hardware"}
    assert query.discover_params(
        "PUNA", {"tags": ("a", "!b"), "strategy": "random", "wait": 3}, None
    ) == (
        {"tags": ["a", "!b"], "strategy": "random"},
        3,
    )


def test_the_server_evaluates(client: RegistryClient) -> None:
    for name, version, site in (("old", "1.3", "leuven"), ("new", "1.10", "leuven")):
        client.register(name, "lab", 1, "PUNA", {"version": version, "site": site}, tags=[name])
    client.register("away", "lab", 1, "PUNA", {"version": "1.10", "site": "liege"})

    def names(**options: Any) -> list[str]:
        return [service["name"] for service in client.list_services("PUNA", **options)]

    assert names() == ["old", "new", "away"]
    assert names(where={"version": ">=1.4"}) == ["new", "away"]
    assert names(where={"version": ">=1.4", "site": "leuven"}) == ["new"]
    assert names(where={"name": "old"}) == ["old"]
    assert names(tags=["!old"]) == ["new", "away"]
    assert names(tags=["new", "!old"]) == ["new"]
    found = client.discover_service("PUNA", where={"version": ">=1.4", "site": "leuven"})
    assert found is not None
    assert found["name"] == "new"
    assert client.discover_service("PUNA", tags=["old"], where={"site": "liege"}) is None
    assert client.get_endpoint("PUNA", tags=["away"]) is None
    with pytest.raises(InvalidRequest):
        client.discover_service("PUNA", where={"version": ">=not a version"})


def test_strategies(client: RegistryClient) -> None:
    for name in ("a", "b", "c"):
        client.register(name, "lab", 1, "PUNA")
    turns = [client.discover_service("PUNA", strategy="round-robin") for _ in range(6)]
    names = [turn["name"] for turn in turns if turn]
    assert names[:3] == names[3:]
    assert sorted(names[:3]) == ["a", "b", "c"]
    for strategy in ("random", "least-loaded", "same-host"):
        assert client.discover_service("PUNA", strategy=strategy) is not None


def test_who_asks_is_told_only_where_it_matters() -> None:
    asked: list[Record] = []

    def answer(request: Record) -> Record:
        asked.append(request)
        return {"success": True, "service": {"name": "x"}}

    with scripted_server(answer) as endpoint, RegistryClient(endpoint, timeout=10) as client:
        client.discover_service("PUNA", strategy="same-host")
        client.discover_service("PUNA", strategy="random")
    assert asked[0]["asker"].keys() <= {"host", "boot"}
    assert asked[0]["asker"]["host"]
    assert "asker" not in asked[1]


# -- modes


def name_of(service: Record | None) -> str | None:
    """Its name."""
    return service["name"] if service else None


@pytest.fixture
def mixed_endpoint(endpoint: str) -> str:
    """A registry with hardware and simulators."""
    with RegistryClient(endpoint, timeout=10) as client:
        client.register("real", "lab", 1, "PUNA", service_id="real")
    register_simulator(endpoint, "sim", "PUNA")
    register_simulator(endpoint, "only-sim", "TEMP")
    return endpoint


@pytest.mark.parametrize("cache", [False, True])
def test_a_simulator_is_never_handed_out_as_hardware(mixed_endpoint: str, cache: bool) -> None:
    with RegistryClient(mixed_endpoint, timeout=10, cache=cache) as client:
        for _ in range(2):
            assert {name_of(client.discover_service("PUNA")) for _ in range(20)} == {"real"}
            assert name_of(client.discover_service("PUNA", mode="simulator")) == "sim"
            assert name_of(client.discover_service("TEMP")) == "only-sim"
            assert client.discover_service("TEMP", mode="hardware") is None
            assert [name_of(one) for one in client.list_services(mode="hardware")] == ["real"]
            assert len(client.list_services()) == 3
            if (known := client._session.cache) is not None:
                wait_until(lambda known=known: known._cache.as_of > 0)
        client.deregister("real")
        assert name_of(client.discover_service("PUNA")) == "sim"


def test_a_client_has_a_mode(mixed_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with RegistryClient(mixed_endpoint, timeout=10, mode="simulator") as client:
        assert name_of(client.discover_service("PUNA")) == "sim"
        assert name_of(client.wait_for("PUNA", timeout=5)["PUNA"]) == "sim"
        assert [name_of(one) for one in client.list_services()] == ["sim", "only-sim"]
        assert name_of(client.discover_service("PUNA", mode="hardware")) == "real"
        assert name_of(client.discover_service("PUNA", mode="any")) == "real"
    monkeypatch.setenv("RSREG_MODE", "hardware")
    with RegistryClient(mixed_endpoint, timeout=10) as client:
        assert client.discover_service("TEMP") is None
    with RegistryClient(mixed_endpoint, timeout=10, mode="any") as client:
        assert name_of(client.discover_service("TEMP")) == "only-sim"
    monkeypatch.setenv("RSREG_MODE", "toys")
    with pytest.raises(ConfigurationError, match="'toys'"):
        RegistryClient(mixed_endpoint)
    assert config.default_mode() == "toys"


def test_a_cache_keeps_to_modes(mixed_endpoint: str) -> None:
    with ServiceCache(mixed_endpoint, timeout=10) as cache:
        assert {name_of(cache.discover_service("PUNA")) for _ in range(20)} == {"real"}
        assert name_of(cache.discover_service("PUNA", mode="simulator")) == "sim"
        assert name_of(cache.discover_service("TEMP")) == "only-sim"
        assert cache.discover_service("TEMP", mode="hardware") is None
        assert [name_of(one) for one in cache.list_services(mode="hardware")] == ["real"]
        assert len(cache.list_services(mode="any")) == 3
        with pytest.raises(ConfigurationError):
            cache.discover_service("PUNA", mode="toys")


def test_a_cache_does_not_answer_what_only_the_server_knows(mixed_endpoint: str) -> None:
    with RegistryClient(mixed_endpoint, timeout=10, cache=True) as client:
        client.discover_service("PUNA")
        wait_until(
            lambda: client._session.cache is not None and client._session.cache._cache.as_of > 0
        )
        assert client.discover_service("PUNA", where={"name": "nobody"}) is None
        assert client.discover_service("PUNA", tags=["nothing"]) is None
        assert client.list_services("PUNA", tags=["nothing"]) == []


# -- maintenance


def test_maintenance(client: RegistryClient) -> None:
    client.register("puna", "egse3", 1, "PUNA")
    entries = client.maintenance(True, service="puna", reason="new firmware", for_=3600)
    assert [(one["service"], one["reason"]) for one in entries] == [("puna", "new firmware")]
    assert "@" in entries[0]["says"]
    assert entries[0]["by"] == "127.0.0.1"
    assert entries[0]["until"] - entries[0]["since"] == 3600
    assert client.discover_service("PUNA") is None
    assert [one["health"] for one in client.list_services("PUNA")] == ["maintenance"]
    both = client.maintenance(True, host="egse3", forever=True, by="rik")
    assert [(one.get("host"), one["says"], one.get("until")) for one in both][1] == (
        "egse3",
        "rik",
        None,
    )
    assert len(client.maintenance(False, service="puna")) == 1
    assert client.discover_service("PUNA") is None
    with pytest.raises(OwnedByOther, match=r"belongs to rik on 127\.0\.0\.1, until somebody ends"):
        client.maintenance(False, host="egse3")
    assert client.maintenance(False, host="egse3", by="rik") == []
    assert client.discover_service("PUNA") is not None
    with pytest.raises(UnknownService):
        client.maintenance(False, host="egse3")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "not none of them"),
        ({"service": "a", "host": "b"}, "not service and host"),
        ({"service": "a", "for_": 5, "forever": True}, "not both"),
        ({"service": "a", "for_": 0}, "1 to 31536000 seconds"),
        ({"service": "a", "for_": float("nan")}, "1 to 31536000 seconds"),
        ({"service": "a", "for_": "1h"}, "1 to 31536000 seconds"),
        ({"service": ""}, "service is a text"),
        ({"service": "a", "reason": 3}, "reason is a text"),
        ({"on": False, "service": "a", "for_": 5}, "can't be used when ending"),
        ({"on": False, "service": "a", "reason": "over"}, "can't be used when ending"),
    ],
)
def test_a_wrong_maintenance_is_refused_before_anything_is_sent(
    unasked: RegistryClient, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        unasked.maintenance(**{"on": True, **options})


def test_all_of_it_in_asyncio(mixed_endpoint: str) -> None:
    async def main() -> None:
        async with AsyncRegistryClient(mixed_endpoint, timeout=10, mode="simulator") as client:
            assert name_of(await client.discover_service("PUNA")) == "sim"
            assert name_of(await client.discover_service("PUNA", mode="any")) == "real"
            assert [name_of(one) for one in await client.list_services()] == ["sim", "only-sim"]
            assert await client.list_services(where={"name": "nobody"}) == []
            assert await client.get_endpoint("TEMP", tags=["x"]) is None
            found = await client.discover_service("PUNA", strategy="same-host")
            assert name_of(found) == "sim"
            text: Any = "x"
            with pytest.raises(ConfigurationError):
                await client.list_services(tags=text)
            assert len(await client.maintenance(True, service_type="PUNA")) == 1
            assert await client.discover_service("PUNA") is None
            assert await client.maintenance(False, service_type="PUNA") == []

    asyncio.run(main())
