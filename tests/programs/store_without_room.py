"""Makes a store where no file has more than 8 kB: `store_without_room.py PATH`."""

import sys
from pathlib import Path

from rsreg.errors import StoreError
from tests.helpers import limit_files
from tests.stores import opened

limit_files(8192)
try:
    with opened(Path(sys.argv[1])):
        print("made")
except StoreError as error:
    print(error)
