"""Both clients offer the same methods, with the whole contract of each: to people and to tools."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rsreg import AsyncRegistryClient, RegistryClient, ServiceCache
from rsreg.client import verbs
from rsreg.client.registration.async_registered import AsyncRegistered
from rsreg.client.registration.registered import Registered
from tests.helpers import ROOT

WRONG = ROOT / "tests" / "programs" / "wrong_calls.py"


def methods(cls: type) -> dict[str, Any]:
    """The public methods of a class, by name."""
    return {
        name: method
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize("name", methods(RegistryClient))
def test_a_method_has_the_same_signature_in_both_clients(name: str) -> None:
    sync, asynchronous = (
        inspect.signature(getattr(cls, name)).parameters
        for cls in (RegistryClient, AsyncRegistryClient)
    )
    if name == "on":
        # A decorator can't be awaited, so in asyncio the handler has to be given.
        assert list(sync) == list(asynchronous)
    else:
        assert dict(sync) == dict(asynchronous)


@pytest.mark.parametrize(
    "cls", [RegistryClient, AsyncRegistryClient, Registered, AsyncRegistered, ServiceCache]
)
def test_each_method_tells_all_of_its_arguments(cls: type) -> None:
    for name, method in methods(cls).items():
        text = inspect.getdoc(method) or ""
        assert text, name
        for parameter in inspect.signature(method).parameters:
            assert parameter == "self" or f"{parameter}:" in text, f"{name}: {parameter}"


def test_what_asyncio_waits_for_is_a_coroutine_function() -> None:
    written_once = {
        name: method
        for name, method in inspect.getmembers(verbs, inspect.isgeneratorfunction)
        if method.__module__ == verbs.__name__ and not name.startswith("_")
    }
    for name in written_once:
        assert inspect.iscoroutinefunction(getattr(AsyncRegistryClient, name)), name
        assert not inspect.iscoroutinefunction(getattr(RegistryClient, name)), name
    assert {"register", "discover_service", "wait_for", "maintenance"} <= {*written_once}


def test_a_type_checker_refuses_wrong_calls_of_both_clients(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}", str(WRONG)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    pattern = rf"{WRONG.name}:(\d+): error: .*\[([\w-]+)\]"
    refused = {int(line): code for line, code in re.findall(pattern, done.stdout)}
    expected = {
        number: line.partition("# expect: ")[2]
        for number, line in enumerate(WRONG.read_text().splitlines(), 1)
        if "# expect: " in line
    }
    assert refused == expected, done.stdout + done.stderr
