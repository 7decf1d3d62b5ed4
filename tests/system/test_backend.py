"""The stores: real files, real locks, real processes that die."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rsreg import InMemoryBackend, SQLiteBackend
from rsreg.errors import ConfigurationError, StoreError, StoreInUse
from rsreg.server.backends.stored import AnnouncedHealth, Event
from tests.helpers import printed, start_program
from tests.stores import contents, event, fill, opened, outside, sequence, service

Store = SQLiteBackend | InMemoryBackend

KINDS: dict[str, Callable[[Path], Store]] = {
    "file": lambda path: SQLiteBackend(path),
    "memory": lambda path: InMemoryBackend(),
}


OPTIONS: dict[str, Callable[..., Store]] = {
    "file": SQLiteBackend,
    "memory": lambda path, **options: InMemoryBackend(**options),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a store that does not exist yet."""
    return tmp_path / "registry.db"


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[Store]:
    """Each kind of store, open."""
    made = KINDS[request.param](path)
    made.initialize()
    yield made
    made.close()


# -- what every store does


def test_a_new_store_is_empty(store: Store) -> None:
    stored = store.load()
    assert (stored.seq, stored.services, stored.answered) == (0, [], {})
    assert re.fullmatch(r"[0-9a-f]{16}", stored.epoch)
    assert store.events(0, 10) == []


def test_what_was_committed_is_there(store: Store) -> None:
    one, two = service(1), service(2, type=None, tags=[], metadata={}, ttl=1.5)
    events = [event(1, token="t1"), event(2)]
    store.commit({"s-1": one, "s-2": two}, events)
    stored = store.load()
    assert sorted(stored.services, key=lambda s: s.id) == [one, two]
    assert (stored.seq, stored.answered) == (2, {"t1": "s-1"})
    assert store.events(0, 10) == events


def test_services_change_and_go(store: Store) -> None:
    fill(store, 3)
    changed = service(2, port=1, tags=["new"])
    store.commit({"s-1": None, "s-2": changed, "never": None}, [event(4)])
    assert sorted(store.load().services, key=lambda s: s.id) == [changed, service(3)]


def test_any_json_comes_back_as_it_was(store: Store) -> None:
    odd = "Ω \0 \" ' \n \U0001f600 %s ?"
    value = {odd: [None, True, -0.5, 2**64, 10**30, {"": []}], "deep": [[[[odd]]]]}
    full = service(
        1, id=odd, name=odd, host=odd, type=odd, tags=[odd, ""], metadata=value, extra=value
    )
    body = f'{{"Ω":"{"x" * 100_000}"}}'.encode()
    store.commit({odd: full}, [event(1, service_id=odd, type=odd, body=body, token=odd)])
    assert store.load().services == [full]
    assert store.load().answered == {odd: odd}
    assert store.events(0, 1)[0].body == body


@pytest.mark.parametrize("ttl", [1, 30, 86400, 1.5, 0.1 + 0.2 + 1])
def test_a_ttl_comes_back_as_it_was(store: SQLiteBackend, ttl: float) -> None:
    store.commit({"s-1": service(ttl=ttl)}, [])
    got = store.load().services[0].ttl
    assert got == ttl
    assert type(got) is type(ttl)


def test_more_than_fits_into_one_statement(store: Store) -> None:
    fill(store, 2_500)
    stored = store.load()
    assert len(stored.services) == 2_500
    assert stored.seq == 2_500
    assert len(store.events(0, 10_000)) == 2_500
    store.commit({f"s-{n}": None for n in range(2, 2_501)}, [])
    assert store.load().services == [service(1)]


def test_events_come_oldest_first(store: Store) -> None:
    store.commit({}, [event(n) for n in (3, 1, 2)])
    assert [e.seq for e in store.events(0, 10)] == [1, 2, 3]
    assert [e.seq for e in store.events(1, 10)] == [2, 3]
    assert [e.seq for e in store.events(0, 2)] == [1, 2]
    assert store.events(3, 10) == []
    assert store.events(10**6, 10) == []


