"""Asks for a list on eight connections until a moment: `... ENDPOINT MOMENT`.

Prints how many bytes came back.
"""

import sys

from tests import attacks

print(attacks.flood(sys.argv[1], 8, {"action": "list"}, 10, float(sys.argv[2])))
