"""Interrupts calls at random moments, and prints whether two threads can use the client then."""

import random
import signal
import sys
import threading

from rsreg import RegistryClient


class Interrupted(Exception):
    pass


def raises(*_: object) -> None:
    """A signal handler that raises."""
    raise Interrupted


signal.signal(signal.SIGALRM, raises)
client = RegistryClient(sys.argv[1], timeout=5)
for _ in range(800):
    try:
        # Again, since one that comes in a destructor is lost.
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00001, 0.002), 0.05)
        while True:
            client.list_services()
    except Interrupted:
        pass
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupted:  # This one was late.
            signal.setitimer(signal.ITIMER_REAL, 0)
answers: list[bool] = []
asking = threading.Thread(target=lambda: answers.append(client.health_check()))
asking.start()
asking.join()
print(client.health_check(), *answers)
