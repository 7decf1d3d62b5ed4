"""Has an event handler that is blocked until it reads a line: `blocked_handler.py ENDPOINT`."""

import sys
import threading

from rsreg import RegistryClient

client = RegistryClient(sys.argv[1], timeout=20)
blocked, goes_on = threading.Event(), threading.Event()


def handler(_event: object) -> None:
    """Wait until the test lets it go on."""
    blocked.set()
    goes_on.wait()


client.on_any_event(handler)
client.start_event_listener()
print("listening", flush=True)
blocked.wait()
print("blocked", flush=True)
sys.stdin.readline()
goes_on.set()
client.close()
print("closed", flush=True)
