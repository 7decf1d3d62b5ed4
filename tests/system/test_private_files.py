"""The files of the server: nobody else's are touched, and ours are for its user only."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rsreg import SQLiteBackend
from rsreg.errors import StoreError, StoreInUse
from rsreg.server.backends import restore
from rsreg.system import private_files
from rsreg.system.private_files import UnsafeFile
from tests.commands import FREE, Home, environment, rs_cs
from tests.helpers import need

VICTIM = "the only copy of last year's measurements\n"
UMASKS = [0o000, 0o022, 0o027, 0o077, 0o777]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file of somebody else, as far as the server is concerned."""
    path = tmp_path / "victim"
    path.write_text(VICTIM)
    return path


@pytest.fixture(params=UMASKS, ids=lambda mask: f"{mask:04o}")
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def use(path: Path) -> None:
    """Make a store, or open and close the one that is there."""
    backend = SQLiteBackend(path)
    try:
        backend.initialize()
    finally:
        backend.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


TRAPS: dict[str, Callable[[Path, Path], object]] = {
    "symbolic link": lambda path, victim: path.symlink_to(victim),
    "dangling link": lambda path, victim: path.symlink_to(victim.with_name("not there")),
    "hard link": lambda path, victim: path.hardlink_to(victim),
    "pipe": lambda path, _victim: os.mkfifo(path),
    "link to a device": lambda path, _victim: path.symlink_to("/dev/null"),
    "folder": lambda path, _victim: path.mkdir(),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_refused_and_what_is_behind_it_stays(
    trap: str, tmp_path: Path, victim: Path
) -> None:
    path = tmp_path / "reg.db.lock"
    TRAPS[trap](path, victim)
    for flags in (0, os.O_APPEND):
        with pytest.raises(UnsafeFile, match=r"reg\.db\.lock is a"):
            private_files.open_file(path, flags)
    with pytest.raises(UnsafeFile):
        private_files.check(path)
    assert victim.read_text() == VICTIM
    assert not victim.with_name("not there").exists()


def test_a_file_of_ours_is_opened_as_it_is(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "log"
    os.close(private_files.open_file(path))
    assert mode(path) == 0o600
    path.write_text("a")
    path.chmod(0o640)
    fd = private_files.open_file(path, os.O_APPEND)
    os.write(fd, b"b")
    os.close(fd)
    assert (mode(path), path.read_text()) == (0o640, "ab")
    private_files.check(path)
    private_files.check(tmp_path / "nothing")


def test_each_folder_that_is_made_is_ours_alone(tmp_path: Path, umask: int) -> None:
    tmp_path.chmod(0o755)
    private_files.make_folder(tmp_path / "a" / "b" / "c")
    private_files.make_folder(tmp_path / "a" / "b" / "c")
    for name in ("a", "a/b", "a/b/c"):
        assert mode(tmp_path / name) == 0o700
    assert mode(tmp_path) == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        private_files.make_folder(tmp_path / "file" / "b")
    with pytest.raises(FileExistsError):
        private_files.make_folder(tmp_path / "file")


def test_a_store_its_copies_and_its_lock_are_ours_alone(tmp_path: Path, umask: int) -> None:
    store = tmp_path / "a" / "reg.db"
    backend = SQLiteBackend(store)
    backend.initialize()
    backend.touch({})
    try:
        assert {path.name for path in store.parent.iterdir()} == {
            *("reg.db", "reg.db-wal", "reg.db-shm", "reg.db.lock")
        }
        assert {mode(path) for path in store.parent.iterdir()} == {0o600}
        backend.copy(tmp_path / "copy.db", replace=False)
        backend.copy(tmp_path / "copy.db", replace=True)
    finally:
        backend.close()
    assert mode(tmp_path / "copy.db") == 0o600
    restore.restore(tmp_path / "copy.db", store)
    restore.restore(tmp_path / "copy.db", tmp_path / "b" / "c" / "new.db")
    for folder in ("a", "b", "b/c"):
        assert mode(tmp_path / folder) == 0o700
        files = [path for path in (tmp_path / folder).iterdir() if path.is_file()]
        assert {mode(path) for path in files} <= {0o600}


@pytest.mark.parametrize("trap", [*TRAPS])
@pytest.mark.parametrize("end", [".lock", "-wal", "-shm", "-journal", ".new"])
@pytest.mark.parametrize("there", [True, False], ids=["a store", "no store"])
def test_no_trap_beside_a_store_is_walked_into(
    there: bool, end: str, trap: str, tmp_path: Path, victim: Path
) -> None:
    store = tmp_path / "reg.db"
    if there:
        use(store)
        Path(f"{store}.lock").unlink()
    TRAPS[trap](Path(f"{store}{end}"), victim)
    if end == ".new" and (there or trap != "folder"):
        use(store)  # What a crash left there is removed, whatever it is.
    else:
        with pytest.raises(StoreError, match=r"reg\.db"):
            use(store)
    assert victim.read_text() == VICTIM
    assert not victim.with_name("not there").exists()


def test_a_file_of_another_program_is_no_lock(tmp_path: Path) -> None:
    lock = tmp_path / "poetry.lock"
    lock.write_text("[[package]]\n")
    with pytest.raises(StoreError, match=r"poetry\.lock is a file of another program"):
        use(tmp_path / "poetry")
    assert lock.read_text() == "[[package]]\n"


@pytest.mark.parametrize("left", [b"", b"\0" * 100, b"pid 1 on lab1 since 2026-11-25 12:00:00\n"])
def test_what_was_left_of_a_lock_is_one(left: bytes, tmp_path: Path) -> None:
    (tmp_path / "reg.db.lock").write_bytes(left)
    use(tmp_path / "reg.db")


def test_a_lock_that_is_held_says_by_whom(tmp_path: Path) -> None:
    holder = SQLiteBackend(tmp_path / "reg.db")
    holder.initialize()
    with pytest.raises(StoreInUse, match=f"pid {os.getpid()}"):
        use(tmp_path / "reg.db")
    holder.close()


# -- what others may do is said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"reg.db": 0o640}, None),
        ({"reg.db": 0o644}, "others may read {}/reg.db (mode 0644)"),
        ({"reg.db.lock": 0o666}, "others may change {}/reg.db.lock (mode 0666)"),
        ({"reg.db": 0o660}, "others may change {}/reg.db (mode 0660)"),
        ({".": 0o777}, "others may change {} (mode 0777)"),
        ({".": 0o1777}, None),
        ({".": 0o755}, None),
    ],
)
def test_a_store_that_others_may_change_or_read_is_one_warning(
    changed: dict[str, int], said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state"
    use(folder / "reg.db")
    for name, bits in changed.items():
        (folder / name).chmod(bits)
    use(folder / "reg.db")
    warnings = [record.getMessage() for record in caplog.records]
    assert [one.partition(": ")[2] for one in warnings] == ([said.format(folder)] if said else [])
    for name, bits in changed.items():
        assert mode(folder / name) == bits


# -- the real command


@pytest.mark.parametrize("mask", [0o000, 0o777], ids=lambda mask: f"{mask:04o}")
def test_what_a_started_server_makes_is_its_users_alone(home: Home, mask: int) -> None:
    home.path.chmod(0o755)
    before = os.umask(mask)
    try:
        about = home.start()
    finally:
        os.umask(before)
    made = [*(home.path / "state").rglob("*"), home.path / "state"]
    assert len(made) == 7, made
    for path in made:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    log = Path(about["log_file"])
    assert "alone" not in log.read_text()
    log.chmod(0o644)
    os.kill(about["pid"], signal.SIGKILL)
    home.start("--req-port", str(about["req_port"]), "--log-file", str(log))
    warnings = [line for line in log.read_text().splitlines() if "WARNING" in line]
    assert [f"others may read {log} (mode 0644)" in line for line in warnings] == [True]


@pytest.mark.parametrize("background", [[], ["--background"]], ids=["foreground", "background"])
@pytest.mark.parametrize("trap", ["symbolic link", "hard link", "pipe"])
def test_a_trap_is_said_by_the_command(
    trap: str, background: list[str], home: Home, victim: Path
) -> None:
    lock = home.path / "reg.db.lock"
    TRAPS[trap](lock, victim)
    store = ["--db", str(home.path / "reg.db")]
    done = rs_cs("start", *background, *FREE, *store, **home.variables)
    assert done.returncode == 1
    assert f"error: can't open {home.path}/reg.db: {lock} is a" in done.stderr
    assert "Traceback" not in done.stderr
    assert victim.read_text() == VICTIM


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_for_the_log_is_said_by_the_command(trap: str, home: Home, victim: Path) -> None:
    log = home.path / "reg.log"
    TRAPS[trap](log, victim)
    done = rs_cs("start", "--background", *FREE, "--log-file", str(log), **home.variables)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: can't write {log}: {log} is a")
    assert "--log-file" in done.stderr
    assert victim.read_text() == VICTIM


# -- somebody else

_AS = ["setpriv", "--clear-groups", "--reuid=54321", "--regid=54321"]


def run_as_another(folder: Path, code: str) -> None:
    """Run something as another user, in a folder."""
    subprocess.run([*_AS, sys.executable, "-c", code], cwd=folder, check=True)


@pytest.mark.parametrize("bits", [0o777, 0o1777], ids=["a shared folder", "a sticky folder"])
def test_root_writes_into_no_file_of_somebody_else(bits: int, home: Home, victim: Path) -> None:
    need("setpriv", root=True)
    for level in (home.path, *list(home.path.parents)[:-2]):
        level.chmod(level.stat().st_mode | 0o011)
    shared = home.path / "shared"
    shared.mkdir()
    shared.chmod(bits)
    make = "import os; os.{}; open('mine.db.lock', 'w').write('pid 1 on lab1\\n')"
    run_as_another(shared, make.format(f"symlink({str(victim)!r}, 'reg.db.lock')"))
    run_as_another(shared, "open('reg.log', 'w').write('mine')")
    for name, what in (("reg.db", "symbolic link"), ("mine.db", "another user")):
        done = rs_cs("start", *FREE, "--db", str(shared / name), **home.variables)
        assert done.returncode == 1
        assert what in done.stderr
    log = ["--log-file", str(shared / "reg.log")]
    done = rs_cs("start", "--background", *FREE, *log, **home.variables)
    assert (done.returncode, "another user" in done.stderr) == (2, True)
    assert (shared / "mine.db.lock").read_text() == "pid 1 on lab1\n"
    assert (shared / "reg.log").read_text() == "mine"
    assert victim.read_text() == VICTIM


def test_root_restores_for_another_user(tmp_path: Path) -> None:
    need(root=True)
    use(tmp_path / "copy.db")
    folder = tmp_path / "state"
    folder.mkdir()
    os.chown(folder, 54321, 54321)
    restore.restore(tmp_path / "copy.db", folder / "reg.db")
    for path in folder.iterdir():
        assert (path.stat().st_uid, mode(path)) == (54321, 0o600)
    # The lock is that user's now, and root may restore once more, or serve: also where the folder
    # is somebody else's.
    restore.restore(tmp_path / "copy.db", folder / "reg.db")
    os.chown(folder, 0, 0)
    use(folder / "reg.db")
    restore.restore(tmp_path / "copy.db", folder / "reg.db")
    assert (folder / "reg.db").stat().st_uid == 54321


def test_the_command_in_the_foreground_makes_private_files_too(home: Home) -> None:
    code = "import os, sys; os.umask(0); sys.argv[1:] = {words}; from rsreg.cli import main; main()"
    words = ["start", *FREE, "--json"]
    with subprocess.Popen(
        [sys.executable, "-c", code.format(words=words)],
        env=environment(**home.variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        assert running.stdout is not None
        try:
            json.loads(running.stdout.readline())
            made = [*(home.path / "state").rglob("*")]
            assert {mode(path) for path in made if path.is_file()} == {0o600}
            assert {mode(path) for path in made if path.is_dir()} == {0o700}
        finally:
            running.kill()
