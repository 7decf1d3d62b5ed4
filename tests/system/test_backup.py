"""Copies of the store: made by a running registry, and put back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from rsreg import AsyncRegistryClient, InMemoryBackend, RegistryClient, SQLiteBackend
from rsreg.errors import (
    BackupFailed,
    ConfigurationError,
    InvalidRequest,
    StoreError,
    StoreInUse,
    Unavailable,
)
from rsreg.server.backends import restore
from tests.commands import data, rs_cs
from tests.helpers import ServerProcess, raw_socket, received, serving, start_program, wait_until
from tests.stores import contents, event, fill, opened, outside, service

MIB = 1024 * 1024
BODY = b'{"data":{"service_info":{"health":"passing"}},"x":"%s"}' % (b"x" * 100_000)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server on a file in a folder of its own."""
    with ServerProcess(tmp_path / "lab" / "registry.db") as made:
        yield made


@pytest.fixture
def client(process: ServerProcess) -> Iterator[RegistryClient]:
    """A patient client of it, which has registered three services."""
    with RegistryClient(process.endpoint, timeout=30) as made:
        for number in range(3):
            made.register(f"s{number}", "lab", 5000, ttl=3600, service_id=f"s{number}")
        yield made


def names(path: Path) -> list[str]:
    """The ids of the services in a store."""
    with opened(path) as store:
        return sorted(one.id for one in store.load().services)


# -- backup


def test_a_backup_is_what_was_acknowledged(client: RegistryClient, tmp_path: Path) -> None:
    client.maintenance(True, host="egse3")
    copy = tmp_path / "copy.db"
    assert client.backup(copy) == {
        "path": str(copy),
        "size": copy.stat().st_size,
        "services": 3,
        "seq": 3,
    }
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert outside(copy, "PRAGMA integrity_check") == [[("ok",)]]
    client.deregister("s0")
    with opened(copy) as store:
        stored = store.load()
        assert sorted(one.id for one in stored.services) == ["s0", "s1", "s2"]
        assert [one.host for one in stored.maintenance] == ["egse3"]
        assert stored.epoch != client.events_since()["epoch"], "it goes on by itself from here"
        assert [one.seq for one in store.events(0, 10)] == [1, 2, 3]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "copy.db.lock", "lab"]


def test_an_async_client_has_a_backup_made(process: ServerProcess, tmp_path: Path) -> None:
    async def ask() -> dict[str, Any]:
        async with AsyncRegistryClient(process.endpoint, timeout=30) as client:
            return await client.backup(str(tmp_path / "copy.db"))

    assert asyncio.run(ask())["services"] == 0
    assert names(tmp_path / "copy.db") == []


