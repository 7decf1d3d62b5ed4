"""Prints the Python that rsreg would start, where `sys.executable` is another: `... PATH`."""

import sys

from rsreg import config

sys.executable = sys.argv[1]
print(config.python_program("this"))
