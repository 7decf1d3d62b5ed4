"""What is said about a service: asked, known, told of, and what happened.

These are `ServiceInfo`, `Service`, `ServiceRecord` and `Event`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from keyword import iskeyword
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from rsreg import text
from rsreg.config import HARDWARE
from rsreg.errors import AmbiguousName, ConfigurationError, InvalidRequest

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Id = Annotated[str, Meta(min_length=1, max_length=512)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Tags = Annotated[list[Name], Meta(max_length=64)]
Endpoints = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Port],
    Meta(min_length=1, max_length=32),
]
Ttl = Annotated[int, Meta(ge=1, le=86400)] | Annotated[float, Meta(ge=1, le=86400)]

Mode = Literal["hardware", "simulator"]

#: The states of health; the first two may be discovered.
PASSING, WARNING, CRITICAL = "passing", "warning", "critical"
MAINTENANCE, STARTING = "maintenance", "starting"
#: Why a service is critical.
SILENT, STALLED = "no heartbeat", "stalled"

_Text = Annotated[str, Meta(max_length=256)]
_Seconds = Annotated[float, Meta(ge=0)]

#: Fields of a record that the registry itself fills in; in a `service_info` they are ignored.
COMPUTED = frozenset({"ttl", "last_heartbeat", "health", "reason", "status", "load", "maintenance"})

_HINTS = {
    "port": "a port is a number from 1 to 65535; register the one that the system gave, not 0",
    "ttl": "a ttl is a number of seconds from 1 to 86400",
    "name": "a name has 1 to 256 characters",
    "host": "a host has 1 to 256 characters",
    "type": "a type has 1 to 256 characters",
    "id": "an id has 1 to 512 characters",
    "tags": "tags are a list of at most 64 texts of 1 to 256 characters",
    "metadata": "metadata is an object",
    "mode": 'a mode is "hardware" or "simulator"',
    "endpoints": "endpoints are an object of 1 to 32 names, each with a port from 1 to 65535",
    "progress": "progress is a number from 0 to 1",
    "watchdog": "a watchdog is a number of seconds from 1 to 86400",
    "for": "a maintenance is for 1 to 31536000 seconds, or forever",
}


#: In PHP, R and Lua an empty list and an empty object are the same, and written as one of the two.
_EMPTY: Mapping[str, Any] = {"metadata": {}, "where": {}, "tags": []}


class Owner(Struct, frozen=True, kw_only=True):
    """The process that registered a service, as it says itself.

    `boot` and `namespace` say in which numbering of processes the `pid` is, `started` when the
    process was, in seconds after 1970.
    """

    host: _Text | None = None
    boot: _Text | None = None
    pid: Annotated[int, Meta(ge=0)] | None = None
    namespace: _Text | None = None
    #: At most the year 9999, which is as far as calendars go.
    started: Annotated[float, Meta(ge=0, lt=253_402_214_400)] | None = None
    user: _Text | None = None
    program: _Text | None = None


class ServiceInfo(Struct, frozen=True, kw_only=True):
    """What a `register` request says about a service (docs/protocol.md, "register")."""

    name: Name
    host: Name
    port: Port
    type: Name | None = None
    tags: Tags | None = None
    metadata: dict[str, Any] | None = None
    id: Id | None = None
    singleton: bool | None = None
    allow_duplicate_service_type: bool | None = None
    exclusive: bool | None = None
    mode: Mode | None = None
    endpoints: Endpoints | None = None
    ready: bool | None = None
    owner: Owner | None = None


class ServiceChange(Struct, frozen=True, kw_only=True):
    """What an `update` request says about a service: what is left out stays."""

    host: Name | None = None
    port: Port | None = None
    tags: Tags | None = None
    metadata: dict[str, Any] | None = None
    endpoints: Endpoints | None = None
    ready: bool | None = None


#: Fields that are checked, and then kept as they came, like those that the protocol doesn't know.
_AS_THEY_CAME = frozenset({"exclusive", "mode", "endpoints", "ready", "owner"})
_ASKED = frozenset(ServiceInfo.__struct_fields__) - _AS_THEY_CAME
#: Fields that an `update` can't change.
_FIXED = frozenset(ServiceInfo.__struct_fields__) - frozenset(ServiceChange.__struct_fields__)


class Status(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a service is doing. With a `max` it is busy, for so many seconds since `since`."""

    text: Name
    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    since: Annotated[int, Meta(ge=0)] | None = None
    max: Annotated[float, Meta(gt=0, le=86400)] | None = None


class Report(Struct, frozen=True, kw_only=True):
    """What a service says of itself with a heartbeat (docs/protocol.md, "Reports").

    `fed` is how many seconds ago its main loop last said that it runs; it should every `watchdog`.
    """

    status: Status | None = None
    load: _Seconds | None = None
    fed: _Seconds | None = None
    watchdog: Ttl | None = None

    @property
    def stalled(self) -> bool:
        """Whether its main loop stands still."""
        return self._fed_within(1)

    @property
    def late(self) -> bool:
        """Whether its main loop is late, so that it may be about to stand still."""
        return self._fed_within(2)

    def _fed_within(self, part: int) -> bool:
        return (
            self.fed is not None and self.watchdog is not None and self.fed * part > self.watchdog
        )


