"""Processes that we start load the same modules as this one, and Python's own from Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsreg import config
from tests.commands import FREE, Home, environment
from tests.helpers import program, program_environment

#: What says that it was loaded, and by whom.
SHADOW = """\
import os, sys
with open({mark!r}, "a") as mark:
    mark.write(__name__ + " in " + repr(sys.argv) + "\\n")
raise ImportError("a stranger's " + __name__)
"""
NAMES = (
    "sitecustomize",
    "usercustomize",
    "subprocess",
    "json",
    "logging",
    "runpy",
    "signal",
    "types",
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


def shadows(folder: Path, mark: Path) -> Path:
    """A folder with modules that are called like Python's."""
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(SHADOW.format(mark=str(mark)))
    return folder


#: How the folder comes to be where Python looks for modules.
WAYS = ["working folder", "path of a script", "site-packages"]


@pytest.mark.parametrize("way", WAYS)
def test_a_server_in_the_background_takes_no_module_from_python(way: str, home: Home) -> None:
    mark = home.path / "mark"
    folder = shadows(home.path / "shadows", mark)
    done = subprocess.run(
        [*program("rs_cs_beside_shadows", folder, way), "start", "--background", *FREE, "--json"],
        env=environment(**home.variables),
        cwd=home.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    home.pids.append(int(done.stdout.partition('"pid": ')[2].split(",")[0]))
    assert not mark.exists(), mark.read_text()


@pytest.mark.parametrize("way", WAYS)
def test_a_heartbeat_process_takes_no_module_from_python(
    way: str, endpoint: str, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    folder = shadows(tmp_path / "shadows", mark)
    done = subprocess.run(
        program("heartbeat_beside_shadows", endpoint, folder, way),
        env=program_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("greeted\n", "")
    assert not mark.exists(), mark.read_text()


@pytest.mark.parametrize("safe", ["", "1"], ids=["as before 3.11", "safe path"])
def test_a_module_is_run_as_by_its_name_but_never_from_the_working_folder(
    safe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    folder = shadows(tmp_path / "shadows", mark)
    (tmp_path / "tool.py").write_text(
        "import json, sys; print(__name__, sys.argv[1:], sys.path[0])"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    variables = {**config.environment(), "PYTHONSAFEPATH": safe}
    done = subprocess.run(
        config.python_command("a test", "tool", "a", "b c"),
        env=variables,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    name, said = done.stdout.split(maxsplit=1)
    assert (name, said.startswith("['a', 'b c']")) == ("__main__", True)
    assert str(folder) not in said
    assert not mark.exists()


def test_what_was_added_to_the_path_goes_before_what_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = os.path.dirname(os.__file__)
    site = f"{library}/site-packages"
    monkeypatch.setattr(sys, "path", [str(tmp_path), "", library, f"{library}/lib-dynload", site])
    monkeypatch.chdir(tmp_path)
    path = config.environment()["RSREG_PATH"].split(os.pathsep)
    assert path == [library, f"{library}/lib-dynload", str(tmp_path), str(tmp_path), site]
