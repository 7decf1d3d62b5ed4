"""A greenlet that ticks while another waits for a name that nobody knows.

Tells how that call fails and the seconds it took; then the longest gap, and how many ticks.
"""

import time
from itertools import pairwise

import gevent
import zmq.green

from rsreg import RegistryClient
from tests.programs.lookups import SilentNameServer, tell, timed

name_server = SilentNameServer()
ticks: list[float] = []


def tick() -> None:
    """Note the time, over and over."""
    while True:
        ticks.append(time.monotonic())
        gevent.sleep(0.01)


client = RegistryClient("registry.lab:4242", timeout=1, context=zmq.green.Context())
gevent.spawn(tick)
tell(*timed(client.list_services))
tell(max(later - earlier for earlier, later in pairwise(ticks)), len(ticks))
