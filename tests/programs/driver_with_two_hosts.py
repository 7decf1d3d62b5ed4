"""A driver with a host that it found and one that it was given: `... ENDPOINT`.

For each line that it reads it prints both.
"""

import sys

from rsreg import RegistryClient

client = RegistryClient(sys.argv[1], timeout=10)
with (
    client.registered("found", port=5000, ttl=1, advertise="10.8.0.0/24"),
    client.registered("given", "10.8.0.5", 5000, ttl=1),
):
    for _ in sys.stdin:
        print(*sorted(f"{one['name']} {one['host']}" for one in client.list_services()))
        sys.stdout.flush()
