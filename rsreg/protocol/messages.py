"""The fields of requests, as types that say what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from rsreg.errors import InvalidRequest
from rsreg.protocol.hosts import check_host
from rsreg.protocol.limits import (
    MAX_ENDPOINT_NAME,
    MAX_ENDPOINTS,
    MAX_ID,
    MAX_KEYS,
    MAX_MAINTENANCE,
    MAX_MOMENT,
    MAX_PATH,
    MAX_PORT,
    MAX_REPLACED,
    MAX_TAGS,
    MAX_TEXT,
    MAX_TTL,
    MIN_TTL,
)
from rsreg.protocol.records import COMPUTED, SCHEME, whole

Name = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]
Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Port = Annotated[int, Meta(ge=1, le=MAX_PORT)]
Tags = Annotated[list[Name], Meta(max_length=MAX_TAGS)]
Endpoints = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=MAX_ENDPOINT_NAME)], Port],
    Meta(min_length=1, max_length=MAX_ENDPOINTS),
]
Ttl = Annotated[int, Meta(ge=MIN_TTL, le=MAX_TTL)] | Annotated[float, Meta(ge=MIN_TTL, le=MAX_TTL)]
Period = Annotated[int, Meta(ge=1, le=MAX_MAINTENANCE)]
Count = Annotated[int, Meta(ge=0)]
Path = Annotated[str, Meta(min_length=1, max_length=MAX_PATH, pattern=r"^[^\0]+$")]

Mode = Literal["hardware", "simulator"]
Protocol = Annotated[str, Meta(pattern=rf"^{SCHEME.pattern}\Z")]
_Text = Annotated[str, Meta(max_length=MAX_TEXT)]
_Seconds = Annotated[float, Meta(ge=0)]
_HINTS = {
    "port": f"a port is a whole number from 1 to {MAX_PORT}, the one that the system gave, not 0",
    "ttl": f"a ttl is a number of seconds from {MIN_TTL} to {MAX_TTL}",
    "name": f"a name has 1 to {MAX_TEXT} characters",
    "host": f"a host has 1 to {MAX_TEXT} characters, and no port or tcp:// with it",
    "type": f"a type has 1 to {MAX_TEXT} characters",
    "id": f"an id has 1 to {MAX_ID} characters",
    "tags": f"tags are a list of at most {MAX_TAGS} texts of 1 to {MAX_TEXT} characters",
    "metadata": "metadata is an object",
    "mode": 'a mode is "hardware" or "simulator"',
    "protocol": 'a protocol is what begins an endpoint: a short word, such as "tcp"',
    "endpoints": f"endpoints are an object of 1 to {MAX_ENDPOINTS} names, each with a port from 1 "
    f"to {MAX_PORT}",
    "progress": "progress is a number from 0 to 1",
    "watchdog": f"a watchdog is a number of seconds from {MIN_TTL} to {MAX_TTL}",
    "for": f"a maintenance is for 1 to {MAX_MAINTENANCE} seconds, a whole number, or forever",
    "pid": "a pid is a whole number",
    "since": "since is a whole number, 0 or more",
    "limit": "a limit is a whole number, 0 or more",
}
#: Fields of other places that do nothing in a `service_info`, and where they belong.
_MISPLACED = {
    "service_type": ("type", 'in a service_info it is "type"'),
    "service_id": ("id", 'in a service_info it is "id"'),
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
    started: Annotated[float, Meta(ge=0, lt=MAX_MOMENT)] | None = None
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


#: The owners of the entries that a registration replaces, by id.
Replaced = Annotated[dict[str, Owner], Meta(max_length=MAX_REPLACED)]


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
_COMMON = frozenset(ServiceInfo.__struct_fields__) - _AS_THEY_CAME
#: Fields that an `update` can't change.
_FIXED = frozenset(ServiceInfo.__struct_fields__) - frozenset(ServiceChange.__struct_fields__)


class Asker(Struct, frozen=True, kw_only=True):
    """Who asks for a service, as it says itself: its host, and the id of that host's last boot."""

    host: str | None = None
    boot: str | None = None


class Question(Struct, frozen=True, kw_only=True):
    """The conditions in a `list` or `discover` request."""

    name: str | None = None
    tags: Tags | None = None
    where: Annotated[dict[str, Any], Meta(max_length=MAX_KEYS)] | None = None
    mode: Mode | None = None
    prefix: Annotated[str, Meta(max_length=MAX_ID)] | None = None
    health: Annotated[list[str], Meta(max_length=MAX_KEYS)] | None = None


class CheckedMaintenance(Struct, frozen=True, kw_only=True):
    """The fields of a `maintenance` request, checked."""

    on: bool
    service: Id | None = None
    service_type: Name | None = None
    host: Name | None = None
    seconds: Period | None = msgspec.field(name="for", default=None)
    forever: bool | None = None
    reason: Name | None = None
    by: Name | None = None
    force: bool | None = None


