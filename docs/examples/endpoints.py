"""Commands the hexapod on one of its endpoints, and reads its housekeeping on another."""

import sys

import zmq

from rsreg import RegistryClient
from rsreg.errors import NoService, Unreachable


def main(command: str) -> None:
    """Wait a minute for a PUNA if need be, have it do something, and look at it."""
    with RegistryClient() as registry:
        print("monitoring is on", registry.get_endpoint("PUNA", "monitoring", wait=60))
        try:
            monitoring = registry.connect_to("PUNA", zmq.SUB, "monitoring")
            commanding = registry.connect_to("PUNA", zmq.REQ, "command", timeout=5)
        except (NoService, Unreachable) as error:
            sys.exit(f"{error}: {error.hint}")

    with monitoring, commanding:
        monitoring.subscribe("")
        commanding.send_string(command)
        print("it says", commanding.recv_string())
        print("it shows", monitoring.recv_string())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "home")
