"""Each operation of the protocol as data, said once for the sync and the async client."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

from rsreg import owner, records, wire
from rsreg.config import MODES
from rsreg.errors import (
    ConfigurationError,
    JudgeFirst,
    NoService,
    OwnedByOther,
    UnknownService,
)
from rsreg.exchange import Call, Verb
from rsreg.filters import SAME_HOST
from rsreg.records import ServiceList, ServiceRecord

#: A JSON object as it came over the wire.
Record = dict[str, Any]
#: No filters.
NOTHING_MORE: Mapping[str, Any] = MappingProxyType({})


class Details(TypedDict, total=False):
    """What may be said of a registration by keyword (see `RegistryClient.register`)."""

    tags: Sequence[str] | None
    mode: str | None
    endpoints: Mapping[str, int] | None
    ready: bool
    exclusive: bool
    owned: bool
    force: bool


class Changes(TypedDict, total=False):
    """What may be changed of a registration (see `RegistryClient.update`)."""

    host: str | None
    port: int | None
    metadata: Mapping[str, Any] | None
    tags: Sequence[str] | None
    endpoints: Mapping[str, int] | None
    ready: bool | None


@dataclass(frozen=True)
class Registration:
    """All that is needed to register a service, and to register it again just as it was.

    `info` has no host as long as that is still to be found. With `force` it may be the entry of
    another process that lives.
    """

    info: Mapping[str, Any]
    ttl: float
    service_id: str | None = None
    force: bool = False

    def with_id(self, service_id: str) -> Registration:
        """The same under the id that the registry gave; what was forced once need not be again."""
        return Registration(self.info, self.ttl, service_id)

    def changed(self, changes: Mapping[str, Any]) -> Registration:
        """The same with other values in some fields; ConfigurationError if that is too long."""
        info = {**self.info, **changes}
        wire.check_registration(info)
        return replace(self, info=info)

    @property
    def owner(self) -> Record | None:
        """The process that it names, if it does."""
        return self.info.get("owner")

    @property
    def name(self) -> str:
        """The service's name."""
        return str(self.info["name"])

    def left_behind(self, namesakes: list[Record]) -> dict[str, Any]:
        """Of the entries of its name those whose owner is gone: their owners by id."""
        return {
            one["id"]: one["owner"]
            for one in namesakes
            if one.get("name") == self.name and owner.is_gone(one.get("owner"))
        }

    def own_entry(self, namesakes: list[Record]) -> str | None:
        """Of the entries of its name the one that is this registration, or None.

        There is one if the answer to an earlier try got lost: no other service of this process has
        the port.
        """
        same = ("name", "owner", "port")
        for one in namesakes:
            if all(one.get(field) == self.info.get(field) for field in same):
                return str(one["id"])
        return None


class Entry(NamedTuple):
    """What the registry has of a registration: its id, and the fingerprint of what it says.

    A registry of an older version makes none: "".
    """

    service_id: str
    fingerprint: str


def registration(
    name: str,
    host: str | None,
    port: int | None,
    service_type: str | None,
    metadata: Mapping[str, Any] | None,
    ttl: float,
    *,
    singleton: bool = False,
    allow_duplicate_service_type: bool = False,
    service_id: str | None = None,
    tags: Sequence[str] | None = None,
    mode: str | None = None,
    endpoints: Mapping[str, int] | None = None,
    ready: bool = True,
    exclusive: bool = False,
    owned: bool = True,
    force: bool = False,
    default_mode: str | None = None,
) -> Registration:
    """What the arguments of `RegistryClient.register` ask for; left out is what was not said.

    Without a port it is the one of the endpoint "command", else of the first. Raises
    ConfigurationError.
    """
    named = _endpoints(endpoints)
    if port is None and named is not None:
        port = named.get("command", next(iter(named.values())))
    asked = {
        "name": name,
        "host": host,
        "port": port,
        "type": service_type,
        "tags": _tags(tags) if tags else None,
        "metadata": dict(metadata) if metadata else None,
        "singleton": singleton or None,
        "allow_duplicate_service_type": allow_duplicate_service_type or None,
        "mode": _mode(mode) or default_mode,
        "endpoints": named,
        "ready": None if ready else False,
        "exclusive": exclusive or None,
        "owner": owner.this_process() if owned else None,
    }
    info = {field: value for field, value in asked.items() if value is not None}
    if metadata or tags or endpoints:
        # With the registry away a heartbeat would find it out, where nobody hears of it.
        wire.check_registration(info)
    return Registration(info, ttl, service_id, force)


