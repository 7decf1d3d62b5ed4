"""A synchronous driver that registers, and then blocks in its own code as long as it likes."""

import sys

import zmq

from rsreg import RegistryClient


def serve(socket: zmq.Socket, commands: int) -> None:
    """The driver's own loop, as it always was: one command at a time, blocking."""
    for _ in range(commands):
        command = socket.recv_string()
        socket.send_string(f"done: {command}")


def main(commands: int) -> None:
    """Serve so many commands, then leave."""
    socket = zmq.Context.instance().socket(zmq.REP)
    port = socket.bind_to_random_port("tcp://127.0.0.1")

    with RegistryClient() as registry:
        registry.register("puna_cs", host="127.0.0.1", port=port, service_type="PUNA")
        registry.start_heartbeat()
        try:
            serve(socket, commands)
        finally:
            registry.deregister()
            socket.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
