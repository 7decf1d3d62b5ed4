"""Prints who owns what it registers, what a child of it registers, and its own again."""

import json
import os

from rsreg.client.registration import owner

print(json.dumps(owner.this_process()), flush=True)
child = os.fork()
if child:
    os.wait()
print(json.dumps(owner.this_process()), flush=True)