def test_a_relative_path_is_the_clients(
    client: RegistryClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert client.backup("copy.db")["path"] == str(tmp_path / "copy.db")
    assert names(tmp_path / "copy.db") == ["s0", "s1", "s2"]


def test_a_file_that_is_there_is_kept(client: RegistryClient, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    copy = tmp_path / "copy.db"
    client.backup(copy)
    client.deregister("s0")
    with pytest.raises(BackupFailed, match=r"copy.db exists already$"):
        client.backup(copy)
    with pytest.raises(BackupFailed, match=r"notes.txt exists already$"):
        client.backup(notes)
    with pytest.raises(BackupFailed, match=r"notes.txt is no copy of a registry's store"):
        client.backup(notes, replace=True)
    assert notes.read_text() == "mine"
    assert client.backup(copy, replace=True)["services"] == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "lab", "notes.txt"]


@pytest.mark.parametrize("end", ["", "-wal", "-shm", ".lock"])
def test_the_store_itself_is_no_place_for_a_backup(
    client: RegistryClient, process: ServerProcess, tmp_path: Path, end: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "lab")
    for folder in ("lab", "link"):
        for replace in (False, True):
            with pytest.raises(BackupFailed, match=r"is the store itself$"):
                client.backup(tmp_path / folder / f"registry.db{end}", replace=replace)
    os.link(tmp_path / "lab" / "registry.db", tmp_path / "same.db")
    with pytest.raises(BackupFailed, match=r"is the store itself$"):
        client.backup(tmp_path / "same.db", replace=True)
    assert client.health_check()
    client.register("later", "lab", 5000)


def test_the_store_of_another_server_is_not_replaced(
    client: RegistryClient, tmp_path: Path
) -> None:
    with (
        ServerProcess(tmp_path / "other.db") as other,
        RegistryClient(other.endpoint, timeout=20) as its,
    ):
        its.register("its", "lab", 5000)
        with pytest.raises(BackupFailed, match=r"other.db may be in use"):
            client.backup(tmp_path / "other.db", replace=True)
        its.register("more", "lab", 5000)
        assert its.health_check()


def test_where_nothing_can_be_written_there_is_no_backup(
    client: RegistryClient, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for path in (
        tmp_path / "none" / "copy.db",
        tmp_path / "file" / "copy.db",
        tmp_path / "lab",
        tmp_path / ("x" * 300),
    ):
        with pytest.raises(BackupFailed, match=r"^The backup failed: "):
            client.backup(path)
    for wrong in ("", "\0", "x" * 5_000):
        with pytest.raises(InvalidRequest, match=r"path"), raw(client) as ask:
            ask({"action": "backup", "path": wrong})


@contextlib.contextmanager
def raw(client: RegistryClient) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Asks as a program in any language does; raises what is refused."""
    from rsreg.errors import from_body

    with raw_socket(zmq.DEALER, client.settings.req_endpoint) as socket:

        def ask(request: dict[str, Any]) -> dict[str, Any]:
            socket.send_multipart([b"", json.dumps(request).encode()])
            reply: dict[str, Any] = json.loads(received(socket)[1])
            if not reply["success"]:
                raise from_body(reply)
            return reply

        yield ask


def test_a_registry_in_memory_has_nothing_to_copy(tmp_path: Path) -> None:
    with (
        serving(backend=InMemoryBackend()) as server,
        RegistryClient(server.endpoint, timeout=20) as client,
        pytest.raises(BackupFailed, match="a registry in memory can't be copied") as caught,
    ):
        client.backup(tmp_path / "copy.db")
    assert "--db" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_backup_that_comes_again_is_the_same_one(client: RegistryClient, tmp_path: Path) -> None:
    """With changes of its own connection, in one go."""
    request = {"action": "backup", "path": str(tmp_path / "copy.db"), "request_id": "a#1"}
    info = {"id": "before", "name": "before", "host": "lab", "port": 1}
    register = {"action": "register", "service_info": info, "ttl": 3600}
    with raw_socket(zmq.DEALER, client.settings.req_endpoint) as socket:
        for one in (register, request, request, request):
            socket.send_multipart([b"", json.dumps(one).encode()])
        replies = [json.loads(received(socket)[1]) for _ in range(4)]
        socket.send_multipart([b"", json.dumps(request).encode()])
        replies.append(json.loads(received(socket)[1]))
    assert replies[0]["service_id"] == "before"
    assert all(reply == replies[1] for reply in replies[1:])
    assert replies[1]["success"], replies[1]
    assert replies[1]["request_id"] == "a#1"
    assert replies[1]["services"] == 4, "it holds what was answered before"


def test_a_lost_store_is_not_copied(
    client: RegistryClient, process: ServerProcess, tmp_path: Path
) -> None:
    assert process.store is not None
    shutil.copy(process.store, tmp_path / "other.db")
    (tmp_path / "other.db").rename(process.store)
    with pytest.raises(Unavailable, match="was replaced"):
        client.backup(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A store of 100 MiB."""
    path = tmp_path / "large" / "registry.db"
    store = SQLiteBackend(path, journal_bytes=1000 * MIB)
    store.initialize()
    for start in range(1, 1_001, 100):
        numbers = range(start, start + 100)
        store.commit(
            {f"s-{n}": service(n, ttl=3600) for n in numbers},
            [event(n, body=BODY) for n in numbers],
        )
    store.close()
    return path


def test_requests_are_answered_while_a_large_store_is_copied(large: Path, tmp_path: Path) -> None:
    """And changes are made; it ends all the same, and has a state that there was."""
    waits: list[float] = []
    done: list[dict[str, Any]] = []
    copy = tmp_path / "copy.db"
    with (
        ServerProcess(large, journal=[10_000, 1000 * MIB]) as process,
        RegistryClient(process.endpoint, timeout=60) as client,
        RegistryClient(process.endpoint, timeout=60) as other,
    ):
        thread = threading.Thread(target=lambda: done.append(client.backup(copy)))
        thread.start()
        number = 0
        while thread.is_alive():
            started = time.monotonic()
            other.register("busy", "lab", 5000, service_id="busy", metadata={"number": number})
            waits.append(time.monotonic() - started)
            number += 1
        thread.join()
    assert done[0]["size"] > 95 * MIB
    assert number > 5
    assert max(waits) < 5
    with opened_large(copy) as store:
        stored = store.load()
        assert stored.seq == done[0]["seq"]
        changes = [one.metadata["number"] for one in stored.services if one.id == "busy"]
        assert stored.seq == 1_000 + (changes[0] + 1 if changes else 0)


@contextlib.contextmanager
def opened_large(path: Path) -> Iterator[SQLiteBackend]:
    """A store that keeps all that it has."""
    store = SQLiteBackend(path, journal_bytes=1000 * MIB)
    store.initialize()
    try:
        yield store
    finally:
        store.close()


def test_a_stop_ends_a_backup_and_leaves_nothing_of_it(large: Path, tmp_path: Path) -> None:
    (tmp_path / "copies").mkdir()
    process = ServerProcess(large, journal=[10_000, 1000 * MIB])
    with (
        process,
        RegistryClient(process.endpoint, timeout=20) as client,
        raw_socket(zmq.DEALER, process.endpoint) as socket,
    ):
        request = {"action": "backup", "path": str(tmp_path / "copies" / "copy.db")}
        socket.send_multipart([b"", json.dumps(request).encode()])
        wait_until(lambda: list((tmp_path / "copies").iterdir()))
        with pytest.raises(BackupFailed, match="Another backup is being made"):
            client.backup(tmp_path / "other.db")
        process.signal(signal.SIGTERM)
        started = time.monotonic()
        assert process.wait() == 0
        assert time.monotonic() - started < 5
    assert list((tmp_path / "copies").iterdir()) == []


# -- restore


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy with two services."""
    path = tmp_path / "copies" / "copy.db"
    with opened(path) as store:
        fill(store, 2)
    Path(f"{path}.lock").unlink()
    return path


def test_a_copy_takes_the_place_of_a_store(copy: Path, tmp_path: Path) -> None:
    store = tmp_path / "registry.db"
    with opened(store) as made:
        fill(made, 5)
    store.chmod(0o640)
    before, whole = store.read_bytes(), copy.read_bytes()
    done = restore.restore(copy, store)
    assert (done.store, done.services, done.seq) == (store, 2, 2)
    assert names(store) == ["s-1", "s-2"]
    assert stat.S_IMODE(store.stat().st_mode) == 0o640
    assert done.kept is not None
    assert done.kept.read_bytes() == before
    assert copy.read_bytes() == whole
    assert [file.name for file in copy.parent.iterdir()] == ["copy.db"]
    again = restore.restore(done.kept, store)
    assert again.services == 5
    assert again.kept not in (None, done.kept)
    assert done.kept.read_bytes() == before
    assert names(store) == [f"s-{n}" for n in range(1, 6)]


def test_a_copy_can_be_where_there_was_none(copy: Path, tmp_path: Path) -> None:
    done = restore.restore(copy, tmp_path / "new" / "registry.db")
    assert done.kept is None
    assert names(tmp_path / "new" / "registry.db") == ["s-1", "s-2"]
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        "registry.db",
        "registry.db.lock",
    ]


def killed(path: Path, number: int) -> None:
    """A store as a killed server leaves it: its changes are in the log."""
    with start_program("fill_store_and_die", path, number) as process:
        process.wait()
    assert Path(f"{path}-wal").stat().st_size > 0


def test_the_log_of_a_killed_server_is_kept_with_its_file(copy: Path, tmp_path: Path) -> None:
    store = tmp_path / "registry.db"
    killed(store, 7)
    done = restore.restore(copy, store)
    assert names(store) == ["s-1", "s-2"]
    assert done.kept is not None
    assert len(names(done.kept)) == 7


def test_a_copy_with_its_log_is_read_with_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    killed(tmp_path / "folder" / "copied.db", 7)
    done = restore.restore(tmp_path / "folder" / "copied.db", tmp_path / "registry.db")
    assert done.services == 7
    assert len(names(tmp_path / "registry.db")) == 7


@pytest.mark.parametrize("broken", ["cut", "page", "header", "empty", "log"])
def test_a_broken_store_can_be_restored_and_is_kept(
    copy: Path, tmp_path: Path, broken: str
) -> None:
    store = tmp_path / "registry.db"
    with opened(store) as made:
        fill(made, 500)
    if broken == "log":
        store.rename(f"{store}-wal")
    elif broken in ("cut", "empty"):
        os.truncate(store, 0 if broken == "empty" else store.stat().st_size // 2)
    else:
        content = bytearray(store.read_bytes())
        start = 0 if broken == "header" else 4096
        content[start : start + 4096] = bytes(4096)
        store.write_bytes(content)
    end = "-wal" if broken == "log" else ""
    before = Path(f"{store}{end}").read_bytes()
    done = restore.restore(copy, store)
    assert names(store) == ["s-1", "s-2"]
    assert Path(f"{done.kept}{end}").read_bytes() == before


def newer(path: Path) -> None:
    """As a later version writes it."""
    outside(path, "PRAGMA user_version = 99")


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda path: os.truncate(path, path.stat().st_size // 2), "copy.db"),
    "empty": (lambda path: os.truncate(path, 0), "copy.db is empty"),
    "text": (lambda path: path.write_text("list\n" * 100), "copy.db is corrupt: file is not a"),
    "newer": (newer, "copy.db was written by a newer rsreg"),
    "tables": (lambda path: outside(path, "DROP TABLE event"), "copy.db: no such table: event"),
    "no epoch": (lambda path: outside(path, "DELETE FROM meta"), "copy.db is corrupt: it has no"),
    "json": (lambda path: outside(path, "UPDATE service SET tags = '['"), "can't read .*copy.db"),
    "another's": (
        lambda path: outside(path, "PRAGMA application_id = 9"),
        "copy.db is a database of another program",
    ),
    "missing": (Path.unlink, "copy.db: No such file or directory"),
    "folder": (replaced_by_a_folder, "copy.db: Is a directory"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_no_copy_changes_nothing(copy: Path, tmp_path: Path, broken: str) -> None:
    store = tmp_path / "lab" / "registry.db"
    with opened(store) as made:
        fill(made, 3)
    do, words = BROKEN[broken]
    do(copy)
    before = contents(store.parent)
    with pytest.raises(StoreError, match=words) as caught:
        restore.restore(copy, store)
    assert "restored" not in str(caught.value)
    assert contents(store.parent) == before
    assert len(names(store)) == 3


def test_a_pipe_is_refused_and_the_next_backup_is_made(
    client: RegistryClient, tmp_path: Path
) -> None:
    """Who opens a pipe waits for somebody at its other end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(BackupFailed, match=r"pipe is no copy of a registry's store, so it stays"):
        client.backup(pipe, replace=True)
    assert client.backup(tmp_path / "copy.db")["services"] == 3


def test_a_pipe_is_neither_a_store_nor_a_copy(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StoreError, match=r"pipe is a pipe or a device, not a file"):
        SQLiteBackend(pipe).initialize()
    with pytest.raises(StoreError, match=r"pipe is a pipe or a device, not a file"):
        restore.restore(pipe, tmp_path / "registry.db")
    assert not (tmp_path / "registry.db").exists()


def test_a_store_is_no_copy_of_itself(copy: Path) -> None:
    with pytest.raises(StoreError, match="is the store itself"):
        restore.restore(copy, copy)


def test_a_store_that_a_server_has_is_left_alone(
    client: RegistryClient, process: ServerProcess, copy: Path
) -> None:
    assert process.store is not None
    before = contents(process.store.parent)
    with pytest.raises(StoreInUse, match="is in use by pid"):
        restore.restore(copy, process.store)
    assert contents(process.store.parent) == before
    client.register("later", "lab", 5000)


def test_a_crash_in_between_never_leaves_a_store_that_is_taken_for_another(
    copy: Path, tmp_path: Path
) -> None:
    """Killed before each of its steps: old or new, or refused; and the next try succeeds."""
    for clean in (True, False):
        for number in range(20):
            folder = tmp_path / f"{clean}-{number}"
            folder.mkdir()
            store = folder / "registry.db"
            if clean:
                with opened(store) as made:
                    fill(made, 5)
            else:
                killed(store, 5)
            with start_program("restore_and_die", copy, store, number) as process:
                done = process.communicate()[0] == "done\n"
            if not store.exists():
                with pytest.raises(StoreError, match=r"is gone(:|, but not registry.db-)"):
                    names(store)
                restore.restore(copy, store)
                assert len(names(store)) == 2
            assert len(names(store)) in (2, 5), f"clean: {clean}, {number} steps"
            kept = [name for name in folder.glob("registry.db.2*[0-9]") if names(name)]
            assert [len(names(name)) for name in kept] in ([], [5])
            if done:
                assert len(names(store)) == 2
                break
        assert done
        assert number > 1


# -- the commands


def test_the_commands(client: RegistryClient, process: ServerProcess, tmp_path: Path) -> None:
    there: dict[str, Any] = {
        "cwd": tmp_path,
        "RSREG_ENDPOINT": process.endpoint,
        "RSREG_DB": str(process.store),
    }
    done = rs_cs("backup", "copy.db", **there)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'copy.db'}\n")
    assert "3 services, the last event is 3" in done.stderr
    done = rs_cs("backup", "copy.db", **there)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: The backup failed: {tmp_path / 'copy.db'} exists already",
        "hint:  choose another name, or have it replaced (--replace)",
    ]
    refused = json.loads(rs_cs("backup", "copy.db", "--json", **there).stdout)
    assert refused["code"] == "backup-failed"
    client.deregister("s0")
    made = data("backup", "--replace", "copy.db", **there)
    assert made["services"] == 2
    client.register("later", "lab", 5000, ttl=3600)
    done = rs_cs("restore", "copy.db", **there)
    assert done.returncode == 5
    assert "is in use by pid" in done.stderr
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    done = rs_cs("restore", "copy.db", **there)
    assert (done.returncode, done.stdout) == (0, f"{process.store}\n")
    assert done.stderr.splitlines()[0] == (
        "2 services, the last event is 4; start the registry to use it"
    )
    assert done.stderr.splitlines()[1].startswith(f"the previous store is in {process.store}.20")
    kept = Path(done.stderr.splitlines()[1].rpartition(" ")[2])
    process.start()
    assert [one["id"] for one in client.list_services()] == ["s1", "s2"]
    process.kill()
    said = data("restore", str(kept), "--db", str(process.store), cwd=tmp_path)
    assert (said["services"], said["store"]) == (3, str(process.store))
    assert Path(said["kept"]).exists()
    process.start()
    assert [one["name"] for one in client.list_services()] == ["s1", "s2", "later"]