def test_a_commit_is_all_or_nothing(store: Store) -> None:
    fill(store, 2)
    taken = event(2)
    with pytest.raises(StoreError, match=r"^can't write .*: UNIQUE"):
        store.commit({"s-1": None, "s-9": service(9)}, [event(3), taken])
    stored = store.load()
    assert sorted(s.id for s in stored.services) == ["s-1", "s-2"]
    assert stored.seq == 2
    store.commit({"s-1": None}, [event(3)])
    assert [s.id for s in store.load().services] == ["s-2"]


def test_the_times_of_heartbeats(store: Store) -> None:
    fill(store, 3)
    store.touch({"s-1": 2_000, "s-3": 3_000, "gone": 4_000})
    store.touch({})
    assert {s.id: s.last_heartbeat for s in store.load().services} == {
        "s-1": 2_000,
        "s-2": 1_000,
        "s-3": 3_000,
    }


def test_the_journal_keeps_so_many_events(store: Store) -> None:
    """Ten thousand, if nothing else is said, and at most a hundredth more."""
    assert store.journal.limit == 10_000
    for start in range(1, 12_001, 40):
        store.commit({}, [event(n) for n in range(start, start + 40)])
        kept = sequence(store)
        assert kept == list(range(kept[0], start + 40))
        assert min(10_000, start + 39) <= len(kept) <= 10_100
    assert len(kept) < 12_000
    assert store.load().seq == 12_000


@pytest.mark.parametrize("kind", KINDS)
def test_the_limits_of_the_journal_are_options(kind: str, path: Path) -> None:
    made = OPTIONS[kind](path, journal_events=20, journal_bytes=10_000)
    made.initialize()
    for number in range(1, 101):
        made.commit({}, [event(number, body=b"x" * 10)])
    assert 20 <= len(sequence(made)) <= 21
    for number in range(101, 201):
        made.commit({}, [event(number, body=b"x" * 3_000)])
    assert sequence(made) == [198, 199, 200]
    made.commit({}, [event(201, body=b"x" * 50_000)])
    assert sequence(made) == [201], "the newest stays, whatever its size"
    made.commit({}, [event(n, body=b"x" * 3_000) for n in range(202, 300)])
    assert sequence(made) == [297, 298, 299]
    made.close()


@pytest.mark.parametrize("wrong", [{"journal_events": 0}, {"journal_bytes": -1}])
def test_a_journal_without_room_is_refused(path: Path, wrong: dict[str, int]) -> None:
    for kind in KINDS:
        with pytest.raises(ConfigurationError, match=r"^a journal has room for 1 or more "):
            OPTIONS[kind](path, **wrong)


def test_a_refused_commit_counts_for_nothing(store: Store) -> None:
    fill(store, 3)
    before = (store.journal.events, store.journal.bytes)
    for _ in range(5):
        with pytest.raises(StoreError):
            store.commit({}, [event(4, body=b"x" * 10**7), event(3)])
    assert (store.journal.events, store.journal.bytes) == before
    assert sequence(store) == [1, 2, 3]


def test_large_events_are_read_a_part_at_a_time(store: Store) -> None:
    """And the first of them, however large it is."""
    sizes = [400_000, 400_000, 400_000, 3_000_000, 10]
    store.commit({}, [event(n, body=b"x" * size) for n, size in enumerate(sizes, 1)])
    parts = [[e.seq for e in store.events(since, 1_000)] for since in (0, 1, 2, 3, 4, 5)]
    assert parts == [[1, 2], [2, 3], [3], [4], [5], []]
    store.commit({"s-1": service(1)}, [event(6)])


def test_the_newest_requests_are_known_after_a_start(store: Store) -> None:
    store.commit({}, [event(n, token=f"t{n}") for n in range(1, 10_101)])
    answered = store.load().answered
    assert list(answered) == [f"t{n}" for n in range(101, 10_101)]


def test_initialize_and_close_may_be_repeated(store: Store) -> None:
    fill(store, 2)
    store.initialize()
    assert len(store.load().services) == 2
    store.close()
    store.close()


def test_a_closed_store_is_an_error_not_an_empty_one(store: Store) -> None:
    fill(store, 1)
    store.close()
    for use in (
        store.load,
        lambda: store.events(0, 1),
        lambda: store.commit({}, [event(2)]),
        lambda: store.touch({"s-1": 1}),
    ):
        with pytest.raises(StoreError, match=r"^can't (read|write) "):
            use()


