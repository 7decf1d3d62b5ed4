"""A script that asks the registry where the hexapod is, and sends it a command."""

import sys

import zmq

from rsreg import RegistryClient


def main(command: str) -> None:
    """Find a PUNA, wait a minute for one if need be, and have it do something."""
    with RegistryClient() as registry:
        service = registry.wait_for("PUNA", timeout=60)["PUNA"]
        if service is None:
            sys.exit("no PUNA is registered")

        socket = zmq.Context.instance().socket(zmq.REQ)
        socket.linger = 0
        socket.rcvtimeo = 5000
        try:
            socket.connect(f"tcp://{service['host']}:{service['port']}")
            socket.send_string(command)
            print(service["name"], "says", socket.recv_string())
        finally:
            socket.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "home")
