"""Tells who comes and who goes, until so many events were seen."""

import sys
import threading

from rsreg import RegistryClient


def main(count: int) -> None:
    """Print `count` events."""
    left = threading.Semaphore(0)

    def told(what: str) -> None:
        print(what, flush=True)
        left.release()

    with RegistryClient() as registry:
        registry.on_event("register", lambda data: told(f"{data['service_info']['name']} is here"))
        registry.on_event("deregister", lambda data: told(f"{data['service_info']['name']} left"))
        registry.on_event("expire", lambda data: told(f"{data['service_info']['name']} is lost"))
        registry.start_event_listener()
        print("listening", flush=True)
        for _ in range(count):
            left.acquire()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