def test_another_thread_than_the_one_that_opened_it(store: Store) -> None:
    got: list[object] = []

    def use() -> None:
        fill(store, 3)
        got.append(store.load().seq)
        store.close()
        got.append("closed")

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert got == [3, "closed"]


# -- memory


def test_memory_leaves_nothing_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = InMemoryBackend()
    store.initialize()
    fill(store, 2)
    assert store.describe() == "memory"
    store.close()
    assert list(tmp_path.iterdir()) == []
    store.initialize()
    assert store.load().services == []
    store.close()


def test_two_memories_are_two() -> None:
    one, two = InMemoryBackend(), InMemoryBackend()
    one.initialize()
    two.initialize()
    fill(one, 1)
    assert two.load().services == []
    assert one.load().epoch != two.load().epoch
    one.close()
    two.close()


def test_the_name_of_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="no file") as caught:
        SQLiteBackend(":memory:").initialize()
    assert "InMemoryBackend" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


# -- files


def test_a_file_keeps_everything_over_a_restart(path: Path) -> None:
    with opened(path) as store:
        fill(store, 3)
        store.touch({"s-1": 2_000})
        before = store.load()
    with opened(path) as store:
        assert store.load() == before
        assert [e.seq for e in store.events(0, 10)] == [1, 2, 3]
        assert store.describe() == str(path)


def test_a_file_that_lost_its_epoch_is_refused(path: Path) -> None:
    with opened(path) as store:
        fill(store, 1)
    outside(path, "DELETE FROM meta")
    refused(path, "is corrupt: it has no epoch")


def test_directories_are_made(tmp_path: Path) -> None:
    with opened(tmp_path / "state" / "rsreg" / "registry.db") as store:
        fill(store, 1)
    assert (tmp_path / "state" / "rsreg" / "registry.db").exists()


def test_a_file_survives_power_loss(path: Path) -> None:
    """`synchronous` is of a connection: only the store's own can tell it."""
    with opened(path) as store:
        fill(store, 1)
        assert outside(path, "PRAGMA journal_mode") == [[("wal",)]]
        assert store._execute("PRAGMA synchronous") == [(2,)]


def test_another_program_may_read_the_file_meanwhile(path: Path) -> None:
    with opened(path) as store:
        fill(store, 3)
        assert outside(path, "SELECT count(*) FROM service") == [[(3,)]]
        fill_more = {"s-4": service(4)}
        store.commit(fill_more, [event(4)])
        assert outside(path, "SELECT max(seq) FROM event") == [[(4,)]]


def test_a_write_that_another_program_holds_up_is_refused_soon_and_works_later(path: Path) -> None:
    with opened(path) as store:
        fill(store, 1)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writes: list[Callable[[], None]] = [
                lambda: store.commit({"s-2": service(2)}, [event(2)]),
                lambda: store.touch({"s-1": 5}),
            ]
            for write in writes:
                with pytest.raises(StoreError, match=f"^can't write {path}: database is locked$"):
                    write()
            assert store.load().seq == 1
            other.execute("ROLLBACK")
        store.commit({"s-2": service(2)}, [event(2)])
        assert store.load().seq == 2


def test_a_file_says_what_it_is(path: Path) -> None:
    with opened(path):
        pass
    assert outside(path, "PRAGMA application_id", "PRAGMA user_version") == [
        [(int.from_bytes(b"rsrg", "big"),)],
        [(3,)],
    ]


def test_a_lock_without_a_name_is_somebody_elses(path: Path) -> None:
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreInUse, match=f"^{path} is in use by another program$"):
            SQLiteBackend(path).initialize()
    with opened(path) as store:
        fill(store, 1)


def test_a_second_server_on_a_file_is_told_who_has_it(path: Path) -> None:
    Path(f"{path}.lock").write_text(
        "pid 1 on a machine with quite a long name since long ago\n" * 3
    )
    with start_program("hold_store", path) as holder:
        assert printed(holder) == "open"
        with pytest.raises(StoreInUse) as caught:
            SQLiteBackend(path).initialize()
        assert re.fullmatch(
            rf"{path} is in use by pid {holder.pid} on {re.escape(socket.gethostname())} "
            r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
            str(caught.value),
        )
        assert caught.value.hint == "stop that one, or choose another file with --db"
        holder.communicate()
    with opened(path) as store:
        assert store.load().seq == 1


