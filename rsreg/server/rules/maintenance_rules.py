"""Maintenance: how it starts, and how it ends."""

from __future__ import annotations

from rsreg.errors import UnknownService
from rsreg.server.backends.stored import Maintenance
from rsreg.server.limits import Limits
from rsreg.server.rules.journal import Journal
from rsreg.server.rules.ownership import Requester, check_maintenance
from rsreg.server.view.live_view import LiveView
from rsreg.timing import Clock


class MaintenanceRules:
    """Starts and ends maintenance, and knows what is in maintenance now."""

    def __init__(self, view: LiveView, journal: Journal, limits: Limits, wall: Clock) -> None:
        self._view = view
        self._journal = journal
        self._limits = limits
        self._wall = wall

    @property
    def entries(self) -> list[Maintenance]:
        """What is in maintenance now."""
        now = self._wall()
        return [each for each in self._view.maintenance if each.until is None or each.until > now]

    def covered(self, entry: Maintenance) -> int:
        """Return how many services a maintenance is about."""
        return len(self._view.covered(entry))

    def start(self, entry: Maintenance, *, force: bool = False) -> None:
        """Take what an entry covers out of discovery, what registers later too, until it is over.

        It takes the place of one of the same service, type or host. Raises OwnedByOther,
        LimitReached.
        """
        others = self._others(entry, force=force)
        if len(others) >= self._limits.maintenance:
            raise self._limits.reached("maintenance")
        self._journal.maintain([*others, entry], Requester(entry.by, entry.says))

    def end(self, entry: Maintenance, *, force: bool = False) -> None:
        """End that of the same service, type or host; raises UnknownService, OwnedByOther."""
        others = self._others(entry, force=force)
        if len(others) == len(self._view.maintenance):
            raise UnknownService("There is no such maintenance")
        self._journal.maintain(others, Requester(entry.by, entry.says))

    def end_expired(self) -> None:
        """End what is over by now; nothing of that has to be stored."""
        entries = self.entries
        if len(entries) != len(self._view.maintenance):
            self._view.maintain(entries)

    def _others(self, entry: Maintenance, *, force: bool) -> list[Maintenance]:
        """Return all entries but that of the same target, which is to go."""
        self.end_expired()
        check_maintenance(self._view.maintenance, entry, force=force)
        return [each for each in self._view.maintenance if each.target != entry.target]
