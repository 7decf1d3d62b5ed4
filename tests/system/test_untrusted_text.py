"""What others told writes no line of its own into a program's log, nor talks to its terminal."""

from __future__ import annotations

import ast
import copy
import logging
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rsreg import RegistryClient, RegistryServer, SQLiteBackend, errors
from rsreg.admin.server_process import EndedAtOnce
from rsreg.errors import RegistryError, ServerError, from_body
from tests.helpers import program, program_environment, scripted_server, serving, wait_until
from tests.source import CLIENT_SIDE

FORGED = "CRITICAL root: interlock is open"
#: Line breaks of all kinds, colours, a new title, and text from right to left.
NASTY = [
    f"lab\n{FORGED}",
    f"lab\r{FORGED}",
    f"lab\x1b[31m{FORGED}\x1b]0;owned\x07",
    f"lab\u2028{FORGED}",
    f"lab\x85{FORGED}\x0b\x0c",
    f"lab\u202e{FORGED}\u2066",
    f"lab\x9b31m{FORGED}",
]


@pytest.mark.parametrize("nasty", NASTY, ids=ascii)
def test_an_error_is_one_printable_line(nasty: str) -> None:
    refusal = {"success": False, "error": nasty, "hint": nasty, "code": "duplicate-name"}
    made: list[RegistryError] = [
        from_body(refusal),
        from_body({**refusal, "code": nasty}),
        errors.AmbiguousName(f"{nasty} fits two", [nasty, "b"]),
        errors.ConfigurationError(nasty, hint=nasty),
    ]
    for error in [*made, *map(copy.copy, made), *(pickle.loads(pickle.dumps(e)) for e in made)]:
        assert str(error).isprintable()
        assert (error.hint or "").isprintable()
        assert FORGED in str(error)
        if isinstance(error, ServerError):
            assert error.code.isprintable()
            assert str(error.body()["error"]).isprintable()


def test_what_is_printable_stays_as_it_is() -> None:
    said = "Kühler „7“ steht in Löwen: C:\\lab\\x1b 冷却"
    assert str(RegistryError(said)) == said
    assert RegistryError("no hint").hint is None


def test_the_last_lines_of_a_log_stay_lines() -> None:
    error = EndedAtOnce(["Traceback", *NASTY])
    assert str(error).split("\n")[:2] == ["the server ended at once:", "Traceback"]
    assert all(line.isprintable() for line in str(error).split("\n"))
    assert len(str(pickle.loads(pickle.dumps(error))).split("\n")) == len(NASTY) + 2


@pytest.mark.parametrize("nasty", NASTY, ids=ascii)
def test_a_registry_forges_nothing_in_the_log_of_a_driver(
    nasty: str, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        seen.append(request["action"])
        if request["action"] == "register" and "renew" not in seen:
            return {"success": True, "service_id": f"id{nasty}", "message": "ok"}
        if request["action"] == "renew":
            return {"success": False, "error": nasty, "code": "unknown-service", "hint": nasty}
        return {"success": False, "error": nasty, "code": "duplicate-name", "hint": nasty}

    with (
        caplog.at_level(logging.DEBUG, "rsreg"),
        scripted_server(answer) as endpoint,
        RegistryClient(endpoint) as client,
        client.registered("puna", port=5000, host="lab1", ttl=1),
    ):
        wait_until(lambda: any("retrying" in one for one in caplog.messages))
    assert any(FORGED in one for one in caplog.messages)
    assert all(one.isprintable() for one in caplog.messages)


@pytest.mark.parametrize("nasty", NASTY[:2], ids=ascii)
def test_a_service_forges_nothing_in_the_log_of_the_registry_or_of_its_program(
    nasty: str, server: RegistryServer, client: RegistryClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "rsreg"):
        client.register(nasty, "lab1", 5000, service_id=nasty, exclusive=True)
        with pytest.raises(errors.DuplicateName) as refused:
            client.register(nasty, "lab2", 5001)
        with pytest.raises(errors.RegistryError):
            client.discover_service(nasty, where={nasty: f">={nasty}"})
        client.deregister(nasty)
        wait_until(lambda: any("deregister" in one for one in caplog.messages))
    assert str(refused.value).isprintable()
    assert all(one.isprintable() for one in caplog.messages)


def test_the_name_of_a_copy_forges_nothing_in_the_log_of_the_registry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.DEBUG, "rsreg"),
        serving(backend=SQLiteBackend(tmp_path / "registry.db")) as server,
        RegistryClient(f"tcp://127.0.0.1:{server.req_port}", timeout=20) as client,
    ):
        client.backup(tmp_path / f"copy\n{FORGED}")
    assert any(FORGED in one for one in caplog.messages)
    assert all(one.isprintable() for one in caplog.messages)


def test_the_client_side_logs_by_one_function_that_sees_to_it() -> None:
    direct = [
        f"{path}:{node.lineno}"
        for path in CLIENT_SIDE
        if path.name != "background.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
    ]
    assert direct == []


def test_a_traceback_in_the_log_looks_like_no_lines_of_the_log() -> None:
    said = subprocess.run(
        program("log_an_error", f"lab\n2026-11-25 {FORGED}\x1b[31m"),
        env=program_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    first, *rest = said.splitlines()
    assert first.endswith("ERROR rsreg.test: it failed")
    assert FORGED in said
    assert "\x1b" not in said
    assert all(line.startswith("  ") for line in rest)
