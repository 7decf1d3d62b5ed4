"""One of CGSE's registry clients, driven over stdin: run by tests/system/test_cgse.py.

remote.py sync|async ENDPOINTS    ENDPOINTS is a JSON array: requests, events, heartbeats.

A line in is a JSON array of a method and its arguments; a line out is what it returned. Beside the
client's own methods there are `listen`, which prints nothing but keeps the events from then on,
`heard`, which returns them, and `here`, the address under which CGSE's services register.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
from typing import Any

module: Any = importlib.import_module("egse.registry.client")
get_host_ip: Any = importlib.import_module("egse.system").get_host_ip


def new_client(kind: str, endpoints: list[str]) -> Any:
    """The client, with patience for a busy machine; older ones have fewer arguments."""
    make = module.RegistryClient if kind == "sync" else module.AsyncRegistryClient
    arguments = {
        "registry_req_endpoint": endpoints[0],
        "registry_sub_endpoint": endpoints[1],
        "registry_hb_endpoint": endpoints[2],
        "request_timeout": 10_000,
        "timeout": 10.0,
    }
    known = inspect.signature(make).parameters
    return make(**{name: value for name, value in arguments.items() if name in known})


async def value_of(result: Any) -> Any:
    """What a method returned, sync or async."""
    return await result if inspect.isawaitable(result) else result


async def main(kind: str, endpoints: list[str]) -> None:
    """Call what is asked for until stdin ends."""
    # CGSE prints to stdout now and then.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    client = new_client(kind, endpoints)
    await value_of(client.connect())
    heard: list[Any] = []

    async def listen() -> None:
        for event_type in ("register", "deregister", "expire"):
            client.on_event(
                event_type, lambda data, event_type=event_type: heard.append([event_type, data])
            )
        await client.start_event_listener()

    own = {"listen": listen, "heard": lambda: heard, "here": get_host_ip}
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        name, arguments = json.loads(line)
        method = own.get(name) or getattr(client, name)
        if "use_cache" in inspect.signature(method).parameters:
            arguments["use_cache"] = False
        result = await value_of(method(**arguments))
        print(json.dumps(result, default=lambda _: None), file=out)


asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
