"""A driver that is killed: `... NAME PORT ENDPOINT`; prints the port that it listens on."""

import socket
import sys
import time

from rsreg import RegistryClient

name, port, endpoint = sys.argv[1:]
listening = socket.create_server(("127.0.0.1", int(port)))
client = RegistryClient(endpoint, timeout=10)
client.registered(
    name, "127.0.0.1", listening.getsockname()[1], name.upper(), ttl=30, required=True
).enter()
print(listening.getsockname()[1], flush=True)
time.sleep(600)
