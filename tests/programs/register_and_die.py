"""Registers a service and ends without a word: `... ENDPOINT`."""

import os
import sys

from rsreg import RegistryClient

RegistryClient(sys.argv[1], timeout=10).register("puna_cs", "10.0.0.5", 5000)
os._exit(0)
