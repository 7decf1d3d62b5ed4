"""A store's file and log get shorter again, and a start reads only what it needs."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from rsreg import RegistryClient, SQLiteBackend
from tests.helpers import FAR, ServerProcess, start_program
from tests.stores import event, opened, outside, sequence, service

MIB = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a store that does not exist yet."""
    return tmp_path / "registry.db"


def size(path: Path) -> int:
    """The bytes of a file."""
    return path.stat().st_size


@pytest.fixture
def older(path: Path) -> Path:
    """A store as versions before made it: 40 MiB of events, in a file that does not shrink."""
    store = SQLiteBackend(path, journal_bytes=1000 * MIB)
    store.initialize()
    for number in range(1, 1_401):
        body = b'{"data":{"service_info":{"health":"passing","x":"%s"}}}' % (b"x" * 30_000)
        store.commit({"s-1": service()}, [event(number, service_id="s-1", body=body)])
    store.close()
    outside(path, "PRAGMA auto_vacuum = 0", "VACUUM")
    assert size(path) > 40 * MIB
    return path


def test_an_older_file_is_cut_back_at_its_start(older: Path) -> None:
    with opened(older) as store:
        kept = sequence(store)
        assert kept == list(range(kept[0], 1_401))
        assert 15 * MIB < len(kept) * 30_000 <= 16 * MIB
        assert store.load().services == [service()]
        assert size(older) < 18 * MIB
        assert size(Path(f"{older}-wal")) < 5 * MIB
    assert outside(older, "PRAGMA auto_vacuum", "PRAGMA quick_check") == [[(2,)], [("ok",)]]
    before = size(older)
    with opened(older) as store:
        assert sequence(store) == kept
    assert size(older) == before, "it is written anew only once"


def test_a_start_does_not_read_the_journal_into_memory(older: Path) -> None:
    for _ in range(2):
        with start_program("memory_of_a_start", older) as process:
            taken, services = map(int, process.communicate()[0].split())
        assert services == 1
        assert taken < 12 * MIB


def test_a_start_without_room_to_cut_back_is_a_start(older: Path) -> None:
    """It needs some room to give back more."""
    with start_program("open_without_room", older) as process:
        assert process.communicate()[0].split() == ["1", "1400"]


def refill(store: SQLiteBackend, numbers: range, text: str | None) -> None:
    """Have these services in the store, with a text, or no longer."""
    for start in numbers[::60]:
        ids = range(start, min(start + 60, numbers.stop))
        given = {f"s-{n}": service(n, metadata={"text": text}) if text else None for n in ids}
        store.commit(given, [event(store.journal.newest + 1)])


def test_a_file_shrinks_while_it_is_open(path: Path) -> None:
    """A little at a time; what stays is left as it was."""
    longest = 0.0
    with opened(path) as store:
        refill(store, range(1, 7_001), "x" * 3_000)
        refill(store, range(101, 7_001), None)
        assert size(path) > 25 * MIB
        for _ in range(60):
            started = time.thread_time()
            store.tend()
            longest = max(longest, time.thread_time() - started)
        assert size(path) < 3 * MIB
        assert len(store.load().services) == 100
        kept = size(path)
        for _ in range(10):
            store.tend()
        assert size(path) == kept
        assert outside(path, "PRAGMA quick_check") == [[("ok",)]]
    assert longest < 0.1


def test_the_log_shrinks_when_a_reader_has_gone(path: Path) -> None:
    log = Path(f"{path}-wal")
    with opened(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        refill(store, range(1, 3), "x")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM event").fetchall()
        refill(store, range(1, 7_001), "x" * 3_000)
        assert size(log) > 20 * MIB
        store.tend()
        started = time.monotonic()
        for _ in range(20):
            store.tend()
        assert time.monotonic() - started < 4, "who reads is not waited for"
        assert size(log) > 20 * MIB
        reader.execute("ROLLBACK")
        store.tend()
        assert size(log) < MIB
        assert store._execute("PRAGMA busy_timeout") == [(250,)]
        assert len(store.load().services) == 7_000


def test_a_server_with_large_changes_stays_small(tmp_path: Path) -> None:
    """In its file, its log, its memory and its answers, and says how much it keeps."""
    process = ServerProcess(tmp_path / "registry.db", journal=[10_000, 2 * MIB], limits=FAR)
    with process, RegistryClient(process.endpoint, timeout=20) as client:
        client.register("dac", "lab", 5000, ttl=3600, service_id="dac")
        for number in range(400):
            client.update(metadata={"number": number, "text": "x" * 30_000})
        assert size(tmp_path / "registry.db") < 8 * MIB
        assert size(tmp_path / "registry.db-wal") < 9 * MIB
        journal = client.server_status()["journal"]
        assert journal["most_bytes"] == 2 * MIB
        assert journal["most_events"] == 10_000
        assert 50 < journal["events"] < 70
        assert MIB < journal["bytes"] <= 2 * MIB
        position = client.events_since()
        assert client.events_since(position["seq"] - 200)["reset"]
        got = client.events_since(position["seq"] - 50)["events"]
        assert 30 <= len(got) <= 35, "a mebibyte"
        process.kill()
        process.start()
        assert client.server_status()["journal"] == journal
        assert client.list_services()[0]["metadata"]["number"] == 399


def test_what_is_kept_is_told() -> None:
    with ServerProcess() as process, RegistryClient(process.endpoint, timeout=20) as client:
        client.register("dac", "lab", 5000)
        journal = client.server_status()["journal"]
        size = len(json.dumps(client.events_since(0)["events"][0], separators=(",", ":")))
        assert journal == {
            "events": 1,
            "bytes": size,
            "most_events": 10_000,
            "most_bytes": 16 * MIB,
        }
