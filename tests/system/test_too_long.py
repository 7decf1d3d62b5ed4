"""What is too long for the registry is refused by our own clients, before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rsreg import AsyncRegistryClient, InMemoryBackend, RegistryClient, RegistryServer
from rsreg.errors import ConfigurationError
from tests.helpers import FAR, present, serving, wait_until

LONG = "x" * 200_000
#: As long as metadata can be in a registration with short names.
NEARLY = "x" * 60_900


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    """One that takes as large a record as goes into a request."""
    with serving(backend=InMemoryBackend(), limits=FAR) as running:
        yield running


CALLS: dict[str, Callable[[RegistryClient], object]] = {
    "a name": lambda client: client.register(LONG, "lab", 1),
    "a host": lambda client: client.register("psu", LONG, 1),
    "an id": lambda client: client.register("psu", "lab", 1, service_id=LONG),
    "tags": lambda client: client.register("psu", "lab", 1, tags=[LONG]),
    "metadata": lambda client: client.register("psu", "lab", 1, metadata={"a": [LONG]}),
    "brackets": lambda client: client.register("psu", "lab", 1, metadata={"a": [[]] * 50_000}),
    "a mode's question": lambda client: client.list_services(where={"a": LONG}),
    "a type": lambda client: client.list_services(LONG),
    "a question by id": lambda client: client.get_service(LONG),
    "a heartbeat": lambda client: client.renew(LONG),
    "a goodbye": lambda client: client.deregister(LONG),
    "a status": lambda client: client.status(LONG),
    "a text": lambda client: client.busy(LONG, 5),
    "a change": lambda client: client.update(metadata={"a": LONG}),
    "a reason": lambda client: client.maintenance(True, service="psu", reason=LONG),
}


@pytest.mark.parametrize("what", CALLS)
def test_it_is_refused_before_it_is_sent(what: str, client: RegistryClient) -> None:
    client.register("known", "lab", 1)
    seq = client.server_status()["seq"]
    with pytest.raises(ConfigurationError):
        CALLS[what](client)
    assert client.server_status()["seq"] == seq


@pytest.mark.parametrize("metadata", [{"a": LONG}, {"a": float("nan")}])
def test_it_is_refused_at_once_where_a_heartbeat_would_register_later(
    metadata: dict[str, Any],
) -> None:
    """Not in its thread, where nobody hears of it, for good."""
    with RegistryClient("127.0.0.1:1", timeout=0.2) as client:
        with pytest.raises(ConfigurationError):
            client.registered("psu", "lab", 1, metadata=metadata)
        with client.registered("psu", "lab", 1) as service:
            with pytest.raises(ConfigurationError):
                service.update(metadata=metadata)
            service.update(metadata={"a": 1})


def test_what_was_registered_can_be_registered_again(client: RegistryClient, endpoint: str) -> None:
    """With its id and a report, too, which the first time were not there."""
    with client.registered("psu" * 80, "lab", 1, ttl=3, metadata={"a": NEARLY}) as service:
        service.status("°" * 256)
        assert service.service_id is not None
        with RegistryClient(endpoint, timeout=10) as other:
            assert other.deregister(service.service_id)
            again = wait_until(lambda: other.get_service(service.service_id))
            assert present(again)["metadata"] == {"a": NEARLY}
            wait_until(lambda: "status" in (other.get_service(service.service_id) or {}))


def test_a_change_that_fits_but_makes_the_registration_too_long_is_refused(
    client: RegistryClient, endpoint: str
) -> None:
    tags = [f"{number:0>250}" for number in range(64)]
    client.register("psu", "lab", 1, metadata={"a": "x" * 40_000})
    before = client.get_service()
    with pytest.raises(ConfigurationError, match=r"the registry takes 61440$"):
        client.update(tags=tags[:60], metadata={"a": "x" * 47_000})
    with pytest.raises(ConfigurationError, match=r"the registry takes 61440$"):
        client.update(metadata={"a": "x" * 62_000})
    assert client.get_service() == before

    async def main() -> None:
        async with AsyncRegistryClient(endpoint, timeout=10) as other:
            await other.register("aio", "lab", 1)
            with pytest.raises(ConfigurationError, match=r"the registry takes 61440$"):
                await other.update(metadata={"a": "x" * 62_000})

    asyncio.run(main())
