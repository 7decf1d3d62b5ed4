"""A program in which `sys.executable` is no Python wants to start one: `... ENDPOINT KIND WHAT`.

Prints why that is refused.
"""

import sys
from collections.abc import Callable

from rsreg import RegistryClient
from rsreg.admin.server_process import start_in_background
from rsreg.errors import ConfigurationError
from rsreg.server.settings import ServerSettings

endpoint, kind, what = sys.argv[1:]


def heartbeat() -> None:
    """Start a heartbeat process."""
    client = RegistryClient(endpoint)
    client.registered("puna_cs", port=5000, heartbeat="process").__enter__()


def server() -> None:
    """Start a server."""
    start_in_background(ServerSettings(0, 0, bind="127.0.0.1", db=":memory:"))


STARTS: dict[str, Callable[[], None]] = {"heartbeat": heartbeat, "server": server}
if kind == "packed":
    vars(sys)["frozen"] = True
elif kind == "compiled":
    globals()["__compiled__"] = True
else:
    sys.executable = {"embedded": "/usr/bin/uwsgi", "nameless": ""}[kind]
try:
    STARTS[what]()
except ConfigurationError as error:
    print(error, "-", error.hint, flush=True)
sys.stdin.readline()
