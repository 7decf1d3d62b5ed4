"""The fields of each request, beside its `action` and `request_id`.

Clients write them (`calls`), the server reads them (`rsreg.server.dispatch`), and docs/protocol.md
says what each one means. A request has the fields that are named here, and any others: who reads
one that it does not know leaves it aside. What the values have to be is in `messages`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class RegisterRequest(TypedDict, total=False):
    """The fields of `register`."""

    service_info: Mapping[str, Any]
    ttl: float | None
    report: Mapping[str, Any] | None
    judges: bool | None
    replaces: Mapping[str, Any] | None
    owner: Mapping[str, Any] | None
    force: bool | None


class UpdateRequest(TypedDict, total=False):
    """The fields of `update`."""

    service_id: str
    service_info: Mapping[str, Any]
    owner: Mapping[str, Any] | None
    force: bool | None


class DeregisterRequest(TypedDict, total=False):
    """The fields of `deregister`."""

    service_id: str
    owner: Mapping[str, Any] | None
    force: bool | None


class RenewRequest(TypedDict, total=False):
    """The fields of `renew`."""

    service_id: str
    report: Mapping[str, Any] | None


class GetRequest(TypedDict, total=False):
    """The fields of `get`."""

    service_id: str
    last_change: bool | None


class Conditions(TypedDict, total=False):
    """The fields of `list` and `discover` that say which services are meant."""

    name: str | None
    prefix: str | None
    tags: Sequence[str] | None
    where: Mapping[str, Any] | None
    mode: str | None
    health: Sequence[str] | None


class ListRequest(Conditions, total=False):
    """The fields of `list`."""

    service_type: str | None
    leases: bool | None


class DiscoverRequest(Conditions, total=False):
    """The fields of `discover`."""

    service_type: str
    strategy: str | None
    asker: Mapping[str, Any] | None


class InfoRequest(TypedDict, total=False):
    """The fields of `info`."""

    services: bool | None


class EventsRequest(TypedDict, total=False):
    """The fields of `events`."""

    since: int | None
    epoch: str | None
    mark: str | None
    limit: int | None
    leases: bool | None


#: The fields of `maintenance`; "for" is no name in Python, so they are written as a mapping.
MaintenanceRequest = TypedDict(
    "MaintenanceRequest",
    {
        "on": bool,
        "service": str | None,
        "service_type": str | None,
        "host": str | None,
        "for": int | None,
        "forever": bool | None,
        "reason": str | None,
        "by": str | None,
        "force": bool | None,
    },
    total=False,
)


class BackupRequest(TypedDict, total=False):
    """The fields of `backup`."""

    path: str
    replace: bool | None


class NoFields(TypedDict, total=False):
    """The fields of `health` and `terminate`: none."""
