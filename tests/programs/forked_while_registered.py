"""A driver that forks inside its block: `... ENDPOINT`; prints its id once the child has ended."""

import os
import sys

from rsreg import RegistryClient

client = RegistryClient(sys.argv[1], timeout=10)
with client.registered("puna_cs", port=5000) as puna:
    child = os.fork()
    if not child:
        try:
            puna.status("x")
        except RuntimeError:
            sys.exit(0)
    os.waitpid(child, 0)
    print(puna.service_id, flush=True)
    sys.stdin.read()
if not child:
    os._exit(1)
