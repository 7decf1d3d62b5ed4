"""The disk fails, is slow, full, read-only, corrupt, locked, or loses its power."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq

from rsreg import InMemoryBackend, RegistryClient
from rsreg.errors import Unavailable
from rsreg.protocol.calls import Record
from tests.commands import rs_cs
from tests.faults.disk import after_power_cut, disk, injected, mounted, remount
from tests.faults.history import History, Load, Snapshot, broken
from tests.faults.net import fleet, percentile, seconds
from tests.helpers import (
    ServerProcess,
    need,
    present,
    printed,
    raw_socket,
    received,
    serving,
    wait_until,
)

Figure = Callable[..., None]

#: Every port a free one, reachable from this machine only.
FREE = ["--req-port", "0", "--pub-port", "0", "--bind", "127.0.0.1"]


@contextmanager
def client_of(process: ServerProcess) -> Iterator[RegistryClient]:
    """A patient client."""
    with RegistryClient(process.endpoint, timeout=20) as client:
        yield client


def register(client: RegistryClient, history: History, name: str, **asked: Any) -> str | None:
    """Register, and write down what came of it."""
    asked = {"ttl": 3600, **asked}
    return history.attempt(
        name, "register", lambda: client.register(name, "127.0.0.1", 5000, "DISK", **asked)
    )


def deregister(client: RegistryClient, history: History, name: str) -> bool | None:
    """Leave, and write down what came of it."""
    return history.attempt(name, "deregister", lambda: client.deregister(history.ids[name]))


def is_well(client: RegistryClient) -> bool:
    """Whether the registry says so."""
    return bool(client.server_status()["status"] == "ok")


def start_refused(path: Path) -> tuple[int, list[str]]:
    """Exit code, and what `rs_cs start` says of a database; nothing is changed in its folder."""
    before = contents(path.parent)
    done = rs_cs("start", *FREE, "--db", str(path))
    assert contents(path.parent) == before
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the lock."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".lock"}


# -- the power


def test_what_was_acknowledged_survives_a_power_cut(
    tmp_path: Path, full: bool, figure: Figure
) -> None:
    """All that was not synced is lost: the disk is copied below the cache of its file system."""
    history, snapshot = History(), Snapshot()
    cuts = 20 if full else 2
    with contextlib.ExitStack() as stack:
        now = stack.enter_context(disk(tmp_path / "disk-0"))
        for cut in range(cuts):
            unsynced = Path(f"unsynced-{cut}")
            (now / unsynced).write_text("so that we see that this is a power cut")
            with ServerProcess(now / "registry.db") as process:
                snapshot.update(process.endpoint)
                assert broken(history, snapshot) == []
                with Load(history, process.endpoint, prefix=f"cut-{cut}", timeout=0.2):
                    before = len(history.changes)
                    wait_until(lambda before=before: len(history.changes) > before + 300)
                    process.kill()
            now = stack.enter_context(after_power_cut(now, tmp_path / f"disk-{cut + 1}"))
            assert not (now / unsynced).exists() or not (now / unsynced).read_text()
        with ServerProcess(now / "registry.db") as process:
            snapshot.update(process.endpoint)
    assert broken(history, snapshot) == []
    figure(
        "power cut",
        f"ext4 on a loop file, SIGKILL under load, a copy of the file mounted; {cuts} times",
        "3",
        f"{history.count('done'):,} changes acknowledged, {history.count('unanswered')} "
        "unanswered; 0 lost, 0 resurrected, 0 doubled",
    )


# -- writes that fail


@pytest.mark.parametrize(
    ("call", "error", "reason"),
    [
        ("fdatasync", "EIO", "disk I/O error"),
        ("pwrite64", "EIO", "disk I/O error"),
        ("pwrite64", "ENOSPC", "database or disk is full"),
    ],
)
def test_the_nth_write_fails(
    tmp_path: Path, full: bool, figure: Figure, call: str, error: str, reason: str
) -> None:
    """Once, and from then on: refused, nothing of it is seen, and it goes on when it works."""
    history, snapshot = History(), Snapshot()
    most = 0
    with (
        ServerProcess(tmp_path / "registry.db", cleanup_interval=0.1) as process,
        client_of(process) as client,
        subscribed(process, client, history) as socket,
    ):
        for n in itertools.count(1) if full else (1, 3):
            before = history.count("refused")
            for when in (f"{n}", f"{n}+"):
                refused = history.count("refused")
                label = f"{call}-{when}"
                with injected(pid_of(process), f"{call}:error={error}:when={when}"):
                    come_and_go(client, history, label)
                    snapshot.update(process.endpoint)
                    assert broken(history, snapshot) == []
                    if history.count("refused") > refused and when.endswith("+"):
                        about = client.server_status()
                        assert about["status"] == "degraded"
                        assert about["reason"].endswith(f": {reason}")
                wait_until(lambda: is_well(client))
                assert register(client, history, f"{label}-after") is not None
            if history.count("refused") == before:
                break
            most = n
        snapshot.update(process.endpoint)
        assert broken(history, snapshot) == []
        events = published(socket, snapshot.seq)
        assert events == snapshot.events[-len(events) :]
        process.kill()
        process.start()
        assert broken(history, Snapshot().update(process.endpoint)) == []
    assert history.count("refused") > 2
    figure(
        f"n-th {call} fails",
        f"strace: {call} answers {error} for n = 1 to {most}, once and from then on",
        "4",
        f"{history.count('refused')} changes refused, {history.count('done')} acknowledged; "
        "list, journal, file and published events all equal the acknowledgements",
    )


@pytest.mark.parametrize(
    ("call", "error", "when"), [("fdatasync", "EIO", "2+5"), ("pwrite64", "ENOSPC", "20+53")]
)
def test_writes_fail_now_and_then(
    process: ServerProcess, full: bool, figure: Figure, call: str, error: str, when: str
) -> None:
    """Under load, with a kill in the middle of it; in the long form also at checkpoints."""
    history, snapshot = History(), Snapshot()
    process.start()
    for kill in range(5 if full else 1):
        with (
            injected(pid_of(process), f"{call}:error={error}:when={when}"),
            Load(history, process.endpoint, prefix=f"{kill}", timeout=0.3),
        ):
            before = history.count("done")
            wait_until(lambda before=before: history.count("done") > before + (500 if full else 50))
            process.kill()
        process.start()
        assert broken(history, snapshot.update(process.endpoint)) == []
    assert history.count("refused")
    figure(
        f"{call} fails now and then",
        f"strace: every {when.partition('+')[2]}th {call} answers {error}, under load, SIGKILL",
        "3, 4",
        f"{history.count('done'):,} changes acknowledged, {history.count('refused')} refused, "
        f"{history.count('unanswered')} unanswered; 0 lost, 0 resurrected, 0 doubled",
    )


def come_and_go(client: RegistryClient, history: History, label: str) -> None:
    """Two services come, and one goes again."""
    one, other = f"{label}-one", f"{label}-other"
    register(client, history, one)
    register(client, history, other)
    if one in history.ids:
        deregister(client, history, one)


@contextmanager
def subscribed(
    process: ServerProcess, client: RegistryClient, history: History
) -> Iterator[zmq.Socket[bytes]]:
    """A subscriber that is there from some event on."""
    with raw_socket(zmq.SUB, process.pub_endpoint, subscribe=b"", rcvhwm=0) as socket:
        for number in itertools.count():
            register(client, history, f"probe-{number}")
            if socket.poll(50):
                break
        yield socket


def published(socket: zmq.Socket[bytes], seq: int) -> list[Record]:
    """What a subscriber got up to an event."""
    events: list[Record] = []
    while not events or events[-1]["seq"] < seq:
        events.append(json.loads(received(socket)[1]))
    return events


def pid_of(process: ServerProcess) -> int:
    """Of a server that runs."""
    assert process.process is not None
    return process.process.pid


def test_a_store_in_trouble_says_so_until_it_works_again(tmp_path: Path) -> None:
    """Also with nobody registered; the reaper looks every 0.1 s."""
    with (
        ServerProcess(tmp_path / "registry.db", cleanup_interval=0.1) as process,
        client_of(process) as client,
    ):
        with injected(pid_of(process), "fdatasync:error=EIO"):
            with pytest.raises(Unavailable):
                client.register("nobody", "127.0.0.1", 5000)
            until = time.monotonic() + 1
            while time.monotonic() < until:
                assert client.server_status()["status"] == "degraded"
        wait_until(lambda: is_well(client))


def test_what_was_refused_is_not_there_after_a_kill(process: ServerProcess) -> None:
    """All of it is in the log when the sync fails, and SQLite would play it back."""
    history = History()
    process.start()
    with client_of(process) as client:
        for name in ("stays", "stays too"):
            register(client, history, name)
        for attempt in (
            lambda: register(client, history, "comes"),
            lambda: deregister(client, history, "stays"),
        ):
            with injected(pid_of(process), "fdatasync:error=EIO"):
                attempt()
                process.kill()
            process.start()
            assert broken(history, Snapshot().update(process.endpoint)) == []
    assert history.count("refused") == 2


def test_a_store_that_cannot_be_read_is_an_error(process: ServerProcess) -> None:
    """Never an empty list. More is stored than SQLite keeps in memory."""
    history, snapshot = History(), Snapshot()
    process.start()
    with client_of(process) as client:
        for number in range(300):
            register(client, history, f"large-{number}", metadata={"text": "x" * 10_000})
        snapshot.update(process.endpoint)
        with injected(pid_of(process), "pread64:error=EIO"):
            with pytest.raises(Unavailable, match="can't read"):
                Snapshot().update(process.endpoint)
            assert len(client.list_services()) == 300
            assert client.get_service(history.ids["large-0"]) is not None
        assert Snapshot().update(process.endpoint) == snapshot


# -- a disk that takes its time


def test_a_slow_disk(process: ServerProcess, full: bool, figure: Figure) -> None:
    """Every commit takes its time, one after the other, and everybody waits for it."""
    delay = 0.3 if full else 0.15
    history, snapshot = History(), Snapshot()
    healths, renewals = [], []
    process.start()
    with client_of(process) as client, fleet(process.endpoint, 20, 2) as (_, living):
        silent = client.register("silent", "127.0.0.1", 5000, ttl=1)
        history.note("silent", "register", "done")
        with (
            injected(pid_of(process), f"fdatasync:delay_enter={delay * 1e6:.0f}"),
            Load(history, process.endpoint, timeout=20),
        ):
            until = time.monotonic() + (30 if full else 3)
            while time.monotonic() < until:
                healths.append(seconds(client.health_check))
                renewals.append(seconds(lambda: client.renew(living[0])))
            gone = client.get_service(silent) is None
        listed = {service["id"] for service in client.list_services()}
        snapshot.update(process.endpoint)
    assert gone
    assert listed.issuperset(living), "a living service is gone"
    assert [e["data"]["service_id"] for e in snapshot.events if e["type"] == "expire"] == [silent]
    assert history.count("done") > 4
    assert max(healths) < 1
    assert max(renewals) < 1
    figure(
        "slow disk",
        f"strace: every fdatasync takes {delay} s, under load",
        "5",
        f"health p50 {percentile(healths, 0.5):.2f} s, p99 {percentile(healths, 0.99):.2f} s; "
        f"renew p99 {percentile(renewals, 0.99):.2f} s; of 20 services with ttl 2 none expired, "
        "the one that was silent did",
    )


class SlowBackend(InMemoryBackend):
    """A store whose commits take 0.1 s."""

    def commit(self, *changes: Any) -> None:
        time.sleep(0.1)
        super().commit(*changes)


def test_a_stop_does_not_wait_until_there_is_nothing_to_do() -> None:
    """Timers and signals have their turn between two batches."""
    request = {"action": "register", "service_info": {"name": "a", "host": "h", "port": 1}}
    answered = 1
    with (
        serving(backend=SlowBackend()) as server,
        raw_socket(zmq.DEALER, server.endpoint, sndhwm=0, rcvhwm=0) as socket,
    ):
        for _ in range(2_000):
            socket.send_multipart([b"", json.dumps(request).encode()])
        received(socket)
        server.request_stop()
        wait_until(lambda: not server.started)
        while socket.poll(500):
            socket.recv_multipart()
            answered += 1
    assert answered < 1_000


# -- a full disk


#: What a full disk is asked to change.
KEPT = {"silent", *(f"fill-{number}" for number in range(10))}


def fill_up(folder: Path) -> None:
    """Leave no room at all."""
    with contextlib.suppress(OSError), (folder / "other").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


def test_a_full_disk(tmp_path: Path, full: bool, figure: Figure) -> None:
    """Who comes, goes, or expires meanwhile does so when there is room again, not before."""
    history, snapshot = History(), Snapshot()
    with (
        mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=400k", "none") as folder,
        ServerProcess(folder / "registry.db", cleanup_interval=0.2) as process,
        client_of(process) as client,
        subscribed(process, client, history) as socket,
    ):
        register(client, history, "silent", ttl=1)
        for number in itertools.count():
            register(client, history, f"fill-{number}", metadata={"text": "x" * 1_000})
            if history.count("refused"):
                break
        # What is smaller than the last that did not fit still fits.
        while register(client, history, f"small-{len(history.ids)}") is not None:
            pass
        spare = iter([name for name in history.ids if name not in KEPT])
        while deregister(client, history, next(spare)) is not None:
            pass
        for number in range(100 if full else 20):
            assert register(client, history, f"more-{number}") is None
            assert deregister(client, history, f"fill-{number % 10}") is None
        about = client.server_status()
        assert about["status"] == "degraded"
        assert about["reason"].endswith(": database or disk is full")
        silent = history.ids["silent"]
        wait_until(lambda: present(client.get_service(silent))["health"] == "critical")
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            assert client.get_service(silent) is not None
        assert broken(history, snapshot.update(process.endpoint)) == []
        # On the same connections, and also after a start with no room at all.
        remount(folder, "size=4m")
        history.note("silent", "expire", "done")
        wait_until(lambda: client.get_service(silent) is None)
        wait_until(lambda: is_well(client))
        assert register(client, history, "late") is not None
        snapshot.update(process.endpoint)
        assert broken(history, snapshot) == []
        events = published(socket, snapshot.seq)
        assert events == snapshot.events[-len(events) :]
        process.kill()
        process.start()
        assert broken(history, Snapshot().update(process.endpoint)) == []
    figure(
        "disk full",
        "database on a tmpfs of 400 KB, later made larger",
        "4",
        f"{history.count('refused')} changes refused, {history.count('done')} made; the expiry of "
        "a silent service waited for room; list, journal and published events equal",
    )


def test_a_start_on_a_full_disk(tmp_path: Path) -> None:
    """What is stored can be asked for; a stop leaves it as it is."""
    history = History()
    with (
        mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=300k", "none") as folder,
        ServerProcess(folder / "registry.db") as process,
        client_of(process) as client,
    ):
        for number in range(5):
            register(client, history, f"there-{number}")
        process.kill()
        fill_up(folder)
        process.start()
        assert register(client, history, "late") is None
        assert client.server_status()["status"] == "degraded"
        assert broken(history, Snapshot().update(process.endpoint)) == []
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        (folder / "other").unlink()
        process.start()
        assert register(client, history, "later") is not None
        assert broken(history, Snapshot().update(process.endpoint)) == []


# -- a disk that goes away


def test_a_disk_that_goes_read_only_or_away_and_comes_back(tmp_path: Path, figure: Figure) -> None:
    """It is noticed without any change, and changes are refused until it is back."""
    history, took = History(), []
    with (
        mounted(tmp_path / "disk", "-t", "tmpfs", "none") as folder,
        ServerProcess(folder / "registry.db", cleanup_interval=60) as process,
        client_of(process) as client,
    ):
        register(client, history, "there")

        def notices(reason: str) -> None:
            took.append(seconds(lambda: wait_until(lambda: not is_well(client))))
            assert client.server_status()["reason"].endswith(reason)
            assert register(client, history, f"late-{len(took)}") is None

        mounts: list[tuple[list[list[str]], str]] = [
            ([["--bind", str(folder)], ["-o", "remount,bind,ro"]], "may not be written any more"),
            ([["-t", "tmpfs", "none"]], "registry.db is gone"),
        ]
        for over, reason in mounts:
            for options in over:
                subprocess.run(["mount", *options, folder], check=True)
            try:
                notices(reason)
            finally:
                subprocess.run(["umount", folder], check=True)
            wait_until(lambda: is_well(client))
        assert register(client, history, "later") is not None
        assert broken(history, Snapshot().update(process.endpoint)) == []
        process.kill()
        process.start()
        assert broken(history, Snapshot().update(process.endpoint)) == []
    assert max(took) < 3
    figure(
        "disk goes away",
        "its folder mounted again read-only; another disk mounted over it",
        "3, 4",
        f"noticed after {max(took):.1f} s, {history.count('refused')} changes refused; went on by "
        "itself when it was back",
    )


# -- files that can't be used


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a database with 200 services, after a clean stop."""
    folder = tmp_path_factory.mktemp("stopped")
    with ServerProcess(folder / "registry.db") as process, client_of(process) as client:
        for number in range(200):
            client.register(f"there-{number}", "127.0.0.1", 5000)
        process.signal(signal.SIGTERM)
        process.wait()
    return folder


