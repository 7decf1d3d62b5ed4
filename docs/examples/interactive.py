"""What is typed in `rs_cs shell`, there with `reg` at hand, works in notebooks and scripts too."""

from rsreg import InteractiveClient


def main() -> None:
    """Look around."""
    with InteractiveClient() as reg:
        print(reg)
        print(reg.PUNA.endpoint)
        print(reg["ls-336"].metadata["channels"], "channels")
        print("cold:", *(camera.name for camera in reg.CAMERA if "cryo" in camera.tags))


if __name__ == "__main__":
    main()