def test_kill_9_frees_the_file(path: Path) -> None:
    with start_program("hold_store", path) as holder:
        assert printed(holder) == "open"
        holder.kill()
    with opened(path) as store:
        assert store.load().services == [service(1)]


def test_two_stores_of_one_process_do_not_share_a_file(path: Path) -> None:
    with opened(path) as store:
        with pytest.raises(StoreInUse, match=f"in use by pid {os.getpid()} "):
            SQLiteBackend(path).initialize()
        fill(store, 1)
    with opened(path) as store:
        assert store.load().seq == 1


def test_what_was_committed_survives_kill_9(path: Path) -> None:
    with start_program("commit_for_ever", path) as writer:
        for _ in range(50):
            acknowledged = int(printed(writer))
        os.kill(writer.pid, signal.SIGKILL)
        assert writer.stdout is not None
        acknowledged = int((writer.stdout.read().split() or [str(acknowledged)])[-1])
    with opened(path) as store:
        stored = store.load()
        assert stored.seq in (acknowledged, acknowledged + 1)
        assert stored.services == [service(stored.seq)]
        assert len(stored.answered) == stored.seq
        assert [e.seq for e in store.events(0, 10**6)] == list(range(1, stored.seq + 1))


def test_a_store_is_there_in_whole_or_not_at_all(path: Path) -> None:
    with start_program("store_without_room", path) as process:
        output, _ = process.communicate()
    assert output.startswith(f"can't create {path}: ")
    assert not path.exists()
    with opened(path) as store:
        fill(store, 1)
    assert sorted(p.name for p in path.parent.iterdir()) == ["registry.db", "registry.db.lock"]


def test_what_a_crash_left_of_a_new_store_is_made_again(path: Path) -> None:
    path.with_name("registry.db.new").write_bytes(b"half of a database")
    with opened(path) as store:
        fill(store, 1)
    assert not path.with_name("registry.db.new").exists()


def test_a_full_disk_refuses_and_later_works_again(path: Path) -> None:
    with start_program("store_on_full_disk", path) as process:
        error, done = process.communicate()[0].splitlines()
    assert error.startswith(f"can't write {path}: ")
    assert int(done) > 1
    with opened(path) as store:
        assert store.load().seq == int(done) + 1
        assert len(store.load().services) == int(done) + 1


# -- files that are refused


def refused(path: Path, match: str) -> StoreError:
    """The error that opening and reading gives: one line; the files stay as they are."""
    before = contents(path.parent)
    for _ in range(2):  # The second time shows that the first left no lock.
        with pytest.raises(StoreError, match=match) as caught, opened(path) as store:
            store.load()
        assert "\n" not in str(caught.value)
        assert re.search(f"{re.escape(str(path))}:? ", str(caught.value))
        assert contents(path.parent).items() >= before.items()
    return caught.value


@pytest.fixture
def filled(path: Path) -> Path:
    """A closed store with 500 services."""
    with opened(path) as store:
        fill(store, 500)
    return path


def test_an_empty_file_is_refused(path: Path) -> None:
    path.touch()
    error = refused(path, "is empty")
    assert (
        error.hint == "put back a copy, or remove it and its -wal to start with an empty registry"
    )


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(filled: Path, part: float) -> None:
    size = filled.stat().st_size
    os.truncate(filled, int(size * part))
    error = refused(filled, "is corrupt: ")
    assert "put back a copy" in (error.hint or "")


@pytest.mark.parametrize("page", [0, 1, 5, 20, -1])
def test_a_corrupt_page_is_refused(filled: Path, page: int) -> None:
    content = bytearray(filled.read_bytes())
    start = page * 4096 % len(content)
    content[start : start + 4096] = bytes(range(256)) * 16
    filled.write_bytes(content)
    error = refused(filled, r"is corrupt: [^*]+$")
    assert "put back a copy" in (error.hint or "")


def test_a_corrupt_value_is_refused(filled: Path) -> None:
    """A flipped bit in a text is no business of SQLite's checks."""
    content = filled.read_bytes()
    assert b'{"number":250}' in content
    filled.write_bytes(content.replace(b'{"number":250}', b'{"number"!250}'))
    refused(filled, "can't read .*: JSON is malformed")


