"""Commits service after service to a store, and prints their numbers: `... PATH`."""

import sys
from pathlib import Path

from tests.stores import event, opened, service

with opened(Path(sys.argv[1])) as store:
    for n in range(1, 1_000_000):
        store.commit({f"s-{n}": service(n), f"s-{n - 1}": None}, [event(n, token=f"t{n}")])
        print(n, flush=True)
