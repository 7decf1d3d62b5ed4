"""Registers a service on a machine whose node is known: `... ENDPOINT PORT`; prints its id."""

import sys
import uuid

from rsreg import RegistryClient

# Not made up, whatever network this machine has.
uuid.getnode = lambda: 0x0242AC110002
client = RegistryClient(sys.argv[1], timeout=10)
print(client.register("puna_cs", "lab1", int(sys.argv[2]), "PUNA"), flush=True)
sys.stdin.readline()
