"""What a backend stores: services, maintenance and events."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from rsreg.protocol.health import PASSING
from rsreg.protocol.hosts import LOOPBACK, spelled
from rsreg.protocol.records import mode_of, process_key, service_types_of


class Maintenance(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That a service, all of a type, or all on a host are not to be used for a while.

    `service` is an id or a name. `by` is the address of who asked for it, `says` what they said of
    themselves. `since` and `until` are in seconds after 1970; no `until`: for good.
    """

    service: str | None = None
    service_type: str | None = None
    host: str | None = None
    reason: str | None = None
    by: str | None = None
    says: str | None = None
    since: int = 0
    until: int | None = None

    @property
    def target(self) -> tuple[str | None, str | None, str | None]:
        """What it is about."""
        return self.service, self.service_type, self.host

    def body(self) -> dict[str, Any]:
        """Return all fields, as in replies."""
        targets = {"service": self.service, "service_type": self.service_type, "host": self.host}
        return {key: value for key, value in targets.items() if value is not None} | self.terms()

    def terms(self) -> dict[str, Any]:
        """Return the reason, the author and the length, as in a service's record."""
        return {
            "reason": self.reason,
            "by": self.by,
            "says": self.says,
            "since": self.since,
            "until": self.until,
        }


class Service(Struct, frozen=True, kw_only=True):
    """One registered instance, as the registry knows and stores it.

    `extra` holds further fields of `service_info` as they came, those that the protocol does not
    know among them; they are kept and returned. `last_heartbeat` is the one stored with the
    record, in seconds since the epoch. `registered_by` is the address of who registered it last.
    """

    id: str
    name: str
    host: str
    port: int
    type: str | None
    tags: list[str]
    metadata: dict[str, Any]
    ttl: int | float
    extra: dict[str, Any]
    last_heartbeat: int
    registered_by: str | None = None

    @property
    def mode(self) -> str:
        """What it drives: hardware, or none but a simulator."""
        return mode_of(self.extra)

    @property
    def starting(self) -> bool:
        """Whether it said that it is not ready yet."""
        return self.extra.get("ready") is False

    @property
    def exclusive(self) -> bool:
        """Whether no other may have its name."""
        return self.extra.get("exclusive") is True

    @property
    def owner(self) -> dict[str, Any] | None:
        """The process that registered it, see Owner; None if that was not said."""
        return self.extra.get("owner")

    def service_types(self) -> set[str]:
        """Return the types under which it is found: its type, its tags and `metadata.type`."""
        return service_types_of(self.type, self.tags, self.metadata)

    def addresses(self) -> Collection[tuple[str, int]]:
        """Return the hosts and ports at which it says that it is, in one spelling.

        A loopback host is another one on each machine. Ports in the metadata do not count: they may
        be those of a broker or a database that several services use.
        """
        host = spelled(self.host)
        if host == LOOPBACK:
            host = str((self.owner or {}).get("boot", host))
        if "endpoints" not in self.extra:
            return ((host, self.port),)
        return {(host, port) for port in (self.port, *self.extra["endpoints"].values())}

    def is_of_another_process(self, other: Service) -> bool:
        """Return whether two services are surely of two processes: both say which theirs is."""
        mine, others = process_key(self.owner), process_key(other.owner)
        return mine is not None and others is not None and mine != others

    @property
    def effective_type(self) -> str | None:
        """The type that the duplicate policies go by: `type`, else `metadata.type`."""
        effective = self.type or self.metadata.get("type")
        return effective if isinstance(effective, str) else None

    def body(self) -> dict[str, Any]:
        """Return the record as replies have it, but for what the registry itself fills in."""
        return {
            "id": self.id,
            "name": self.name,
            "host": self.host,
            "port": self.port,
            "type": self.type,
            "tags": self.tags,
            "metadata": self.metadata,
            **self.extra,
            "ttl": self.ttl,
        }


class AnnouncedHealth(NamedTuple):
    """The health of a service that subscribers know of, and the reason for it."""

    health: str = PASSING
    reason: str | None = None


class Position(NamedTuple):
    """A point in the history of a registry: the numbering, the last event, and that one's mark.

    A history that was rewound comes to the same `seq` again, but never to the same `mark`.
    """

    epoch: str
    seq: int
    mark: str | None


class Event(Struct, frozen=True, kw_only=True):
    """One change of the registry. `body` is the JSON object that is published and stored.

    `token` and `request_number` name the request that caused it, see `wire.fingerprint` and
    `wire.RequestNumber`; None without such a request. `announced` is the health that subscribers
    know of after it, None where the service is gone.
    """

    seq: int
    type: str
    service_id: str
    body: bytes
    token: str | None = None
    request_number: str | None = None
    announced: AnnouncedHealth | None = None

    @property
    def mark(self) -> str | None:
        """The random mark of the commit that made it; None where its body has none."""
        try:
            return msgspec.json.decode(self.body, type=_Marked).mark
        except msgspec.DecodeError:
            return None


class _Marked(Struct):
    mark: str | None = None
