"""A driver with a watchdog that hangs as often and as long as it is told: `... ENDPOINT KIND`."""

import os
import select
import sys
import time

from rsreg import RegistryClient

client = RegistryClient(sys.argv[1], timeout=10)
with client.registered(
    "puna_cs", port=5000, service_type="PUNA", ttl=60, watchdog=2, heartbeat=sys.argv[2]
) as puna:
    puna.status("serving")
    while True:
        puna.feed()
        if select.select([0], [], [], 0.05)[0]:
            time.sleep(float(os.read(0, 100)))
