"""Chooses among several services of a type: by version, by place, by tags, by load."""

from rsreg import RegistryClient


def main() -> None:
    """Show who fits what is needed."""
    with RegistryClient() as registry:
        recent = {"version": ">=1.4", "site": "leuven"}
        for service in registry.list_services("CAMERA", where=recent):
            print(service["name"], "is recent, and here")

        cold = registry.discover_service("CAMERA", tags=["cryo", "!spare"])
        print("cold:", cold["name"] if cold else "none")

        for _ in range(3):
            service = registry.discover_service("CAMERA", strategy="round-robin", wait=30)
            print("next:", service["name"] if service else "none")

        print("near:", registry.get_endpoint("CAMERA", strategy="same-host", where=recent))


if __name__ == "__main__":
    main()
