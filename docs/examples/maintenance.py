"""Swaps a mirror: nobody discovers the hexapods meanwhile, and everybody sees why."""

import sys
import time

from rsreg import RegistryClient


def main(seconds: float) -> None:
    """Have the hexapods to oneself for a while; if this program dies, for an hour at most."""
    with RegistryClient() as registry:
        for entry in registry.maintenance(
            True, service_type="PUNA", for_=3600, reason="mirror swap", by="rik"
        ):
            print("in maintenance:", entry["service_type"], "by", entry["says"])
        for service in registry.list_services("PUNA"):
            print(service.name, "is not discovered:", service.maintenance["reason"])
        try:
            time.sleep(seconds)
        finally:
            registry.maintenance(False, service_type="PUNA", by="rik")
        print("discovered again:", registry.get_endpoint("PUNA"))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 60)
