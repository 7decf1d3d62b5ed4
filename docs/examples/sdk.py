"""A driver whose SDK keeps Python's lock: no thread of it runs meanwhile, and yet it beats."""

import ctypes
import sys

import zmq

from rsreg import RegistryClient

#: Stands for the SDK: PyDLL, other than CDLL, keeps the lock while a function of it runs.
SDK = ctypes.PyDLL(None)


def main(commands: int) -> None:
    """Serve so many commands, the seconds that each of them takes."""
    socket = zmq.Context.instance().socket(zmq.REP)
    socket.bind("tcp://*:*")

    registry = RegistryClient()
    with registry.registered(
        "puna_cs", socket=socket, service_type="PUNA", ttl=2, heartbeat="process"
    ):
        for _ in range(commands):
            seconds = socket.recv_string()
            SDK.sleep(int(seconds))
            socket.send_string(f"done: {seconds} s")
    socket.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
