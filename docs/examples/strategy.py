"""A registry with a discovery strategy of its own, which questions name: the newest version."""

import sys
from collections.abc import Sequence

from packaging.version import Version

from rsreg import InMemoryBackend, RegistryServer
from rsreg.server.backends import Service


def newest_version(services: Sequence[Service]) -> Service:
    """The service with the highest version in its metadata."""
    return max(services, key=lambda service: Version(service.metadata.get("version", "0")))


def main(port: int) -> None:
    """Serve until interrupted; port 0 is a free one."""
    strategies = {"newest": newest_version}
    server = RegistryServer(port, 0, backend=InMemoryBackend(), strategies=strategies)
    server.start()
    print("serving on", server.endpoint, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4242)
