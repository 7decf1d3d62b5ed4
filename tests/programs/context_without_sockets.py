"""Five clients in a context of three sockets: `context_without_sockets.py ENDPOINT`.

Prints whether at least two of them were refused, and whether each refusal had a hint.
"""

import sys

import zmq

from rsreg import RegistryClient
from rsreg.errors import Disconnected

context = zmq.Context()
context.max_sockets = 3
clients = [RegistryClient(sys.argv[1], timeout=1, context=context) for _ in range(5)]
hints: list[str | None] = []
for client in clients:
    try:
        client.list_services()
    except Disconnected as error:
        hints.append(error.hint)
print(len(hints) >= 2, all(hints))
