"""What the command line says to who is nearly right, has a small terminal, or another clock."""

from __future__ import annotations

import re
import select
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rsreg import InMemoryBackend, RegistryClient
from tests.commands import Running, Terminal, data, rs_cs
from tests.helpers import ManualClock, free_port, serving, wait_until

HOUR = 3600


# -- what may have been meant


@pytest.fixture
def puna(client: RegistryClient) -> RegistryClient:
    """A registry that knows one service."""
    client.register(
        "puna_cs", "lab1", 5000, "PUNA", {"channels": "eight", "site": "Köln"}, tags=["Optics"]
    )
    return client


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["discover", "puna"], 4, "hint:  did you mean 'PUNA'?"),
        (["discover", "PUNA."], 4, "hint:  did you mean 'PUNA'?"),
        (["discover", "optics"], 4, "hint:  did you mean 'Optics'?"),
        (["list", "Puná"], 4, "did you mean 'PUNA'?"),
        (["wait", "puna ", "--timeout", "0"], 124, "hint:  did you mean 'PUNA'?"),
        (["get", "Puna-CS"], 4, "hint:  did you mean 'puna_cs'?"),
        (["deregister", "puna cs", "--yes"], 4, "hint:  did you mean 'puna_cs'?"),
        (["maintenance", "on", "--type", "PUNNA"], 0, "did you mean 'PUNA'?"),
        (["maintenance", "on", "--host", "LAB1."], 0, "did you mean 'lab1'?"),
        (["discover", "PUNA", "--strategy", "Random"], 1, "did you mean 'random'?"),
        (["list", "--tag", "optics"], 0, "puna_cs has no tag 'optics', but 'Optics'"),
        (["discover", "PUNA", "--where", "sites=x"], 4, "puna_cs has no sites, but site"),
        (
            ["discover", "PUNA", "--where", "channels>=8"],
            4,
            "hint:  puna_cs has channels 'eight', which is no number",
        ),
        (["list", "--where", "site=koln"], 0, "puna_cs has site 'Köln', which is not 'koln'"),
        (["discover", "TEMP"], 4, 'hint:  "rs_cs list" shows all'),
    ],
)
def test_what_may_have_been_meant_is_said(
    endpoint: str, puna: RegistryClient, words: list[str], code: int, said: str
) -> None:
    done = rs_cs(*words, RSREG_ENDPOINT=endpoint)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert puna.list_services()[0].health == "passing", "nothing is done by itself"


@pytest.mark.parametrize(
    ("condition", "fits"),
    [
        ("channels=8", True),
        ("channels==8", True),
        ("channels>7", True),
        ("channels=>7,<9", True),
        ("channels <8", False),
        ("celsius <0", True),
        ("mbar<1", True),
        ("big >5", True),
        ("offset<=-200", True),
        ("version~=1.9", True),
        ("cooled=true", True),
        ("gain=8", True),
    ],
)
def test_conditions_as_they_are_typed(
    endpoint: str, client: RegistryClient, condition: str, fits: bool
) -> None:
    facts: dict[str, Any] = {
        "channels": 8,
        "celsius": -5,
        "mbar": 1e-7,
        "big": 1e22,
        "offset": -250,
    }
    facts |= {"cooled": True, "version": "1.10"}
    client.register("a", "lab1", 5000, "T", facts)
    words = ["--name", "b", "--host", "lab1", "--port", "5001", "--type", "S", "--meta", "gain=8"]
    assert rs_cs("register", *words, RSREG_ENDPOINT=endpoint).returncode == 0
    found = data("list", "--where", condition, RSREG_ENDPOINT=endpoint)["services"]
    assert bool(found) is fits
    assert [one.name for one in client.list_services(where={"gain": 8})] == ["b"]


# -- terminals of 40 columns


