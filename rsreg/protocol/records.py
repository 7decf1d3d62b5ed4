"""What is said about a service: asked, known, told of, and what happened.

These are `ServiceInfo`, `Service`, `ServiceRecord` and `Event`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from keyword import iskeyword
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from rsreg import display
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
HEALTHS = (PASSING, WARNING, CRITICAL, MAINTENANCE, STARTING)
#: Why a service is critical.
SILENT, STALLED = "no heartbeat", "stalled"

#: What stands before "://" in an endpoint: a scheme, as in a URL. No longer than a word.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}")
Protocol = Annotated[str, Meta(pattern=rf"^{_SCHEME.pattern}\Z")]

_Text = Annotated[str, Meta(max_length=256)]
_Seconds = Annotated[float, Meta(ge=0)]
#: Seconds after 1970 before the year 10000, which is as far as calendars go.
_MAX_MOMENT = 253_402_214_400

#: Fields of a record that the registry itself fills in; in a `service_info` they are ignored.
COMPUTED = frozenset(
    {
        *("ttl", "last_heartbeat", "health", "reason", "status", "load", "maintenance"),
        "registered_by",
    }
)

#: Fields of a record that are as somebody said, whether they are there or not.
SAID = (
    *("name", "host", "port", "type", "tags", "metadata", "ttl"),
    *("endpoints", "protocol", "mode", "ready", "exclusive", "owner"),
)

_HINTS = {
    "port": "a port is a whole number from 1 to 65535, the one that the system gave, not 0",
    "ttl": "a ttl is a number of seconds from 1 to 86400",
    "name": "a name has 1 to 256 characters",
    "host": "a host has 1 to 256 characters, and no port or tcp:// with it",
    "type": "a type has 1 to 256 characters",
    "id": "an id has 1 to 512 characters",
    "tags": "tags are a list of at most 64 texts of 1 to 256 characters",
    "metadata": "metadata is an object",
    "mode": 'a mode is "hardware" or "simulator"',
    "protocol": 'a protocol is what begins an endpoint: a short word, such as "tcp"',
    "endpoints": "endpoints are an object of 1 to 32 names, each with a port from 1 to 65535",
    "progress": "progress is a number from 0 to 1",
    "watchdog": "a watchdog is a number of seconds from 1 to 86400",
    "for": "a maintenance is for 1 to 31536000 seconds, a whole number, or forever",
    "pid": "a pid is a whole number",
    "since": "since is a whole number, 0 or more",
    "limit": "a limit is a whole number, 0 or more",
}

#: Hosts that are looked at once: a lab has no more.
_HOSTS = 1_000
#: Fields of other places that do nothing in a `service_info`, and where they belong.
_MISPLACED = {
    "service_type": ("type", 'in a service_info it is "type"'),
    "service_id": ("id", 'in a service_info it is "id"'),
}
#: Of what a host name consists; `\w` has the letters of all languages, and "_".
_HOST_NAME = re.compile(r"\w[\w-]*(?:\.[\w-]+)*\.?")
#: What may stand after the "%" of an IPv6 address; Python takes anything there.
_INTERFACE = re.compile(r"[\w.-]+")
#: How each host that means the machine itself is spelled.
_LOOPBACK = "localhost"
_FOUR_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+){3}")


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
    started: Annotated[float, Meta(ge=0, lt=_MAX_MOMENT)] | None = None
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
    protocol: Protocol | None = None
    endpoints: Endpoints | None = None
    ready: bool | None = None
    owner: Owner | None = None


#: What the record of a service may say.
FIELDS = frozenset(ServiceInfo.__struct_fields__) | COMPUTED


class ServiceChange(Struct, frozen=True, kw_only=True):
    """What an `update` request says about a service: what is left out stays."""

    host: Name | None = None
    port: Port | None = None
    tags: Tags | None = None
    metadata: dict[str, Any] | None = None
    protocol: Protocol | None = None
    endpoints: Endpoints | None = None
    ready: bool | None = None


#: Fields that are checked, and then kept as they came, like those that the protocol doesn't know.
_AS_THEY_CAME = frozenset({"exclusive", "mode", "protocol", "endpoints", "ready", "owner"})
_ASKED = frozenset(ServiceInfo.__struct_fields__) - _AS_THEY_CAME
#: Fields that an `update` can't change.
_FIXED = frozenset(ServiceInfo.__struct_fields__) - frozenset(ServiceChange.__struct_fields__)


class Status(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a service is doing. With a `max` it is busy, for so many seconds since `since`.

    `elapsed` says for how many seconds it has been so, since no two clocks agree on a `since`.
    """

    text: Name
    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    since: Annotated[int, Meta(ge=0, lt=_MAX_MOMENT)] | None = None
    max: Annotated[float, Meta(gt=0, le=86400)] | None = None
    elapsed: _Seconds | None = None


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
        """All of it, as in replies."""
        targets = {"service": self.service, "service_type": self.service_type, "host": self.host}
        return {key: value for key, value in targets.items() if value is not None} | self.terms()

    def terms(self) -> dict[str, Any]:
        """Why, by whom, and how long, as in a service's record."""
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

    def kinds(self) -> set[str]:
        """What the service is found under: its type, its tags and `metadata.type`."""
        return kinds_of(self.type, self.tags, self.metadata)

    def addresses(self) -> Collection[tuple[str, int]]:
        """The hosts and ports at which it says that it is, in one spelling.

        A loopback host is another one on each machine. Ports in the metadata do not count: they may
        be those of a broker or a database that several services use.
        """
        host = _spelled(self.host)
        if host == _LOOPBACK:
            host = str((self.owner or {}).get("boot", host))
        if "endpoints" not in self.extra:
            return ((host, self.port),)
        return {(host, port) for port in (self.port, *self.extra["endpoints"].values())}

    def is_of_another_process(self, other: Service) -> bool:
        """Whether two services are surely of two processes: both say which theirs is."""
        mine, others = process_in(self.owner), process_in(other.owner)
        return mine is not None and others is not None and mine != others

    @property
    def effective_type(self) -> str | None:
        """The type that the duplicate policies go by: `type`, else `metadata.type`."""
        kind = self.type or self.metadata.get("type")
        return kind if isinstance(kind, str) else None

    def body(self) -> dict[str, Any]:
        """The record on the wire, but for what the registry itself fills in."""
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
    key alone, and `endpoint` and `as_of` are never fields. `as_of` is when the registry said so, by
    its own clock, in seconds after 1970, so `as_of - last_heartbeat` is an age; None where that is
    not known.
    """

    __slots__ = ("as_of",)

    as_of: float | None

    def __getattr__(self, name: str) -> Any:
        if name == "as_of":
            return None
        # No field: Python and notebooks look for such names, and take what they find for theirs.
        if name in self and not name.startswith("_"):
            return self[name]
        fields = ", ".join(display.printable(field) for field in ("endpoint", *self))
        raise AttributeError(f"this service has no {name!r}; it has {fields}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *filter(is_attribute, self)]

    @property
    def endpoint(self) -> str:
        """The ZeroMQ endpoint: `tcp://host:port`."""
        return endpoint_of(self)

    def copy(self) -> ServiceRecord:
        """Another one with the same fields."""
        return told(self, self.as_of)

    def __reduce__(self) -> tuple[Any, ...]:
        return told, (dict(self), self.as_of)

    def __repr__(self) -> str:
        try:
            words = [self["type"], self["name"], self.endpoint, self["health"], self.get("mode")]
        except (KeyError, TypeError):
            return super().__repr__()
        return f"<{' '.join(display.printable(word) for word in words if word)}>"

    def _repr_html_(self) -> str:
        return display.html_table(("endpoint", self.endpoint), self.items())


class ServiceList(list[ServiceRecord]):
    """Records of services: a list, which a notebook shows as a table.

    `as_of` is that of its records, see ServiceRecord.
    """

    __slots__ = ("as_of",)

    as_of: float | None

    def __getattr__(self, name: str) -> Any:
        if name == "as_of":
            return None
        raise AttributeError(f"this list has no {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return listed, (list(self), self.as_of)

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
        return display.html_table(self.HEADER, self.rows())


class Told(NamedTuple):
    """What subscribers know of a service's health, and for what reason it is so."""

    health: str = PASSING
    reason: str | None = None


