"""Waits for a service, and registers another one over and over: `... ENDPOINT`."""

import sys
import time

from rsreg import RegistryClient
from tests.programs.lookups import tell

client = RegistryClient(sys.argv[1], timeout=10)
while client.find_service("puna") is None:
    time.sleep(0.05)
tell("puna is there")
while True:
    client.register("laser", "10.3.0.6", 5000, "LASER", owned=False)
    time.sleep(0.5)