def test_a_list_is_readable_in_40_columns(endpoint: str, client: RegistryClient) -> None:
    client.register("puna_cs", "egse3.example.org", 5000, "PUNA")
    client.register("ls336", "egse3.example.org", 6000, mode="simulator")
    client.maintenance(True, service="ls336", reason="mirror swap")
    plain: dict[str, Any] = {"RSREG_ENDPOINT": endpoint, "NO_COLOR": "1"}
    with Terminal("list", columns=40, **plain) as terminal:
        _, shown = terminal.end()
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[:4] == [
        "NAME      ls336",
        "ENDPOINT  tcp://egse3.example.org:6000",
        "MODE      simulator",
        "HEALTH    maintenance",
    ]
    assert lines[5].startswith("DOING     ")
    assert lines[6].startswith("          "), "it goes on"
    assert "TYPE      PUNA" in lines
    with Terminal("wait", "PUNA", columns=40, **plain) as terminal:
        assert "ENDPOINT  tcp://egse3.example.org:5000\n" in terminal.end()[1]
    with Terminal("maintenance", "list", columns=40, **plain) as terminal:
        assert "REASON  mirror swap" in terminal.end()[1]


def test_a_short_table_stays_one_in_50_columns(endpoint: str, client: RegistryClient) -> None:
    client.maintenance(True, service="ls336", by="rik", reason="it leaks", forever=True)
    with Terminal("maintenance", "list", columns=50, RSREG_ENDPOINT=endpoint) as terminal:
        header, row = terminal.end()[1].splitlines()
    assert "UNTIL" in header
    assert "it leaks" in row


# -- clocks that are off


@pytest.mark.parametrize("off", [-HOUR, HOUR])
def test_ages_are_by_the_clock_of_the_registry(off: int) -> None:
    wall = ManualClock(time.time() + off)
    with (
        serving(backend=InMemoryBackend(), wall=wall) as server,
        RegistryClient(server.endpoint) as client,
        client.registered("puna_cs", "lab1", 5000, "PUNA", ttl=60),
    ):
        with client.busy("homing", 300):
            wait_until(lambda: "status" in client.list_services()[0])
            here: dict[str, Any] = {"RSREG_ENDPOINT": server.endpoint}
            (row,) = rs_cs("list", **here).stdout.splitlines()[1:]
            assert re.search(r" \d+ s +homing, \d+ s of 300$", row)
            shown = rs_cs("get", "puna_cs", **here).stdout
            assert re.search(r"heartbeat +\d+ s ago", shown)
            assert re.search(r"doing +homing, \d+ s of 300", shown)
            assert re.search(r"up \d+ s", rs_cs("status", **here).stdout)
        listed = client.list_services()
        (record,) = listed
        got = client.get_service()
        assert got is not None
        assert record.as_of == listed.as_of == got.as_of == int(wall())
        assert 0 <= record.as_of - record.last_heartbeat < 100


# -- events that come late


def test_watch_says_that_events_come_late(endpoint: str, client: RegistryClient) -> None:
    """Their port can't be reached: requests work, so events come by questions."""
    words = ("watch", "--events", f"127.0.0.1:{free_port()}")
    with Running(*words, RSREG_ENDPOINT=endpoint) as watching:
        assert "watching" in watching.remark()
        until = time.monotonic() + 60
        for number in range(100):
            client.register("a", "lab1", 5000, service_id="a")
            assert f"#{number + 1}  register" in watching.line()
            if time.monotonic() > until or (number > 1 and heard(watching)):
                break
        assert "events come late" in watching.remark()


def heard(watching: Running) -> bool:
    """Whether it said something, waiting a moment."""
    assert watching.process.stderr is not None
    return bool(select.select([watching.process.stderr], [], [], 0.5)[0])


