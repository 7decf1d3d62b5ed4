"""A driver that is started by a wrapper: `wrapped_driver.py ENDPOINT WRAPPER`."""

import logging
import sys

from rsreg import RegistryClient

logging.basicConfig(format="%(message)s")
sys.executable = sys.argv[2]
client = RegistryClient(sys.argv[1], timeout=10)
with client.registered("puna_cs", port=5000, ttl=60, heartbeat="process"):
    print("up", flush=True)
    sys.stdin.readline()