def changes(
    *,
    host: str | None = None,
    port: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    tags: Sequence[str] | None = None,
    endpoints: Mapping[str, int] | None = None,
    ready: bool | None = None,
) -> Record:
    """What the arguments of `RegistryClient.update` ask for; what was not said stays.

    Raises ConfigurationError.
    """
    asked = {
        "host": host,
        "port": port,
        "metadata": None if metadata is None else dict(metadata),
        "tags": None if tags is None else _tags(tags),
        "endpoints": _endpoints(endpoints),
        "ready": ready,
    }
    said = {field: value for field, value in asked.items() if value is not None}
    if not said:
        raise ConfigurationError("there is nothing to change", hint="name the fields that change")
    return said


def _endpoints(endpoints: Mapping[str, int] | None) -> dict[str, int] | None:
    if endpoints is None:
        return None
    if not isinstance(endpoints, Mapping) or not endpoints:
        raise ConfigurationError(
            f"endpoints= names ports, not {endpoints!r}", hint='like {"command": 5000}'
        )
    return dict(endpoints)


def _tags(tags: Sequence[str]) -> list[str]:
    if isinstance(tags, str):
        raise ConfigurationError(f"tags= is a list, not the text {tags!r}")
    return list(tags)


def _mode(mode: str | None) -> str | None:
    if mode is not None and mode not in MODES:
        raise ConfigurationError(
            f"no mode: {mode!r}", hint='a service is "hardware" or a "simulator"'
        )
    return mode


def registering(
    wanted: Registration, report: Mapping[str, Any] | None = None, *, judges: bool = True
) -> Verb[Entry]:
    """Register, in place of what died on this host: of its id, and of its name if it `judges`.

    Most often there is nothing to judge, and it is one question.
    """
    first = {
        JudgeFirst.code: lambda reply: list(reply["namesakes"]),
        OwnedByOther.code: lambda reply: [
            {"id": reply["service_id"], "name": wanted.name, "owner": reply["owner"]}
        ],
    }
    answer: Any = yield _register(wanted, report, first, judges=judges or None)
    if isinstance(answer, list):
        dead = wanted.left_behind(answer)
        answer = yield _register(wanted, report, replaces=dead or None)
    known: Entry = answer
    return known


def register(
    wanted: Registration, report: Mapping[str, Any] | None = None, *, force: bool = False
) -> Call[Entry]:
    """Register, without a look at who else is there."""
    return _register(replace(wanted, force=force or wanted.force), report)


def _register(
    wanted: Registration,
    report: Mapping[str, Any] | None = None,
    otherwise: Any = None,
    **more: Any,
) -> Call[Any]:
    info = wanted.info
    if wanted.service_id is not None:
        info = {**info, "id": wanted.service_id}
    return _call(
        "register",
        lambda reply: Entry(str(reply["service_id"]), _fingerprint(reply)),
        otherwise,
        service_info=info,
        ttl=wanted.ttl,
        report=report,
        # An entry that is to outlive this process does not name it; who made it is told even so.
        owner=owner.this_process() if wanted.owner is None else None,
        force=wanted.force or None,
        **more,
    )


def update(
    service_id: str,
    changed: Mapping[str, Any],
    asker: Record | None = None,
    *,
    force: bool = False,
) -> Call[str | None]:
    """Change fields of a record; its fingerprint from now on, None if there is no such service.

    `asker` is the owner that asks, if it is not this process.
    """
    return _call(
        "update",
        _fingerprint,
        _NO_SERVICE,
        service_id=service_id,
        service_info=dict(changed),
        owner=asker or owner.this_process(),
        force=force or None,
    )


def deregister(service_id: str, asker: Record | None = None, *, force: bool = False) -> Call[bool]:
    """Leave; False if there is no such service. `asker` is as for update."""
    return _call(
        "deregister",
        _done,
        {UnknownService.code: lambda _reply: False},
        service_id=service_id,
        owner=asker or owner.this_process(),
        force=force or None,
    )


def renew(service_id: str, report: Mapping[str, Any] | None = None) -> Call[str | None]:
    """One heartbeat; the fingerprint of the entry, None if there is no such service."""
    return _call("renew", _fingerprint, _NO_SERVICE, service_id=service_id, report=report)


