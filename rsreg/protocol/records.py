"""What clients get: the record of a service, a list of them, and what is read from one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from keyword import iskeyword
from typing import Any

from rsreg import display
from rsreg.config import HARDWARE
from rsreg.errors import AmbiguousName, ConfigurationError
from rsreg.protocol.limits import MAX_PORT, MAX_SCHEME

#: What stands before "://" in an endpoint: a scheme, as in a URL. No longer than a word.
SCHEME = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]{{0,{MAX_SCHEME - 1}}}")
#: Fields of a record that the registry itself fills in; in a `service_info` they are ignored.
COMPUTED = frozenset(
    {
        *("ttl", "last_heartbeat", "health", "reason", "status", "load", "maintenance"),
        "registered_by",
    }
)
#: Fields of a record that are as somebody said, whether they are there or not.
DECLARED = (
    *("name", "host", "port", "type", "tags", "metadata", "ttl"),
    *("endpoints", "protocol", "mode", "ready", "exclusive", "owner"),
)


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
        return service_record(self, self.as_of)

    def __reduce__(self) -> tuple[Any, ...]:
        return service_record, (dict(self), self.as_of)

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
        return service_list, (list(self), self.as_of)

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


def service_record(record: Mapping[str, Any], as_of: float | None) -> ServiceRecord:
    """Return a record as clients get it; `as_of` is the time of the reply, if it is known."""
    made = ServiceRecord(record)
    if as_of is not None:
        made.as_of = as_of
    return made


def service_list(services: Iterable[ServiceRecord], as_of: float | None) -> ServiceList:
    """Return a list of records as clients get it; `as_of` is the time of the reply."""
    made = ServiceList(services)
    if as_of is not None:
        made.as_of = as_of
    return made


def service_types_of(
    service_type: str | None, tags: Iterable[str], metadata: Mapping[str, Any]
) -> set[str]:
    """Return the types that a service is found under: its type, its tags and `metadata.type`."""
    types = (service_type, metadata.get("type"), *tags)
    return {each for each in types if each and isinstance(each, str)}


def mode_of(service: Mapping[str, Any]) -> str:
    """Return the mode of the service of a record: "hardware" or "simulator"."""
    return str(service.get("mode", HARDWARE))


def process_key(owner: Mapping[str, Any] | None) -> tuple[Any, ...] | None:
    """Return what identifies the process of an owner; None if the owner has no pid."""
    if owner is None or owner.get("pid") is None:
        return None
    return tuple(owner.get(key) for key in ("host", "boot", "namespace", "pid", "started"))


def describe_process(owner: Mapping[str, Any], unknown: str = "") -> str:
    """Describe the process of an owner, as far as it is known: "pid 611 of rik on lab1".

    `unknown` is written where the pid is not known.
    """
    words = [unknown if owner.get("pid") is None else f"pid {owner['pid']}"]
    for word, key in (("of", "user"), ("on", "host")):
        if owner.get(key):
            words.append(f"{word} {owner[key]}")
    return " ".join(filter(None, words))


def slug(name: str) -> str:
    """Return the readable half of an id: the name in lower case, with dashes for odd characters."""
    return re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-") or "service"


def endpoint_of(service: Mapping[str, Any], name: str | None = None) -> str:
    """Return the ZeroMQ endpoint of a record: its `protocol` (tcp if it has none), host and port.

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
    # Older registries took any text. An endpoint has to be one word, in a shell too.
    protocol = service.get("protocol")
    return protocol if isinstance(protocol, str) and SCHEME.fullmatch(protocol) else "tcp"


def ports_of(service: Mapping[str, Any]) -> dict[str, int]:
    """Return the named ports of a record: its `endpoints`, and CGSE's `<name>_port` in metadata."""
    in_metadata = {
        key.removesuffix("_port"): port
        for key, port in service["metadata"].items()
        if key.endswith("_port") and key != "_port"
    }
    named = {**in_metadata, **service.get("endpoints", {})}
    ports = {name: whole(port) for name, port in named.items()}
    return {
        name: port
        for name, port in ports.items()
        if isinstance(port, int) and not isinstance(port, bool) and 0 < port <= MAX_PORT
    }


def is_attribute(name: str) -> bool:
    """Return whether a name from the registry can be written as an attribute."""
    return name.isidentifier() and not name.startswith("_") and not iskeyword(name)


def pick_by_name(services: Iterable[Mapping[str, Any]], name: str) -> ServiceRecord | None:
    """Return the one record that `name` means: an id or a name, else the start of either.

    Raises AmbiguousName if several fit equally well, also if it is the id of one service and the
    name of another: so no service can take the place of another by its id.
    """
    candidates = list(services)
    for fitting in (
        [one for one in candidates if name in (one["id"], one["name"])],
        [one for one in candidates if one["id"].startswith(name) or one["name"].startswith(name)],
    ):
        if len(fitting) > 1:
            raise AmbiguousName(
                f"{name!r} fits {len(fitting)} services", [one["id"] for one in fitting]
            )
        if fitting:
            return service_record(fitting[0], getattr(services, "as_of", None))
    return None


def whole(value: Any) -> Any:
    """Return a value with whole numbers as int; what is in `metadata` stays as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [whole(one) for one in value]
    if isinstance(value, dict):
        return {key: one if key == "metadata" else whole(one) for key, one in value.items()}
    return value
