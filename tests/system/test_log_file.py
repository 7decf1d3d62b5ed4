"""The log of a server in the background: bounded, whatever becomes of the file and its folder."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rsreg import RegistryClient
from tests.commands import FREE, Home, rs_cs
from tests.helpers import need, program, program_environment, wait_until
from tests.logs import LIMIT, Log


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    folder = tmp_path / "logs"
    folder.mkdir()
    made = Log(folder / "reg.log")
    yield made
    os.close(made.fd)
    os.close(made.other)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


def test_one_older_file_is_kept_and_no_line_is_lost(log: Log) -> None:
    log.write(60)
    assert not log.older.exists()
    log.write(20)
    assert log.numbers(log.older) + log.numbers(log.path) == list(range(80))
    log.write(300)
    there = log.numbers(log.older) + log.numbers(log.path)
    assert there == list(range(there[0], 380))
    assert sorted(path.name for path in log.path.parent.iterdir()) == ["reg.log", "reg.log.1"]
    for path in (log.path, log.older):
        assert path.stat().st_size + LIMIT * (path == log.path) > LIMIT / 2
        assert path.stat().st_size <= LIMIT
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert log.is_of(log.path)
    assert log.warnings == []


def test_a_line_longer_than_the_log_is_written(log: Log) -> None:
    log.writer.write("x" * 3 * LIMIT)
    assert log.writer.flush(20)
    log.write(1)
    assert log.older.stat().st_size == 3 * LIMIT + 1
    assert log.numbers(log.path) == [0]


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_the_log_is_the_file_that_has_its_name(how: str, log: Log) -> None:
    log.write(3)
    if how == "removed":
        log.path.unlink()
    else:
        log.path.rename(log.path.with_name("moved"))
    if how == "replaced":
        log.path.touch(0o644)
    log.write(100)
    assert log.is_of(log.path)
    assert log.numbers(log.older) + log.numbers(log.path) == list(range(3, 103))


@pytest.mark.parametrize("end", ["", ".1"])
def test_no_link_is_followed(end: str, log: Log, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    log.write(3)
    if end == "":
        log.path.unlink()
    Path(f"{log.path}{end}").symlink_to(victim)
    log.write(300)
    assert victim.read_text() == "mine"
    assert os.fstat(log.fd).st_size <= LIMIT
    if end == "":
        assert log.path.is_symlink()
        log.path.unlink()
        log.write(1)
        assert log.numbers(log.path) == [303]
    else:
        assert not log.older.is_symlink()


def spoilt_name(log: Log) -> Callable[[], object]:
    (log.older / "folder").mkdir(parents=True)
    return lambda: shutil.rmtree(log.older)


def no_folder(log: Log) -> Callable[[], object]:
    away = log.path.parent.with_name("away")
    log.path.parent.rename(away)
    return lambda: away.rename(log.path.parent)


@pytest.mark.parametrize("spoil", [spoilt_name, no_folder])
def test_where_there_can_be_no_new_file_the_old_one_is_emptied(
    spoil: Callable[[Log], Callable[[], object]], log: Log
) -> None:
    log.write(3)
    mend = spoil(log)
    log.write(300)
    assert os.fstat(log.fd).st_size <= LIMIT
    assert len(log.warnings) >= 4
    assert "the log was full" in log.warnings[0]
    mend()
    log.warnings.clear()
    log.write(100)
    assert log.warnings == []
    there = log.numbers(log.older) + log.numbers(log.path)
    assert there == list(range(there[0], 403))


@pytest.mark.unmeasured
def test_a_folder_that_became_read_only(tmp_path: Path) -> None:
    need("setpriv", root=True)
    for level in (tmp_path, *list(tmp_path.parents)[:-2]):
        level.chmod(level.stat().st_mode | 0o011)
    folder = tmp_path / "logs"
    folder.mkdir()
    os.chown(folder, 54321, 54321)
    # Python itself may be where only root reads.
    reads = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    user = ["setpriv", "--clear-groups", "--reuid=54321", "--regid=54321", *reads]
    done = subprocess.run(
        [*user, *program("log_in_read_only_folder")],
        cwd=folder,
        env=program_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_full_disk(tmp_path: Path) -> None:
    need("mount", root=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k,nr_inodes=4"]
    if subprocess.run(["mount", *options, "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        log = Log(disk / "reg.log")
        log.write(10)
        fill = disk / "fill"
        with pytest.raises(OSError, match="No space"):
            fill.write_bytes(b"x" * 100_000)
        log.write(300)  # What can't be written is counted, and nobody fails.
        assert os.fstat(log.fd).st_size <= LIMIT
        fill.unlink()
        log.write(200)
        assert log.numbers(log.path)[-1] == 509
        os.close(log.fd)
        os.close(log.other)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# -- the real command


def test_the_log_of_a_server_in_the_background_is_bounded(home: Home) -> None:
    about = home.start("--log-size", str(LIMIT))
    log = Path(about["log_file"])
    slowest = 0.0
    with RegistryClient(about["endpoint"], timeout=10) as client:
        for number in range(200):
            began = time.monotonic()
            client.register(f"service number {number}", "lab1", 5000, service_id="x" * 300)
            slowest = max(slowest, time.monotonic() - began)
        wait_until(lambda: client.health_check() and Path(f"{log}.1").exists())
    assert slowest < 2
    for path in (log, Path(f"{log}.1")):
        assert path.stat().st_size <= LIMIT
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for number in (1, 2):
        assert os.readlink(f"/proc/{about['pid']}/fd/{number}") == str(log)
    log.unlink()
    with RegistryClient(about["endpoint"], timeout=10) as client:
        client.register("another", "lab1", 5000)
    wait_until(lambda: log.exists() and log.read_text())
    assert "register" in log.read_text()


def test_a_log_that_was_too_large_before_a_start_is_turned(home: Home) -> None:
    log = home.path / "reg.log"
    log.write_bytes(b"old\n" * 10_000)
    home.start("--log-size", str(LIMIT), "--log-file", str(log))
    assert Path(f"{log}.1").read_bytes() == b"old\n" * 10_000
    assert "registry started" in log.read_text()


def test_the_size_is_for_the_background_and_holds_some_lines(home: Home) -> None:
    done = rs_cs("start", *FREE, "--log-size", "10000", **home.variables)
    assert (done.returncode, "--log-size needs --background" in done.stderr) == (2, True)
    done = rs_cs("start", "--background", *FREE, "--log-size", "10", **home.variables)
    assert done.returncode == 2
    assert "4096" in done.stderr