class Position(NamedTuple):
    """A point in the history of a registry: the numbering, the last event, and that one's mark.

    A history that was rewound comes to the same `seq` again, but never to the same `mark`.
    """

    epoch: str
    seq: int
    mark: str | None


def told(record: Mapping[str, Any], as_of: float | None) -> ServiceRecord:
    """A record as a client gets it, from a reply of that time."""
    made = ServiceRecord(record)
    if as_of is not None:
        made.as_of = as_of
    return made


def listed(services: Iterable[ServiceRecord], as_of: float | None) -> ServiceList:
    """The same for a list of records."""
    made = ServiceList(services)
    if as_of is not None:
        made.as_of = as_of
    return made


class Event(Struct, frozen=True, kw_only=True):
    """One change of the registry. `body` is the JSON object that is published and stored.

    `token` and `turn` name the request that caused it, see `wire.fingerprint` and `wire.Turn`; none
    without such a request. `told` is the health that subscribers know of after it, None where the
    service is gone.
    """

    seq: int
    type: str
    service_id: str
    body: bytes
    token: str | None = None
    turn: str | None = None
    told: Told | None = None

    @property
    def mark(self) -> str | None:
        """The random mark of the commit that made it; None where its body has none."""
        try:
            return msgspec.json.decode(self.body, type=_Marked).mark
        except msgspec.DecodeError:
            return None


