"""Calls of both clients that a type checker has to refuse, each marked with the error."""

from __future__ import annotations

from rsreg import AsyncRegistryClient, RegistryClient


def blocking(client: RegistryClient) -> None:
    service_id: str = client.register("puna", "egse3", 5000, "PUNA", tags=["optics"], ttl=30)
    found = client.discover_service("PUNA", strategy="same-host", wait=3)
    entries: list[dict[str, object]] = client.maintenance(True, service=service_id, for_=60)
    client.register("puna", "egse3")  # expect: call-arg
    client.register("puna", "egse3", "5000")  # expect: arg-type
    client.register("puna", "egse3", 5000, tag=["optics"])  # expect: call-arg
    client.registered("puna", port=5000, advertise=24)  # expect: arg-type
    client.discover_service("PUNA", wiat=3)  # expect: call-arg
    client.discover_service("PUNA", wait="3")  # expect: arg-type
    client.wait_for("PUNA", 5)  # expect: arg-type
    client.maintenance(True, sevice="puna")  # expect: call-arg
    client.list_services(health="critical", mode=1)  # expect: arg-type
    found["host"]  # expect: index
    len(entries) + service_id  # expect: operator


async def in_asyncio(client: AsyncRegistryClient) -> None:
    service_id: str = await client.register("puna", "egse3", 5000, "PUNA", tags=["optics"], ttl=30)
    found = await client.discover_service("PUNA", strategy="same-host", wait=3)
    entries: list[dict[str, object]] = await client.maintenance(True, service=service_id, for_=60)
    await client.register("puna", "egse3")  # expect: call-arg
    await client.register("puna", "egse3", "5000")  # expect: arg-type
    await client.register("puna", "egse3", 5000, tag=["optics"])  # expect: call-arg
    client.registered("puna", port=5000, advertise=24)  # expect: arg-type
    await client.discover_service("PUNA", wiat=3)  # expect: call-arg
    await client.discover_service("PUNA", wait="3")  # expect: arg-type
    await client.wait_for("PUNA", 5)  # expect: arg-type
    await client.maintenance(True, sevice="puna")  # expect: call-arg
    await client.list_services(health="critical", mode=1)  # expect: arg-type
    found["host"]  # expect: index
    len(entries) + service_id  # expect: operator
