"""Runs one registry server for a test; prints its ports as JSON once it serves."""

import json
import logging
import signal
import sys

import gevent

from rsreg import InMemoryBackend, RegistryServer, SQLiteBackend
from rsreg.admin import server_process
from rsreg.server.limits import Limits

settings = json.loads(sys.argv[1])
logging.basicConfig(format="%(created).3f %(levelname)s %(message)s")
store = settings["store"]
req_port, pub_port, hb_port = settings["ports"]
server = RegistryServer(
    req_port,
    pub_port,
    hb_port,
    backend=SQLiteBackend(store, **settings["journal"]) if store else InMemoryBackend(),
    limits=Limits(**settings["limits"]),
    **settings["options"],
)
for number in (signal.SIGTERM, signal.SIGINT):
    gevent.signal_handler(number, server.request_stop)
server_process.start(server)
sys.stdout.write(json.dumps([server.req_port, server.pub_port, server.hb_port]) + "\n")
sys.stdout.flush()
server.serve_forever()
