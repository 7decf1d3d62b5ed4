"""An asyncio program that is a service itself, and uses another one."""

import asyncio

from rsreg import AsyncRegistryClient


async def main() -> None:
    """Register, look around, leave."""
    async with (
        AsyncRegistryClient() as registry,
        registry.registered("scheduler", port=7000, service_type="SCHEDULER"),
    ):
        endpoint = await registry.get_endpoint("PUNA")
        print("the hexapod is", endpoint or "not there")
        for service in await registry.list_services():
            print(service.type, service.name, service.health)


if __name__ == "__main__":
    asyncio.run(main())
