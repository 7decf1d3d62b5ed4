"""All that is needed to register a service of this process, and to do it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from rsreg.client.registration import owner
from rsreg.config import MODES
from rsreg.errors import ConfigurationError, JudgeFirst, OwnedByOther
from rsreg.protocol import calls, wire
from rsreg.protocol.calls import Call, CallSequence, Entry, Record


class Details(TypedDict, total=False):
    """What may be said of a registration by keyword (see `RegistryClient.register`)."""

    tags: Sequence[str] | None
    mode: str | None
    endpoints: Mapping[str, int] | None
    ready: bool
    exclusive: bool
    owned: bool
    force: bool


class RegistrationFields(Details, total=False):
    """What may be said of a registration by keyword (see `RegistryClient.registered`)."""

    singleton: bool
    allow_duplicate_service_type: bool
    service_id: str | None


class UpdateFields(TypedDict, total=False):
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

    @classmethod
    def of(
        cls,
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
        """The one that the arguments of `RegistryClient.register` ask for.

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
        return cls(info, ttl, service_id, force)

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
    def asker(self) -> Record:
        """The process that asks for its changes: the one that it names, or else this one."""
        return self.owner or owner.this_process()

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


def fields_of_update(
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
) -> CallSequence[Entry]:
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
    return calls.register(
        info,
        wanted.ttl,
        otherwise,
        report=report,
        # An entry that is to outlive this process does not name it; who made it is told even so.
        owner=owner.this_process() if wanted.owner is None else None,
        force=wanted.force or None,
        **more,
    )
