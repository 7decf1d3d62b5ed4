"""Logs as a heartbeat process does to a driver that reads nothing of it; then says "done"."""

import logging
import os
import socket

from rsreg.client.registration.heartbeat_process import _ToParent

output = os.dup(1)
here, there = socket.socketpair()
os.dup2(there.fileno(), 1)
handler = _ToParent()
for _ in range(10_000):
    handler.emit(logging.makeLogRecord({"msg": 100 * "x"}))
os.write(output, b"done\n")