class Status(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a service is doing. With a `max` it is busy, for so many seconds since `since`.

    `elapsed` says for how many seconds it has been so, since no two clocks agree on a `since`.
    """

    text: Name
    progress: Annotated[float, Meta(ge=0, le=1)] | None = None
    since: Annotated[int, Meta(ge=0, lt=MAX_MOMENT)] | None = None
    max: Annotated[float, Meta(gt=0, le=MAX_TTL)] | None = None
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
        """True if the main loop stands still: it was not fed for its whole `watchdog`."""
        return self._fed_within(1)

    @property
    def late(self) -> bool:
        """True if the main loop is late: it was not fed for half of its `watchdog`."""
        return self._fed_within(2)

    def _fed_within(self, part: int) -> bool:
        return (
            self.fed is not None and self.watchdog is not None and self.fed * part > self.watchdog
        )


NO_REPORT = Report()


def read_service_info(value: object) -> tuple[ServiceInfo, dict[str, Any]]:
    """Return the known fields, checked, and the others as they came; raises InvalidRequest."""
    if not isinstance(value, dict):
        raise InvalidRequest("Invalid service_info: expected an object")
    for field in ("name", "host", "port"):
        if field not in value:
            raise InvalidRequest(f"Missing required field in service_info: {field}")
    for field, (meant, hint) in _MISPLACED.items():
        if value.get(field) is not None and value.get(meant) is None:
            raise InvalidRequest(f"Invalid service_info.{field}: it means nothing here", hint=hint)
    info: ServiceInfo = checked(value, ServiceInfo, "service_info.")
    check_host(info.host, "service_info.host")
    return info, _extra(value)


def read_change(value: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what an update changes of a Service, and of its `extra`; raises InvalidRequest."""
    if not isinstance(value, dict):
        raise InvalidRequest("Invalid service_info: expected an object")
    for field in value:
        if field in _FIXED or field in _MISPLACED or field == "ttl":
            raise InvalidRequest(
                f"Invalid service_info.{field}: an update can't change it",
                hint="register the service anew",
            )
    change = msgspec.structs.asdict(checked(value, ServiceChange, "service_info."))
    if change["host"] is not None:
        check_host(change["host"], "service_info.host")
    given = {field: change[field] for field in change if change[field] is not None}
    return {field: given[field] for field in given if field in _COMMON}, _extra(value)


def read_report(value: object, now: float) -> Report | None:
    """Return a report, checked; None if there is none. Raises InvalidRequest.

    A status that says how many seconds ago it began gets a `since` by our clock: `now`, in seconds
    after 1970, is the time on it.
    """
    if value is None:
        return None
    report: Report = checked(value, Report, "report.")
    if (report.fed is None) != (report.watchdog is None):
        raise InvalidRequest("Invalid report: fed and watchdog come together")
    status = report.status
    if status is None or status.elapsed is None:
        return report
    since = max(0, round(now - status.elapsed))
    status = msgspec.structs.replace(status, since=since, elapsed=None)
    return msgspec.structs.replace(report, status=status)


def _extra(info: Mapping[str, Any]) -> dict[str, Any]:
    return {
        field: whole(value) if field in _AS_THEY_CAME else value
        for field, value in info.items()
        if field not in _COMMON
        and field not in COMPUTED
        and (value is not None or field not in _AS_THEY_CAME)
    }


def read_ttl(value: object) -> int | float:
    """Return a ttl in seconds, as a whole number where it is one; raises InvalidRequest."""
    ttl: int | float = checked(value, Ttl, "ttl")
    return int(ttl) if ttl == int(ttl) else ttl


def checked(value: object, wanted_type: Any, label: str) -> Any:
    """Return `value` as a type; raises InvalidRequest, which names the field and has a hint.

    5000.0 is taken for a whole number: in some languages all numbers are written so.
    """
    try:
        return msgspec.convert(value, wanted_type)
    except msgspec.ValidationError:
        pass
    try:
        return msgspec.convert(whole(value), wanted_type)
    except msgspec.ValidationError as error:
        if (meant := _emptied(value)) is not value:
            return checked(meant, wanted_type, label)
        what, _, path = str(error).replace("`key` in ", "").partition(" - at `$")
        field = label + path.strip(".`")
        known = re.sub(r"\[.*", "", field).rpartition(".")[2]
        raise InvalidRequest(
            f"Invalid {field}: {what[:1].lower()}{what[1:]}", hint=_HINTS.get(known)
        ) from error


def _emptied(value: object) -> object:
    """Return the value with an empty list where one is meant, and an empty object likewise."""
    if not isinstance(value, dict):
        return value
    meant = {
        field: empty
        for field, empty in _EMPTY.items()
        if value.get(field) in ([], {}) and value[field] != empty
    }
    return {**value, **meant} if meant else value
