"""A client for tests in a process of its own: a line of JSON each way for each call.

    agent.py ENDPOINT TIMEOUT

`[method, arguments, named arguments]` gets `[answer, seconds]`, or `[{"error": class}, seconds]`;
"heard" gets the events that the listener handed on so far, "allow" changes the timeout.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from rsreg import RegistryClient
from rsreg.errors import RegistryError

with RegistryClient(sys.argv[1], timeout=float(sys.argv[2])) as client:
    heard: list[dict[str, Any]] = []
    client.on_any_event(heard.append)
    methods: dict[str, Callable[..., Any]] = {
        "heard": lambda: heard,
        "allow": lambda seconds: setattr(client.settings, "timeout", seconds),
    }
    for line in sys.stdin:
        method, arguments, named = json.loads(line)
        started = time.monotonic()
        try:
            said = (methods.get(method) or getattr(client, method))(*arguments, **named)
        except RegistryError as error:
            said = {"error": type(error).__name__}
        sys.stdout.write(json.dumps([said, time.monotonic() - started]) + "\n")
        sys.stdout.flush()
