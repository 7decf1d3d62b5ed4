"""A driver that prints the id of its heartbeat process: `... ENDPOINT`."""

import sys

import psutil

from rsreg import RegistryClient

client = RegistryClient(sys.argv[1], timeout=10)
client.registered("puna_cs", port=5000, ttl=3, heartbeat="process").__enter__()
while not (children := psutil.Process().children()):
    pass
print(children[0].pid, flush=True)
sys.stdin.readline()
