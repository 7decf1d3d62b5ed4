"""Watches the services of a type, and reacts to those that are lost.

Where it was is kept, so that after a restart of this program no event is missed.
"""

import json
import sys
from pathlib import Path

from rsreg import RegistryClient


def main(kind: str, position: Path, count: int) -> None:
    """Print `count` events about services of a type, from where it was last time."""
    known = json.loads(position.read_text()) if position.exists() else {}
    with RegistryClient() as registry:
        registry.on("expire", lambda data: print("LOST:", data["service_info"]["name"], flush=True))
        events = registry.watch(kind, **known)
        print("watching", flush=True)
        for _, event in zip(range(count), events, strict=False):
            if event["type"] == "reset":
                print("events were missed; now there are:")
                for service in registry.list_services(kind):
                    print(" ", service["name"], service["health"])
            else:
                print(event["type"], event["data"]["service_info"]["name"], flush=True)
            position.write_text(
                json.dumps(
                    {"since": event["seq"], **{key: event[key] for key in ("epoch", "mark")}}
                )
            )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1_000_000)
