"""AsyncRegistryServer, and backends that are awaited: CGSE's names, and coroutines of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from rsreg import (
    AsyncRegistryClient,
    InMemoryBackend,
    RegistryClient,
    RegistryServer,
    SQLiteBackend,
    server,
)
from rsreg.errors import ConfigurationError, DuplicateServiceType, RequestTimeout, Unavailable
from rsreg.server import (
    AsyncInMemoryBackend,
    AsyncRegistryBackend,
    AsyncRegistryServer,
    AsyncSQLiteBackend,
    RegistryBackend,
)
from rsreg.server.backends.base import Copyable, Journaled, Stored, Tended
from rsreg.server.backends.stored import Event, Maintenance, Service
from tests.helpers import UnreliableStore, wait_until


class Coroutines(AsyncRegistryBackend):
    """Another store behind coroutines, which really wait; a commit waits until it may go on."""

    def __init__(self, store: RegistryBackend) -> None:
        self.store = store
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.commits = 0
        self.closed = False

    async def initialize(self) -> object:
        await asyncio.sleep(0.001)
        return self.store.initialize()

    async def load(self) -> Stored:
        await asyncio.sleep(0.001)
        return self.store.load()

    async def commit(
        self,
        changes: Mapping[str, Service | None],
        events: Sequence[Event],
        maintenance: Sequence[Maintenance] | None = None,
    ) -> None:
        self.commits += 1
        await self.may_commit.wait()
        self.store.commit(changes, events, maintenance)

    async def events(self, since: int, limit: int) -> list[Event]:
        await asyncio.sleep(0.001)
        return self.store.events(since, limit)

    async def touch(self, heartbeats: Mapping[str, int]) -> None:
        await asyncio.sleep(0.001)
        self.store.touch(heartbeats)

    async def close(self) -> None:
        await asyncio.sleep(0.001)
        self.store.close()
        self.closed = True

    def describe(self) -> str:
        return self.store.describe()


@asynccontextmanager
async def serving(backend: Any, **options: Any) -> AsyncIterator[AsyncRegistryServer]:
    """A server under asyncio, on free ports of this machine."""
    served = AsyncRegistryServer(0, 0, backend=backend, bind="127.0.0.1", **options)
    task = asyncio.create_task(served.start())
    while not served.server.started and not task.done():
        await asyncio.sleep(0.01)
    try:
        yield served
    finally:
        served.stop()
        await asyncio.wait_for(task, 20)


def client_of(served: AsyncRegistryServer, timeout: float = 10) -> AsyncRegistryClient:
    return AsyncRegistryClient(f"127.0.0.1:{served.req_port}", timeout=timeout)


@pytest.mark.parametrize("awaited", [True, False])
def test_what_opens_and_closes_a_backend_may_be_awaited_or_not(
    tmp_path: Path, awaited: bool
) -> None:
    async def main() -> None:
        for backend in (AsyncSQLiteBackend(tmp_path / "registry.db"), AsyncInMemoryBackend()):
            for _ in range(2):
                for said in (backend.initialize, backend.close, backend.close):
                    result = said()
                    if awaited:
                        await result
            await backend.initialize()
            async with serving(backend) as served, client_of(served) as client:
                assert await client.register("puna_cs", "egse3", 5000)
            await backend.close()

    asyncio.run(main())
    again = SQLiteBackend(tmp_path / "registry.db")
    again.initialize()
    assert [service.name for service in again.load().services] == ["puna_cs"]
    again.close()


def test_the_names_of_the_specification() -> None:
    assert server.RegistryBackend is RegistryBackend
    assert {"AsyncRegistryBackend", "RegistryBackend"} <= set(server.__all__)
    assert all(getattr(server, name) is not None for name in server.__all__)
    for backend in (AsyncInMemoryBackend(), Coroutines(InMemoryBackend())):
        assert isinstance(backend, AsyncRegistryBackend)
    with pytest.raises(AttributeError):
        _ = server.AsyncNonsense


def test_a_backend_of_coroutines_keeps_what_it_is_given(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Coroutines(SQLiteBackend(tmp_path / "registry.db"))
        async with serving(backend) as served, client_of(served) as client:
            kept = await client.register("puna_cs", "egse3", 5000, "PUNA")
            gone = await client.register("gone", "egse3", 5001)
            assert await client.deregister(gone)
            await client.maintenance(True, host="egse3", reason="cooling")
        assert backend.closed
        again = Coroutines(SQLiteBackend(tmp_path / "registry.db"))
        await again.initialize()
        async with serving(again) as served, client_of(served) as client:
            assert [one["id"] for one in await client.list_services()] == [kept]
            kinds = [event["type"] for event in (await client.events_since(0))["events"]]
            assert kinds == ["register", "register", "deregister", "maintenance"]

    asyncio.run(main())


def test_a_backend_that_passes_on_what_it_is_asked_is_one() -> None:
    class Passing:
        def __init__(self, store: Coroutines) -> None:
            self.store = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self.store, name)

    async def main() -> None:
        backend = Passing(Coroutines(InMemoryBackend()))
        async with serving(backend) as served, client_of(served) as client:
            assert await client.register("puna_cs", "egse3", 5000)
        assert backend.store.commits == 1

    asyncio.run(main())


def test_nobody_sees_half_a_commit() -> None:
    async def main() -> None:
        backend = Coroutines(InMemoryBackend())
        async with serving(backend) as served:
            backend.may_commit.clear()
            async with client_of(served, 20) as one, client_of(served, 0.5) as other:
                registering = asyncio.create_task(one.register("puna_cs", "egse3", 5000))
                while not backend.commits:
                    await asyncio.sleep(0.01)
                with pytest.raises(RequestTimeout):
                    await other.list_services()
                backend.may_commit.set()
                service_id = await registering
                assert [one["id"] for one in await other.list_services()] == [service_id]
            assert backend.commits == 1

    asyncio.run(main())


def test_what_else_a_backend_can_do_is_not_hidden(tmp_path: Path) -> None:
    async def main() -> None:
        backend = AsyncSQLiteBackend(tmp_path / "registry.db")
        async with serving(backend) as served, client_of(served) as client:
            assert "journal" in await client.server_status()
            for protocol in (Copyable, Journaled, Tended):
                assert isinstance(served.server.backend, protocol)

    asyncio.run(main())


def test_a_coroutine_that_refuses_changes_nothing() -> None:
    async def main() -> None:
        store = UnreliableStore(InMemoryBackend())
        async with serving(Coroutines(store)) as served, client_of(served) as client:
            store.writes_fail = True
            with pytest.raises(Unavailable, match="the disk is full"):
                await client.register("puna_cs", "egse3", 5000)
            assert await client.list_services() == []
            store.writes_fail = False
            assert await client.register("puna_cs", "egse3", 5000)

    asyncio.run(main())


@pytest.mark.parametrize("commits", [False, True], ids=["idle", "in a commit"])
def test_the_end_of_the_loop_is_the_end_of_the_server(commits: bool) -> None:
    """`asyncio.run` cancels what still runs, the coroutine of a commit too; nothing hangs."""
    backend: list[Coroutines] = []

    async def main() -> None:
        backend.append(Coroutines(InMemoryBackend()))
        served = AsyncRegistryServer(0, 0, backend=backend[0], bind="127.0.0.1")
        task = asyncio.create_task(served.start())
        while not served.server.started:
            await asyncio.sleep(0.01)
        if commits:
            backend[0].may_commit.clear()
            with RegistryClient(f"127.0.0.1:{served.req_port}", timeout=0.2) as client:
                with suppress(RequestTimeout):
                    await asyncio.to_thread(client.register, "puna_cs", "egse3", 5000)
                assert backend[0].commits == 1
        assert not task.done()

    asyncio.run(main())
    wait_until(lambda: backend[0].closed)


def test_one_service_of_a_type_by_the_name_that_cgse_has_for_it() -> None:
    async def main() -> None:
        async with (
            serving(InMemoryBackend(), enforce_unique_service_types=True) as served,
            client_of(served) as client,
        ):
            assert served.enforce_unique_service_types
            assert (await client.server_status())["enforce_unique_service_types"] is True
            await client.register("one", "egse3", 5000, "PUNA")
            with pytest.raises(DuplicateServiceType):
                await client.register("two", "egse3", 5001, "PUNA")
            served.enforce_unique_service_types = False
            assert await client.register("two", "egse3", 5001, "PUNA")
            assert served.pub_port == (await client.server_status())["pub_port"]

    asyncio.run(main())


def test_what_is_no_backend_is_refused_at_once() -> None:
    class LikeCGSEs:
        async def initialize(self) -> None: ...

        async def close(self) -> None: ...

        async def register(self, service_id: str, service_info: object, ttl: int) -> bool:
            return True

    theirs: Any = LikeCGSEs()
    coroutines: Any = Coroutines(InMemoryBackend())

    async def main() -> None:
        for make in (RegistryServer, AsyncRegistryServer):
            with pytest.raises(ConfigurationError, match="LikeCGSEs is not a backend") as caught:
                make(0, 0, backend=theirs)
            assert "load, commit, events, touch" in str(caught.value)
        with pytest.raises(ConfigurationError, match="Coroutines has methods that") as caught:
            RegistryServer(0, 0, backend=coroutines)
        assert caught.value.hint == "AsyncRegistryServer takes it"

    asyncio.run(main())
