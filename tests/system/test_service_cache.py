"""ServiceCache, and clients that have one, against real servers."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket as tcp
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from rsreg import (
    AsyncRegistryClient,
    InMemoryBackend,
    RegistryClient,
    RegistryServer,
    ServiceCache,
)
from rsreg.client.cache import view
from rsreg.errors import Disconnected, RequestTimeout, ServerError, Stale
from rsreg.protocol.calls import Record
from rsreg.server.backends.stored import Service
from rsreg.transport import subscription
from tests.helpers import (
    ServerProcess,
    present,
    printed,
    scripted_server,
    serving,
    start_program,
    wait_until,
)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An endpoint that takes no connection: who subscribes there hears of no event."""
    with tcp.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches ask twice a second, and are stale after one without an answer."""
    for module in (subscription, view):
        monkeypatch.setattr(module, "PAUSE_MOST", 0.5)
    monkeypatch.setattr(view, "STALE_AFTER", 1.0)


def told(services: Sequence[Record]) -> list[Record]:
    """Records without what a cache does not follow."""
    return [{**service, "last_heartbeat": 0} for service in services]


def equal(cache: ServiceCache, client: RegistryClient) -> bool:
    """Whether a cache and the server say the same of all services, in the same order."""
    return told(cache.list_services()) == told(client.list_services())


def change(client: RegistryClient, count: int) -> None:
    """Register, update and deregister; so many changes."""
    for number in range(count):
        service_id = f"svc-{number % 7}"
        if number % 5 == 4:
            client.deregister(service_id)
        else:
            client.register("svc", "lab", 1 + number, f"T{number % 3}", service_id=service_id)


class Counting:
    """A strategy that tells how often the server itself was asked to discover."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, services: Sequence[Service]) -> Service:
        self.asked += 1
        return services[0]

    def spares(self, discover: Callable[[], object]) -> bool:
        """Whether that is answered without the server."""
        before = self.asked
        assert discover() is not None
        return self.asked == before


# -- ServiceCache


def test_a_cache_answers_as_the_registry(client: RegistryClient, endpoint: str) -> None:
    first = client.register("puna", "egse3", 5000, "PUNA", {"a": [1]}, 60, tags=["optics"])
    with ServiceCache(endpoint, timeout=10) as cache:
        assert cache.stale is None
        second = client.register("spare", "egse4", 5001, metadata={"type": "PUNA"}, ttl=60)
        wait_until(lambda: cache.get_service(second) is not None)
        for kind in (None, "PUNA", "optics", "none"):
            assert told(cache.list_services(kind)) == told(client.list_services(kind))
        assert cache.get_service(first) == client.get_service(first)
        assert cache.discover_service("optics") == client.discover_service("optics")
        found = {str(present(cache.discover_service("PUNA"))["id"]) for _ in range(100)}
        assert found == {first, second}
        assert cache.discover_service("none") is None
        assert cache.get_service("none") is None
        client.register("puna", "egse5", 5000, "OTHER", service_id=first)
        wait_until(lambda: cache.discover_service("OTHER") is not None)
        assert equal(cache, client)
        client.deregister(first)
        wait_until(lambda: cache.get_service(first) is None)
        assert equal(cache, client)


def test_a_cache_that_hears_no_event_is_equal_after_100_changes(
    client: RegistryClient, endpoint: str, nowhere: str
) -> None:
    with ServiceCache(endpoint, nowhere, timeout=10) as cache:
        change(client, 100)
        wait_until(lambda: equal(cache, client))


