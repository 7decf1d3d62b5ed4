"""Requester, who asks for a change; and whether an entry is theirs to change.

An entry is for its own process to change as long as that lives; a maintenance for who began it.
Others have to say `force`. This keeps accidents away, and nobody who is set on it: it has no keys.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from rsreg.errors import OwnedByOther
from rsreg.protocol import records
from rsreg.server.backends.stored import Maintenance, Service
from rsreg.server.view.lease import Lease


class Requester(NamedTuple):
    """Who asks: the address, as the registry sees it, and what they say of themselves.

    Without an address it is the registry itself.
    """

    address: str | None = None
    says: str | None = None
    owner: Mapping[str, Any] | None = None
    force: bool = False

    def named(self) -> dict[str, str | None]:
        """Return the fields that name it in events."""
        by = {"by": self.address}
        return {**by, "says": self.says} if self.says else by

    def is_where(self, service: Service) -> bool:
        """Return whether it asks from where a service was registered, as far as that is known."""
        return service.registered_by in (None, self.address)


ITSELF = Requester()


def check_entry(lease: Lease, who: Requester) -> None:
    """Refuse to change the entry of another process that lives; raises OwnedByOther."""
    service = lease.service
    process = records.process_key(service.owner)
    if process is None or not lease.alive or process == records.process_key(who.owner) or who.force:
        return
    raise OwnedByOther(
        f"{service.name} on {service.host}:{service.port} belongs to {holder_of(service)}",
        hint="stop that process; or use force (rs_cs: --force) to do it nevertheless",
        details={
            "service_id": service.id,
            "owner": service.owner,
            "registered_by": service.registered_by,
        },
    )


def check_maintenance(entries: Iterable[Maintenance], new: Maintenance, *, force: bool) -> None:
    """Refuse to end or replace the maintenance of somebody else; raises OwnedByOther."""
    for entry in entries:
        has_author = entry.by is not None and entry.says is not None
        if entry.target != new.target or not has_author or force:
            continue
        if (entry.by, entry.says) != (new.by, new.says):
            until = "somebody ends it" if entry.until is None else _moment(entry.until)
            raise OwnedByOther(
                f"This maintenance belongs to {entry.says} on {entry.by}, until {until}: "
                f"{entry.reason or 'no reason was given'}",
                hint="ask them; or use force (rs_cs: --force) to do it nevertheless",
                details={"maintenance": entry.body()},
            )


def holder_of(service: Service) -> str:
    """Return who registered a service, as far as that is known."""
    owner = service.owner or {}
    who = [records.describe_process(owner, "another program")]
    if owner.get("started"):
        who.append(f"since {_moment(owner['started'])}")
    if service.registered_by is not None:
        who.append(f"registered from {service.registered_by}")
    return ", ".join(who)


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
