"""A heartbeat process where modules are called like Python's: `... ENDPOINT FOLDER WAY`.

Prints whether it has begun.
"""

import importlib
import sys
import time

from rsreg import RegistryClient
from rsreg.client.registration.heartbeat_process import HeartbeatProcess
from tests.programs.shadows import look_into

endpoint, folder, way = sys.argv[1:]
client = RegistryClient(endpoint)
registered = client.registered("puna", port=5000, host="lab1", ttl=3, heartbeat="process")
# What this process would load later from the folder itself.
for name in ("multiprocessing", "subprocess", "json"):
    importlib.import_module(name)
look_into(folder, way)
with registered:
    heartbeat = registered._heartbeat
    assert isinstance(heartbeat, HeartbeatProcess)
    until = time.monotonic() + 20
    while not heartbeat._greeted and time.monotonic() < until:
        time.sleep(0.02)
    print("greeted" if heartbeat._greeted else "silent")
