"""Asks a registry over and over whether it answers: `... PORT`; tells what it says."""

import sys
import time

from rsreg import RegistryClient
from tests.programs.lookups import SilentNameServer, tell, timed

name_server = SilentNameServer()
client = RegistryClient(f"registry.lab:{sys.argv[1]}", timeout=3)
while True:
    tell(*timed(client.health_check))
    time.sleep(0.1)
