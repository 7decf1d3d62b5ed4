"""A registry on a real store, with clocks that the test moves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rsreg import RegistryBackend
from rsreg.protocol import messages
from rsreg.protocol.messages import Asker
from rsreg.server.rules.ownership import Requester
from rsreg.server.rules.registry import Registry
from rsreg.server.rules.selection import read_filter
from tests.helpers import ManualClock, UnreliableStore


class RegistryHarness:
    """A registry, its clocks and its store; what it says is read as JSON."""

    def __init__(self, make_store: Callable[[], RegistryBackend], **options: Any) -> None:
        self.make_store = make_store
        self.clock = ManualClock()
        self.wall = ManualClock(1_700_000_000.9)
        self.options = options
        self.events: list[dict[str, Any]] = []
        self.registry = self._open()

    def _open(self) -> Registry:
        self.store = UnreliableStore(self.make_store())
        made = Registry(self.store, clock=self.clock, wall=self.wall, **self.options)
        made.open()
        return made

    def restart(self, *, killed: bool = False) -> None:
        """Stop, or be killed, and start again."""
        if killed:
            self.store.close()
        else:
            self.registry.close()
        self.registry = self._open()

    def register(
        self, name: str = "a", ttl: float = 30, token: str | None = None, **info: Any
    ) -> str:
        """Register and commit; the id."""
        service_id = self.stage(name, ttl, token, **info)
        self.commit()
        return service_id

    def stage(self, name: str = "a", ttl: float = 30, token: str | None = None, **info: Any) -> str:
        """Register, but do not commit yet; the owner asks for it, unless `who` is given."""
        who = info.pop("who", Requester(owner=info.get("owner")))
        body = {"name": name, "host": "10.0.0.5", "port": 5000, **info}
        return self.registry.register(*messages.read_service_info(body), ttl, token, who=who)

    def replace(self, owners: Mapping[str, object], **info: Any) -> str:
        """Register in the place of entries whose owners are dead, and commit; the id."""
        who = info.pop("who", Requester(owner=info.get("owner")))
        body = {"name": "a", "host": "10.0.0.5", "port": 5001, **info}
        fields = messages.read_service_info(body)
        service_id = self.registry.register(*fields, 30, None, replaces=owners, who=who)
        self.commit()
        return service_id

    def report(self, service_id: str, **fields: Any) -> None:
        """A heartbeat with a report."""
        self.registry.renew(service_id, messages.read_report(fields, self.wall()))
        self.tell()

    def tell(self) -> list[tuple[str, str]]:
        """Announce changes of health; the events: their types and ids."""
        self.registry.announce_health()
        return [(event["type"], event["data"]["service_id"]) for event in self.commit()]

    def commit(self) -> list[dict[str, Any]]:
        """Commit; the events."""
        events = [json.loads(event.body) for event in self.registry.commit()]
        self.events += events
        return events

    def pass_time(self, seconds: float) -> None:
        """Time goes by; the sockets are empty."""
        self.clock.advance(seconds)
        self.wall.advance(seconds)
        while not self.registry.evaluate_leases(self.clock.now):
            pass

    def expire(self, limit: int = 200) -> list[str]:
        """One pass of the reaper; the ids that it removed."""
        removed = self.registry.expire(limit)
        events = self.commit()
        changes = [(event["type"], event["data"]["service_id"]) for event in events]
        ids = [service_id for kind, service_id in changes if kind == "expire"]
        assert len(ids) == removed
        assert changes == [(kind, one) for one in ids for kind in ("critical", "expire")]
        return ids

    def get(self, service_id: str) -> dict[str, Any]:
        """A record."""
        return dict(json.loads(bytes(self.registry.get(service_id))))

    def list(self, kind: str | None = None) -> dict[str, dict[str, Any]]:
        """Records by id."""
        records = json.loads(bytes(self.registry.list_services(kind)))
        assert len({record["id"] for record in records}) == len(records)
        return {record["id"]: record for record in records}

    def discover(self, kind: str, strategy: str | None = None, **conditions: Any) -> str:
        """The id of a service that may be discovered, under conditions."""
        asker = messages.checked(conditions.pop("asker", {}), Asker, "asker.")
        reply = self.registry.discover(kind, read_filter(conditions), strategy, asker)
        record = json.loads(bytes(reply))
        assert record["health"] in ("passing", "warning")
        return str(record["id"])

    def health(self, service_id: str) -> str:
        """How it is."""
        return str(self.get(service_id)["health"])

    def picture(self) -> object:
        """All that can be seen from outside."""
        kinds = ["A", "B", "a", "b", "old", "new"]
        return (
            self.list(),
            [self.list(kind) for kind in kinds],
            self.registry.seq,
            self.registry.epoch,
            len(self.registry),
            self.registry.events_since(0, None, 1_000),
        )
