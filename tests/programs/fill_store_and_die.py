"""Leaves a store as a killed server does, its changes in the log: `... PATH COUNT`."""

import os
import signal
import sys

from rsreg import SQLiteBackend
from tests.stores import fill

store = SQLiteBackend(sys.argv[1])
store.initialize()
fill(store, int(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
