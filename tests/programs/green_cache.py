"""A cache in a program of greenlets: `green_cache.py ENDPOINT ID`; waits for the id."""

import sys
import threading

import gevent
import zmq.green

from rsreg import ServiceCache

with ServiceCache(sys.argv[1], timeout=10, context=zmq.green.Context()) as cache:
    service = cache.discover_service("PUNA")
    print(service and service["id"], threading.active_count(), flush=True)
    with gevent.Timeout(20):
        while cache.get_service(sys.argv[2]) is None:
            gevent.sleep(0.01)
print("over", flush=True)
