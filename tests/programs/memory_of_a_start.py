"""Starts a registry; prints the bytes that this took, and how many services it has: `... PATH`."""

import resource
import sys

from rsreg import SQLiteBackend
from rsreg.server.rules.registry import Registry


def most() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


registry = Registry(SQLiteBackend(sys.argv[1]))
before = most()
registry.open()
print(most() - before, len(registry))
registry.close()
