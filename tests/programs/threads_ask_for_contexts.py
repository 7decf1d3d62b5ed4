"""Lets threads ask for the same ten contexts at once; prints how many there are then."""

import gc
import threading

import zmq

from rsreg.transport import sockets

ready = threading.Barrier(20)
contexts: list[zmq.Context[zmq.Socket[bytes]]] = []


def ask(use: str) -> None:
    """Ask for the context of a use, with all the others."""
    ready.wait()
    contexts.append(sockets.own_context(use))


for number in range(10):
    threads = [threading.Thread(target=ask, args=[str(number)]) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
gc.collect()
print(len(set(map(id, contexts))))
