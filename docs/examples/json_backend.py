"""A backend of one's own: everything in one JSON file, written anew at each change.

It shows the seam, not a way to keep a campaign's registrations: use SQLiteBackend for that.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import gevent
import msgspec

from rsreg import RegistryServer
from rsreg.errors import StoreError
from rsreg.server.backends import Event, Maintenance, Service, Stored


class JSONBackend:
    """Implements rsreg.RegistryBackend over a JSON file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.epoch = ""
        self.services: dict[str, Service] = {}
        self.journal: list[Event] = []
        self.maintenance: list[Maintenance] = []

    def initialize(self) -> None:
        if self.epoch:
            return
        if self.path.exists():
            content = json.loads(self.path.read_text())
            self.services = {
                key: msgspec.convert(service, Service)
                for key, service in content["services"].items()
            }
            self.journal = [msgspec.convert(event, Event) for event in content["journal"]]
            self.maintenance = [msgspec.convert(one, Maintenance) for one in content["maintenance"]]
        else:
            content = {"epoch": os.urandom(8).hex()}
        self.epoch = content["epoch"]

    def load(self) -> Stored:
        return Stored(
            epoch=self.epoch,
            seq=self.journal[-1].seq if self.journal else 0,
            services=list(self.services.values()),
            answered={event.token: event.service_id for event in self.journal if event.token},
            maintenance=self.maintenance,
            announced={
                event.service_id: event.announced for event in self.journal if event.announced
            },
            request_numbers={
                event.service_id: event.request_number
                for event in self.journal
                if event.request_number
            },
        )

    def commit(
        self,
        changes: Mapping[str, Service | None],
        events: Sequence[Event],
        maintenance: Sequence[Maintenance] | None = None,
    ) -> None:
        services = {**self.services, **changes}
        services = {key: service for key, service in services.items() if service is not None}
        journal = [*self.journal, *events]
        kept = self.maintenance if maintenance is None else list(maintenance)
        self._write(services, journal, kept)
        self.services, self.journal, self.maintenance = services, journal, kept

    def events(self, since: int, limit: int) -> list[Event]:
        return [event for event in self.journal if event.seq > since][:limit]

    def touch(self, heartbeats: Mapping[str, int]) -> None:
        for key, seconds in heartbeats.items():
            self.services[key] = msgspec.structs.replace(self.services[key], last_heartbeat=seconds)
        self._write(self.services, self.journal, self.maintenance)

    def close(self) -> None:
        self.epoch = ""

    def describe(self) -> str:
        return str(self.path)

    def _write(
        self,
        services: Mapping[str, Service],
        journal: Sequence[Event],
        maintenance: Sequence[Maintenance],
    ) -> None:
        content = {
            "epoch": self.epoch,
            "services": services,
            "journal": journal,
            "maintenance": maintenance,
        }
        fresh = self.path.with_suffix(".new")
        try:
            with fresh.open("wb") as file:
                file.write(msgspec.json.encode(content))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.path)
        except OSError as error:
            raise StoreError(f"can't write {self.path}: {error}") from error


def main(path: str) -> None:
    """Serve from a JSON file, on free ports, until interrupted."""
    server = RegistryServer(0, 0, backend=JSONBackend(path))
    gevent.signal_handler(2, server.request_stop)
    server.start()
    print("requests on port", server.req_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
