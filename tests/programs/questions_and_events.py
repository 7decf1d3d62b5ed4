"""Asks a registry with one service in each way that there is: `... ENDPOINT`."""

import asyncio
import sys

from rsreg import AsyncRegistryClient, RegistryClient, ServiceCache

with RegistryClient(sys.argv[1], timeout=10) as client, ServiceCache(sys.argv[1]) as cache:
    events = client.watch(since=0, epoch=client.events_since()["epoch"])
    print(next(events)["type"], client.get_endpoint("PUNA"), client.health_check())
    near = client.discover_service("PUNA", strategy="same-host")
    cached = cache.discover_service("PUNA")
    print(near and near.name, cached and cached.name)


async def main() -> None:
    """Register and list in asyncio."""
    async with (
        AsyncRegistryClient(sys.argv[1], timeout=10) as client,
        client.registered("stage", port=5001, service_type="STAGE"),
    ):
        print([one.name for one in await client.list_services("STAGE")])


asyncio.run(main())