def test_a_text_file_is_refused(path: Path) -> None:
    path.write_text("my shopping list\n" * 1_000)
    refused(path, "is corrupt: file is not a database")
    assert list(path.parent.iterdir()) == [path], "nothing is put beside a file that is not ours"


def test_the_database_of_another_program_is_refused(path: Path) -> None:
    outside(path, "CREATE TABLE bookmarks (url TEXT)", "INSERT INTO bookmarks VALUES ('x')")
    error = refused(path, "is a database of another program$")
    assert list(path.parent.iterdir()) == [path]
    assert error.hint == "choose another file with --db"


def test_a_newer_schema_is_refused(filled: Path) -> None:
    outside(filled, "PRAGMA user_version = 4")
    error = refused(filled, r"was written by a newer rsreg \(schema 4, this one knows 3\)")
    assert error.hint == "start the newer rsreg, or choose another file with --db"


def test_a_store_without_its_tables_is_refused(filled: Path) -> None:
    outside(filled, "DROP TABLE event")
    refused(filled, "can't read .*: no such table: event")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "registry.db").mkdir()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"^can't open .*registry.db: "):
            SQLiteBackend(tmp_path / "registry.db").initialize()


def test_a_file_that_another_program_keeps_to_itself_is_refused_until_it_lets_go(
    filled: Path,
) -> None:
    with closing(sqlite3.connect(filled, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = exclusive")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match=f"^can't open {filled}: database is locked$"):
            SQLiteBackend(filled).initialize()
    with opened(filled) as store:
        assert store.load().seq == 500


def test_a_place_where_nothing_can_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"^can't open .*registry.db: "):
        SQLiteBackend(tmp_path / "file" / "registry.db").initialize()


def test_a_refused_file_can_be_opened_when_it_is_put_right(filled: Path) -> None:
    outside(filled, "PRAGMA user_version = 4")
    store = SQLiteBackend(filled)
    with pytest.raises(StoreError):
        store.initialize()
    outside(filled, "PRAGMA user_version = 3")
    store.initialize()
    assert store.load().seq == 500
    store.close()


def test_no_open_file_is_left_behind(path: Path) -> None:
    open_files = len(os.listdir("/dev/fd"))
    for n in range(3):
        with opened(path), pytest.raises(StoreInUse):
            SQLiteBackend(path).initialize()
        with opened(path.with_name(f"{n}.db")):
            pass
    outside(path, "PRAGMA user_version = 4")
    for _ in range(3):
        with pytest.raises(StoreError):
            SQLiteBackend(path).initialize()
    assert len(os.listdir("/dev/fd")) == open_files


def test_the_log_of_a_database_that_is_gone_is_not_played_into_a_new_one(path: Path) -> None:
    with start_program("fill_store_and_die", path, 1) as killed:
        killed.wait()
    assert Path(f"{path}-wal").stat().st_size > 0
    path.unlink()
    error = refused(path, "is gone, but not registry.db-wal, which holds its last changes$")
    assert error.hint == "put registry.db back, or remove registry.db-wal too"
    Path(f"{path}-wal").unlink()
    with opened(path) as store:
        assert store.load().services == []


def test_a_file_of_the_first_version_is_brought_up_to_date(filled: Path) -> None:
    """It knows nothing of what was told of a service's health, of turns, and of marks."""
    outside(
        filled,
        "ALTER TABLE service DROP COLUMN told",
        "ALTER TABLE service DROP COLUMN reason",
        "ALTER TABLE service DROP COLUMN registered_by",
        "ALTER TABLE event DROP COLUMN turn",
        "PRAGMA user_version = 1",
    )
    with opened(filled) as store:
        before = store.load()
        assert (before.seq, before.announced, before.request_numbers) == (500, {}, {})
        told = AnnouncedHealth("critical", "stalled")
        known = before.services[0].id
        body = b'{"mark": "m"}'
        event = Event(
            seq=501,
            type="critical",
            service_id=known,
            body=body,
            announced=told,
            request_number="a#7",
        )
        store.commit({}, [event])
    with opened(filled) as store:
        after = store.load()
        assert (after.announced, after.request_numbers) == ({known: told}, {known: "a#7"})
        assert [service.id for service in after.services] == [one.id for one in before.services]
        assert after.epoch == before.epoch
    assert outside(filled, "PRAGMA user_version") == [[(3,)]]
