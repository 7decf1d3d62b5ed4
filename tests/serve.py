"""Runs one registry server for a test; prints its ports as JSON once it serves."""

import json
import logging
import signal
import sys

import gevent

from rsreg import RegistryServer
from rsreg.admin import server_process
from rsreg.server.settings import ServerSettings

settings = ServerSettings.from_json(sys.argv[1])
logging.basicConfig(format="%(created).3f %(levelname)s %(message)s")
server = RegistryServer(backend=server_process.backend_of(settings), **settings.keywords())
for number in (signal.SIGTERM, signal.SIGINT):
    gevent.signal_handler(number, server.request_stop)
server_process.start(server)
sys.stdout.write(json.dumps([server.req_port, server.pub_port, server.hb_port]) + "\n")
sys.stdout.flush()
server.serve_forever()
