"""The asyncio client and the asyncio face of the server."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rsreg import AsyncRegistryClient, RegistryClient
from rsreg.errors import ConfigurationError, Disconnected, PortInUse, RequestTimeout
from rsreg.server import AsyncInMemoryBackend, AsyncRegistryServer, AsyncSQLiteBackend
from tests.helpers import ServerProcess, scripted_server, slow_once, wait_until


def test_the_same_calls_as_coroutines(endpoint: str) -> None:
    async def main() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as client:
            assert await client.discover_service("PUNA") is None
            assert await client.get_endpoint("PUNA") is None
            assert await client.get_service() is None
            assert await client.deregister() is False
            assert await client.renew() is False
            assert await client.reregister() is None
            service_id = await client.register(
                "puna_cs", "10.0.0.5", 5000, "PUNA", {"version": "1.4"}, 30, tags=["optics"]
            )
            service = await client.get_service()
            assert service is not None
            assert service["tags"] == ["optics"]
            assert await client.discover_service("optics") == service
            assert await client.find_service("puna") == service
            assert await client.list_services() == [service]
            assert await client.get_endpoint("PUNA") == "tcp://10.0.0.5:5000"
            assert (await client.wait_for("PUNA", timeout=10))["PUNA"] == service
            assert (await client.wait_for("CAMERA", timeout=0.2))["CAMERA"] is None
            assert await client.renew()
            assert await client.reregister() == service_id
            assert await client.health_check()
            status = await client.server_status()
            assert [known["id"] for known in status["services"]] == [service_id]
            assert len((await client.events_since(0))["events"]) == 2
            assert await client.deregister()
            assert await client.get_service(service_id) is None

    asyncio.run(main())


def test_connect_may_be_awaited_or_not(endpoint: str) -> None:
    async def main() -> None:
        client = AsyncRegistryClient(endpoint, timeout=10)
        client.connect()
        assert await client.health_check()
        await client.close()
        with pytest.raises(Disconnected):
            await client.list_services()
        assert await client.health_check() is False
        await client.connect()
        assert await client.health_check()
        await client.disconnect()

    asyncio.run(main())


def test_tasks_share_a_client(endpoint: str) -> None:
    async def main() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as client:

            async def ask(name: str) -> bool:
                service_id = await client.register(name, "egse3", 5000, name)
                found = await client.discover_service(name)
                return found is not None and found["id"] == service_id

            assert all(await asyncio.gather(*(ask(f"svc-{number}") for number in range(50))))

    asyncio.run(main())


def test_a_late_reply_is_never_the_answer_to_a_later_question() -> None:
    async def main(endpoint: str) -> None:
        async with AsyncRegistryClient(endpoint, timeout=0.5) as client:
            with pytest.raises(RequestTimeout):
                await client.discover_service("A")
            client.settings.timeout = 10
            for kind in ("B", "C", "D"):
                assert await client.discover_service(kind) == {"name": kind}

    with scripted_server(slow_once(0.8)) as endpoint:
        asyncio.run(main(endpoint))


def test_a_cancelled_call_leaves_no_answer_behind() -> None:
    async def main(endpoint: str) -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.discover_service("A"), 0.3)
            assert await client.discover_service("B") == {"name": "B"}

    with scripted_server(slow_once(0.8)) as endpoint:
        asyncio.run(main(endpoint))


def test_every_call_ends_within_its_timeout_with_the_server_stopped(
    process: ServerProcess,
) -> None:
    process.start()

    async def main() -> None:
        async with AsyncRegistryClient(process.endpoint, timeout=10) as client:
            await client.register("puna_cs", "egse3", 5000)
            await client.start_event_listener()
            client.settings.timeout = 0.5
            process.signal(signal.SIGSTOP)
            for call in (client.list_services, client.renew, client.server_status):
                started = time.monotonic()
                with pytest.raises(RequestTimeout):
                    await call()
                assert time.monotonic() - started < 1.5
            # Tasks that wait for their turn have no more time than others.
            started = time.monotonic()
            results = await asyncio.gather(
                *(client.list_services() for _ in range(5)), return_exceptions=True
            )
            assert all(isinstance(result, RequestTimeout) for result in results)
            assert time.monotonic() - started < 1.5
            started = time.monotonic()
        assert time.monotonic() - started < 2

    asyncio.run(main())


def test_handlers_may_be_functions_or_coroutines(endpoint: str) -> None:
    async def main() -> list[tuple[str, str]]:
        heard: list[tuple[str, str]] = []
        async with AsyncRegistryClient(endpoint, timeout=10) as client:

            async def coroutine(data: dict[str, Any]) -> None:
                assert await client.health_check()
                heard.append(("coroutine", data["service_info"]["name"]))

            client.on_event(
                "register", lambda data: heard.append(("function", data["service_info"]["name"]))
            )
            client.on_event("register", lambda data: 1 / 0)
            client.on_event("register", coroutine)
            await client.start_event_listener()
            for name in ("a", "b", "c"):
                await client.register(name, "egse3", 5000)
            until = time.monotonic() + 20
            while len(heard) < 6:
                assert time.monotonic() < until
                await asyncio.sleep(0.02)
            await client.stop_event_listener()
        return heard

    assert asyncio.run(main()) == [
        (kind, name) for name in ("a", "b", "c") for kind in ("function", "coroutine")
    ]


def test_the_heartbeat_survives_a_blocked_event_loop(process: ServerProcess) -> None:
    process.start()

    async def main() -> None:
        async with AsyncRegistryClient(process.endpoint, timeout=10) as client:
            await client.register("puna_cs", "egse3", 5000, ttl=1)
            await client.start_heartbeat()
            time.sleep(4)
            assert await client.get_service() is not None
            assert [event["type"] for event in (await client.events_since(0))["events"]] == [
                "register"
            ]
            assert await client.deregister()

    asyncio.run(main())


def test_the_server_runs_under_asyncio_and_stops_when_told(tmp_path: Path) -> None:
    async def main() -> None:
        backend = AsyncSQLiteBackend(tmp_path / "registry.db")
        await backend.initialize()
        server = AsyncRegistryServer(0, 0, backend=backend)
        serving = asyncio.create_task(server.start())
        while not server.server.started:
            await asyncio.sleep(0.01)
        assert server.server.hb_port is None
        async with AsyncRegistryClient(f"127.0.0.1:{server.server.req_port}", timeout=10) as client:
            await client.register("puna_cs", "egse3", 5000)
            assert [service["name"] for service in await client.list_services()] == ["puna_cs"]
        server.stop()
        await asyncio.wait_for(serving, 20)

    asyncio.run(main())


def test_a_cancelled_server_stops_in_order(tmp_path: Path) -> None:
    store = tmp_path / "registry.db"

    async def main() -> None:
        backend = AsyncSQLiteBackend(store)
        await backend.initialize()
        server = AsyncRegistryServer(0, 0, backend=backend)
        serving = asyncio.create_task(server.start())
        while not server.server.started:
            await asyncio.sleep(0.01)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.server.started
        again = AsyncSQLiteBackend(store)
        await again.initialize()
        again.close()

    asyncio.run(main())


def test_a_server_that_cannot_start_says_why(endpoint: str) -> None:
    async def main() -> None:
        backend = AsyncInMemoryBackend()
        await backend.initialize()
        port = int(endpoint.rpartition(":")[2])
        server = AsyncRegistryServer(port, 0, backend=backend, bind="127.0.0.1")
        with pytest.raises(PortInUse, match=f"port {port} is in use by the registry with pid"):
            await server.start()
        await backend.close()

    asyncio.run(main())


def test_sync_and_async_clients_side_by_side(endpoint: str, client: RegistryClient) -> None:
    async def main() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as other:
            service_id = await other.register("puna_cs", "egse3", 5000, "PUNA")
            assert client.renew(service_id)

    asyncio.run(main())
    assert wait_until(lambda: client.discover_service("PUNA"))


def test_a_close_lets_the_call_under_way_come_to_its_end() -> None:
    async def main(endpoint: str) -> None:
        client = AsyncRegistryClient(endpoint, timeout=10)
        under_way = asyncio.create_task(client.discover_service("A"))
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(Disconnected):
            await client.discover_service("B")
        assert await under_way == {"name": "A"}

    with scripted_server(slow_once(0.5)) as endpoint:
        asyncio.run(main(endpoint))


def test_registered_for_a_block_and_a_coroutine_function(endpoint: str) -> None:
    async def main() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as client:
            async with client.registered("puna_cs", port=5000, ready=False, watchdog=60) as puna:
                await puna.status("cooling", progress=0.4)
                client.feed()
                assert await client.ready()
                async with puna.busy("homing", max=300):
                    await puna.feed()
                    until = time.monotonic() + 20
                    while True:
                        (service,) = await client.list_services()
                        if service.get("status", {}).get("max") == 300:
                            break
                        assert time.monotonic() < until
                        await asyncio.sleep(0.02)
                assert service["id"] == puna.service_id
                assert service["health"] == "passing"
                assert await puna.update(port=5001)
            assert await client.list_services() == []

            @client.registered("puna_cs", port=5000)
            async def serve(wanted: str) -> str:
                assert len(await client.list_services()) == 1
                return wanted

            assert await serve("a") == "a"
            assert await client.list_services() == []
            with pytest.raises(ConfigurationError, match="no coroutine function"):
                client.registered("puna_cs", port=5000)(lambda: None)

    asyncio.run(main())


def test_a_cancelled_beginning_leaves_nothing_behind() -> None:
    asked: list[str] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request["action"])
        time.sleep(0.3)
        return {"success": True, "services": [], "service_id": "puna-1", "bind": "*"}

    async def main(endpoint: str) -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as client:
            registered = client.registered("puna_cs", port=5000)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(registered.__aenter__(), 0.5)
            assert registered.service_id is None

    with scripted_server(answer) as endpoint:
        asyncio.run(main(endpoint))
    assert asked[-2:] == ["register", "deregister"]


def test_a_registry_that_is_away_does_not_block_the_loop(process: ServerProcess) -> None:
    process.start()
    process.kill()

    async def main() -> None:
        async with AsyncRegistryClient(process.endpoint, timeout=0.5) as client:
            entering = asyncio.create_task(client.registered("a", port=5000).__aenter__())
            started = time.monotonic()
            await asyncio.sleep(0.1)
            assert time.monotonic() - started < 0.4
            registered = await entering
            assert registered.service_id is None
            process.start()
            until = time.monotonic() + 20
            while registered.service_id is None:
                assert time.monotonic() < until
                await asyncio.sleep(0.02)
            client.settings.timeout = 10
            await registered.__aexit__()
            assert await client.list_services() == []

    asyncio.run(main())


# -- one client, several event loops


def concurrent(client: AsyncRegistryClient) -> Callable[[], Coroutine[Any, Any, int]]:
    """Calls of many tasks, each of which has to wait for its turn; how many were answered."""

    async def calls() -> int:
        return sum(await asyncio.gather(*(client.health_check() for _ in range(20))))

    return calls


def test_a_client_goes_from_loop_to_loop(endpoint: str) -> None:
    client = AsyncRegistryClient(endpoint, timeout=10)
    heard: list[str] = []

    async def begin() -> None:
        await client.register("puna", "egse3", 5000, "PUNA", ttl=2)
        await client.start_heartbeat()
        await client.on("register", lambda data: heard.append(data["service_info"]["name"]))
        await client.register("a", "egse3", 5000, owned=False)
        await until(lambda: heard == ["a"])

    async def go_on() -> None:
        # What happened between the two loops is not missed.
        await client.health_check()
        await until(lambda: heard == ["a", "b"])
        await client.register("c", "egse3", 5000, owned=False)
        await until(lambda: heard == ["a", "b", "c"])
        assert await client.find_service("puna")

    async def end() -> None:
        await client.close()
        with pytest.raises(Disconnected):
            await client.list_services()

    asyncio.run(begin())
    with RegistryClient(endpoint, timeout=10) as other:
        other.register("b", "egse3", 5000, owned=False)
    asyncio.run(go_on())
    for _ in range(3):
        assert asyncio.run(concurrent(client)()) == 20
    asyncio.run(end())


def test_what_is_asked_to_hear_of_in_a_second_loop_is_heard(endpoint: str) -> None:
    client = AsyncRegistryClient(endpoint, timeout=10)
    heard: list[str] = []

    async def listen(name: str) -> None:
        def handler(data: dict[str, Any]) -> None:
            heard.append(f"{name} {data['service_info']['name']}")

        await client.on("register", handler)
        await client.register(name, "egse3", 5000, owned=False)
        await until(lambda: heard[-1:] == [f"{name} {name}"])

    asyncio.run(listen("a"))
    asyncio.run(listen("b"))
    assert heard == ["a a", "a b", "b b"]
    asyncio.run(client.close())


def test_a_fixture_of_a_session_is_used_in_the_loops_of_its_tests(process: ServerProcess) -> None:
    """As pytest-asyncio does it: the loop of the fixture rests meanwhile, and is not closed."""
    process.start()
    session = asyncio.new_event_loop()
    heard: list[str] = []

    async def set_up() -> AsyncRegistryClient:
        client = AsyncRegistryClient(process.endpoint, timeout=10)
        await client.on("register", lambda data: heard.append(data["service_info"]["name"]))
        return client

    async def test(name: str) -> None:
        await client.register(name, "egse3", 5000, owned=False)
        await until(lambda: heard[-1:] == [name])

    async def interrupted() -> None:
        await client.discover_service("PUNA", wait=60)

    client = session.run_until_complete(set_up())
    for name in ("a", "b"):
        asyncio.run(test(name))
        assert asyncio.run(concurrent(client)()) == 20
    # A task that is in the middle of a call when its loop comes to rest is told so there.
    under_way = session.create_task(interrupted())
    session.run_until_complete(asyncio.sleep(0.1))
    asyncio.run(test("c"))
    session.run_until_complete(test("d"))
    under_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        session.run_until_complete(under_way)
    assert heard == ["a", "b", "c", "d"]
    session.run_until_complete(client.close())
    session.run_until_complete(asyncio.sleep(0))
    assert asyncio.all_tasks(session) == set()
    session.close()


def test_two_loops_at_once_are_refused(endpoint: str) -> None:
    client = AsyncRegistryClient(endpoint, timeout=10)

    async def other_loop() -> None:
        for each in (client.health_check, client.stop_event_listener):
            with pytest.raises(RuntimeError, match="give each event loop a client of its own"):
                await each()

    async def main() -> None:
        await client.start_event_listener()
        await asyncio.to_thread(asyncio.run, other_loop())
        assert await client.health_check()
        await client.close()

    asyncio.run(main())


def test_a_call_that_its_loop_left_does_not_stop_the_next_loop() -> None:
    """Also if nobody ended it: a loop that was closed by hand cancels nothing."""
    client: AsyncRegistryClient

    async def begin() -> None:
        await client.discover_service("A")

    async def ask() -> Any:
        return await client.discover_service("B")

    with scripted_server(slow_once(0.8)) as endpoint:
        client = AsyncRegistryClient(endpoint, timeout=10)
        left = asyncio.new_event_loop()
        task = left.create_task(begin())
        left.run_until_complete(asyncio.sleep(0.1))
        assert asyncio.run(ask()) == {"name": "B"}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            left.run_until_complete(task)
        left.close()
        asyncio.run(client.close())


async def until(condition: Callable[[], object]) -> None:
    """Wait until it is true; fails after 20 s."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
