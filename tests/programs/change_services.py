"""Changes two services over and over: `change_services.py ENDPOINT`."""

import sys

from rsreg import RegistryClient

with RegistryClient(sys.argv[1], timeout=10) as client:
    for number in range(300):
        client.register("a", "lab", 1 + number, "T", tags=[f"t{number % 2}"], service_id="a")
        client.register("b", "lab", 1, f"U{number % 2}", service_id="b")
        if number % 3 == 0:
            client.deregister("b")
