"""The command line as scripts use it: exit codes, JSON, options, imports; real processes."""

from __future__ import annotations

import json
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zmq

from rsreg import InMemoryBackend, RegistryClient, RegistryServer, __version__
from rsreg.cli.app import cli
from rsreg.errors import ConfigurationError, InvalidRequest
from rsreg.server import dispatch
from tests.commands import CHECKOUT, MODULE, data, environment, rs_cs
from tests.helpers import ROOT, program, serving

LAB: list[dict[str, Any]] = [
    {"name": "puna_cs", "port": 5000, "service_type": "PUNA", "tags": ["optics"]},
    {"name": "puna_sim", "port": 5001, "service_type": "PUNA", "metadata": {"version": "1.4.2"}},
    {"name": "ls336", "port": 6000, "service_type": "TEMP"},
]
#: Commands that succeed in the lab.
ASKING = [
    "status",
    "list",
    "get ls336",
    "discover PUNA",
    "discover PUNA --endpoint",
    "wait PUNA TEMP",
]
#: The others that talk to a registry.
ACTING = ["register --name x --port 1", "deregister x --yes", "stop --yes", "watch", "shell"]


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RegistryServer]:
    """A server with three services, which no test changes."""
    with serving(backend=InMemoryBackend()) as server, RegistryClient(server.endpoint) as client:
        for one in LAB:
            client.register(host="egse3", ttl=3600, **one)
        yield server


@pytest.fixture(scope="module")
def shared_client(shared_server: RegistryServer) -> Iterator[RegistryClient]:
    """A client of the lab's server."""
    with RegistryClient(shared_server.endpoint, timeout=10) as client:
        yield client


