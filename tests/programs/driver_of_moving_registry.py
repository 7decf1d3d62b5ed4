"""A driver of a registry that moves to another host: `... PORT`.

Tells the names that are registered, and over and over whether the registry answers.
"""

import sys
import time

from rsreg import RegistryClient
from tests.programs.lookups import SilentNameServer, tell, timed

name_server = SilentNameServer()
client = RegistryClient(f"registry.lab:{sys.argv[1]}", timeout=0.5)
client.register("puna", "10.3.0.5", 5000, "PUNA", ttl=3)
client.start_heartbeat()
client.on("register", lambda data: tell(data["service_info"]["name"]))
tell("ready")
while True:
    tell(timed(client.health_check)[0])
    time.sleep(0.1)
