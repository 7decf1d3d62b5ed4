"""A driver with a cache that has no file descriptors for a while: `... ENDPOINT`."""

import logging
import sys
import time

from rsreg import RegistryClient, ServiceCache
from rsreg.errors import RegistryError
from tests.programs.descriptors import none_left, wait_for_test

logging.basicConfig(stream=sys.stderr)
client = RegistryClient(sys.argv[1], timeout=0.5)
heard: list[str] = []
client.on("register", lambda data: heard.append(data["service_info"]["name"]))
with (
    ServiceCache(sys.argv[1], timeout=0.5) as cache,
    client.registered("puna_cs", "127.0.0.1", 5000, ttl=1.5),
):
    print("up", flush=True)
    wait_for_test()
    with none_left():
        print("full", flush=True)
        wait_for_test()
        answers: list[object] = []
        for ask in (client.list_services, client.health_check):
            try:
                answers.append(ask())
            except RegistryError as error:
                answers.append(type(error).__name__)
        print(*answers, flush=True)
        wait_for_test()
    print("free", flush=True)
    wait_for_test()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            # They follow the registry each by itself.
            names = [service["name"] for service in cache.list_services()]
            if "late" in names and "late" in heard:
                break
        except RegistryError:
            pass
        time.sleep(0.05)
    names = sorted(service["name"] for service in cache.list_services())
    print(*names, "late" in heard, flush=True)
    wait_for_test()
