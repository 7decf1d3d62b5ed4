"""Ends without closing its client: `forgets_to_close.py ENDPOINT`."""

import sys

from rsreg import RegistryClient

client = RegistryClient(sys.argv[1])
client.register("a", "b", 1, ttl=5)
client.start_heartbeat()
client.start_event_listener()
print("done")
