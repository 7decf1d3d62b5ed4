"""The command line as people use it: tables, colours, questions, shells; in terminals."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsreg import InMemoryBackend, RegistryClient, RegistryServer
from tests.commands import CONTROL, PLAIN_SHELL, Running, Terminal, rs_cs
from tests.helpers import serving, wait_until

ESCAPE = "\x1b["
#: Names that would clear the screen, set the title, start a line, turn the text around.
NASTY = "a\x1b[2Jb\x1b]0;title\x07c\nd\re\u202ef\x9bg"


@pytest.fixture
def patient() -> Iterator[RegistryServer]:
    """A server that keeps services after their ttl is over."""
    with serving(backend=InMemoryBackend(), cleanup_interval=3600) as server:
        yield server


# -- tables


def test_nothing_is_lost_in_a_table_of_100_columns(endpoint: str, client: RegistryClient) -> None:
    client.register("q" * 250, "j" * 250, 65535, "X" * 250)
    client.register("puna_cs", "egse3", 5000, "PUNA")
    done = rs_cs("list", RSREG_ENDPOINT=endpoint)
    assert max(map(len, done.stdout.splitlines())) <= 100
    cells = re.sub(r"\s", "", done.stdout)
    for letter in "qjX":
        assert cells.count(letter * 10) >= 6
        assert cells.count(letter) == 250
    rows = [line.split() for line in done.stdout.splitlines()]
    puna = ["PUNA", "puna_cs", "tcp://egse3:5000", "hardware", "passing"]
    assert puna in [row[:5] for row in rows]


@pytest.mark.parametrize("columns", [60, 160])
def test_a_table_is_as_wide_as_the_terminal(
    endpoint: str, client: RegistryClient, columns: int
) -> None:
    client.register("n" * 100, "h" * 100, 65535, "T" * 100)
    with Terminal("list", columns=columns, RSREG_ENDPOINT=endpoint, NO_COLOR="1") as terminal:
        code, shown = terminal.end()
    assert code == 0
    assert columns - 5 <= max(map(len, shown.splitlines())) <= columns


def test_ages_and_health(patient: RegistryServer) -> None:
    with RegistryClient(patient.endpoint) as client:
        client.register("ls336", "egse3", 6000, "TEMP", ttl=1)
        client.register("puna_cs", "egse3", 5000, "PUNA")
        wait_until(lambda: client.discover_service("TEMP") is None)
        done = rs_cs("list", RSREG_ENDPOINT=patient.endpoint)
        header, puna, temp = done.stdout.splitlines()
        assert header.split() == ["TYPE", "NAME", "ENDPOINT", "MODE", "HEALTH", "BEAT", "DOING"]
        assert puna.split()[:5] == ["PUNA", "puna_cs", "tcp://egse3:5000", "hardware", "passing"]
        assert temp.split()[:5] == ["TEMP", "ls336", "tcp://egse3:6000", "hardware", "critical"]
        assert re.fullmatch(r".* \d{1,3} s +no heartbeat", temp)
        assert done.stderr == "2 services, 1 not passing\n"
        status = rs_cs("status", RSREG_ENDPOINT=patient.endpoint).stdout
        assert "services   2, 1 critical, 1 passing\n" in status
        assert re.search(r"critical   TEMP ls336: no heartbeat for \d+ s, ttl 1 s\n", status)
        assert re.search(rf"requests {patient.req_port}, events {patient.pub_port}", status)


# -- colours and control characters


def test_colours_are_for_terminals_that_want_them(endpoint: str) -> None:
    def escapes(*words: str, **variables: Any) -> bool:
        with Terminal(*words, RSREG_ENDPOINT=endpoint, **variables) as terminal:
            return ESCAPE in terminal.end()[1]

    with RegistryClient(endpoint) as client:
        client.register("puna_cs", "egse3", 5000, "PUNA")
    for words in (["list"], ["get", "nope"]):
        assert escapes(*words)
        assert not escapes(*words, NO_COLOR="1")
        assert not escapes(*words, TERM="dumb")
        piped = rs_cs(*words, RSREG_ENDPOINT=endpoint, FORCE_COLOR="1")
        assert ESCAPE not in piped.stdout + piped.stderr


def test_no_name_talks_to_the_terminal(patient: RegistryServer, client: RegistryClient) -> None:
    with (
        RegistryClient(patient.endpoint) as client,
        Running("watch", RSREG_ENDPOINT=patient.endpoint) as watching,
    ):
        assert "watching" in watching.remark()
        client.register(NASTY, "egse3", 5000, NASTY, {NASTY: NASTY}, tags=[NASTY], ttl=1)
        line = watching.line()
        assert "a\\x1b[2Jb" in line
        assert not CONTROL.search(line)
        for words in (
            ["list"],
            ["get", "a"],
            ["get", NASTY],
            ["get", NASTY + "?"],
            ["discover", NASTY],
            ["discover", NASTY, "--endpoint"],
            ["wait", NASTY, "--timeout", "20"],
            ["wait", NASTY + "?", "--timeout", "0"],
            ["list", NASTY + "?"],
            ["list", "--json"],
        ):
            client.renew(client.list_services()[0]["id"])
            done = rs_cs(*words, RSREG_ENDPOINT=patient.endpoint)
            assert done.returncode in (0, 4, 124)
            assert "2J" in done.stdout + done.stderr or "--endpoint" in words
            assert not CONTROL.search(done.stdout + done.stderr), words
        wait_until(lambda: client.discover_service(NASTY) is None)
        status = rs_cs("status", RSREG_ENDPOINT=patient.endpoint).stdout
        assert "critical" in status
        assert not CONTROL.search(status)


def test_a_terminal_that_lacks_the_characters_is_no_fault(
    endpoint: str, client: RegistryClient
) -> None:
    client.register("Ωmeter", "egse3", 5000, "PUNA")
    for words in (["list"], ["get", "Ωmeter"], ["get", "Ω?"]):
        done = rs_cs(*words, RSREG_ENDPOINT=endpoint, PYTHONIOENCODING="latin-1")
        assert done.returncode in (0, 4)
        assert "\\u03a9" in done.stdout + done.stderr


# -- questions


def test_removing_asks_first(endpoint: str, client: RegistryClient) -> None:
    service_id = client.register("puna_cs", "egse3", 5000, owned=False)
    with Terminal("deregister", "puna", RSREG_ENDPOINT=endpoint) as terminal:
        terminal.until(f"Remove {service_id} on egse3:5000? [y/N]")
        terminal.type("n\n")
        code, shown = terminal.end()
    assert code == 1
    assert "nothing was changed" in shown
    assert client.get_service(service_id) is not None
    with Terminal("deregister", "puna", RSREG_ENDPOINT=endpoint) as terminal:
        terminal.until("[y/N]")
        terminal.interrupt()
        assert terminal.end()[0] == 130
    assert client.get_service(service_id) is not None
    with Terminal("deregister", "puna", RSREG_ENDPOINT=endpoint) as terminal:
        terminal.until("[y/N]")
        terminal.type("y\n")
        code, shown = terminal.end()
    assert code == 0
    assert shown.splitlines()[-1].strip() == service_id
    assert client.get_service(service_id) is None


def test_the_maintenance_of_somebody_else_is_asked_about(
    endpoint: str, client: RegistryClient
) -> None:
    client.maintenance(True, host="egse3", by="kim", reason="people in the beam path")
    with Terminal("maintenance", "off", "--host", "egse3", RSREG_ENDPOINT=endpoint) as terminal:
        asked = terminal.until("[y/N]")
        terminal.type("n\n")
        assert terminal.end()[0] == 1
    for said in ("belongs to kim on 127.0.0.1", "people in the beam path", "End it nevertheless?"):
        assert said in asked
    assert client.server_status()["maintenance"]
    words = ("maintenance", "on", "--host", "egse3", "--for", "1min")
    with Terminal(*words, RSREG_ENDPOINT=endpoint) as terminal:
        terminal.until("Replace it nevertheless? [y/N]")
        terminal.type("y\n")
        assert terminal.end()[0] == 0
    (entry,) = client.server_status()["maintenance"]
    assert entry["says"] != "kim"


def test_stopping_asks_first(endpoint: str, client: RegistryClient) -> None:
    with Terminal("stop", RSREG_ENDPOINT=endpoint) as terminal:
        terminal.until("[y/N]")
        terminal.type("\n")
        assert terminal.end()[0] == 1
    assert client.health_check()
    with Terminal("stop", RSREG_ENDPOINT=endpoint) as terminal:
        terminal.until("[y/N]")
        terminal.type("y\n")
        code, shown = terminal.end()
    assert (code, "has stopped" in shown) == (0, True)


# -- shells


def test_the_plain_shell_has_a_client_and_completes(endpoint: str, client: RegistryClient) -> None:
    client.register("puna_cs", "egse3", 5000, "PUNA")
    with Terminal("shell", command=PLAIN_SHELL, RSREG_ENDPOINT=endpoint) as terminal:
        assert endpoint in terminal.until(">>> ")
        terminal.type("reg.get_end\t")
        terminal.until("reg.get_endpoint(")
        terminal.type("'PUNA')\n")
        terminal.until("'tcp://egse3:5000'")
        terminal.type("exit()\n")
        assert terminal.end()[0] == 0


def test_the_shell_is_ipython_where_it_is(
    endpoint: str, client: RegistryClient, tmp_path: Path
) -> None:
    pytest.importorskip("IPython")
    client.register("puna_cs", "egse3", 5000, "PUNA")
    done = rs_cs(
        "shell",
        input="print(reg.get_endpoint('PUNA'))\nget_ipython().__class__.__module__\n",
        RSREG_ENDPOINT=endpoint,
        HOME=str(tmp_path),
    )
    assert done.returncode == 0
    assert endpoint in done.stdout
    assert "tcp://egse3:5000" in done.stdout
    assert "IPython." in done.stdout


def test_a_shell_without_input_ends(endpoint: str) -> None:
    done = rs_cs("shell", command=PLAIN_SHELL, RSREG_ENDPOINT=endpoint)
    assert done.returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_completion_for_each_shell(shell: str) -> None:
    done = rs_cs("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_RS_CS_COMPLETE={shell}_complete" in done.stdout


def completed(words: str, **variables: Any) -> list[str]:
    """What bash offers for the last of the words."""
    done = rs_cs(
        _RS_CS_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(words.count(" ")),
        **variables,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_names_and_types_are_completed_from_the_registry(
    endpoint: str, client: RegistryClient
) -> None:
    service_id = client.register("puna_cs", "egse3", 5000, "PUNA", tags=["optics"])
    client.register(NASTY, "egse3", 5000, NASTY)
    here: dict[str, Any] = {"RSREG_ENDPOINT": endpoint}
    assert completed("rs_cs st", **here) == ["start", "status", "stop"]
    assert completed("rs_cs get pu", **here) == ["puna_cs", service_id]
    assert completed("rs_cs deregister puna_cs-", **here) == [service_id]
    assert completed("rs_cs discover ", **here) == ["PUNA", "optics"]
    assert completed("rs_cs wait PUNA o", **here) == ["optics"]
    assert completed(f"rs_cs -e {endpoint} list P") == ["PUNA"]


def test_completion_is_silent_and_quick_without_a_registry() -> None:
    assert completed("rs_cs get pu", RSREG_ENDPOINT="host:port") == []
    started = time.monotonic()
    assert completed("rs_cs get pu", RSREG_ENDPOINT="localhost:1") == []
    assert time.monotonic() - started < 1.9, "it waits as long as a command"
