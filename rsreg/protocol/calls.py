"""Each operation of the protocol as data: its action, its parameters, how to read its answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

from rsreg.errors import NoService, UnknownService
from rsreg.protocol import records
from rsreg.protocol.records import ServiceList, ServiceRecord
from rsreg.protocol.requests import (
    BackupRequest,
    DeregisterRequest,
    EventsRequest,
    GetRequest,
    InfoRequest,
    ListRequest,
    NoFields,
    RegisterRequest,
    RenewRequest,
    UpdateRequest,
)

T = TypeVar("T")

#: A JSON object as it came over the wire.
Record = dict[str, Any]
#: How to read refusals that are an answer, by their code.
Otherwise = Mapping[str, Callable[[Mapping[str, Any]], Any]]
NO_OTHERWISE: Otherwise = MappingProxyType({})
#: No conditions.
NOTHING_MORE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Call(Generic[T]):
    """One operation as data: the action, its parameters, and how to read the answer.

    `otherwise` says how to read the refusals that are an answer to this question ("not found"), by
    their code.
    """

    action: str
    params: Mapping[str, Any]
    read: Callable[[Mapping[str, Any]], T]
    otherwise: Mapping[str, Callable[[Mapping[str, Any]], T]]


#: Several calls that make one operation, each with the answer to the one before.
CallSequence = Generator[Call[Any], Any, T]


class Entry(NamedTuple):
    """What the registry has of a registration: its id, and the fingerprint of what it says.

    A registry of an older version makes none: "".
    """

    service_id: str
    fingerprint: str


def register(fields: RegisterRequest, otherwise: Otherwise = NO_OTHERWISE) -> Call[Any]:
    """Register a service; the answer is its Entry. `otherwise` reads refusals, by their code."""
    return _call(
        "register",
        lambda reply: Entry(str(reply["service_id"]), _fingerprint(reply)),
        fields,
        otherwise,
    )


def update(
    service_id: str, changed: Mapping[str, Any], asker: Record, *, force: bool = False
) -> Call[str | None]:
    """Change fields of a record; the answer is its new fingerprint, None if there is no service.

    `asker` is the process that asks, as an owner.
    """
    return _call(
        "update",
        _fingerprint,
        UpdateRequest(
            service_id=service_id, service_info=dict(changed), owner=asker, force=force or None
        ),
        _NO_SERVICE,
    )


def deregister(service_id: str, asker: Record, *, force: bool = False) -> Call[bool]:
    """Deregister; the answer is False if there is no such service. `asker` is as for update."""
    return _call(
        "deregister",
        _done,
        DeregisterRequest(service_id=service_id, owner=asker, force=force or None),
        {UnknownService.code: lambda _reply: False},
    )


def renew(service_id: str, report: Mapping[str, Any] | None = None) -> Call[str | None]:
    """Send a heartbeat; the answer is the fingerprint of the entry, None without a service."""
    return _call(
        "renew", _fingerprint, RenewRequest(service_id=service_id, report=report), _NO_SERVICE
    )


def get(service_id: str) -> Call[ServiceRecord | None]:
    """Get one service by its id; the answer is None if there is no such service."""
    return _call("get", _service, GetRequest(service_id=service_id), _NO_SERVICE)


def get_with_last_change(service_id: str) -> Call[tuple[Record, Record] | None]:
    """Get the record of a service, and who changed it last (`by`, `says`) as far as is known."""
    return _call(
        "get",
        lambda reply: (dict(reply["service"]), dict(reply.get("last_change") or {})),
        GetRequest(service_id=service_id, last_change=True),
        _NO_SERVICE,
    )


def list_services(
    service_type: str | None = None, params: Mapping[str, Any] = NOTHING_MORE
) -> Call[ServiceList]:
    """List all services, or those of a type, that meet `params` (query.list_params)."""
    return _call("list", _services, {"service_type": service_type, **params})


def find(name: str, params: Mapping[str, Any] = NOTHING_MORE) -> Call[ServiceList]:
    """List the services whose name or id begins with a text (query.filter_params)."""
    return _call("list", _services, {"prefix": name or None, **params})


def namesakes(name: str) -> Call[list[Record]]:
    """List the entries that have a name."""
    return _call("list", lambda reply: list(reply["services"]), ListRequest(name=name))


def snapshot() -> Call[Record]:
    """List all services, with the position at which they are so, and their `leases`."""
    return _call("list", _with_leases, ListRequest(leases=True))


def discover(
    service_type: str, params: Mapping[str, Any] = NOTHING_MORE
) -> Call[ServiceRecord | None]:
    """Discover one passing service of a type (query.discover_params); the answer may be None."""
    return _call(
        "discover",
        _service,
        {"service_type": service_type, **params},
        {NoService.code: _none},
    )


def maintenance(params: Mapping[str, Any]) -> Call[list[Record]]:
    """Begin or end a maintenance (query.maintenance_params); the answer is all there are now."""
    return _call("maintenance", lambda reply: list(reply["maintenance"]), params)


def health() -> Call[bool]:
    """Ask the registry whether it is well."""
    return _call("health", lambda reply: reply.get("status") == "ok", NoFields())


def info(*, services: bool = True) -> Call[Record]:
    """Ask the server about itself; with `services`, for all records too."""
    return _call("info", dict, InfoRequest(services=services))


def backup(path: str, *, replace: bool = False) -> Call[Record]:
    """Have the registry copy its store to a file of this machine, named from its root."""
    fields = ("path", "size", "services", "seq")
    return _call(
        "backup",
        lambda reply: {name: reply[name] for name in fields},
        BackupRequest(path=path, replace=replace or None),
    )


def terminate() -> Call[bool]:
    """Stop the server."""
    return _call("terminate", _done, NoFields())


def events(
    since: int | None, epoch: str | None, mark: str | None = None, limit: int | None = None
) -> Call[Record]:
    """Get the journal after `since` (docs/protocol.md, "events"); without it, only the position."""
    return _call("events", dict, EventsRequest(since=since, epoch=epoch, mark=mark, limit=limit))


def changes_since(since: int | None, epoch: str | None, mark: str | None = None) -> Call[Record]:
    """Get the journal after `since`, and the `leases` now."""
    return _call(
        "events",
        _with_leases,
        EventsRequest(since=since, epoch=epoch, mark=mark, leases=True),
    )


def _call(
    action: str,
    read: Callable[[Mapping[str, Any]], Any],
    fields: Mapping[str, object],
    otherwise: Otherwise = NO_OTHERWISE,
) -> Call[Any]:
    given = {name: value for name, value in fields.items() if value is not None}
    return Call(action, given, read, otherwise)


def _service(reply: Mapping[str, Any]) -> ServiceRecord:
    return records.service_record(reply["service"], _as_of(reply))


def _services(reply: Mapping[str, Any]) -> ServiceList:
    as_of = _as_of(reply)
    services = (records.service_record(one, as_of) for one in reply["services"])
    return records.service_list(services, as_of)


def _as_of(reply: Mapping[str, Any]) -> float | None:
    """Return when the registry answered, by its clock; older registries do not send it."""
    timestamp = reply.get("timestamp")
    return timestamp if isinstance(timestamp, int | float) else None


def _with_leases(reply: Mapping[str, Any]) -> Record:
    # A server that does not know `leases` is noticed here, where the caller gets an error.
    leases = reply["leases"]
    return {**reply, "leases": {"within": float(leases["within"]), "ends": dict(leases["ends"])}}


def _fingerprint(reply: Mapping[str, Any]) -> str:
    return str(reply.get("entry") or "")


def _done(_reply: Mapping[str, Any]) -> bool:
    return True


def _none(_reply: Mapping[str, Any]) -> None:
    return None


#: What a refusal means to a change of a service: there is none.
_NO_SERVICE: Mapping[str, Callable[[Mapping[str, Any]], None]] = {UnknownService.code: _none}
