"""rs_cs where modules are called like Python's: `... FOLDER WAY WORDS`."""

import importlib
import sys

from rsreg.cli import main
from tests.programs.shadows import look_into

# What it would load later from the folder itself.
for name in ("rsreg.admin.server_process", "rsreg.cli.app"):
    importlib.import_module(name)
folder, way = sys.argv[1:3]
del sys.argv[1:3]
look_into(folder, way)
main()
