"""A registration: all that is needed to register a service, and to do it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from rsreg.client.registration import owner
from rsreg.config import MODES
from rsreg.errors import ConfigurationError, JudgeFirst, OwnedByOther
from rsreg.protocol import calls, wire
from rsreg.protocol.calls import NO_OTHERWISE, Call, CallSequence, Entry, Otherwise, Record
from rsreg.protocol.requests import RegisterRequest


class Details(TypedDict, total=False):
    """The keyword arguments of `RegistryClient.register` that are facts about the service."""

    tags: Sequence[str] | None
    mode: str | None
    endpoints: Mapping[str, int] | None
    ready: bool
    exclusive: bool
    owned: bool
    force: bool


class RegistrationFields(Details, total=False):
    """The keyword arguments of `RegistryClient.registered` that `register` has too."""

    singleton: bool
    allow_duplicate_service_type: bool
    service_id: str | None


class UpdateFields(TypedDict, total=False):
    """The fields that `RegistryClient.update` can change."""

    host: str | None
    port: int | None
    metadata: Mapping[str, Any] | None
    tags: Sequence[str] | None
    endpoints: Mapping[str, int] | None
    ready: bool | None


@dataclass(frozen=True)
class Registration:
    """All that is needed to register a service, and to register it again just as it was.

    `info` has no host until that is found. With `force` it may replace the entry of another process
    that lives.
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
        """Make one from the arguments of `RegistryClient.register`; raises ConfigurationError.

        Without a port it has that of the endpoint "command", else of the first.
        """
        named = _endpoints(endpoints)
        if port is None and named is not None:
            port = named.get("command", next(iter(named.values())))
        fields = {
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
        info = {field: value for field, value in fields.items() if value is not None}
        if metadata or tags or endpoints:
            # Later, only a heartbeat would notice, and nobody would see that error.
            wire.check_registration(info)
        return cls(info, ttl, service_id, force)

    def with_id(self, service_id: str) -> Registration:
        """Return it with the id that the registry gave, and without `force`: that was once."""
        return Registration(self.info, self.ttl, service_id)

    def changed(self, changes: Mapping[str, Any]) -> Registration:
        """Return it with other values in some fields; ConfigurationError if it is too long."""
        info = {**self.info, **changes}
        wire.check_registration(info)
        return replace(self, info=info)

    @property
    def owner(self) -> Record | None:
        """The process that owns it, if it has one."""
        return self.info.get("owner")

    @property
    def asker(self) -> Record:
        """The process that asks for its changes: its owner, or else this one."""
        return self.owner or owner.this_process()

    @property
    def name(self) -> str:
        """The service's name."""
        return str(self.info["name"])

    def left_behind(self, namesakes: list[Record]) -> dict[str, Any]:
        """Return the owners, by id, of those entries of its name whose owners are gone."""
        return {
            one["id"]: one["owner"]
            for one in namesakes
            if one.get("name") == self.name and owner.is_gone(one.get("owner"))
        }

    def own_entry(self, namesakes: list[Record]) -> str | None:
        """Return the id of the entry, of those of its name, that is this registration, or None.

        There is one if the answer to an earlier try got lost. No other service of this process has
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
    """Return the fields that `RegistryClient.update` has to change; raises ConfigurationError."""
    fields = {
        "host": host,
        "port": port,
        "metadata": None if metadata is None else dict(metadata),
        "tags": None if tags is None else _tags(tags),
        "endpoints": _endpoints(endpoints),
        "ready": ready,
    }
    given = {field: value for field, value in fields.items() if value is not None}
    if not given:
        raise ConfigurationError("there is nothing to change", hint="name the fields that change")
    return given


def _endpoints(endpoints: Mapping[str, int] | None) -> dict[str, int] | None:
    if endpoints is None:
        return None
    if not isinstance(endpoints, Mapping) or not endpoints:
        raise ConfigurationError(
            f"endpoints is a mapping of names to ports, not {endpoints!r}",
            hint='write endpoints={"command": 5000}',
        )
    return dict(endpoints)


def _tags(tags: Sequence[str]) -> list[str]:
    if isinstance(tags, str):
        raise ConfigurationError(f"tags is a list of texts, not {tags!r}")
    return list(tags)


def _mode(mode: str | None) -> str | None:
    if mode is not None and mode not in MODES:
        raise ConfigurationError(
            f"unknown mode {mode!r}", hint='a service is "hardware" or a "simulator"'
        )
    return mode


def registering(
    registration: Registration, report: Mapping[str, Any] | None = None, *, judges: bool = True
) -> CallSequence[Entry]:
    """Register, in place of what died on this host: of its id, and with `judges` of its name.

    Most often nothing died, and it is one request.
    """
    first = {
        JudgeFirst.code: lambda reply: list(reply["namesakes"]),
        OwnedByOther.code: lambda reply: [
            {"id": reply["service_id"], "name": registration.name, "owner": reply["owner"]}
        ],
    }
    answer: Any = yield _register(registration, report, first, judges=judges or None)
    if isinstance(answer, list):
        dead = registration.left_behind(answer)
        answer = yield _register(registration, report, replaces=dead or None)
    entry: Entry = answer
    return entry


def register(
    registration: Registration, report: Mapping[str, Any] | None = None, *, force: bool = False
) -> Call[Entry]:
    """Register without replacing anything that died."""
    return _register(replace(registration, force=force or registration.force), report)


def _register(
    registration: Registration,
    report: Mapping[str, Any] | None = None,
    otherwise: Otherwise = NO_OTHERWISE,
    *,
    judges: bool | None = None,
    replaces: Mapping[str, Any] | None = None,
) -> Call[Any]:
    info = registration.info
    if registration.service_id is not None:
        info = {**info, "id": registration.service_id}
    request = RegisterRequest(
        service_info=info,
        ttl=registration.ttl,
        report=report,
        judges=judges,
        replaces=replaces,
        # An entry that is to outlive this process has no owner; who registers it is sent even so.
        owner=owner.this_process() if registration.owner is None else None,
        force=registration.force or None,
    )
    return calls.register(request, otherwise)
