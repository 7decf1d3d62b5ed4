"""The client for shells and notebooks: services as attributes, tables, completion."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rsreg
from rsreg import AsyncRegistryClient, InteractiveClient, RegistryClient, ServiceCache
from rsreg.client.interactive import Services
from rsreg.errors import RequestTimeout
from rsreg.protocol.records import ServiceList, ServiceRecord
from tests.commands import MODULE, PLAIN_SHELL, Terminal
from tests.helpers import present, scripted_server, wait_until

#: What no name may bring to a terminal, or to a notebook.
NASTY = "a\x1b[2Jb<script>"
#: What Python and notebooks look for by themselves.
PROBES = [
    "_ipython_canary_method_should_not_exist_",
    "_ipython_display_",
    "_repr_markdown_",
    "_repr_mimebundle_",
    "__wrapped__",
    "__array_interface__",
    "_private",
]


@pytest.fixture
def reg(endpoint: str) -> Iterator[InteractiveClient]:
    """A client for a shell, of `server`."""
    with InteractiveClient(endpoint, timeout=20) as connected:
        yield connected


@pytest.fixture
def services(client: RegistryClient) -> RegistryClient:
    """A few are registered."""
    client.register("puna_cs", "egse3", 5000, "PUNA", ttl=3600, tags=["optics"])
    client.register("ls_337", "egse4", 6001, "TEMP", ttl=3600)
    client.register("ls-336", "egse4", 6000, "TEMP", ttl=3600, service_id="first")
    client.register("scheduler", "egse5", 7000, metadata={"type": "SCHED"}, ttl=3600)
    return client


def nowhere() -> InteractiveClient:
    """A client of a registry that is not there."""
    return InteractiveClient("localhost:1", timeout=0.2)


# -- records, from every method


def test_the_package_offers_it() -> None:
    assert rsreg.InteractiveClient is InteractiveClient
    assert issubclass(InteractiveClient, RegistryClient)


def test_every_client_gives_records(services: RegistryClient, endpoint: str) -> None:
    with ServiceCache(endpoint, timeout=20) as cache:
        asked: list[Any] = [
            services.get_service("first"),
            services.discover_service("optics"),
            services.find_service("puna"),
            *services.list_services(),
            *services.wait_for("PUNA", "TEMP").values(),
            cache.get_service("first"),
            cache.discover_service("PUNA"),
            *cache.list_services(),
        ]
        assert type(services.list_services()) is type(cache.list_services()) is ServiceList
    assert {type(one) for one in asked} == {ServiceRecord}
    assert {one.endpoint.partition(":")[0] for one in asked} == {"tcp"}


def test_so_does_the_asyncio_client(services: RegistryClient, endpoint: str) -> None:
    async def ask() -> list[Any]:
        async with AsyncRegistryClient(endpoint, timeout=20) as client:
            return [
                await client.get_service("first"),
                await client.discover_service("optics"),
                await client.find_service("puna"),
                *await client.list_services("TEMP"),
                *(await client.wait_for("PUNA")).values(),
            ]

    assert {type(one) for one in asyncio.run(ask())} == {ServiceRecord}


# -- services as attributes


def test_a_name_is_a_record(services: RegistryClient, reg: InteractiveClient) -> None:
    assert reg.puna_cs == services.find_service("puna_cs")
    assert reg.puna_cs.endpoint == "tcp://egse3:5000"
    assert reg["ls-336"].port == 6000
    assert reg["first"] == reg["ls-336"]


def test_a_type_is_its_services(services: RegistryClient, reg: InteractiveClient) -> None:
    temp = reg.TEMP
    assert isinstance(temp, Services)
    assert len(temp) == 2
    assert [one.name for one in temp] == ["ls_337", "ls-336"]
    assert temp.ls_337.port == 6001
    assert temp["ls-336"].port == temp["first"].port == 6000
    assert reg["TEMP"]["ls-336"] == reg["ls-336"]
    for missing in ("nix", "endpoint", "port"):
        with pytest.raises(AttributeError, match=r"'TEMP' are 2 services: ls-336, ls_337; say"):
            getattr(temp, missing)
    with pytest.raises(KeyError, match="no services 'nix' are here"):
        _ = temp["nix"]


def test_one_service_of_a_type_is_meant_by_its_type(
    services: RegistryClient, reg: InteractiveClient
) -> None:
    puna = reg.PUNA
    assert (puna.endpoint, puna.host, puna.port) == ("tcp://egse3:5000", "egse3", 5000)
    assert puna.puna_cs == reg.puna_cs
    assert reg.SCHED.name == "scheduler"
    with pytest.raises(AttributeError, match="this service has no 'hots'; it has endpoint, id"):
        _ = puna.hots


def test_what_is_not_there_is_an_error(services: RegistryClient, reg: InteractiveClient) -> None:
    with pytest.raises(AttributeError, match="neither a type nor a service 'nix' is registered"):
        _ = reg.nix
    with pytest.raises(KeyError, match="neither a type nor a service 'nix' is registered"):
        _ = reg["nix"]
    assert getattr(reg, "nix", None) is None
    assert not hasattr(reg, "PUN")
    # A tag is none: it would hide what a type or a name says.
    assert not hasattr(reg, "optics")
    questions: list[Callable[[Any], object]] = [iter, len, lambda reg: "PUNA" in reg]
    for question in questions:
        with pytest.raises(TypeError):
            question(reg)


def test_two_services_of_one_name_are_not_meant_by_it(
    services: RegistryClient, reg: InteractiveClient
) -> None:
    first = reg.puna_cs.id
    services.register("puna_cs", "egse9", 5009, "OTHER", ttl=3600, service_id="second")
    said = "'puna_cs' is the name of puna_cs at tcp://egse3:5000 .*, puna_cs at tcp://egse9:5009"
    with pytest.raises(AttributeError, match=rf"{said} \(id 'second'\): say which one with reg"):
        _ = reg.puna_cs
    with pytest.raises(KeyError, match="egse9:5009"):
        _ = reg["puna_cs"]
    assert (reg["second"].host, reg[first].host) == ("egse9", "egse3")
    assert not hasattr(reg, "puna_cs")


def test_two_of_one_type_and_name_are_told_apart_by_their_ids(
    services: RegistryClient, reg: InteractiveClient
) -> None:
    services.register("puna_cs", "egse9", 5009, "PUNA", ttl=3600, service_id="second")
    with pytest.raises(AttributeError, match="'PUNA' are 2 services: puna_cs, puna_cs; say"):
        _ = reg.PUNA.puna_cs
    with pytest.raises(KeyError, match="2 services 'puna_cs' are here"):
        _ = reg.PUNA["puna_cs"]
    assert reg.PUNA["second"].port == 5009


@pytest.mark.parametrize(
    "stranger",
    [
        {"name": "x", "service_type": "puna_cs"},
        {"name": "x", "metadata": {"type": "puna_cs"}},
        {"name": "puna_cs", "service_type": "puna_cs"},
        {"name": "puna_cs"},
        {"name": "puna_cs", "service_type": "PUNA", "service_id": "0"},
        {"name": "x", "service_id": "puna_cs"},
        {"name": "PUNA"},
        {"name": "PUNA", "service_type": "puna_cs"},
        {"name": "x", "service_id": "PUNA"},
        {"name": "kept"},
        {"name": "x", "service_type": "kept"},
        {"name": "x", "service_type": "PUNA"},
        {"name": "endpoint", "service_type": "PUNA"},
        {"name": "host", "service_type": "PUNA"},
        {"name": "protocol", "service_type": "PUNA"},
        {"name": "copy", "service_type": "PUNA"},
        {"name": "channels", "service_type": "PUNA"},
    ],
    ids=str,
)
def test_a_stranger_takes_the_place_of_no_service(
    stranger: dict[str, Any], client: RegistryClient, reg: InteractiveClient
) -> None:
    client.register("puna_cs", "egse3", 5000, "PUNA", ttl=3600, service_id="kept")
    ways: list[Callable[[], Any]] = [
        lambda: reg.puna_cs.host,
        lambda: reg["puna_cs"].host,
        lambda: reg["kept"].host,
        lambda: reg.PUNA.host,
        lambda: reg.PUNA.endpoint.partition("//")[2].partition(":")[0],
        lambda: reg.PUNA.puna_cs.host,
        lambda: reg.PUNA["kept"].host,
        lambda: reg["PUNA"].host,
        lambda: present(reg.get_service("kept"))["host"],
    ]
    assert {way() for way in ways} == {"egse3"}
    client.register(host="66.6.6.6", port=666, ttl=3600, **stranger)
    for way in ways:
        with contextlib.suppress(AttributeError, KeyError):
            assert way() == "egse3"
    for name in ("endpoint", "host", "protocol", "copy"):
        with contextlib.suppress(AttributeError):
            assert not isinstance(getattr(reg.PUNA, name), ServiceRecord)


def test_fields_go_before_names(client: RegistryClient, reg: InteractiveClient) -> None:
    client.register("endpoint", "lab", 1, "PUNA", ttl=3600)
    assert (reg.PUNA.endpoint, reg.PUNA.name) == ("tcp://lab:1", "endpoint")
    assert reg.PUNA["endpoint"].port == 1
    client.register("host", "lab", 2, "PUNA", ttl=3600)
    for name in ("host", "endpoint"):
        with pytest.raises(AttributeError, match="'PUNA' are 2 services: endpoint, host; say"):
            getattr(reg.PUNA, name)
    assert reg.PUNA["host"].port == 2


def test_an_own_type_may_be_called_like_an_own_name(
    client: RegistryClient, reg: InteractiveClient
) -> None:
    client.register("puna", "lab", 1, "puna", ttl=3600, service_id="puna")
    assert (reg.puna.endpoint, reg["puna"].endpoint) == ("tcp://lab:1", "tcp://lab:1")


def test_methods_and_types_go_first(client: RegistryClient, reg: InteractiveClient) -> None:
    for name in ("register", "settings", "_run", "PUNA"):
        client.register(name, "lab", 1, "T", ttl=3600)
    client.register("mine", "lab", 2, "PUNA", ttl=3600)
    client.register("yours", "lab", 2, "CAM", ttl=3600)
    client.register("keys", "lab", 2, "close", ttl=3600)
    assert getattr(reg.register, "__func__", None) is RegistryClient.register
    assert reg.settings.timeout == 20
    assert reg["register"].host == "lab"
    assert [getattr(one, "name", one) for one in reg.CAM] == ["yours"]
    with pytest.raises(
        AttributeError, match=r"'PUNA' is the type of mine .*, and the name of PUNA"
    ):
        _ = reg.PUNA
    assert reg.keys.port == 2
    assert getattr(reg.close, "__func__", None) is RegistryClient.close


def test_probes_never_ask() -> None:
    asked: list[str] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request["action"])
        return {"success": True, "services": []}

    with scripted_server(answer) as endpoint, InteractiveClient(endpoint, timeout=20) as reg:
        for probe in PROBES:
            assert not hasattr(reg, probe)
        assert asked == []
        assert not hasattr(reg, "PUNA")
        assert asked == ["list"]


# -- what is shown


def test_a_bench_is_the_table_of_services(services: RegistryClient, reg: InteractiveClient) -> None:
    services.register(NASTY, "lab", 1, NASTY, ttl=3600)
    lines = repr(reg).splitlines()
    assert lines[0] == f"registry {reg.settings.req_endpoint}, 5 services"
    assert [line.split() for line in lines[1:4]] == [
        ["TYPE", "NAME", "ENDPOINT", "MODE", "HEALTH"],
        ["-", "scheduler", "tcp://egse5:7000", "hardware", "passing"],
        ["PUNA", "puna_cs", "tcp://egse3:5000", "hardware", "passing"],
    ]
    assert len({line.rindex("  ") for line in lines[1:]}) == 1, "columns stand below each other"
    assert all(line.isprintable() for line in lines)
    assert repr(reg.TEMP).splitlines()[1:] == [
        "TEMP  ls-336  tcp://egse4:6000  hardware  passing",
        "TEMP  ls_337  tcp://egse4:6001  hardware  passing",
    ]


def test_a_notebook_shows_the_same(services: RegistryClient, reg: InteractiveClient) -> None:
    services.register(NASTY, "lab", 1, NASTY, ttl=3600)
    for shown in (reg._repr_html_(), reg[NASTY]._repr_html_()):
        assert "<table><tr><th>TYPE</th>" in shown
        assert "a\\x1b[2Jb&lt;script&gt;" in shown
        assert "<script" not in shown
    assert "5 services" in reg._repr_html_()


def test_an_empty_registry_is_no_table(client: RegistryClient, reg: InteractiveClient) -> None:
    assert repr(reg) == f"registry {reg.settings.req_endpoint}, no services"
    assert reg._repr_html_() == f"<div>{reg!r}</div>"
    client.register("puna_cs", "lab", 1)
    assert "1 service\n" in repr(reg)


def test_a_registry_that_is_away_is_said_so() -> None:
    reg = nowhere()
    with reg:
        said = "registry tcp://localhost:1 can't be reached: no registry answers on "
        assert repr(reg).startswith(said)
        assert len(repr(reg).splitlines()) == 1
        assert "can&#x27;t be reached" in reg._repr_html_()
        questions: list[Callable[[], object]] = [lambda: reg.PUNA, lambda: reg["PUNA"]]
        for question in questions:
            with pytest.raises(RequestTimeout):
                question()
    assert "this client is closed" in repr(reg)


def test_it_can_be_shown_in_the_middle_of_a_call(endpoint: str) -> None:
    """By a debugger, for example."""
    with InteractiveClient(endpoint, timeout=20) as reg, reg._connection._alone(1):
        assert repr(reg) == f"registry {reg.settings.req_endpoint}, no services"
        assert "register" in dir(reg)


# -- completion


def test_live_names_are_offered(services: RegistryClient, reg: InteractiveClient) -> None:
    services.register(NASTY, "lab", 1, "class", ttl=3600)
    names = {"PUNA", "TEMP", "SCHED", "puna_cs", "ls_337", "register"}
    wait_until(lambda: names <= set(dir(reg)))
    assert not {"ls-336", "class", NASTY, "optics"} & set(dir(reg))
    assert {"puna_cs", "endpoint", "host"} <= set(dir(reg.PUNA))
    assert {"ls_337"} == {"ls_337", "ls-336", "host"} & set(dir(reg.TEMP))
    assert wait_until(reg._ipython_key_completions_) == sorted(
        ["PUNA", "SCHED", "TEMP", "class", "ls-336", "ls_337", "puna_cs", "scheduler"]
    )
    assert reg.TEMP._ipython_key_completions_()[2:] == ["ls-336", "first"]


def test_completion_is_silent_and_quick_without_a_registry() -> None:
    with InteractiveClient("localhost:1", timeout=20) as reg:
        started = time.monotonic()
        assert "list_services" in dir(reg)
        assert reg._ipython_key_completions_() == []
        assert time.monotonic() - started < 15, "it waits as long as a call"


def completed(terminal: Terminal, rest: str) -> None:
    """Press TAB until the rest of a word is there: a busy registry may be too late for one."""
    times = terminal.shown.count(rest) + 1
    for patience in (2, 4, 8, 16):
        terminal.type("\t")
        with contextlib.suppress(AssertionError):
            terminal.until(rest, patience, times=times)
            return
    terminal.until(rest, times=times)


@pytest.mark.parametrize("command", [PLAIN_SHELL, MODULE], ids=["python", "ipython"])
def test_a_shell_completes_types_and_names(
    services: RegistryClient, endpoint: str, command: list[str], tmp_path: Any
) -> None:
    prompt = ">>> "
    if command is MODULE:
        pytest.importorskip("IPython")
        prompt = "In ["
    home: dict[str, Any] = {"HOME": str(tmp_path), "NO_COLOR": "1"}
    with Terminal("shell", command=command, RSREG_ENDPOINT=endpoint, **home) as terminal:
        terminal.until(prompt)
        for keys, rest in (("reg.PU", "NA"), (".endp", "oint")):
            terminal.type(keys)
            completed(terminal, rest)
        terminal.type("\n")
        terminal.until("'tcp://egse3:5000'")
        terminal.type("reg\n")
        terminal.until("TEMP  ls_337     tcp://egse4:6001  hardware  passing")
        terminal.type("reg.puna_cs\n")
        terminal.until("<PUNA puna_cs tcp://egse3:5000 passing>")
        terminal.type("exit()\n")
        assert terminal.end()[0] == 0
