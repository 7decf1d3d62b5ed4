"""Opens a store, and holds it until its standard input ends: `hold_store.py PATH`."""

import sys
from pathlib import Path

from tests.stores import fill, opened

with opened(Path(sys.argv[1])) as store:
    fill(store, 1)
    print("open", flush=True)
    sys.stdin.read()
