"""A driver that says what it does and then leaves, each when told: `... ENDPOINT HEARTBEAT`."""

import sys

from rsreg import RegistryClient

client = RegistryClient(sys.argv[1], timeout=10)
with client.registered(
    "puna_cs", port=5000, service_type="PUNA", ttl=4, watchdog=60, heartbeat=sys.argv[2]
) as puna:
    print("up", flush=True)
    sys.stdin.readline()
    puna.status("homing", progress=0.5)
    sys.stdin.readline()
print("left", flush=True)
