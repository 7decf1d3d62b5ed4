"""Begins a heartbeat without file descriptors: `... ENDPOINT`."""

import sys

from rsreg import RegistryClient
from tests.programs.descriptors import none_left, wait_for_test

client = RegistryClient(sys.argv[1])
client.register("puna_cs", "127.0.0.1", 5000, ttl=2)
with none_left():
    client.start_heartbeat()
print("free", flush=True)
wait_for_test()
