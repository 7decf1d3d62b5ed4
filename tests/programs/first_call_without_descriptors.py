"""Makes its first call without file descriptors: `... ENDPOINT SPARE`; prints how that fails."""

import sys

from rsreg import RegistryClient
from rsreg.errors import Disconnected
from tests.programs.descriptors import none_left

with none_left(int(sys.argv[2])):
    client = RegistryClient(sys.argv[1], timeout=1)
    try:
        print("answered", client.list_services())
    except Disconnected as error:
        print("refused", error, error.hint)
    client.health_check()
print(len(client.list_services()))
