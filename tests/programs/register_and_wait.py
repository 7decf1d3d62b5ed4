"""Registers a service under an id of its own, and lives for a minute: `... ENDPOINT`."""

import sys
import time

from rsreg import RegistryClient

client = RegistryClient(sys.argv[1])
client.register("puna", "127.0.0.1", 5000, service_id="puna")
print("registered", flush=True)
time.sleep(60)
