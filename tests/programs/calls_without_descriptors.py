"""Tries all that opens a socket without file descriptors: `... ENDPOINT SPARE`.

Prints what failed in another way than by an error of this package that says what to do.
"""

import asyncio
import gc
import sys
from collections.abc import Callable

from rsreg import AsyncRegistryClient, RegistryClient, ServiceCache
from rsreg.errors import Disconnected, RegistryError
from tests.programs.descriptors import none_left

endpoint, spare = sys.argv[1], int(sys.argv[2])
loop = asyncio.new_event_loop()
client = RegistryClient(endpoint)
asyncio_client = AsyncRegistryClient(endpoint)
client.register("puna_cs", "127.0.0.1", int(endpoint.rpartition(":")[2]), "PUNA")
loop.run_until_complete(asyncio_client.list_services())
wrong: list[object] = []


def fresh() -> RegistryClient:
    """A client without a socket."""
    return RegistryClient(endpoint, timeout=1)


TRIES: dict[str, Callable[[], object]] = {
    "a call": lambda: fresh().list_services(),
    "connect": lambda: fresh().connect(),
    "events": lambda: fresh().on("register", print),
    "a watch": lambda: next(fresh().watch()),
    "connect_to": lambda: client.connect_to("PUNA", timeout=1),
    "a cache": lambda: ServiceCache(endpoint, timeout=1).start(),
    "asyncio": lambda: loop.run_until_complete(AsyncRegistryClient(endpoint).list_services()),
    "connect_to of asyncio": lambda: loop.run_until_complete(asyncio_client.connect_to("PUNA")),
    "required": lambda: fresh().registered("x", "127.0.0.1", 1, required=True).enter(),
}


with none_left(spare):
    for name, run in TRIES.items():
        try:
            run()
        except RegistryError as error:
            if isinstance(error, Disconnected) and "ulimit" not in (error.hint or ""):
                wrong.append((name, repr(error)))
    gc.collect()
    if client.health_check() is not True or RegistryClient(endpoint).health_check() is None:
        wrong.append("health_check")
print(wrong)
