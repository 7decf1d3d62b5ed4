"""What is said about a service: `ServiceInfo` (asked), `Service` (known), `Event` (happened)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from rsreg.errors import AmbiguousName, InvalidRequest

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Id = Annotated[str, Meta(min_length=1, max_length=512)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Ttl = Annotated[int, Meta(ge=1, le=86400)] | Annotated[float, Meta(ge=1, le=86400)]

#: Fields of a record that the registry itself fills in; in a `service_info` they are ignored.
COMPUTED = frozenset({"ttl", "last_heartbeat", "health"})

_HINTS = {
    "port": "a port is a number from 1 to 65535; register the one that the system gave, not 0",
    "ttl": "a ttl is a number of seconds from 1 to 86400",
    "name": "a name has 1 to 256 characters",
    "host": "a host has 1 to 256 characters",
    "type": "a type has 1 to 256 characters",
    "id": "an id has 1 to 512 characters",
    "tags": "tags are a list of at most 64 texts of 1 to 256 characters",
    "metadata": "metadata is an object",
}


class ServiceInfo(Struct, frozen=True, kw_only=True):
    """What a `register` request says about a service (docs/protocol.md, "register")."""

    name: Name
    host: Name
    port: Port
    type: Name | None = None
    tags: Annotated[list[Name], Meta(max_length=64)] | None = None
    metadata: dict[str, Any] | None = None
    id: Id | None = None
    singleton: bool | None = None
    allow_duplicate_service_type: bool | None = None


_ASKED = frozenset(ServiceInfo.__struct_fields__)


class Service(Struct, frozen=True, kw_only=True):
    """One registered instance, as the registry knows and stores it.

    `extra` holds the fields of `service_info` that the protocol does not know; they are kept and
    returned. `last_heartbeat` is the one stored with the record, in seconds since the epoch.
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


class Event(Struct, frozen=True, kw_only=True):
    """One change of the registry. `body` is the JSON object that is published and stored.

    `token` names the request that caused it, see `wire.fingerprint`; no token, no such request.
    """

    seq: int
    type: str
    service_id: str
    body: bytes
    token: str | None = None


def read_service_info(asked: object) -> tuple[ServiceInfo, dict[str, Any]]:
    """The known fields, checked, and the unknown ones as they are; raises InvalidRequest."""
    if not isinstance(asked, dict):
        raise InvalidRequest("Invalid service_info: expected an object")
    for field in ("name", "host", "port"):
        if field not in asked:
            raise InvalidRequest(f"Missing required field in service_info: {field}")
    info = checked(asked, ServiceInfo, "service_info.")
    extra = {key: asked[key] for key in asked if key not in _ASKED and key not in COMPUTED}
    return info, extra


def read_ttl(asked: object) -> int | float:
    """A ttl in seconds, whole where it can be; raises InvalidRequest."""
    ttl: int | float = checked(asked, Ttl, "ttl")
    return int(ttl) if ttl == int(ttl) else ttl


def checked(value: object, kind: Any, label: str) -> Any:
    """`value` as a `kind`, or InvalidRequest with the name of the field and a hint."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        field = label + path.strip(".`")
        known = re.sub(r"\[.*", "", field.rpartition(".")[2])
        raise InvalidRequest(
            f"Invalid {field}: {what[:1].lower()}{what[1:]}", hint=_HINTS.get(known)
        ) from error


def kinds_of(kind: str | None, tags: Iterable[str], metadata: Mapping[str, Any]) -> set[str]:
    """What a service with these is found under."""
    return {one for one in (kind, metadata.get("type"), *tags) if one and isinstance(one, str)}


def slug(name: str) -> str:
    """The readable half of an id: lower case, anything odd as a dash."""
    return re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-") or "service"


def endpoint_of(service: Mapping[str, Any]) -> str:
    """The ZeroMQ endpoint of a record: its `protocol` (tcp if it has none), host and port."""
    host = service["host"]
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{service.get('protocol', 'tcp')}://{host}:{service['port']}"


def pick_by_name(services: Iterable[Mapping[str, Any]], name: str) -> dict[str, Any] | None:
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
            return dict(found[0])
    return None
