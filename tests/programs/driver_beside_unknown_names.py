"""A driver whose process looks up names that nobody knows: `... ENDPOINT`.

Tells how a connection to such a name fails, and then the health of its other service for 3 s.
"""

import sys
import threading
import time

from rsreg import RegistryClient
from tests.programs.lookups import SilentNameServer, tell, timed

name_server = SilentNameServer()
with RegistryClient(sys.argv[1], timeout=10) as driver:
    driver.register("odd", "no-such-host.lab", 5000, "ODD", ttl=60)
    driver.register("puna", "10.3.0.5", 5000, "PUNA", ttl=2)
    driver.start_heartbeat()
    other = RegistryClient("registry.lab:4242", timeout=0.5)
    threading.Thread(target=lambda: [timed(other.list_services) for _ in range(6)]).start()
    name_server.wait_for_question()
    tell(*timed(driver.connect_to, "ODD", timeout=0.5))
    # For longer than its ttl.
    for _ in range(30):
        service, took = timed(driver.find_service, "puna")
        assert isinstance(service, dict), service
        tell(service["health"], took)
        time.sleep(0.1)
