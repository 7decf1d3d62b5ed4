"""Holds so many caches until its input is closed: `hold_caches.py ENDPOINT COUNT`."""

import contextlib
import sys

from rsreg import ServiceCache

with contextlib.ExitStack() as stack:
    for _ in range(int(sys.argv[2])):
        stack.enter_context(ServiceCache(sys.argv[1], timeout=20))
    print("all", flush=True)
    sys.stdin.read()
