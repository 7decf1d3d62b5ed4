"""Asks a cache for a service as often as it reads a line: `ask_cache.py ENDPOINT`."""

import sys

from rsreg import ServiceCache
from rsreg.errors import Stale

with ServiceCache(sys.argv[1]) as cache:
    for _ in sys.stdin:
        try:
            service = cache.discover_service("PUNA")
            print(service and service.health, flush=True)
        except Stale:
            print("stale", flush=True)
