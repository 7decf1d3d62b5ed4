"""A driver that exits with 3 at SIGTERM, also while it leaves its block: `... ENDPOINT`."""

import signal
import sys

from rsreg import RegistryClient

client = RegistryClient(sys.argv[1], timeout=10)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
with client.registered("puna_cs", "127.0.0.1", 1, ttl=60):
    print("up", flush=True)
    sys.stdin.readline()
