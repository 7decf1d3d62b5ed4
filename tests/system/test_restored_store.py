"""A store that was put back to an earlier state: nobody takes its history for the one before."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from rsreg import RegistryClient, ServiceCache, SQLiteBackend
from rsreg.protocol.calls import Record
from rsreg.transport.subscription import Subscription
from tests.harness import RegistryHarness
from tests.helpers import ServerProcess, wait_until

#: What somebody copies: the database alone, or all that the server has put beside it, as a snapshot
#: of the machine does.
COPIES = {"database": ["registry.db"], "everything": ["registry.db", "registry.db.lock"]}


@pytest.fixture(params=COPIES)
def copied(request: pytest.FixtureRequest) -> list[str]:
    """The files of a copy."""
    return COPIES[request.param]


@pytest.fixture
def put_back(process: ServerProcess, tmp_path: Path, copied: list[str]) -> Callable[[], None]:
    """A registry with one service, running; called, its store goes back to there."""
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        client.register("stays", "lab1", 5000, "KEPT", service_id="stays", ttl=600)
    stop(process)
    for name in copied:
        shutil.copy(tmp_path / name, tmp_path / f"{name}.copy")

    def again() -> None:
        stop(process)
        for name in copied:
            shutil.copy(tmp_path / f"{name}.copy", tmp_path / name)
        process.start()

    process.start()
    return again


def stop(process: ServerProcess) -> None:
    """In order, so that the whole store is in its file."""
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def register(client: RegistryClient, *names: str) -> None:
    """So many events, however many there were."""
    for port, name in enumerate(names, 6000):
        client.register(name, "lab2", port, "MANY", service_id=name, ttl=600)


def test_a_cache_is_equal_again(put_back: Callable[[], None], process: ServerProcess) -> None:
    with (
        RegistryClient(process.endpoint, timeout=10) as client,
        ServiceCache(process.endpoint, timeout=1) as cache,
    ):
        register(client, "a", "b", "c")
        wait_until(lambda: len(cache.list_services()) == 4)
        put_back()
        # It comes as far as before, so that by the numbers nothing was missed.
        register(client, "d", "e", "f")

        def equal() -> bool:
            return {one["id"] for one in cache.list_services()} == {"stays", "d", "e", "f"}

        wait_until(equal)


def test_who_watches_is_told_to_list_anew(
    put_back: Callable[[], None], process: ServerProcess
) -> None:
    heard: SimpleQueue[Record] = SimpleQueue()
    with RegistryClient(process.endpoint, timeout=10) as client:
        events = client.watch()
        thread = threading.Thread(target=lambda: list(map(heard.put, events)))
        thread.start()
        register(client, "a", "b", "c")
        assert [heard.get(timeout=20)["data"]["service_id"] for _ in "abc"] == ["a", "b", "c"]
        put_back()
        register(client, "d", "e", "f", "g")
        assert heard.get(timeout=20)["type"] == "reset"
        client.close()
        thread.join(20)


def test_who_comes_back_with_an_old_position_is_told_to_list_anew(
    put_back: Callable[[], None], process: ServerProcess
) -> None:
    with RegistryClient(process.endpoint, timeout=10) as client:
        register(client, "a", "b", "c")
        known = client.events_since()
        put_back()
        register(client, "d", "e", "f", "g")
        assert client.events_since()["seq"] > known["seq"]
        position = {key: known[key] for key in ("epoch", "mark")}
        assert client.events_since(known["seq"], **position)["reset"] is True
        first = next(client.watch(since=known["seq"], **position))
        assert first["type"] == "reset"


@pytest.mark.parametrize("copied", [COPIES["database"]], indirect=False)
def test_a_client_that_knows_no_marks_is_told_where_the_store_can_see_it(
    put_back: Callable[[], None], process: ServerProcess, copied: list[str]
) -> None:
    with RegistryClient(process.endpoint, timeout=10) as client:
        register(client, "a", "b", "c")
        known = client.events_since()
        put_back()
        register(client, "d", "e", "f", "g")
        assert client.events_since(known["seq"], known["epoch"])["reset"] is True


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_ordinary_restart_leaves_no_gap(process: ServerProcess, how: signal.Signals) -> None:
    """For clients that know no marks, either."""
    process.start()
    with RegistryClient(process.endpoint, timeout=10) as client:
        register(client, "a", "b")
        known = client.events_since()
        process.signal(how)
        process.wait()
        process.start()
        register(client, "c")
        for mark in (known["mark"], None):
            news = client.events_since(known["seq"], known["epoch"], mark)
            assert [event["data"]["service_id"] for event in news["events"]] == ["c"]
            assert news["reset"] is False


# -- where the store sees it


def opened(path: Path) -> RegistryHarness:
    """A registry on a file."""
    return RegistryHarness(lambda: SQLiteBackend(path))


def epoch_of(path: Path) -> str:
    """The epoch after a start."""
    harness = opened(path)
    harness.registry.close()
    return harness.registry.epoch


def test_only_a_file_that_goes_on_keeps_its_epoch(tmp_path: Path) -> None:
    path, copy = tmp_path / "registry.db", tmp_path / "copy.db"
    harness = opened(path)
    epoch = harness.registry.epoch
    harness.register("a")
    harness.restart(killed=True)
    harness.register("b")
    harness.restart()
    assert harness.registry.epoch == epoch
    harness.registry.close()
    shutil.copy(path, copy)
    assert epoch_of(copy) != epoch, "it is another registry from now on"
    shutil.copy(path, copy)
    assert epoch_of(path) == epoch == epoch_of(path)

    harness = opened(path)
    harness.register("c")
    harness.registry.close()
    shutil.copy(copy, path)
    second = epoch_of(path)
    assert second != epoch
    assert epoch_of(path) == second


@pytest.mark.parametrize("text", [None, b"", b"pid 5 on lab1\n", b"\0" * 100, b"x y z\n" * 9])
def test_a_file_of_which_it_is_not_known_whether_it_goes_on_has_a_new_epoch(
    tmp_path: Path, text: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "registry.db"
    harness = opened(path)
    harness.register("a")
    harness.registry.close()
    lock = Path(f"{path}.lock")
    lock.unlink() if text is None else lock.write_bytes(text)
    caplog.set_level("INFO")
    assert epoch_of(path) != harness.registry.epoch
    assert "does not continue where a server here ended" in caplog.text


def test_a_new_file_says_nothing_of_that(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert epoch_of(tmp_path / "registry.db") == epoch_of(tmp_path / "registry.db")
    assert caplog.text == ""


def test_a_change_that_was_refused_makes_no_mark(on_file: RegistryHarness) -> None:
    on_file.register("a")
    before = on_file.registry.position
    on_file.store.writes_fail = True
    on_file.stage("b")
    assert on_file.registry.position.mark != before.mark
    with pytest.raises(Exception, match="full"):
        on_file.commit()
    assert on_file.registry.position == before
    on_file.store.writes_fail = False
    on_file.register("c")
    first, second = on_file.events
    assert (first["mark"], second["after"]) == (before.mark, before.mark)
    on_file.restart(killed=True)
    assert on_file.registry.position.mark == second["mark"]


# -- what a follower makes of it


def event(seq: int, mark: str, after: str | None) -> Record:
    """An event as it comes over the wire."""
    return {"type": "x", "seq": seq, "epoch": "e", "mark": mark, "after": after, "data": {}}


def answer(seq: int, mark: str, **more: Any) -> Record:
    """The answer to `events`."""
    return {"events": [], "seq": seq, "epoch": "e", "mark": mark, "reset": False, **more}


def test_a_follower_goes_on_only_where_it_was() -> None:
    """The next number of another history is not the next event."""
    follower = Subscription(lambda: 0.0)
    follower.on_reply(answer(4, "m4"))
    (known,) = follower.on_event(event(5, "m5", "m4"))
    assert known["seq"] == 5
    assert follower.on_event(event(6, "n6", "n5")) == []
    assert follower.seconds_until_next_request == 0
    assert follower.next_request().params == {"since": 5, "epoch": "e", "mark": "m5"}
    (reset,) = follower.on_reply(answer(6, "n6", reset=True))
    assert (reset["type"], reset["seq"]) == ("reset", 6)
    assert follower.on_event(event(7, "n7", "n6"))


def test_a_follower_of_an_older_registry_goes_by_the_numbers() -> None:
    follower = Subscription(lambda: 0.0)
    old = {"events": [], "seq": 4, "epoch": "e", "reset": False}
    follower.on_reply(old)
    assert follower.on_event({"type": "x", "seq": 5, "epoch": "e", "data": {}})
    assert follower.next_request().params == {"since": 5, "epoch": "e"}
