"""The command line `rs_cs`; everything that it does is also a Python call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

#: The exit code of a program that was ended by Ctrl-C, as in shells.
INTERRUPTED = 130


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run `rs_cs` with `args`, by default those of the process, and exit."""
    try:
        from rsreg.cli import app
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"error: {error.name} is not installed for {sys.executable}\n"
            'hint:  "pip install rsreg", or "pip install ." in a checkout, brings what it needs\n'
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(app.execute(sys.argv[1:] if args is None else list(args)))