class _Marked(Struct):
    mark: str | None = None


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
    for field, (meant, hint) in _MISPLACED.items():
        if asked.get(field) is not None and asked.get(meant) is None:
            raise InvalidRequest(f"Invalid service_info.{field}: it means nothing here", hint=hint)
    info: ServiceInfo = checked(asked, ServiceInfo, "service_info.")
    check_host(info.host, "service_info.host")
    return info, _extra(asked)


def read_change(asked: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an update changes of a Service, checked, and of its `extra`; raises InvalidRequest."""
    if not isinstance(asked, dict):
        raise InvalidRequest("Invalid service_info: expected an object")
    for field in asked:
        if field in _FIXED or field in _MISPLACED or field == "ttl":
            raise InvalidRequest(
                f"Invalid service_info.{field}: an update can't change it",
                hint="register the service anew",
            )
    change = msgspec.structs.asdict(checked(asked, ServiceChange, "service_info."))
    if change["host"] is not None:
        check_host(change["host"], "service_info.host")
    said = {field: change[field] for field in change if change[field] is not None}
    return {field: said[field] for field in said if field in _ASKED}, _extra(asked)


def read_report(asked: object, now: float) -> Report | None:
    """What a service says of itself, None if nothing; raises InvalidRequest.

    Its `since` is by our clock, `now` in seconds after 1970, if it says how long that is ago.
    """
    if asked is None:
        return None
    report: Report = checked(asked, Report, "report.")
    if (report.fed is None) != (report.watchdog is None):
        raise InvalidRequest("Invalid report: fed and watchdog come together")
    status = report.status
    if status is None or status.elapsed is None:
        return report
    since = max(0, round(now - status.elapsed))
    status = msgspec.structs.replace(status, since=since, elapsed=None)
    return msgspec.structs.replace(report, status=status)


def _extra(asked: Mapping[str, Any]) -> dict[str, Any]:
    return {
        field: _whole(value) if field in _AS_THEY_CAME else value
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
    """`value` as a `kind`, or InvalidRequest with the name of the field and a hint.

    Where a whole number is wanted, 5000.0 is one: in some languages all numbers are written so.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        pass
    try:
        return msgspec.convert(_whole(value), kind)
    except msgspec.ValidationError as error:
        if (meant := _emptied(value)) is not value:
            return checked(meant, kind, label)
        what, _, path = str(error).replace("`key` in ", "").partition(" - at `$")
        field = label + path.strip(".`")
        known = re.sub(r"\[.*", "", field).rpartition(".")[2]
        raise InvalidRequest(
            f"Invalid {field}: {what[:1].lower()}{what[1:]}", hint=_HINTS.get(known)
        ) from error


def _spelled(host: str) -> str:
    """One spelling of a host: names and IPv6 addresses have several, and so has the loopback."""
    bare = host.strip("[]").removesuffix(".").lower()
    if bare == _LOOPBACK or bare.startswith("127."):
        return _LOOPBACK
    if ":" in bare:
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(bare)
            return _LOOPBACK if address.is_loopback else str(address)
    # Not the copy, which would cost memory for each service.
    return host if host == bare else bare


def _whole(value: Any) -> Any:
    """The same with whole numbers written so, but for what is in `metadata`."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {key: one if key == "metadata" else _whole(one) for key, one in value.items()}
    return value


def check_host(host: str, label: str) -> None:
    """Raise InvalidRequest for a host that no client can connect to."""
    if (why := _unreachable(host)) is not None:
        hint = "register the name or the address that others reach it by, such as lab1 or 10.0.0.7"
        raise InvalidRequest(f"Invalid {label}: {host!r} is {why}", hint=hint)


@lru_cache(_HOSTS)
def _unreachable(host: str) -> str | None:
    """Why no client can connect to a host, or None; a name may be of any network."""
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(inner)
    except ValueError:
        return _no_name(host)
    if not _INTERFACE.fullmatch(getattr(address, "scope_id", None) or "0"):
        return "an address with an interface that has no such name"
    mapped = getattr(address, "ipv4_mapped", None) or address
    if mapped.is_unspecified:
        return "no host, but all addresses of a machine"
    if mapped.is_multicast or str(mapped) == "255.255.255.255":
        return "the address of no one machine"
    return "no address, but for the brackets" if inner != host and address.version == 4 else None


def _no_name(host: str) -> str | None:
    if host == "*":
        return "no host, but all addresses of a machine"
    if "://" in host:
        return "an endpoint, not a host"
    if re.fullmatch(r"[^:]+:[0-9]*|\[.*\]:[0-9]*", host):
        return "a host with a port, which has a field of its own"
    if not _HOST_NAME.fullmatch(host):
        return "no name of a host and no address"
    if _FOUR_NUMBERS.fullmatch(host):
        return "no address"
    try:
        # "0" is such a number: one that means 0.0.0.0.
        means_all = not any(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None
    return "no host, but all addresses of a machine" if means_all else None


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


def process_in(owner: Mapping[str, Any] | None) -> tuple[Any, ...] | None:
    """What tells the process of an owner from any other; None if it does not say which it is."""
    if owner is None or owner.get("pid") is None:
        return None
    return tuple(owner.get(key) for key in ("host", "boot", "namespace", "pid", "started"))


def process_of(owner: Mapping[str, Any], unknown: str = "") -> str:
    """Which process an owner is, as far as it said so: "pid 611 of rik on lab1".

    `unknown` stands for a pid that it did not say.
    """
    words = [unknown if owner.get("pid") is None else f"pid {owner['pid']}"]
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
    return f"{_protocol_of(service)}://{host}:{port}"


def _protocol_of(service: Mapping[str, Any]) -> str:
    """A registry of before took any; an endpoint has to be one word, in a shell too."""
    said = service.get("protocol")
    return said if isinstance(said, str) and _SCHEME.fullmatch(said) else "tcp"


def ports_of(service: Mapping[str, Any]) -> dict[str, int]:
    """The named ports of a record: its `endpoints`, then CGSE's `<name>_port` in the metadata."""
    told = {
        key.removesuffix("_port"): port
        for key, port in service["metadata"].items()
        if key.endswith("_port") and key != "_port"
    }
    ports = {name: _whole(port) for name, port in {**told, **service.get("endpoints", {})}.items()}
    return {
        name: port
        for name, port in ports.items()
        if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536
    }


def is_attribute(name: str) -> bool:
    """Whether a name from the registry can be written as an attribute."""
    return name.isidentifier() and not name.startswith("_") and not iskeyword(name)


def pick_by_name(services: Iterable[Mapping[str, Any]], name: str) -> ServiceRecord | None:
    """The one record that `name` means: an id or a name, else the start of either.

    Raises AmbiguousName where several fit equally well, also if it is the id of one and the name of
    another: nobody takes the place of another by an id of that name.
    """
    known = list(services)
    for found in (
        [one for one in known if name in (one["id"], one["name"])],
        [one for one in known if one["id"].startswith(name) or one["name"].startswith(name)],
    ):
        if len(found) > 1:
            raise AmbiguousName(
                f"{name!r} fits {len(found)} services", [one["id"] for one in found]
            )
        if found:
            return told(found[0], getattr(services, "as_of", None))
    return None