def test_a_cache_is_equal_after_more_changes_than_the_journal_keeps(
    nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(backend=InMemoryBackend(journal_events=20)) as server:
        endpoint = f"tcp://127.0.0.1:{server.req_port}"
        with (
            RegistryClient(endpoint, timeout=10) as client,
            ServiceCache(endpoint, nowhere, timeout=10) as cache,
        ):
            change(client, 100)
            assert client.events_since(1)["reset"], "the journal does not reach back"
            wait_until(lambda: equal(cache, client))
    assert [record for record in caplog.records if "missed" in record.message] == []


def test_a_cache_follows_to_a_registry_that_starts_empty() -> None:
    with (
        ServerProcess() as process,
        RegistryClient(process.endpoint, timeout=10) as client,
        ServiceCache(process.endpoint, timeout=10) as cache,
    ):
        change(client, 20)
        wait_until(lambda: equal(cache, client))
        process.kill()
        process.start()
        assert client.list_services() == []
        client.register("new", "lab", 1)
        wait_until(lambda: equal(cache, client))


@pytest.mark.usefixtures("impatient")
def test_a_stale_cache_says_so_and_answers_again(process: ServerProcess) -> None:
    process.start()
    with (
        RegistryClient(process.endpoint, timeout=10) as client,
        ServiceCache(process.endpoint, timeout=0.3) as cache,
    ):
        service_id = client.register("puna", "lab", 1, "PUNA")
        wait_until(lambda: cache.get_service(service_id))
        process.signal(signal.SIGSTOP)
        age = present(wait_until(lambda: cache.stale))
        assert 1.0 < age < 20
        for ask in (
            cache.list_services,
            lambda: cache.discover_service("PUNA"),
            lambda: cache.get_service(service_id),
        ):
            with pytest.raises(Stale, match=rf"{process.endpoint}.* \d+\.\d s old") as stale:
                ask()
            assert stale.value.hint is not None
        process.signal(signal.SIGCONT)
        wait_until(lambda: cache.stale is None)
        assert cache.get_service(service_id) is not None


def test_a_service_that_beats_is_passing_all_the_time_and_then_no_more(endpoint: str) -> None:
    driver = RegistryClient(endpoint, timeout=10)
    service_id = driver.register("quick", "lab", 1, "QUICK", ttl=1)
    driver.start_heartbeat()
    with ServiceCache(endpoint, timeout=10) as cache:
        until = time.monotonic() + 3.5
        while time.monotonic() < until:
            found = cache.discover_service("QUICK")
            assert found is not None
            assert found["health"] == "passing"
            time.sleep(0.002)
        driver.close()
        silent = time.monotonic()
        wait_until(lambda: cache.discover_service("QUICK") is None)
        assert time.monotonic() - silent < 1.5
        wait_until(lambda: cache.get_service(service_id) is None)


def test_readers_see_every_service_while_it_is_updated() -> None:
    """The changes come from another process, so that many meet with the readers."""
    over, reads, wrong = threading.Event(), [0], []

    def read(cache: ServiceCache) -> None:
        while not over.is_set():
            answers = [
                cache.get_service("a"),
                cache.discover_service("T"),
                *cache.list_services("T"),
                *[one for one in cache.list_services() if one["id"] == "a"],
            ]
            reads[0] += 1
            if [one and one["id"] for one in answers] != ["a"] * 4:
                wrong.append(answers)

    with (
        ServerProcess() as server,
        RegistryClient(server.endpoint, timeout=10) as client,
    ):
        client.register("a", "lab", 1, "T", service_id="a", owned=False)
        with ServiceCache(server.endpoint, timeout=10) as cache:
            threads = [threading.Thread(target=read, args=(cache,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            process = start_program("change_services", server.endpoint)
            process.communicate()
            assert process.returncode == 0
            over.set()
            for thread in threads:
                thread.join(20)
            wait_until(lambda: equal(cache, client))
    assert wrong == []
    assert reads[0] > 300


def test_a_cache_that_is_not_started_says_so(endpoint: str) -> None:
    cache = ServiceCache(endpoint)
    for _ in range(2):
        with pytest.raises(Disconnected, match="not started") as refused:
            cache.list_services()
        assert refused.value.hint == "call start() first"
        assert cache.stale == float("inf")
        cache.start()
        assert cache.list_services() == []
        cache.stop()
        cache.stop()


def test_a_registry_that_is_not_there_is_said_at_the_start(nowhere: str) -> None:
    for sub_endpoint in (None, nowhere):
        cache = ServiceCache(nowhere, sub_endpoint, timeout=0.2)
        with pytest.raises(RequestTimeout, match=nowhere):
            cache.start()


def test_a_registry_that_does_not_know_leases_is_refused(nowhere: str) -> None:
    body = {"success": True, "services": [], "seq": 0, "epoch": "e"}
    with (
        scripted_server(lambda _request: body) as endpoint,
        pytest.raises(ServerError, match=r"list can't be understood.*leases"),
    ):
        ServiceCache(endpoint, nowhere, timeout=10).start()


def test_a_green_cache_lets_other_greenlets_run(client: RegistryClient, endpoint: str) -> None:
    service_id = client.register("puna", "lab", 1, "PUNA")
    process = start_program("green_cache", endpoint, "later")
    assert printed(process) == f"{service_id} 1"
    client.register("later", "lab", 1, service_id="later")
    assert printed(process) == "over"
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_cache_under_asyncio(client: RegistryClient, endpoint: str) -> None:
    service_id = client.register("puna", "lab", 1, "PUNA")

    async def main() -> None:
        async with ServiceCache(endpoint, timeout=10) as cache:
            found = cache.discover_service("PUNA")
            assert found is not None
            assert found["id"] == service_id
        with pytest.raises(Disconnected):
            cache.list_services()

    asyncio.run(main())


# -- clients with a cache


@pytest.fixture
def counting() -> Counting:
    """Counts what is asked of `counted`."""
    return Counting()


@pytest.fixture
def counted(counting: Counting) -> Iterator[RegistryServer]:
    """A server with that strategy."""
    with serving(backend=InMemoryBackend(), strategy=counting) as running:
        yield running


@pytest.fixture
def cached(counted: RegistryServer) -> Iterator[RegistryClient]:
    """A client with a cache."""
    endpoint = f"tcp://127.0.0.1:{counted.req_port}"
    with RegistryClient(endpoint, timeout=10, cache=True) as connected:
        yield connected


@pytest.fixture
def other(counted: RegistryServer) -> Iterator[RegistryClient]:
    """Another client, without."""
    with RegistryClient(f"tcp://127.0.0.1:{counted.req_port}", timeout=10) as connected:
        yield connected


def test_a_client_answers_from_its_cache_what_the_registry_would(
    cached: RegistryClient, other: RegistryClient, counting: Counting
) -> None:
    service_id = other.register("puna", "egse3", 5000, "PUNA")
    wait_until(lambda: counting.spares(lambda: cached.discover_service("PUNA")))
    assert cached.get_service(service_id) == other.get_service(service_id)
    assert cached.list_services() == other.list_services()
    assert cached.list_services("PUNA") == other.list_services("PUNA")
    assert counting.spares(lambda: cached.get_endpoint("PUNA"))
    assert cached.find_service("puna") == other.get_service(service_id)
    other.deregister(service_id)
    wait_until(lambda: cached.discover_service("PUNA") is None)
    assert cached.get_service(service_id) is None
    assert cached.list_services() == []


def test_a_client_asks_where_its_cache_knows_of_nothing(
    counted: RegistryServer, nowhere: str, counting: Counting, other: RegistryClient
) -> None:
    """Its cache hears of no event; what it does not know of may be there all the same."""
    other.register("puna", "lab", 1, "PUNA", ttl=60)
    endpoint = f"tcp://127.0.0.1:{counted.req_port}"
    with RegistryClient(endpoint, nowhere, timeout=10, cache=True) as client:
        wait_until(lambda: counting.spares(lambda: client.discover_service("PUNA")))
        for number in range(30):
            service_id = other.register("cam", "lab", 1, f"CAM {number}")
            assert client.discover_service(f"CAM {number}") is not None
            assert client.get_service(service_id) is not None
            assert client.list_services(f"CAM {number}") != []


def test_a_client_asks_where_its_cache_knows_of_a_lapsed_lease(counting: Counting) -> None:
    """Its owner may beat again at any moment, and no event tells."""
    with serving(backend=InMemoryBackend(), strategy=counting, cleanup_interval=60) as server:
        endpoint = f"tcp://127.0.0.1:{server.req_port}"
        with (
            RegistryClient(endpoint, timeout=10) as other,
            RegistryClient(endpoint, timeout=10, cache=True) as client,
            ServiceCache(endpoint, timeout=10) as cache,
        ):
            other.register("lasting", "lab", 1, "LASTING")
            other.register("brief", "lab", 1, "BRIEF", service_id="brief", ttl=1)
            wait_until(lambda: counting.spares(lambda: client.discover_service("LASTING")))
            wait_until(lambda: health(client.get_service("brief")) == "critical")
            wait_until(lambda: health(cache.get_service("brief")) == "critical")
            other.renew("brief")
            assert health(client.get_service("brief")) == "passing"
            assert [health(one) for one in client.list_services("BRIEF")] == ["passing"]
            assert client.discover_service("BRIEF") is not None


def health(service: Record | None) -> object:
    """That of a record."""
    return service and service["health"]


def test_a_client_sees_its_own_changes_at_once(
    counted: RegistryServer, nowhere: str, counting: Counting
) -> None:
    endpoint = f"tcp://127.0.0.1:{counted.req_port}"
    with RegistryClient(endpoint, nowhere, timeout=10, cache=True) as client:
        client.register("puna", "lab", 1, "PUNA", service_id="puna")
        for port in range(2, 5):
            wait_until(lambda: counting.spares(lambda: client.discover_service("PUNA")))
            client.register("puna", "lab", port, "PUNA", service_id="puna")
            for found in (client.get_service(), client.discover_service("PUNA")):
                assert found is not None
                assert found["port"] == port
        wait_until(lambda: counting.spares(lambda: client.discover_service("PUNA")))
        client.deregister()
        assert client.discover_service("PUNA") is None
        assert client.get_service("puna") is None


@pytest.mark.usefixtures("impatient")
def test_a_client_never_answers_from_a_stale_cache(process: ServerProcess) -> None:
    process.start()
    with RegistryClient(process.endpoint, timeout=0.5, cache=True) as client:
        client.register("puna", "lab", 1, "PUNA", ttl=60)
        wait_until(lambda: client.discover_service("PUNA") is not None)
        process.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        # The first may be refused for want of a cache, which is there a moment later.
        asks: list[Callable[[], object]] = [
            lambda: client.discover_service("PUNA"),
            client.list_services,
            client.get_service,
        ]
        wait_until(lambda: all(map(refuses, asks)))
        assert time.monotonic() - stopped < 10
        process.signal(signal.SIGCONT)
        wait_until(lambda: not refuses(client.list_services))


def refuses(ask: Callable[[], object]) -> bool:
    """Whether that ends with RequestTimeout."""
    try:
        ask()
    except RequestTimeout:
        return True
    return False


def test_a_client_with_a_cache_times_out_as_one_without(nowhere: str) -> None:
    with RegistryClient(nowhere, timeout=0.3, cache=True) as client:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(RequestTimeout, match=nowhere):
                client.discover_service("PUNA")
            assert time.monotonic() - started < 2


def test_a_closed_client_does_not_answer_from_its_cache(
    cached: RegistryClient, other: RegistryClient, counting: Counting
) -> None:
    other.register("puna", "lab", 1, "PUNA")
    for _ in range(2):
        wait_until(lambda: counting.spares(lambda: cached.discover_service("PUNA")))
        cached.close()
        with pytest.raises(Disconnected, match="closed"):
            cached.discover_service("PUNA")
        cached.connect()


def test_a_forked_child_has_a_cache_of_its_own(
    cached: RegistryClient, other: RegistryClient, counting: Counting
) -> None:
    other.register("puna", "lab", 1, "PUNA")
    wait_until(lambda: counting.spares(lambda: cached.discover_service("PUNA")))
    context = multiprocessing.get_context("fork")
    answers: Any = context.Queue()

    def child() -> None:
        answers.put(wait_until(lambda: cached.discover_service("LATER")))
        cached.close()

    process = context.Process(target=child)
    process.start()
    other.register("later", "lab", 1, "LATER", service_id="later")
    assert answers.get(timeout=20)["id"] == "later"
    process.join(20)
    assert process.exitcode == 0
    assert counting.spares(lambda: cached.discover_service("PUNA"))


def test_an_async_client_with_a_cache(
    counted: RegistryServer, other: RegistryClient, counting: Counting
) -> None:
    endpoint = f"tcp://127.0.0.1:{counted.req_port}"
    other.register("puna", "lab", 1, "PUNA", service_id="puna", ttl=60)

    async def spared(client: AsyncRegistryClient) -> None:
        for _ in range(1_000):
            before = counting.asked
            assert await client.discover_service("PUNA") is not None
            if counting.asked == before:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it asks and asks")

    async def main() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10, cache=True) as client:
            await spared(client)
            assert await client.get_service("puna") == other.get_service("puna")
            assert await client.list_services() == other.list_services()
            assert await client.discover_service("none") is None
            await client.register("own", "lab", 2, "OWN")
            assert await client.get_endpoint("OWN") == "tcp://lab:2"
            assert await client.deregister()
            assert await client.discover_service("OWN") is None
            await spared(client)
            await client.close()
            with pytest.raises(Disconnected):
                await client.discover_service("PUNA")
            client.connect()
            await spared(client)

    asyncio.run(main())
