"""Leaves processes behind that end, and goes on as `instrument.py`: `... PORT`.

First it prints the id of its parent, and how many ended processes nobody has waited for.
"""

import os
import time
from pathlib import Path

from tests.programs.instrument import main

for _ in range(3):
    if not os.fork():
        if not os.fork():
            os._exit(0)
        os._exit(0)
for _ in range(3):
    os.wait()


def state(pid: str) -> str | None:
    """The state of a process, None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # As it should be.
        return None


def unreaped() -> int:
    """How many processes have ended, and nobody has waited for them."""
    return sum(state(pid) == "Z" for pid in os.listdir("/proc") if pid.isdigit())


until = time.monotonic() + 10
while unreaped() and time.monotonic() < until:
    time.sleep(0.02)
print(os.getppid(), unreaped(), flush=True)
main()
