"""A driver of a registry whose name is not known yet: `... PORT`.

Tells how a call fails, its id, and whom others find who waited for it.
"""

import asyncio
import logging
import sys
import threading

from rsreg import AsyncRegistryClient, RegistryClient
from tests.programs.lookups import tell, timed

logging.basicConfig(stream=sys.stdout, format="%(message)s")
endpoint = f"registry.lab:{sys.argv[1]}"
client = RegistryClient(endpoint, timeout=2)
result, took = timed(client.list_services)
tell(result, took < 1)


async def main() -> None:
    """Wait for the service in two ways."""
    async with AsyncRegistryClient(endpoint, timeout=2) as other:
        one, several = await asyncio.gather(
            other.discover_service("PUNA", wait=30), other.wait_for("PUNA")
        )
        tell(one and one["name"], several["PUNA"]["name"])


with client.registered("puna", port=5000, service_type="PUNA") as puna:
    tell(puna.service_id)
    asking = threading.Thread(target=lambda: asyncio.run(main()))
    asking.start()
    service = client.discover_service("PUNA", wait=30)
    asking.join()
    tell(service and service["name"], puna.service_id is not None)
