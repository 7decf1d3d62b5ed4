"""Whether an owner is gone: real processes that live, end, wait to be reaped, or are others'."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rsreg.client.registration import owner
from tests.helpers import need, printed, start_program, wait_until


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A process that has printed whose it is, and lives until its input is closed."""
    process = start_program("tell_owner")
    yield process
    process.kill()
    process.communicate()


def said_by(process: subprocess.Popen[str]) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(printed(process))
    return said


def test_this_process_is_not_gone() -> None:
    mine = owner.this_process()
    assert mine["pid"] == os.getpid()
    assert mine["program"] == sys.argv[0]
    assert all(isinstance(mine[key], str) for key in ("host", "user", "program"))
    assert owner.is_gone(mine) is False


def test_a_process_is_gone_once_it_has_ended(other: subprocess.Popen[str]) -> None:
    said = said_by(other)
    assert owner.is_gone(said) is False
    other.kill()
    # It is not reaped yet: a zombie serves nobody.
    wait_until(lambda: owner.is_gone(said))
    other.wait()
    assert owner.is_gone(said) is True


def test_a_process_that_has_the_pid_now_is_another(other: subprocess.Popen[str]) -> None:
    said = said_by(other)
    assert owner.is_gone({**said, "started": said["started"] - 3600.05}) is True


def test_a_clock_that_was_set_makes_no_other_process(other: subprocess.Popen[str]) -> None:
    said = said_by(other)
    for step in (1, -1, 3600, -86_400 * 365):
        assert owner.is_gone({**said, "started": said["started"] + step}) is False


def test_a_forked_child_is_another_owner() -> None:
    process = start_program("tell_owner_of_fork")
    before, child, after = said_by(process), said_by(process), said_by(process)
    assert child["pid"] != before["pid"] == process.pid
    assert before == after
    process.communicate()
    assert owner.is_gone(child)
    assert owner.is_gone(before)


def test_a_process_whose_first_thread_ended_is_alive() -> None:
    process = start_program("end_first_thread")
    said = said_by(process)

    def first_thread() -> str:
        with open(f"/proc/{said['pid']}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]

    wait_until(lambda: first_thread() == "Z")
    assert owner.is_gone(said) is False
    assert process.communicate("\n", timeout=20)[0] == "over\n"
    assert owner.is_gone(said) is True


def test_a_process_of_another_user_is_judged_too() -> None:
    need("setpriv", root=True)
    mine = owner.this_process()
    asking = (
        "import json, sys\nfrom rsreg.client.registration import owner\n"
        "print([owner.is_gone(one) for one in json.loads(sys.argv[1])])"
    )
    gone = {**mine, "pid": 2**22 - 1}
    asked = [mine, gone, {**mine, "started": mine["started"] + 0.05}]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    can = subprocess.run([*nobody, sys.executable, "-c", "import psutil"], capture_output=True)
    if can.returncode:
        pytest.skip("another user can't use this Python")
    done = subprocess.run(
        [*nobody, sys.executable, "-c", asking, json.dumps(asked)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[False, True, True]\n", done.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"boot": "another"},
        {"boot": None},
        {"namespace": "pid:[1]"},
        {"pid": None},
        {"pid": "17"},
        {"pid": True},
        {"pid": 0},
        {"pid": -1},
        {"pid": 2**63},
        {"pid": 1.5},
    ],
)
def test_what_is_not_sure_is_not_gone(change: dict[str, Any], other: subprocess.Popen[str]) -> None:
    said = said_by(other)
    other.kill()
    other.wait()
    assert owner.is_gone(said) is True
    assert owner.is_gone({**said, **change}) is False


@pytest.mark.parametrize("started", [None, "then", float("nan"), float("inf"), True])
def test_a_start_that_is_not_known_is_no_other_start(started: object) -> None:
    assert owner.is_gone({**owner.this_process(), "started": started}) is False


@pytest.mark.parametrize("strange", [None, {}, [], "me", 5])
def test_what_is_no_owner_is_not_gone(strange: object) -> None:
    assert owner.is_gone(strange) is False
