"""rs_cs, which then writes on stderr what modules it has loaded."""

import sys

from rsreg.cli import main

try:
    main()
finally:
    sys.stderr.write("loaded: " + " ".join(sys.modules))
