"""A task that ticks while forty others wait for names that nobody knows.

Tells the seconds that these took, and a thread of the loop afterwards; then the longest gap, and
how many ticks.
"""

import asyncio
import time
from itertools import pairwise

from rsreg import AsyncRegistryClient
from tests.programs.lookups import SilentNameServer, tell


async def main() -> None:
    """Ask and tick."""
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    ticking = asyncio.create_task(tick())
    clients = [AsyncRegistryClient(f"registry{n}.lab:4242", timeout=1) for n in range(40)]
    began = time.monotonic()
    await asyncio.gather(*(each.health_check() for each in clients))
    took = time.monotonic() - began
    # The executor of the loop is free.
    began = time.monotonic()
    await asyncio.to_thread(int)
    ticking.cancel()
    tell(took, time.monotonic() - began)
    tell(max(later - earlier for earlier, later in pairwise(ticks)), len(ticks))


name_server = SilentNameServer()
asyncio.run(main())