def get(service_id: str) -> Call[ServiceRecord | None]:
    """One service by id, or None."""
    return _call("get", _service, _NO_SERVICE, service_id=service_id)


def found(service_id: str) -> Call[tuple[Record, Record] | None]:
    """The record of a service, and who changed it last (`by`, `says`) as far as is known."""
    return _call(
        "get",
        lambda reply: (dict(reply["service"]), dict(reply.get("last_change") or {})),
        _NO_SERVICE,
        service_id=service_id,
        last_change=True,
    )


def list_services(
    service_type: str | None = None, asked: Mapping[str, Any] = NOTHING_MORE
) -> Call[ServiceList]:
    """All services, or those of a type, that are as `asked` (filters.narrowed)."""
    return _call("list", _services, service_type=service_type, **asked)


def find(name: str, asked: Mapping[str, Any] = NOTHING_MORE) -> Call[ServiceList]:
    """The services of which the name or the id begins so, as `asked` (filters.narrowed)."""
    return _call("list", _services, prefix=name or None, **asked)


def namesakes(name: str) -> Call[list[Record]]:
    """The entries of a name."""
    return _call("list", lambda reply: list(reply["services"]), name=name)


def picture() -> Call[Record]:
    """All services, the position at which they are so, and their `leases`."""
    return _call("list", _with_leases, leases=True)


def discover(
    service_type: str, asked: Mapping[str, Any] = NOTHING_MORE
) -> Call[ServiceRecord | None]:
    """One passing service of a type that is as `asked` (filters.chosen), or None."""
    asker = _asker() if asked.get("strategy") == SAME_HOST else None
    return _call(
        "discover",
        _service,
        {NoService.code: _none},
        service_type=service_type,
        asker=asker,
        **asked,
    )


def maintenance(asked: Mapping[str, Any]) -> Call[list[Record]]:
    """Begin or end a maintenance (filters.checked_maintenance); the answer is all there are now."""
    if "by" not in asked:
        mine = owner.this_process()
        asked = {**asked, "by": f"{mine['user']}@{mine['host']}"[:256]}
    return _call("maintenance", lambda reply: list(reply["maintenance"]), **asked)


def health() -> Call[bool]:
    """Whether the registry says that it is well."""
    return _call("health", lambda reply: reply.get("status") == "ok")


def info(*, services: bool = True) -> Call[Record]:
    """What the server says about itself; with `services`, all records too."""
    return _call("info", dict, services=services)


def backup(path: str | os.PathLike[str], *, replace: bool = False) -> Call[Record]:
    """Have the registry copy its store to a file of this machine, named from here."""
    told = ("path", "size", "services", "seq")
    return _call(
        "backup",
        lambda reply: {name: reply[name] for name in told},
        path=os.path.abspath(os.fspath(path)),
        replace=replace or None,
    )


def terminate() -> Call[bool]:
    """Stop the server."""
    return _call("terminate", _done)


def events(
    since: int | None, epoch: str | None, mark: str | None = None, limit: int | None = None
) -> Call[Record]:
    """The journal after `since` (docs/protocol.md, "events"); without it, just where it stands."""
    return _call("events", dict, since=since, epoch=epoch, mark=mark, limit=limit)


def news(since: int | None, epoch: str | None, mark: str | None = None) -> Call[Record]:
    """The journal after `since`, and the `leases` now."""
    return _call("events", _with_leases, since=since, epoch=epoch, mark=mark, leases=True)


def _call(action: str, read: Any, otherwise: Any = None, /, **params: Any) -> Call[Any]:
    said = {name: value for name, value in params.items() if value is not None}
    return Call(action, said, read, otherwise or {})


def _asker() -> Record:
    mine = owner.this_process()
    return {key: mine[key] for key in ("host", "boot") if key in mine}


def _service(reply: Mapping[str, Any]) -> ServiceRecord:
    return records.told(reply["service"], _as_of(reply))


def _services(reply: Mapping[str, Any]) -> ServiceList:
    as_of = _as_of(reply)
    return records.listed((records.told(one, as_of) for one in reply["services"]), as_of)


def _as_of(reply: Mapping[str, Any]) -> float | None:
    """When the registry answered, by its clock; one of an older version does not say."""
    said = reply.get("timestamp")
    return said if isinstance(said, int | float) else None


def _with_leases(reply: Mapping[str, Any]) -> Record:
    # A server that does not know `leases` is found out here, where it is an error to who asked.
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
