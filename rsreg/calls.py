"""Each operation of the protocol as data, said once for the sync and the async client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rsreg.errors import NoService, UnknownService
from rsreg.exchange import Call
from rsreg.records import ServiceList, ServiceRecord

#: A JSON object as it came over the wire.
Record = dict[str, Any]


@dataclass(frozen=True)
class Registration:
    """All that is needed to register a service, and to register it again just as it was."""

    info: Mapping[str, Any]
    ttl: float
    service_id: str | None = None

    def with_id(self, service_id: str) -> Registration:
        """The same under the id that the registry gave."""
        return replace(self, service_id=service_id)

    @property
    def name(self) -> str:
        """The service's name."""
        return str(self.info["name"])


def registration(
    name: str,
    host: str,
    port: int,
    service_type: str | None,
    metadata: Mapping[str, Any] | None,
    ttl: float,
    *,
    singleton: bool = False,
    allow_duplicate_service_type: bool = False,
    service_id: str | None = None,
    tags: list[str] | None = None,
) -> Registration:
    """What the arguments of `RegistryClient.register` ask for; left out is what was not said."""
    asked = {
        "name": name,
        "host": host,
        "port": port,
        "type": service_type,
        "tags": list(tags) if tags else None,
        "metadata": dict(metadata) if metadata else None,
        "singleton": singleton or None,
        "allow_duplicate_service_type": allow_duplicate_service_type or None,
    }
    info = {field: value for field, value in asked.items() if value is not None}
    return Registration(info, ttl, service_id)


def register(wanted: Registration) -> Call[str]:
    """Register; the answer is the id."""
    info = dict(wanted.info)
    if wanted.service_id is not None:
        info["id"] = wanted.service_id
    return _call(
        "register", lambda reply: str(reply["service_id"]), service_info=info, ttl=wanted.ttl
    )


def deregister(service_id: str) -> Call[bool]:
    """Leave; False if there is no such service."""
    return _call("deregister", _done, {UnknownService.code: False}, service_id=service_id)


def renew(service_id: str) -> Call[bool]:
    """One heartbeat; False if there is no such service."""
    return _call("renew", _done, {UnknownService.code: False}, service_id=service_id)


def get(service_id: str) -> Call[ServiceRecord | None]:
    """One service by id, or None."""
    return _call("get", _service, {UnknownService.code: None}, service_id=service_id)


def list_services(service_type: str | None = None) -> Call[ServiceList]:
    """All services, or those of a type."""
    return _call("list", _services, service_type=service_type)


def picture() -> Call[Record]:
    """All services, the position at which they are so, and their `leases`."""
    return _call("list", _with_leases, leases=True)


def discover(service_type: str) -> Call[ServiceRecord | None]:
    """One passing service of a type, or None."""
    return _call("discover", _service, {NoService.code: None}, service_type=service_type)


def health() -> Call[bool]:
    """Whether the registry says that it is well."""
    return _call("health", lambda reply: reply.get("status") == "ok")


def info(*, services: bool = True) -> Call[Record]:
    """What the server says about itself; with `services`, all records too."""
    return _call("info", dict, services=services)


def terminate() -> Call[bool]:
    """Stop the server."""
    return _call("terminate", _done)


def events(since: int | None, epoch: str | None, limit: int | None = None) -> Call[Record]:
    """The journal after `since` (docs/protocol.md, "events"); without it, just where it stands."""
    return _call("events", dict, since=since, epoch=epoch, limit=limit)


def news(since: int | None, epoch: str | None) -> Call[Record]:
    """The journal after `since`, and the `leases` now."""
    return _call("events", _with_leases, since=since, epoch=epoch, leases=True)


def _call(action: str, read: Any, otherwise: Any = None, /, **params: Any) -> Call[Any]:
    said = {name: value for name, value in params.items() if value is not None}
    return Call(action, said, read, otherwise or {})


def _service(reply: Mapping[str, Any]) -> ServiceRecord:
    return ServiceRecord(reply["service"])


def _services(reply: Mapping[str, Any]) -> ServiceList:
    return ServiceList(map(ServiceRecord, reply["services"]))


def _with_leases(reply: Mapping[str, Any]) -> Record:
    # A server that does not know `leases` is found out here, where it is an error to who asked.
    leases = reply["leases"]
    return {**reply, "leases": {"within": float(leases["within"]), "ends": dict(leases["ends"])}}


def _done(_reply: Mapping[str, Any]) -> bool:
    return True
