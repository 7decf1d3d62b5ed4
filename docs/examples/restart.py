"""A driver that crashes and starts again: nobody is sent to the port that died with it."""

import os
import signal
import subprocess
import sys

import zmq

from rsreg import RegistryClient


def drive() -> None:
    """The driver: it says where it serves, and is killed."""
    socket = zmq.Context.instance().socket(zmq.REP)
    socket.bind("tcp://127.0.0.1:*")
    with RegistryClient().registered("puna_cs", socket=socket, service_type="PUNA"):
        print(socket.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Let it live twice; ask the registry after each life."""
    with RegistryClient() as registry:
        for life in ("first", "second"):
            driver = [sys.executable, __file__, "drive"]
            endpoint = subprocess.run(driver, stdout=subprocess.PIPE, text=True).stdout.strip()
            found = [service["port"] for service in registry.list_services("PUNA")]
            right = found == [int(endpoint.rpartition(":")[2])]
            print(f"{life} life: the registry knows {'its port alone' if right else found}")


if __name__ == "__main__":
    drive() if sys.argv[1:] else main()
