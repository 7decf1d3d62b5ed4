"""A driver that is seen from its first moment, but discovered only when it is ready."""

import sys
import time

import zmq

from rsreg import RegistryClient


def main(commands: int, seconds: float) -> None:
    """Home first, then serve so many commands."""
    socket = zmq.Context.instance().socket(zmq.REP)
    socket.bind("tcp://*:*")

    registry = RegistryClient()
    with registry.registered("puna_cs", socket=socket, service_type="PUNA", ready=False) as puna:
        with puna.busy("homing", max=300):
            time.sleep(seconds)
        puna.ready()
        for _ in range(commands):
            socket.send_string(f"done: {socket.recv_string()}")
    socket.close()


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000,
        float(sys.argv[2]) if len(sys.argv) > 2 else 60,
    )
