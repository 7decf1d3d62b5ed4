"""Many services for tests, as if each had a process of its own, with a thread and a connection.

Prints their ids, then what their heartbeats log.

    fleet.py ENDPOINT COUNT TTL

Ends with its standard input.
"""

import json
import logging
import os
import sys

from rsreg import RegistryClient
from rsreg.client.registration.heartbeat import HeartbeatRules
from rsreg.client.registration.heartbeat_thread import HeartbeatThread
from rsreg.client.registration.local_service import LocalService
from rsreg.client.registration.registration import Registration
from rsreg.protocol import calls

endpoint, count, ttl = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
ids = []
with RegistryClient(endpoint, timeout=20) as client:
    for number in range(count):
        what = (f"fleet {number}", f"host-of-{os.getpid()}", 5000, "FLEET", None, ttl)
        ids.append(client.register(*what))
        wanted = Registration.of(*what, service_id=ids[-1])
        service = LocalService(wanted)
        service.on_registered(wanted, calls.Entry(ids[-1], ""))
        thread = HeartbeatThread(endpoint)
        thread.start()
        thread.add(HeartbeatRules(service, endpoint))
sys.stdout.write(json.dumps(ids) + "\n")
sys.stdout.flush()
logging.basicConfig(stream=sys.stdout, level="INFO", format="%(message)s")
sys.stdin.read()
