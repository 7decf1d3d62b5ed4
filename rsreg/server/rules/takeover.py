"""Entries of dead processes: which a registration replaces, and which it makes doubtful."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rsreg.errors import JudgeFirst
from rsreg.protocol.messages import ServiceInfo
from rsreg.server.backends.stored import Service
from rsreg.server.rules.ownership import Requester
from rsreg.server.view.lease import Lease
from rsreg.server.view.live_view import LiveView


def check_judged(
    view: LiveView,
    info: ServiceInfo,
    owner: Mapping[str, Any] | None,
    judged: Mapping[str, object],
) -> None:
    """Raise JudgeFirst if others have the name, which the client's machine may know to be dead.

    `judged` are the ids of those that the client has looked at already.
    """
    boot = owner and owner.get("boot")
    namesakes = [
        lease
        for lease in (view.named(info.name) if boot else ())
        if lease.service.id != info.id
        and lease.service.id not in judged
        and (lease.service.owner or {}).get("boot") == boot
    ]
    if namesakes:
        records = [msgspec.Raw(lease.record()) for lease in namesakes]
        raise JudgeFirst(
            f"There are entries of the name {info.name}", details={"namesakes": records}
        )


def replaced_leases(
    view: LiveView, info: ServiceInfo, replaces: Mapping[str, object], who: Requester
) -> list[Lease]:
    """Return the leases that a registration replaces: of its name, and still of that owner.

    Owners can be read by all: of one that lives still it has to come from the same address.
    """
    leases = [view.get(service_id) for service_id in replaces]
    return [
        lease
        for lease in leases
        if lease is not None
        and (lease.service.name == info.name or lease.service.id == info.id)
        and (not lease.alive or who.force or who.is_where(lease.service))
        and lease.service.owner is not None
        and lease.service.owner == replaces[lease.service.id]
    ]


def dead_rivals(
    view: LiveView, service: Service, before: Lease | None, who: Requester
) -> list[Lease]:
    """Return the leases at the addresses of a service whose processes must be dead.

    Two processes can't listen at one address. But nothing is sure where both entries were there
    before, and both were heard of since; or where several processes live at the address already,
    behind a gateway. Nor is it of entries that name no owner, or if it is said from elsewhere.
    """
    settled = set()
    if before is not None and before.service.owner == service.owner:
        settled = {rival.service.id for rival in view.rivals(before.service)}
    rivals = [each for each in view.rivals(service) if each.service.id not in settled]
    if any(each.service.is_of_another_process(rivals[0].service) for each in rivals[1:]):
        return []
    return [rival for rival in rivals if who.is_where(rival.service)]
