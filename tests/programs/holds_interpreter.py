"""A driver whose C code holds the interpreter's lock ten times: `... ENDPOINT SECONDS PAUSE`."""

import ctypes
import sys
import time

from rsreg import RegistryClient

call, pause = map(float, sys.argv[2:])
with RegistryClient(sys.argv[1], timeout=20) as client:
    client.register("driver", "egse3", 5000, ttl=5 * call)
    client.start_heartbeat()
    for _ in range(10):
        ctypes.PyDLL(None).usleep(int(1e6 * call))
        if pause:
            time.sleep(pause)
