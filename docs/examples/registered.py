"""The driver of driver.py in one line: registered for as long as it serves."""

import sys

import zmq

from rsreg import RegistryClient


def main(commands: int) -> None:
    """Serve so many commands, then leave."""
    socket = zmq.Context.instance().socket(zmq.REP)
    socket.bind("tcp://*:*")

    with RegistryClient().registered("puna_cs", socket=socket, service_type="PUNA"):
        for _ in range(commands):
            command = socket.recv_string()
            socket.send_string(f"done: {command}")
    socket.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
