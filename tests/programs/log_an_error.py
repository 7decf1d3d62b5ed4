"""Logs an error with this text and its traceback as a server does: `log_an_error.py TEXT`."""

import logging
import sys

from rsreg.admin import server_process

server_process.log_to_stderr("info")
try:
    raise ValueError(sys.argv[1])
except ValueError:
    logging.getLogger("rsreg.test").exception("it failed")
