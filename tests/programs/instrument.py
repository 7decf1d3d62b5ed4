"""A program that knows nothing of a registry: `instrument.py PORT WORDS`.

Listens on the port, prints its id and its words, then each signal that it gets, and ends with 7 at
SIGTERM.
"""

import os
import signal
import socket
import sys
from types import FrameType


def say(text: str) -> None:
    """Print a line; not by `print`: a second signal may come while it is still at the first."""
    os.write(1, text.encode() + b"\n")


def end(_number: int, _frame: FrameType | None) -> None:
    """A signal handler that ends the program."""
    say("ends")
    sys.exit(7)


def tell(number: int, _frame: FrameType | None) -> None:
    """A signal handler that says which one it was."""
    say(signal.Signals(number).name)


def main() -> None:
    """Take connections for ever, and close them."""
    signal.signal(signal.SIGTERM, end)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, tell)
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    say(" ".join([str(os.getpid()), *sys.argv[2:]]))
    while True:
        listener.accept()[0].close()


if __name__ == "__main__":
    main()
