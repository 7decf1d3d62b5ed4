"""What clients get: the record of a service, a list of them, and what is read from one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from keyword import iskeyword
from typing import Any

from rsreg import display
from rsreg.config import HARDWARE
from rsreg.errors import AmbiguousName, ConfigurationError

#: What stands before "://" in an endpoint: a scheme, as in a URL. No longer than a word.
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}")
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
    """A record as a client gets it, from a reply of that time."""
    made = ServiceRecord(record)
    if as_of is not None:
        made.as_of = as_of
    return made


def service_list(services: Iterable[ServiceRecord], as_of: float | None) -> ServiceList:
    """The same for a list of records."""
    made = ServiceList(services)
    if as_of is not None:
        made.as_of = as_of
    return made


def kinds_of(kind: str | None, tags: Iterable[str], metadata: Mapping[str, Any]) -> set[str]:
    """What a service with these is found under."""
    return {one for one in (kind, metadata.get("type"), *tags) if one and isinstance(one, str)}


def mode_of(service: Mapping[str, Any]) -> str:
    """What a record's service drives."""
    return str(service.get("mode", HARDWARE))


def process_key(owner: Mapping[str, Any] | None) -> tuple[Any, ...] | None:
    """What tells the process of an owner from any other; None if it does not say which it is."""
    if owner is None or owner.get("pid") is None:
        return None
    return tuple(owner.get(key) for key in ("host", "boot", "namespace", "pid", "started"))


def describe_process(owner: Mapping[str, Any], unknown: str = "") -> str:
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
    return said if isinstance(said, str) and SCHEME.fullmatch(said) else "tcp"


def ports_of(service: Mapping[str, Any]) -> dict[str, int]:
    """The named ports of a record: its `endpoints`, then CGSE's `<name>_port` in the metadata."""
    told = {
        key.removesuffix("_port"): port
        for key, port in service["metadata"].items()
        if key.endswith("_port") and key != "_port"
    }
    ports = {name: whole(port) for name, port in {**told, **service.get("endpoints", {})}.items()}
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
            return service_record(found[0], getattr(services, "as_of", None))
    return None


def whole(value: Any) -> Any:
    """The same with whole numbers written so, but for what is in `metadata`."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [whole(one) for one in value]
    if isinstance(value, dict):
        return {key: one if key == "metadata" else whole(one) for key, one in value.items()}
    return value
