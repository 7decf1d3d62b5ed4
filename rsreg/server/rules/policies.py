"""How many services there may be, in all, of a name, and of a type; and how large one may be."""

from __future__ import annotations

from rsreg.errors import DuplicateName, DuplicateServiceType, InvalidRequest
from rsreg.protocol.messages import ServiceInfo
from rsreg.server.backends.stored import Service
from rsreg.server.limits import Limits
from rsreg.server.rules.ownership import holder_of
from rsreg.server.view.lease import Lease
from rsreg.server.view.live_view import LiveView


def check_size(limits: Limits, lease: Lease) -> None:
    """Refuse a record that is too large; raises LimitReached."""
    if len(lease.service.tags) > limits.tags:
        raise limits.reached("tags")
    if lease.size > limits.record_bytes:
        raise limits.reached("record_bytes")


def check_room(view: LiveView, limits: Limits, lease: Lease, gone: set[str]) -> None:
    """Refuse a service more than there may be, `gone` ones left out; raises LimitReached.

    One that is there already may always be registered again, unless it takes more memory.
    """
    service, before = lease.service, view.get(lease.service.id)
    address = service.registered_by
    if before is not None and before.memory >= lease.memory:
        old = before.service
        if old.name == service.name and old.registered_by == address:
            return
    leaving = [one for each in gone if (one := view.get(each)) is not None]
    if before is None and len(view) - len(leaving) >= limits.services:
        raise limits.reached("services")
    if before is None or before.service.name != service.name:
        gone_namesakes = sum(one.service.name == service.name for one in leaving)
        if len(view.named(service.name)) - gone_namesakes >= limits.services_per_name:
            raise limits.reached("services_per_name")
    if address is None or limits.is_gateway(address):
        return
    share = view.shares.of(address)
    own = [one for one in leaving if one.service.registered_by == address]
    moved = before is None or before.service.registered_by != address
    if moved and share.services - len(own) >= limits.services_per_address:
        raise limits.reached("services_per_address", address)
    memory = share.memory - sum(one.memory for one in own) + lease.memory
    if (before is None or lease.memory > before.memory) and memory > limits.bytes_per_address:
        raise limits.reached("bytes_per_address", address)


def check_name(view: LiveView, service: Service, gone: set[str]) -> None:
    """Refuse a second live service of a name that is exclusive; raises DuplicateName."""
    # Nobody looks through all of a name where there is nothing to refuse.
    holders = view.named if service.exclusive else view.exclusive
    for lease in holders(service.name):
        holder = lease.service
        if holder.id not in gone and lease.alive:
            raise DuplicateName(
                f"{service.name} is registered already",
                hint=f"{holder_of(holder)}, has it on {holder.host}:{holder.port}; "
                "stop that one, or register under another name",
                details={"existing_service_id": holder.id},
            )


def check_type(
    view: LiveView, info: ServiceInfo, service: Service, gone: set[str], *, unique: bool
) -> None:
    """Refuse a second live service of a type where one is allowed; raises DuplicateServiceType.

    `unique` is what the server allows where the service says nothing of it.
    """
    if info.singleton and info.allow_duplicate_service_type:
        raise InvalidRequest(
            "invalid_service_type_policy",
            details={"message": "singleton and allow_duplicate_service_type cannot both be true."},
        )
    one = info.singleton or (unique and not info.allow_duplicate_service_type)
    service_type = service.effective_type
    if not one or service_type is None:
        return
    for lease in view.of_type(service_type):
        holder = lease.service
        if holder.id not in gone and lease.alive:
            raise DuplicateServiceType(
                "duplicate_service_type",
                hint=f"{holder.name} holds it on {holder.host}:{holder.port}",
                details={
                    "message": f"Service type '{service_type}' is already registered by "
                    f"service_id '{holder.id}'.",
                    "service_type": service_type,
                    "existing_service_id": holder.id,
                },
            )
