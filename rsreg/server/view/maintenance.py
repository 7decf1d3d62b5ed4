"""What is in maintenance: the entries, and which of them covers a service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rsreg.server.backends.stored import Maintenance, Service

#: What an entry is about, and its name there: a service, a type or a host.
Target = tuple[str, str]


class MaintenanceIndex:
    """The entries of maintenance, found by the service, type or host they are about."""

    def __init__(self, entries: Iterable[Maintenance] = ()) -> None:
        self.entries = list(entries)
        self._at: dict[Target, tuple[int, Maintenance]] = {}
        for place, entry in enumerate(self.entries):
            self._at.setdefault(_target(entry), (place, entry))

    def covering(self, service: Service) -> Maintenance | None:
        """Return the first entry that covers a service, or None."""
        if not self._at:
            return None
        entries = [self._at[target] for target in _targets(service) if target in self._at]
        return min(entries)[1] if entries else None

    def differing(self, other: MaintenanceIndex) -> list[Maintenance]:
        """Return the entries that only one of the two has; all, if their order differs."""
        mine, others = set(self.entries), set(other.entries)
        shared = mine & others
        if [one for one in self.entries if one in shared] != [
            one for one in other.entries if one in shared
        ]:
            return list(mine | others)
        return list(mine ^ others)


def _target(entry: Maintenance) -> Target:
    if entry.service is not None:
        return "service", entry.service
    if entry.service_type is not None:
        return "type", entry.service_type
    return "host", (entry.host or "").lower()


def _targets(service: Service) -> Iterator[Target]:
    """Return what entries that cover a service are about."""
    yield "service", service.id
    yield "service", service.name
    yield "host", service.host.lower()
    for service_type in service.service_types():
        yield "type", service_type
