"""A driver that says what it is doing, and is found out if its main loop hangs."""

import sys
import time

import zmq

from rsreg import RegistryClient


def home(seconds: float) -> None:
    """What takes long, inside the SDK of a vendor say."""
    time.sleep(seconds)


def main(commands: int) -> None:
    """Serve so many commands: "home 0.5" takes half a second, "cool 180" sets a status."""
    socket = zmq.Context.instance().socket(zmq.REP)
    socket.bind("tcp://*:*")

    puna = RegistryClient().registered("puna_cs", socket=socket, service_type="PUNA", watchdog=60)
    with puna:
        while commands:
            # If the loop does not come here for a minute, the driver is not discovered any more.
            puna.feed()
            if not socket.poll(1000):
                continue
            command, value = socket.recv_string().split()
            if command == "home":
                # Lists show "homing", and the watchdog waits for this long.
                with puna.busy("homing", max=300):
                    home(float(value))
            else:
                puna.status(f"cooling to {value} K", progress=0.0)
            socket.send_string(f"done: {command}")
            commands -= 1
    socket.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