NO_REPORT = Report()


class Maintenance(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That a service, all of a type, or all on a host are not to be used for a while.

    `service` is an id or a name. `since` and `until` are in seconds after 1970; no `until`: for
    good.
    """

    service: str | None = None
    service_type: str | None = None
    host: str | None = None
    reason: str | None = None
    by: str | None = None
    since: int = 0
    until: int | None = None

    @property
    def target(self) -> tuple[str | None, str | None, str | None]:
        """What it is about."""
        return self.service, self.service_type, self.host

    def covers(self, service: Service) -> bool:
        """Whether it is about a service."""
        return (
            self.service in (service.id, service.name)
            or self.service_type in service.kinds()
            or (self.host is not None and self.host.lower() == service.host.lower())
        )

    def body(self) -> dict[str, Any]:
        """All of it, as in replies."""
        targets = {"service": self.service, "service_type": self.service_type, "host": self.host}
        return {key: value for key, value in targets.items() if value is not None} | self.terms()

    def terms(self) -> dict[str, Any]:
        """Why, by whom, and how long, as in a service's record."""
        return {"reason": self.reason, "by": self.by, "since": self.since, "until": self.until}


class Service(Struct, frozen=True, kw_only=True):
    """One registered instance, as the registry knows and stores it.

    `extra` holds further fields of `service_info` as they came, those that the protocol does not
    know among them; they are kept and returned. `last_heartbeat` is the one stored with the
    record, in seconds since the epoch.
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

    def kinds(self) -> set[str]:
        """What the service is found under: its type, its tags and `metadata.type`."""
        return kinds_of(self.type, self.tags, self.metadata)

    @property
    def effective_type(self) -> str | None:
        """The type that the duplicate policies go by: `type`, else `metadata.type`."""
        kind = self.type or self.metadata.get("type")
        return kind if isinstance(kind, str) else None

    def body(self) -> dict[str, Any]:
        """The record on the wire, but for `last_heartbeat` and `health`, which change."""
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


class ServiceRecord(dict[str, Any]):
    """The record of a service as clients get it: a dict, and its fields are attributes.

    `record.host` is `record["host"]`. A field that has the name of a dict's method is found by its
    key alone, and `endpoint` is always the property.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        # No field: Python and notebooks look for such names, and take what they find for theirs.
        if name in self and not name.startswith("_"):
            return self[name]
        fields = ", ".join(text.printable(field) for field in ("endpoint", *self))
        raise AttributeError(f"this service has no {name!r}; it has {fields}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *filter(is_attribute, self)]

    @property
    def endpoint(self) -> str:
        """The ZeroMQ endpoint: `tcp://host:port`."""
        return endpoint_of(self)

    def copy(self) -> ServiceRecord:
        """Another one with the same fields."""
        return ServiceRecord(self)

    def __repr__(self) -> str:
        try:
            words = [self["type"], self["name"], self.endpoint, self["health"], self.get("mode")]
        except (KeyError, TypeError):
            return super().__repr__()
        return f"<{' '.join(text.printable(word) for word in words if word)}>"

    def _repr_html_(self) -> str:
        return text.html_table(("endpoint", self.endpoint), self.items())


class ServiceList(list[ServiceRecord]):
    """Records of services: a list, which a notebook shows as a table."""

    __slots__ = ()

    HEADER = ("TYPE", "NAME", "ENDPOINT", "MODE", "HEALTH")

    def rows(self) -> list[tuple[str, ...]]:
        """What a table shows of them, in its order: by type, then by name."""
        return sorted(
            (
                one["type"] or "-",
                one["name"],
                one.endpoint,
                mode_of(one),
                one["health"],
            )
            for one in self
        )

    def _repr_html_(self) -> str:
        return text.html_table(self.HEADER, self.rows())


class Event(Struct, frozen=True, kw_only=True):
    """One change of the registry. `body` is the JSON object that is published and stored.

    `token` names the request that caused it, see `wire.fingerprint`; no token, no such request.
    """

    seq: int
    type: str
    service_id: str
    body: bytes
    token: str | None = None


def news(health: str) -> str:
    """What events tell of a health: of a warning they don't."""
    return PASSING if health == WARNING else health


def read_service_info(asked: object) -> tuple[ServiceInfo, dict[str, Any]]:
    """The known fields, checked, and the unknown ones as they are; raises InvalidRequest."""
    if not isinstance(asked, dict):
        raise InvalidRequest("Invalid service_info: expected an object")
    for field in ("name", "host", "port"):
        if field not in asked:
            raise InvalidRequest(f"Missing required field in service_info: {field}")
    info = checked(asked, ServiceInfo, "service_info.")
    return info, _extra(asked)


def read_change(asked: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an update changes of a Service, checked, and of its `extra`; raises InvalidRequest."""
    if not isinstance(asked, dict):
        raise InvalidRequest("Invalid service_info: expected an object")
    for field in asked:
        if field in _FIXED:
            raise InvalidRequest(
                f"Invalid service_info.{field}: an update can't change it",
                hint="register the service anew",
            )
    change = msgspec.structs.asdict(checked(asked, ServiceChange, "service_info."))
    said = {field: change[field] for field in change if change[field] is not None}
    return {field: said[field] for field in said if field in _ASKED}, _extra(asked)


def read_report(asked: object) -> Report | None:
    """What a service says of itself, None if nothing; raises InvalidRequest."""
    if asked is None:
        return None
    report: Report = checked(asked, Report, "report.")
    if (report.fed is None) != (report.watchdog is None):
        raise InvalidRequest("Invalid report: fed and watchdog come together")
    return report


def _extra(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {
        field: value
        for field, value in asked.items()
        if field not in _ASKED
        and field not in COMPUTED
        and (value is not None or field not in _AS_THEY_CAME)
    }


def read_ttl(asked: object) -> int | float:
    """A ttl in seconds, whole where it can be; raises InvalidRequest."""
    ttl: int | float = checked(asked, Ttl, "ttl")
    return int(ttl) if ttl == int(ttl) else ttl


def checked(value: object, kind: Any, label: str) -> Any:
    """`value` as a `kind`, or InvalidRequest with the name of the field and a hint."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        if (meant := _emptied(value)) is not value:
            return checked(meant, kind, label)
        what, _, path = str(error).replace("`key` in ", "").partition(" - at `$")
        field = label + path.strip(".`")
        known = re.sub(r"\[.*", "", field.rpartition(".")[2])
        raise InvalidRequest(
            f"Invalid {field}: {what[:1].lower()}{what[1:]}", hint=_HINTS.get(known)
        ) from error


def _emptied(value: object) -> object:
    """The same, or a copy in which each empty container of the wrong kind is one of the right."""
    if not isinstance(value, dict):
        return value
    meant = {
        field: empty
        for field, empty in _EMPTY.items()
        if value.get(field) in ([], {}) and value[field] != empty
    }
    return {**value, **meant} if meant else value


def kinds_of(kind: str | None, tags: Iterable[str], metadata: Mapping[str, Any]) -> set[str]:
    """What a service with these is found under."""
    return {one for one in (kind, metadata.get("type"), *tags) if one and isinstance(one, str)}


def mode_of(service: Mapping[str, Any]) -> str:
    """What a record's service drives."""
    return str(service.get("mode", HARDWARE))


def process_of(owner: Mapping[str, Any], unknown: str = "") -> str:
    """Which process an owner is, as far as it said so: "pid 611 of rik on lab1".

    `unknown` stands for a pid that it did not say.
    """
    words = [f"pid {owner['pid']}" if "pid" in owner else unknown]
    for word, key in (("of", "user"), ("on", "host")):
        if owner.get(key):
            words.append(f"{word} {owner[key]}")
    return " ".join(filter(None, words))


def slug(name: str) -> str:
    """The readable half of an id: lower case, anything odd as a dash."""
    return re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-") or "service"


def endpoint_of(service: Mapping[str, Any], name: str | None = None) -> str:
    """The ZeroMQ endpoint of a record: its `protocol` (tcp if it has none), host and port.

    With a `name` the port is the one of `ports_of`; raises ConfigurationError if there is none.
    """
    host = service["host"]
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    port = service["port"]
    if name is not None:
        ports = ports_of(service)
        if name not in ports:
            known = ", ".join(map(repr, ports)) or "none that has a name, only its port"
            raise ConfigurationError(
                f"{service['name']} has no endpoint {name!r}", hint=f"its endpoints are: {known}"
            )
        port = ports[name]
    return f"{service.get('protocol', 'tcp')}://{host}:{port}"


def ports_of(service: Mapping[str, Any]) -> dict[str, int]:
    """The named ports of a record: its `endpoints`, then CGSE's `<name>_port` in the metadata."""
    told = {
        key.removesuffix("_port"): port
        for key, port in service["metadata"].items()
        if key.endswith("_port") and key != "_port"
    }
    return {
        name: port
        for name, port in {**told, **service.get("endpoints", {})}.items()
        if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536
    }


def is_attribute(name: str) -> bool:
    """Whether a name from the registry can be written as an attribute."""
    return name.isidentifier() and not name.startswith("_") and not iskeyword(name)


def pick_by_name(services: Iterable[Mapping[str, Any]], name: str) -> ServiceRecord | None:
    """The one record that `name` means: an id, else a name, else the start of either.

    Raises AmbiguousName where several fit equally well.
    """
    known = list(services)
    for found in (
        [one for one in known if one["id"] == name],
        [one for one in known if one["name"] == name],
        [one for one in known if one["id"].startswith(name) or one["name"].startswith(name)],
    ):
        if len(found) > 1:
            raise AmbiguousName(
                f"{name!r} fits {len(found)} services", [one["id"] for one in found]
            )
        if found:
            return ServiceRecord(found[0])
    return None