def test_a_read_only_folder(tmp_path: Path, figure: Figure) -> None:
    history = History()
    with mounted(tmp_path / "disk", "-t", "tmpfs", "none") as folder:
        path = folder / "registry.db"
        with ServerProcess(path) as process, client_of(process) as client:
            register(client, history, "there")
        for name in (path, folder / "new.db"):
            remount(folder, "ro")
            code, said = start_refused(name)
            assert code == 1
            assert said[0].startswith(f"error: can't open {name}: ")
            assert "Read-only file system" in said[0]
            assert "Traceback" not in "".join(said)
        remount(folder, "rw")
        with ServerProcess(path) as process:
            assert broken(history, Snapshot().update(process.endpoint)) == []
    figure(
        "read-only directory",
        "mount -o remount,ro, with and without a database there",
        "4",
        f"no start: exit code {code}, `{said[0].replace(str(folder), '/var/lib/rsreg')}`",
    )


def overwrite(path: Path, part: float) -> None:
    """Put garbage over one page."""
    content = bytearray(path.read_bytes())
    start = int(len(content) * part) // 4096 * 4096
    content[start : start + 4096] = bytes(range(256)) * 16
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "header": (lambda path: overwrite(path, 0), "is corrupt: file is not a database"),
    "page": (lambda path: overwrite(path, 0.5), "is corrupt: "),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), "is corrupt: "),
    "0 bytes": (lambda path: os.truncate(path, 0), "is empty: it was cut off"),
    "newer": (lambda path: sql(path, "PRAGMA user_version = 9"), "was written by a newer rsreg"),
    "another program's": (
        lambda path: sql(path, "PRAGMA application_id = 9"),
        "is a database of another program",
    ),
    "only a -wal": (
        lambda path: path.rename(f"{path}-wal"),
        "is gone, but not registry.db-wal, which holds its last changes",
    ),
}