def test_watch_takes_the_endpoint_of_events(endpoint: str, client: RegistryClient) -> None:
    port = client.server_status()["pub_port"]
    words = ("watch", "--events", f"127.0.0.1:{port}")
    with Running(*words, RSREG_ENDPOINT=endpoint) as watching:
        assert "watching" in watching.remark()
        client.register("a", "lab1", 5000)
        assert "a  tcp://lab1:5000" in watching.line()
    assert rs_cs("watch", "--events", "a b", RSREG_ENDPOINT=endpoint).returncode == 2


# -- no home


ROOT_ONLY = pytest.mark.skipif("os.geteuid() != 0", reason="only root can be somebody else")


@ROOT_ONLY
def test_without_a_home_everything_works_or_names_the_option(tmp_path: Path) -> None:
    port = str(free_port())
    here: dict[str, Any] = {"command": nobody(), "RSREG_ENDPOINT": f"localhost:{port}"}
    for words in (["start"], ["start", "--background"]):
        done = rs_cs(*words, **here)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: there is no folder for the registry's files: ")
        assert "--state-dir" in done.stderr
    tmp_path.chmod(0o777)
    ports = ["--req-port", port, "--pub-port", "0", "--bind", "127.0.0.1"]
    log = tmp_path / "log"
    state = ["--state-dir", str(tmp_path / "state"), "--log-file", str(log)]
    done = rs_cs("start", "--background", *ports, *state, **here)
    assert done.returncode == 0, done.stderr
    try:
        assert "registry" in log.read_text()
        assert (tmp_path / "state" / "service_registry.db").exists()
        service = ["--name", "a", "--port", "5000"]
        done = rs_cs("register", *service, RSREG_ADVERTISE="10.1.2.3", **here)
        assert done.returncode == 0, done.stderr
        for command in ("status", "list", "get a", "maintenance on a", "maintenance list"):
            done = rs_cs(*command.split(), **here)
            assert done.returncode == 0, done.stderr
        assert "tcp://10.1.2.3:5000" in rs_cs("list", **here).stdout
    finally:
        assert rs_cs("stop", "--yes", **here).returncode == 0


def test_a_folder_that_can_t_be_made_is_one_line_with_the_option() -> None:
    for more in ([], ["--background"]):
        for home in ("/proc/nowhere", ""):
            done = rs_cs("start", "--req-port", "0", "--pub-port", "0", *more, HOME=home)
            assert done.returncode == 2
            assert done.stderr.count("\n") == 2
            assert "--state-dir" in done.stderr


def nobody() -> list[str]:
    """The command, run by a user who is in no list, and has no HOME."""
    # Python itself may be where only root reads.
    reads = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    user = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *reads]
    return [*user, "env", "-u", "HOME", sys.executable, "-m", "rsreg"]


# -- what is advertised


def test_what_is_advertised_may_be_said_by_the_environment(
    endpoint: str, client: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSREG_ADVERTISE", "instruments.example.org")
    with client.registered("a", port=5000):
        assert client.list_services()[0].host == "instruments.example.org"
    with client.registered("a", "lab7", 5000):
        assert client.list_services()[0].host == "lab7"
    monkeypatch.setenv("RSREG_ADVERTISE", "127.0.0.0/8")
    with client.registered("a", port=5000):
        assert client.list_services()[0].host == "127.0.0.1"
    words = ["--name", "b", "--port", "5001"]
    for said, host in (("127.0.0.0/8", "127.0.0.1"), ("lab8", "lab8")):
        done = rs_cs("register", *words, RSREG_ENDPOINT=endpoint, RSREG_ADVERTISE=said)
        assert done.returncode == 0, done.stderr
        found = client.find_service(done.stdout.strip())
        assert found is not None
        assert found.host == host
    for said in ("0.0.0.0", "tcp://lab1", "10.0.0.0/99"):
        done = rs_cs("register", *words, RSREG_ENDPOINT=endpoint, RSREG_ADVERTISE=said)
        assert done.returncode in (1, 2)
        assert "host" in done.stderr or "RSREG_ADVERTISE" in done.stderr
