"""A measurement that runs against the hexapod, or with RSREG_MODE=simulator against its simulator.

Nothing in it but the mode decides, and who says none never gets a simulator in place of hardware.
"""

from rsreg import RegistryClient


def main() -> None:
    """Say what would be moved."""
    with RegistryClient() as registry:
        service = registry.discover_service("PUNA")
        if service is None:
            print("no hexapod")
        elif service.get("mode") == "simulator":
            print("dry run on", service["name"])
        else:
            print("keep clear of", service["name"])

        simulators = registry.list_services("PUNA", mode="simulator")
        print(len(simulators), "simulated")


if __name__ == "__main__":
    main()
