"""Finds the address to advertise, or why there is none: `... [ENDPOINT, NETWORK, BIND]`, JSON."""

import json
import sys

from rsreg.client.registration.address import Finder
from rsreg.errors import RegistryError
from rsreg.transport.driver import drive

endpoint, network, bind = json.loads(sys.argv[1])
try:
    print(drive(Finder(endpoint, network).find(), lambda _call: {"bind": bind} if bind else {}))
except RegistryError as error:
    print(type(error).__name__, error)
