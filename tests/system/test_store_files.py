"""A store that is taken away, replaced or broken under a running server."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from rsreg import RegistryClient, SQLiteBackend
from rsreg.errors import StoreError, StoreInUse, StoreLost, Unavailable
from tests.commands import rs_cs
from tests.helpers import ServerProcess, printed, start_program, wait_until
from tests.stores import event, fill, opened, service

#: Seconds in which it has to be noticed: one, and some more for a machine without time.
NOTICED = 3.0


class StoreHarness(NamedTuple):
    """A server on a store in a folder of its own; `aside` is beside that folder."""

    process: ServerProcess
    client: RegistryClient
    store: Path
    aside: Path
    log: Path

    def beside(self, end: str) -> Path:
        """A file of the store."""
        return Path(f"{self.store}{end}")

    def state(self) -> str:
        """What the server says of itself."""
        return str(self.client.server_status()["status"])

    def outage(self) -> list[str]:
        """What the log says of the store."""
        lines = self.log.read_text().splitlines()
        return [line.split(" ", 1)[1] for line in lines if "store" in line or "heartbeat" in line]


@contextmanager
def running(folder: Path) -> Iterator[StoreHarness]:
    """A server with twenty services, of which a copy has fifteen."""
    store = folder / "lab" / "registry.db"
    with (
        (folder / "log").open("w") as log,
        ServerProcess(store, log=log) as process,
        RegistryClient(process.endpoint, timeout=20) as client,
    ):
        for number in range(15):
            client.register(f"s{number}", "lab", 5000, ttl=3600)
        with closing(sqlite3.connect(store, isolation_level=None)) as other:
            other.execute("VACUUM INTO ?", (str(folder / "copy.db"),))
        for number in range(15, 20):
            client.register(f"s{number}", "lab", 5000, ttl=3600)
        yield StoreHarness(process, client, store, folder / "aside", folder / "log")


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[StoreHarness]:
    """A server on a store."""
    with running(tmp_path) as made:
        yield made


def checkpoint(store: Path) -> None:
    """Another program has all changes moved from the log into the file: that is no harm."""
    with closing(sqlite3.connect(store)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def copied_over(harness: StoreHarness) -> None:
    """`cp copy.db registry.db`: the same file with other contents."""
    checkpoint(harness.store)
    harness.client.health_check()
    harness.store.write_bytes((harness.store.parent.parent / "copy.db").read_bytes())


def other_copied_over(harness: StoreHarness) -> None:
    """`cp ../other.db registry.db`: as many events, but those of another registry."""
    checkpoint(harness.store)
    harness.client.health_check()
    other = harness.aside.parent / "other.db"
    with ServerProcess(other) as process, RegistryClient(process.endpoint, timeout=20) as client:
        for number in range(20):
            client.register(f"s{number}", "lab", 5000, ttl=3600)
    checkpoint(other)
    harness.store.write_bytes(other.read_bytes())


def cut(file: Path, size: int) -> None:
    """Make it shorter."""
    assert file.stat().st_size > size
    os.truncate(file, size)


DAMAGES: dict[str, tuple[Callable[[StoreHarness], object], str]] = {
    "database removed": (lambda harness: harness.store.unlink(), "registry.db is gone"),
    "log removed": (lambda harness: harness.beside("-wal").unlink(), "registry.db-wal is gone"),
    "index removed": (lambda harness: harness.beside("-shm").unlink(), "registry.db-shm is gone"),
    "lock removed": (lambda harness: harness.beside(".lock").unlink(), "registry.db.lock is gone"),
    "folder removed": (lambda harness: shutil.rmtree(harness.store.parent), "/lab is gone"),
    "all but the folder removed": (
        lambda harness: list(map(Path.unlink, harness.store.parent.iterdir())),
        "registry.db is gone",
    ),
    "copy moved over it": (
        lambda harness: (harness.store.parent.parent / "copy.db").replace(harness.store),
        "registry.db was replaced, it is not the file that was opened",
    ),
    "copied over it": (
        copied_over,
        "registry.db was changed by another program: its last event has number 15, ours has 20",
    ),
    "another one copied over it": (
        other_copied_over,
        "registry.db was changed by another program: its last event, number 20, is not ours",
    ),
    "emptied": (lambda harness: cut(harness.store, 0), "was changed by another program: "),
    "cut off": (lambda harness: cut(harness.store, 8192), "was changed by another program: "),
    "log emptied": (
        lambda harness: cut(harness.beside("-wal"), 0),
        "was changed by another program: ",
    ),
    "log cut off": (
        lambda harness: cut(harness.beside("-wal"), 9000),
        "was changed by another program: ",
    ),
    "another folder in its place": (
        lambda harness: shutil.copytree(
            harness.store.parent.rename(harness.aside), harness.aside.parent / "lab"
        ),
        "registry.db was replaced, it is not the file that was opened",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_lost_store_is_noticed_and_changes_are_refused(
    harness: StoreHarness, damage: str
) -> None:
    do, reason = DAMAGES[damage]
    do(harness)
    since = time.monotonic()
    wait_until(lambda: harness.state() == "degraded")
    assert time.monotonic() - since < NOTICED
    about = harness.client.server_status()
    assert reason in about["reason"]
    assert "restart the registry" in about["hint"]
    for change in (
        lambda: harness.client.register("late", "lab", 5000),
        lambda: harness.client.update(metadata={"a": 1}),
        lambda: harness.client.maintenance(True, host="lab"),
    ):
        with pytest.raises(Unavailable, match=r"^The registry's store failed: ") as caught:
            change()
        assert str(caught.value.hint).startswith("nothing was changed; ")
    assert harness.client.renew()
    assert len(harness.client.list_services()) == 20
    assert not harness.client.health_check()
    harness.process.signal(signal.SIGTERM)
    assert harness.process.wait() == 0
    (line,) = harness.outage()
    assert line.startswith(f"ERROR the store failed, changes are refused: {harness.store.parent}")


@pytest.mark.parametrize("end", ["", "-wal", "-shm", ".lock"])
def test_it_goes_on_when_the_same_file_is_back(harness: StoreHarness, end: str) -> None:
    file = harness.beside(end)
    file.rename(harness.aside)
    wait_until(lambda: harness.state() == "degraded")
    with pytest.raises(Unavailable, match=f"{file} is gone"):
        harness.client.register("late", "lab", 5000)
    harness.aside.rename(file)
    wait_until(lambda: harness.state() == "ok")
    assert "hint" not in harness.client.server_status()
    later = harness.client.register("later", "lab", 5000, ttl=3600)
    harness.process.kill()
    harness.process.start()
    assert len(harness.client.list_services()) == 21
    assert harness.client.get_service(later) is not None
    assert harness.outage() == [
        f"ERROR the store failed, changes are refused: {file} is gone",
        "WARNING the store takes changes again",
    ]


def test_it_goes_on_when_the_folder_is_back(harness: StoreHarness) -> None:
    harness.store.parent.rename(harness.aside)
    wait_until(lambda: harness.state() == "degraded")
    shutil.copytree(harness.aside, harness.store.parent)
    wait_until(lambda: "was replaced" in harness.client.server_status()["reason"])
    shutil.rmtree(harness.store.parent)
    harness.aside.rename(harness.store.parent)
    wait_until(lambda: harness.state() == "ok")
    assert len(harness.outage()) == 2


def test_a_change_right_after_the_loss_is_refused(tmp_path: Path) -> None:
    """Nothing may be acknowledged between two looks."""
    path = tmp_path / "registry.db"
    for end in ("", "-wal"):
        with opened(path) as store:
            newest = store.load().seq
            Path(f"{path}{end}").rename(tmp_path / "aside")
            with pytest.raises(StoreLost, match=f"registry.db{end} is gone$"):
                store.commit({"s-9": service(9)}, [event(newest + 1)])
            with pytest.raises(StoreLost):
                store.touch({})
            (tmp_path / "aside").rename(f"{path}{end}")
            store.commit({"s-1": service(1)}, [event(newest + 1)])
    with opened(path) as store:
        assert [one.id for one in store.load().services] == ["s-1"]


def test_without_its_lock_changes_are_refused_until_it_is_back(tmp_path: Path) -> None:
    """Even if a change comes between two looks at it."""
    path = tmp_path / "registry.db"
    with opened(path) as store:
        Path(f"{path}.lock").rename(tmp_path / "aside")
        for _ in range(2):
            with pytest.raises(StoreLost, match=r"registry.db.lock is gone$"):
                store.tend()
            with pytest.raises(StoreLost, match=r"registry.db.lock is gone$"):
                store.commit({}, [event(1)])
        (tmp_path / "aside").rename(f"{path}.lock")
        store.tend()
        store.commit({}, [event(1)])


def test_what_a_removed_log_held_is_in_the_file_after_a_kill(harness: StoreHarness) -> None:
    harness.beside("-wal").unlink()
    wait_until(lambda: harness.state() == "degraded")
    harness.process.kill()
    harness.process.start()
    assert len(harness.client.list_services()) == 20
    assert harness.client.register("later", "lab", 5000)


def test_a_stop_leaves_what_is_in_the_place_alone(harness: StoreHarness) -> None:
    """SQLite removes the log when it closes a database, by its name."""
    harness.store.unlink()
    for end, text in (("", "not ours"), ("-wal", "nor this"), ("-shm", "nor that")):
        harness.beside(end).unlink(missing_ok=True)
        harness.beside(end).write_text(text)
    wait_until(lambda: harness.state() == "degraded")
    harness.process.signal(signal.SIGTERM)
    assert harness.process.wait() == 0
    assert [harness.beside(end).read_text() for end in ("", "-wal", "-shm")] == [
        "not ours",
        "nor this",
        "nor that",
    ]


def test_other_programs_that_use_sqlite_are_no_loss(harness: StoreHarness) -> None:
    """They read, write tables of their own, and move the log into the file."""
    over = threading.Event()
    states = set()

    def look() -> None:
        with RegistryClient(harness.process.endpoint, timeout=20) as client:
            while not over.is_set():
                states.add(client.server_status()["status"])

    watching = threading.Thread(target=look)
    watching.start()
    with closing(sqlite3.connect(harness.store, timeout=20, isolation_level=None)) as other:
        other.execute("CREATE TABLE notes (text)")
        for number in range(20):
            other.execute("INSERT INTO notes VALUES ('x')")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            harness.client.register(f"more{number}", "lab", 5000)
            other.execute("SELECT * FROM service").fetchall()
    over.set()
    watching.join()
    assert states == {"ok"}
    assert harness.outage() == []


# -- a second server


def refused(path: Path) -> str:
    """What a second server is told."""
    with pytest.raises(StoreInUse) as caught:
        SQLiteBackend(path).initialize()
    return str(caught.value)


@pytest.mark.parametrize("ends", [[".lock"], ["", "-wal", "-shm", ".lock"]])
def test_no_second_server_takes_the_path_of_removed_files(tmp_path: Path, ends: list[str]) -> None:
    path = tmp_path / "registry.db"
    with start_program("hold_store", path) as holder:
        assert printed(holder) == "open"
        for end in ends:
            Path(f"{path}{end}").unlink()
        for _ in range(3):
            assert refused(path) == f"{path} is in use by pid {holder.pid}"
        with opened(tmp_path / "another.db") as store:
            fill(store, 1)
        holder.communicate()
    with opened(path) as store:
        assert len(store.load().services) == (0 if "" in ends else 1)


def test_rs_cs_start_is_refused_where_the_lock_was_removed(harness: StoreHarness) -> None:
    harness.beside(".lock").unlink()
    done = rs_cs("start", "--db", str(harness.store), "--req-port", "0", "--bind", "127.0.0.1")
    assert done.returncode == 5
    assert harness.process.process is not None
    assert f"is in use by pid {harness.process.process.pid}" in done.stderr


def test_a_link_to_a_store_is_that_store(tmp_path: Path) -> None:
    path, link = tmp_path / "registry.db", tmp_path / "links" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    with opened(link) as store:
        fill(store, 1)
        store.tend()
        assert f"{path} is in use by" in refused(path)
        assert "is in use by" in refused(link)
    with opened(path) as store:
        assert store.load().services == [service(1)]
        assert "is in use by" in refused(link)
    assert link.is_symlink()


def test_what_a_crash_left_of_another_is_not_played_into_a_new_one(tmp_path: Path) -> None:
    """A rollback journal, as a program leaves it that changed the mode of the file."""
    (tmp_path / "registry.db-journal").write_bytes(b"x" * 1024)
    with pytest.raises(StoreError, match=r"is gone, but not registry.db-journal, which holds "):
        SQLiteBackend(tmp_path / "registry.db").initialize()


def test_own_changes_are_no_reason_to_read_the_file(tmp_path: Path) -> None:
    """It is read in whole only where another program wrote."""
    looks: list[Path] = []

    class Counting(SQLiteBackend):
        def _verify(self, path: Path) -> str | None:
            looks.append(path)
            return super()._verify(path)

    store = Counting(tmp_path / "registry.db")
    store.initialize()
    for number in range(1, 1_501):
        store.commit({f"s-{number}": service(number)}, [event(number)])
        if number % 10 == 0:
            store.tend()
    with pytest.raises(StoreError):
        store.commit({}, [event(1)])
    store.touch({"s-1": 7})
    store.copy(tmp_path / "copy.db", replace=False)
    store.tend()
    assert (tmp_path / "registry.db").stat().st_size > 100_000, "the log was moved into it"
    assert looks == []
    with closing(sqlite3.connect(tmp_path / "registry.db")) as other:
        other.execute("CREATE TABLE notes (text)")
        for _ in range(3):
            store.tend()
    store.close()
    assert len(looks) == 1


def test_a_look_into_the_file_that_fails_is_not_for_good(tmp_path: Path) -> None:
    """Another program wrote, and there is no file descriptor left to see what."""
    path = tmp_path / "registry.db"
    with opened(path) as store, closing(sqlite3.connect(path)) as other:
        fill(store, 3)
        other.execute("CREATE TABLE notes (text)")
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Without a gap below: a new descriptor has the lowest free number.
        most = max(map(int, os.listdir("/dev/fd"))) + 1
        filling = [os.open(os.devnull, os.O_RDONLY)]
        while filling[-1] < most:
            filling.append(os.open(os.devnull, os.O_RDONLY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (filling[-1], limit[1]))
        try:
            with pytest.raises(StoreLost, match="changed by another program: unable to open"):
                store.tend()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            for descriptor in filling:
                os.close(descriptor)
        store.tend()
        store.commit({}, [event(4)])
