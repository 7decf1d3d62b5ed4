"""Opens a store where no file has more than 1 MB; prints what is in it: `... PATH`."""

import sys
from pathlib import Path

from tests.helpers import limit_files
from tests.stores import opened, sequence

limit_files(1_000_000)
with opened(Path(sys.argv[1])) as store:
    print(len(store.load().services), sequence(store)[-1])
