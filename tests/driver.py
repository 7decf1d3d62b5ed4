"""A driver for tests: registers, beats, prints its id, and then blocks in the way asked for."""

import ctypes
import socket
import sys
from importlib import import_module

endpoint, way, ttl, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
way, _, patched = way.partition("-")
if patched:
    import_module("gevent.monkey").patch_all()
time, rsreg = import_module("time"), import_module("rsreg")

client = rsreg.RegistryClient(endpoint, timeout=10)
# A port of its own, as each driver has one.
listening = socket.create_server(("127.0.0.1", 0))
port = listening.getsockname()[1]
service_id = client.register(f"{way}{patched}", "127.0.0.1", port, way, ttl=ttl)
client.start_heartbeat()
sys.stdout.write(service_id + "\n")
sys.stdout.flush()
until = time.monotonic() + seconds
if way == "sleep":
    time.sleep(seconds)
elif way == "ccall":
    ctypes.CDLL(None).usleep(int(seconds * 1e6))
elif way == "loop":
    while time.monotonic() < until:
        sum(range(1000))
elif way == "exit":
    sys.exit(0)
client.close()