@pytest.fixture
def nobody() -> Iterator[str]:
    """An endpoint that takes requests and never answers."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        yield f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


# -- exit codes, and what goes where


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("nope", 2, "nope"),
        ("get", 2, "ID|NAME|PREFIX"),
        ("list --nope", 2, "--nope"),
        ("list --timeout soon", 2, "'soon' is not a number of seconds"),
        ("list --timeout nan", 2, "'nan' is not a number of seconds"),
        ("list --timeout 0", 2, "timeout"),
        ("list -e host:port", 2, "not an endpoint: 'host:port'"),
        ("wait", 2, "TYPE"),
        ("register --name x", 2, "--port"),
        ("register --name x --port 70000", 2, "70000"),
        ("register --name x --port 1 --meta novalue", 2, "'novalue' is not KEY=VALUE"),
        ("completion tcsh", 2, "tcsh"),
        ("-e localhost start", 2, "start"),
        ("discover \udcff", 2, "JSON"),
        ("deregister puna_cs", 2, "terminal"),
        ("stop", 2, "terminal"),
        ("register --name x --port 1 --ttl 0.5", 1, "ttl"),
        ("register --name '' --port 1", 1, "name"),
        ("get nope", 4, "nope"),
        ("deregister nope --yes", 4, "nope"),
        ("discover NOPE", 4, "NOPE"),
        ("discover NOPE --endpoint", 4, "NOPE"),
        ("get puna", 5, "fits 2 services"),
        ("wait PUNA NOPE --timeout 0.1", 124, "NOPE after 0.1 s"),
    ],
)
def test_a_failure_is_one_sentence_and_a_code(
    shared_server: RegistryServer, command: str, code: int, said: str
) -> None:
    words = shlex.split(command)
    with ThreadPoolExecutor(2) as pool:
        plain, as_json = pool.map(
            lambda options: rs_cs(*words, *options, RSREG_ENDPOINT=shared_server.endpoint),
            ([], ["--json"]),
        )
    assert plain.returncode == code, plain.stderr
    sentence, *hints = plain.stderr.splitlines()
    assert sentence.startswith("error: ")
    assert said in sentence
    assert all(line.startswith("hint:  ") for line in hints)
    assert len(hints) <= 1
    # What was found is data all the same.
    assert bool(plain.stdout) == (words[0] == "wait" and code == 124)

    assert as_json.returncode == code
    assert as_json.stderr == ""
    body = json.loads(as_json.stdout)
    assert body["success"] is False
    assert said in body["error"]
    assert body["code"]


@pytest.mark.parametrize("command", [*ASKING[3:], *ACTING])
def test_a_registry_that_does_not_answer(nobody: str, command: str) -> None:
    started = time.monotonic()
    done = rs_cs(*shlex.split(command), "--timeout", "0.1", "--json", RSREG_ENDPOINT=nobody)
    assert done.returncode == 3
    assert time.monotonic() - started < 10
    body = json.loads(done.stdout)
    assert body["code"] == "unreachable"
    assert nobody in body["error"]
    assert "rs_cs start" in body["hint"]


def test_no_registry_is_two_lines(nobody: str) -> None:
    done = rs_cs("-e", nobody, "--timeout", "0.2", "status")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        f"error: no registry answers on {nobody} within 0.2 s",
        'hint:  start one with "rs_cs start", or set RSREG_ENDPOINT to where it runs',
    ]


@pytest.mark.parametrize("command", ["list", "start"])
def test_a_wrong_variable_is_said(command: str) -> None:
    done = rs_cs(command, RSREG_ENDPOINT="host:port")
    assert done.returncode == 2
    assert "error: not an endpoint: 'host:port'" in done.stderr


def test_a_policy_is_a_conflict_that_names_the_holder() -> None:
    with serving(backend=InMemoryBackend(), unique_service_types=True) as server:
        words = shlex.split("register --name a --port 1 --type PUNA --host egse3")
        data(*words, RSREG_ENDPOINT=server.endpoint)
        done = rs_cs(*words, RSREG_ENDPOINT=server.endpoint)
        assert done.returncode == 5
        assert "already registered" in done.stderr
        assert "hint:  a holds it on egse3:1" in done.stderr
        done = rs_cs(*words, "--json", RSREG_ENDPOINT=server.endpoint)
        assert done.returncode == 5
        assert json.loads(done.stdout)["code"] == "duplicate_service_type"


@pytest.mark.parametrize("command", ASKING)
def test_success_is_data_on_stdout(shared_server: RegistryServer, command: str) -> None:
    done = rs_cs(*shlex.split(command), RSREG_ENDPOINT=shared_server.endpoint)
    assert done.returncode == 0
    assert done.stdout
    assert done.stderr == ("3 services\n" if command == "list" else "")


def test_without_a_command_it_shows_the_help() -> None:
    done = rs_cs()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Commands:" in done.stderr


def test_what_is_not_installed_is_named() -> None:
    """In a Python that has none of the packages."""
    bare = [sys.executable, "-I", "-S", str(ROOT / "bin" / "rs_cs")]
    done = rs_cs("list", command=bare)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "is not installed for" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_fault(shared_server: RegistryServer) -> None:
    process = subprocess.Popen(
        [*MODULE, "list"],
        env=environment(RSREG_ENDPOINT=shared_server.endpoint),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == ""


# -- what they say


def test_json_is_what_the_registry_said(
    shared_server: RegistryServer, shared_client: RegistryClient
) -> None:
    def said(command: str) -> Any:
        return data(*command.split(), RSREG_ENDPOINT=shared_server.endpoint)

    def by_name(services: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        return {one["name"]: one for one in services}

    known = by_name(shared_client.list_services())
    # Each command is one connection, which may have ended by now.
    now = {"timestamp": 0, "connections": 0}
    assert said("status") | now == shared_client.server_status() | now
    everything = said("list")
    assert everything["success"] is True
    assert by_name(everything["services"]) == known
    assert by_name(said("list optics")["services"]) == {"puna_cs": known["puna_cs"]}
    assert said("get puna_sim") == {"success": True, "service": known["puna_sim"]}
    assert said("discover TEMP") == {"success": True, "service": known["ls336"]}
    assert said("discover TEMP --endpoint") == {"success": True, "endpoint": "tcp://egse3:6000"}
    assert said("wait optics TEMP") == {
        "success": True,
        "found": {"optics": known["puna_cs"], "TEMP": known["ls336"]},
    }
    over = rs_cs(
        "wait", "TEMP", "NO", "--timeout", "0", "--json", RSREG_ENDPOINT=shared_server.endpoint
    )
    assert json.loads(over.stdout)["found"] == {"TEMP": known["ls336"], "NO": None}
    assert "rs_cs" in said("completion zsh")["script"]


def test_nothing_of_a_type_is_an_empty_list_and_an_exit_code(shared_server: RegistryServer) -> None:
    done = rs_cs("list", "NOPE", "--json", RSREG_ENDPOINT=shared_server.endpoint)
    assert done.returncode == 4
    assert json.loads(done.stdout) == {"success": True, "services": []}
    done = rs_cs("list", "NOPE", RSREG_ENDPOINT=shared_server.endpoint)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "no services of type NOPE\n"


def test_an_empty_registry_is_no_failure(endpoint: str) -> None:
    done = rs_cs("list", RSREG_ENDPOINT=endpoint)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no services\n")


def test_get_takes_an_id_a_name_or_the_start_of_either(
    shared_server: RegistryServer, shared_client: RegistryClient
) -> None:
    service = shared_client.find_service("puna_sim")
    assert service is not None
    for name in (service["id"], "puna_sim", "puna_s", service["id"][:-4]):
        lines = rs_cs("get", name, RSREG_ENDPOINT=shared_server.endpoint).stdout.splitlines()
        facts = dict(line.split(maxsplit=1) for line in lines)
        assert facts["id"] == service["id"]
        assert facts["endpoint"] == "tcp://egse3:5001"
        assert facts["metadata"] == "version: 1.4.2"
        assert facts["ttl"] == "3600 s"


# -- options


@pytest.mark.parametrize(
    "command",
    [
        "discover TEMP --endpoint -e {}",
        "discover -e {} --endpoint TEMP",
        "discover TEMP --registry {} --endpoint",
        "-e {} discover TEMP --endpoint",
        "--endpoint {} discover TEMP --endpoint",
        "--registry {} --timeout 10 discover --endpoint TEMP",
        "-e nowhere.invalid:1 discover TEMP --endpoint -e {}",
    ],
)
def test_the_registry_may_be_named_before_or_after_the_command(
    shared_server: RegistryServer, command: str
) -> None:
    words = command.format(shared_server.endpoint).split()
    done = rs_cs(*words, RSREG_ENDPOINT="nowhere.invalid:2")
    assert (done.returncode, done.stdout) == (0, "tcp://egse3:6000\n"), done.stderr


@pytest.mark.parametrize("command", ["list {}", "{} list", "get ls336 {}", "wait TEMP {}"])
def test_endpoint_is_the_registry_but_on_discover(
    shared_server: RegistryServer, command: str
) -> None:
    assert data(*command.format(f"--endpoint {shared_server.endpoint}").split())["success"] is True


@pytest.mark.parametrize("command", ["--json get ls336", "get --json ls336", "get ls336 --json"])
def test_json_may_stand_anywhere(shared_server: RegistryServer, command: str) -> None:
    done = rs_cs(*command.split(), RSREG_ENDPOINT=shared_server.endpoint)
    assert json.loads(done.stdout)["service"]["name"] == "ls336"


@pytest.mark.parametrize("command", [MODULE, CHECKOUT], ids=["module", "checkout"])
def test_all_ways_to_call_it_are_the_same(
    shared_server: RegistryServer, command: list[str]
) -> None:
    done = rs_cs(
        "discover", "TEMP", "--endpoint", command=command, RSREG_ENDPOINT=shared_server.endpoint
    )
    assert (done.returncode, done.stdout) == (0, "tcp://egse3:6000\n")
    assert rs_cs("--version", command=command).stdout == f"rs_cs {__version__}\n"
    assert rs_cs("list", "-h", command=command).stdout.startswith("Usage: rs_cs list ")


# -- help


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_help_ends_with_two_examples(name: str) -> None:
    done = rs_cs(*name.split(), "-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 100
    _, _, last = done.stdout.partition("Examples:\n")
    lines = [line.strip() for line in last.splitlines() if line.startswith("    ")]
    assert len(lines) == 2
    for line in lines:
        # With an option that does not exist there is no help but an error.
        words = re.split(r"rs_cs | [|>&]|\)| -- ", line)[1].split()
        assert cli.main([*words, "--help"], standalone_mode=False) == 0


# -- what it costs


@pytest.mark.unmeasured
@pytest.mark.parametrize("command", [*ASKING, "register --name x --port 1", "deregister x --yes"])
def test_client_commands_load_neither_gevent_nor_a_database(command: str) -> None:
    with serving(backend=InMemoryBackend()) as server, RegistryClient(server.endpoint) as client:
        client.register("ls336", "egse3", 6000, "TEMP", tags=["PUNA"])
        client.register("x", "egse3", 6000, owned=False)
        done = rs_cs(
            *command.split(), command=program("loaded_modules"), RSREG_ENDPOINT=server.endpoint
        )
    assert done.returncode == 0, done.stderr
    _, _, said = done.stderr.partition("loaded: ")
    loaded = {name.partition(".")[0] for name in said.split()}
    assert "rsreg" in loaded
    assert not loaded & {"gevent", "peewee", "sqlite3", "asyncio", "IPython"}
    assert ("rich" in loaded) == (command.split()[0] in ("list", "wait"))


def test_discover_is_quick_enough_for_scripts(shared_server: RegistryServer) -> None:
    """At most twice what its imports take, in processor time; a loaded machine is no reason."""
    commands = {
        "imports": [sys.executable, "-c", "import zmq, click, rich.table"],
        "discover": [*MODULE, "discover", "TEMP", "--endpoint"],
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(7):
        for name, command in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                command,
                env=environment(RSREG_ENDPOINT=shared_server.endpoint),
                stdout=subprocess.DEVNULL,
                check=True,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            took[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took["discover"]) < 2 * min(took["imports"])


def test_no_list_of_all_is_needed_to_look_after_a_registry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many services somebody registered: their list is refused, and may be too long."""
    monkeypatch.setattr(dispatch, "MAX_LIST", 1_500)
    with serving(backend=InMemoryBackend()) as server, RegistryClient(server.endpoint) as client:
        for number in range(40):
            client.register(f"many{number}", "lab", 1, "MANY", ttl=3600)
        client.register("puna_cs", "egse3", 5000, "PUNA", ttl=3600, owned=False)
        with pytest.raises(InvalidRequest, match="The list has"):
            client.list_services()
        said = rs_cs("status", RSREG_ENDPOINT=server.endpoint)
        assert said.returncode == 0
        assert "41, 41 passing" in said.stdout
        assert data("status", RSREG_ENDPOINT=server.endpoint)["services"] is None
        assert data("get", "puna", RSREG_ENDPOINT=server.endpoint)["service"]["port"] == 5000
        wrong = rs_cs("get", "pnua_cs", RSREG_ENDPOINT=server.endpoint)
        assert (wrong.returncode, wrong.stderr.splitlines()[0]) == (
            4,
            "error: no service 'pnua_cs'",
        )
        assert data("deregister", "puna_cs", "--yes", RSREG_ENDPOINT=server.endpoint)["success"]
        assert data("maintenance", "list", RSREG_ENDPOINT=server.endpoint)["maintenance"] == []
        shell = rs_cs("shell", input="reg.health_check()\n", RSREG_ENDPOINT=server.endpoint)
        assert shell.returncode == 0
        assert "services: 40" in shell.stderr + shell.stdout
        assert data("stop", "--yes", RSREG_ENDPOINT=server.endpoint)["status"] == "stopped"


def test_services_are_listed_by_their_health(shared_client: RegistryClient) -> None:
    assert len(shared_client.list_services(health=["passing"])) == 3
    assert shared_client.list_services(health=["critical", "warning"]) == []
    for wrong in ("passing", ["well"]):
        with pytest.raises(ConfigurationError, match="health is a list"):
            shared_client.list_services(health=wrong)
