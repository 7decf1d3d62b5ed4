"""A driver that leaves when its input is closed: `... ENDPOINT`."""

import sys

from rsreg import RegistryClient

RegistryClient(sys.argv[1], timeout=10).registered("puna_cs", port=5000).__enter__()
print("up", flush=True)
sys.stdin.read()
