"""What a registry is compared with: servers that decode JSON, look nothing up, and answer.

    echo.py bare|green REPLIES

`bare` is a blocking pyzmq ROUTER, `green` one of `zmq.green` with a `recv_multipart` a turn; both
with the standard library's json. REPLIES is a file with a ready-made reply for each action. Prints
its port.
"""

import json
import sys
from pathlib import Path

import zmq
import zmq.green

kind, path = sys.argv[1:]
replies = json.loads(Path(path).read_text())
context = zmq.green.Context() if kind == "green" else zmq.Context()
socket = context.socket(zmq.ROUTER)
port = socket.bind_to_random_port("tcp://127.0.0.1")
sys.stdout.write(f"{port}\n")
sys.stdout.flush()
while True:
    *envelope, payload = socket.recv_multipart()
    request = json.loads(payload)
    reply = {**replies[request["action"]], "request_id": request["request_id"]}
    socket.send_multipart([*envelope, json.dumps(reply).encode()])