def test_a_command_that_has_nothing_to_restore(tmp_path: Path) -> None:
    done = rs_cs("restore", "nope.db", "--db", "registry.db", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == (
        f"error: can't restore {tmp_path / 'registry.db'}: nope.db: No such file or directory"
    )
    done = rs_cs("-e", "lab", "restore", "nope.db", cwd=tmp_path)
    assert done.returncode == 2
    assert "stop the registry" in done.stderr


def test_the_limits_of_the_journal_are_options_of_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        SQLiteBackend(tmp_path / "registry.db", journal_events=0)
    for words in (["--journal-events", "0"], ["--journal-bytes", "x"]):
        done = rs_cs("start", *words)
        assert done.returncode == 2
        assert words[0] in done.stderr
    ports = ["--req-port", "0", "--pub-port", "0", "--bind", "127.0.0.1"]
    limits = ["--journal-events", "50", "--journal-bytes", "60000", "--limit", "record-bytes=65536"]
    for store in (str(tmp_path / "registry.db"), ":memory:"):
        about = data(
            "start", "--background", *ports, *limits, "--db", store, XDG_STATE_HOME=str(tmp_path)
        )
        endpoint = about["endpoint"]
        try:
            assert about["journal"]["most_events"] == 50
            with RegistryClient(endpoint, timeout=20) as client:
                for number in range(120):
                    client.register("one", "lab", 5000, service_id="one", metadata={"n": number})
                assert client.server_status()["journal"]["events"] == 50
                client.register("one", "lab", 5000, service_id="one", metadata={"n": "x" * 50_000})
                journal = client.server_status()["journal"]
                assert journal["bytes"] <= journal["most_bytes"] == 60_000
        finally:
            assert rs_cs("stop", "--yes", "-e", endpoint).returncode == 0
