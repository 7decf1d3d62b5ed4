"""Fills a store until the disk is full, and goes on when there is room: `... PATH`."""

import sys
from pathlib import Path

from rsreg.errors import StoreError
from tests.helpers import limit_files
from tests.stores import event, opened, service

done = 0
with opened(Path(sys.argv[1])) as store:
    limit_files(100_000)
    try:
        for n in range(1, 10_000):
            store.commit({f"s-{n}": service(n)}, [event(n)])
            done = n
    except StoreError as error:
        print(error)
    assert store.load().seq == done, "a refused commit left its events"
    assert len(store.load().services) == done, "a refused commit left its services"
    limit_files(-1)
    store.commit({"s-0": service(0)}, [event(done + 1)])
print(done)
