"""Asks a registry to end: `ask_to_terminate.py ENDPOINT`; prints the reply."""

import json
import sys

import zmq

from tests.helpers import raw_socket, received

with raw_socket(zmq.DEALER, sys.argv[1]) as socket:
    socket.send_multipart([b"", b'{"action":"terminate"}'])
    print(json.dumps(json.loads(received(socket)[-1])))