def sql(path: Path, statement: str) -> None:
    """What another program does to it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_database_that_cannot_be_trusted(
    stopped: Path, tmp_path: Path, figure: Figure, damage: str
) -> None:
    path = shutil.copytree(stopped, tmp_path / "copy") / "registry.db"
    do, words = DAMAGES[damage]
    do(path)
    code, said = start_refused(path)
    assert code == 1
    assert said[0].startswith(f"error: {path} {words}")
    assert said[1].startswith("hint:  ")
    assert len(said) == 2
    figure(
        f"database: {damage}",
        "file damaged between two starts",
        "4",
        f"no start, nothing changed: exit code {code}, "
        f"`{said[0].replace(str(path.parent), '/var/lib/rsreg')}`",
    )


@pytest.mark.parametrize("damage", ["missing", "truncated", "overwritten"])
def test_a_log_that_was_lost(process: ServerProcess, figure: Figure, damage: str) -> None:
    """Whoever takes it away goes back in time, to a state that has been."""
    history = History()
    process.start()
    with client_of(process) as client:
        for number in range(100):
            register(client, history, f"there-{number}")
            if number % 3 == 2:
                deregister(client, history, f"there-{number - 1}")
    process.kill()
    assert process.store is not None
    log = Path(f"{process.store}-wal")
    if damage == "missing":
        log.unlink()
    elif damage == "truncated":
        os.truncate(log, log.stat().st_size // 2)
    else:
        overwrite(log, 0.5)
    process.start()
    snapshot = Snapshot().update(process.endpoint)
    made = [(change.name, change.action) for change in history.changes]
    events = [(e["data"]["service_info"]["name"], e["type"]) for e in snapshot.events]
    assert events == made[: len(events)]
    before = History()
    for name, action in events:
        before.note(name, action, "done")
    # The server can tell, by what the last one noted: its followers are told to list anew.
    epochs = {event["epoch"] for event in snapshot.events}
    assert len(epochs) == bool(events)
    assert snapshot.epoch not in epochs
    another = [f"events of another epoch than {snapshot.epoch}"] if events else []
    assert broken(before, snapshot) == another
    figure(
        f"-wal {damage}",
        "after SIGKILL",
        "4, 15",
        f"the state after {len(events)} of {len(made)} changes, consistent, in a new epoch",
    )


# -- others at the same file


def test_another_program_locks_the_database(
    process: ServerProcess, full: bool, figure: Figure
) -> None:
    """Writes are refused after a short wait, in which everybody waits; then it goes on."""
    need("sqlite3")
    history, snapshot, healths = History(), Snapshot(), []
    process.start()
    with client_of(process) as client, Load(history, process.endpoint, clients=2, timeout=20):
        wait_until(lambda: history.count("done") > 20)
        with shell(process.store) as other:
            tell(other, "begin immediate; select 'locked';")
            wait_until(lambda: history.count("refused"))
            until = time.monotonic() + (10 if full else 1)
            while time.monotonic() < until:
                healths.append(seconds(client.health_check))
                about = client.server_status()
                assert about["status"] == "degraded"
                assert about["reason"].endswith(": database is locked")
            made = history.count("done")
            refused = history.count("refused")
            tell(other, "rollback; select 'free';")
        wait_until(lambda: history.count("done") > made + 20)
        assert is_well(client)
    assert broken(history, snapshot.update(process.endpoint)) == []
    assert max(healths) < 1
    figure(
        "database locked",
        "sqlite3: begin immediate, held while 2 clients write",
        "4",
        f"{refused} changes refused; health p50 {percentile(healths, 0.5):.2f} s, "
        f"max {max(healths):.2f} s; went on afterwards",
    )


@contextmanager
def shell(path: Path | None) -> Iterator[subprocess.Popen[str]]:
    """SQLite's own program on a file."""
    process = subprocess.Popen(
        ["sqlite3", "-cmd", ".timeout 5000", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.communicate()


def tell(process: subprocess.Popen[str], commands: str) -> None:
    """Have it do something that ends in a line of output."""
    assert process.stdin is not None
    process.stdin.write(commands + "\n")
    process.stdin.flush()
    printed(process)


def test_two_servers_on_one_file(process: ServerProcess, full: bool, figure: Figure) -> None:
    """The second is told who has it, and the first does not notice."""
    history = History()
    process.start()
    with Load(history, process.endpoint, clients=2, timeout=20):
        for _ in range(10 if full else 1):
            done = rs_cs("start", *FREE, "--db", str(process.store))
            assert done.returncode == 5
            assert f"{process.store} is in use by pid {pid_of(process)} on " in done.stderr
            assert len(done.stderr.splitlines()) == 2
    assert history.count("done") == len(history.changes)
    assert broken(history, Snapshot().update(process.endpoint)) == []
    figure(
        "two servers, one file",
        "a second rs_cs start under load",
        "4",
        f"second: exit code 5, names the first; first: {history.count('done'):,} changes, none "
        "refused or lost",
    )
