"""Prints who owns what it registers; then its first thread ends, and another lives on."""

import ctypes
import json
import os
import sys
import threading

from rsreg.client.registration import owner

EXIT = 60 if os.uname().machine == "x86_64" else 93


def serve() -> None:
    """End the process when told."""
    sys.stdin.readline()
    print("over", flush=True)
    os._exit(0)


print(json.dumps(owner.this_process()), flush=True)
threading.Thread(target=serve).start()
ctypes.CDLL(None).syscall(EXIT, 0)
