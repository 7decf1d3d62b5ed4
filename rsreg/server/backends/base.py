"""What every store of a registry has and promises: the protocols that a backend implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from rsreg.server.backends.retention import Retention
from rsreg.server.backends.stored import AnnouncedHealth, Event, Maintenance, Service

#: Bytes of events that are read at once; the first one may have more.
EVENTS_SIZE = 1024 * 1024
#: Requests that are remembered, so that a resend is no second one.
MAX_ANSWERED = 10_000


@dataclass(frozen=True)
class Stored:
    """What a store holds when it is opened.

    `epoch` is random and made with the store; `seq` is the number of its last event, 0 without any.
    `answered` maps the newest tokens in the journal, oldest first, to their events' service ids;
    `request_numbers` maps the ids of services to the last request number in an event about them.
    `maintenance` is that of the last commit that had any. `announced` maps ids of services to the
    health in the last event about them, where that is not "passing".
    """

    epoch: str
    seq: int
    services: list[Service]
    answered: dict[str, str]
    maintenance: list[Maintenance] = field(default_factory=list)
    announced: dict[str, AnnouncedHealth] = field(default_factory=dict)
    request_numbers: dict[str, str] = field(default_factory=dict)


class RegistryBackend(Protocol):
    """A place where registrations and the journal are kept.

    The registry calls it from one thread, answers questions from its own memory, and reads services
    only once, at start. Every method raises StoreError when the store can't do what is asked, and
    then has changed nothing.
    """

    def initialize(self) -> object:
        """Open the store; make it if it is not there. A second call does nothing.

        Raises:
            StoreError: The store can't be opened.
        """

    def load(self) -> Stored:
        """Return all that is stored.

        Raises:
            StoreError: The store can't be read.
        """

    def commit(
        self,
        changes: Mapping[str, Service | None],
        events: Sequence[Event],
        maintenance: Sequence[Maintenance] | None = None,
    ) -> None:
        """Make changes durable, all or nothing.

        After the return they survive a crash, as far as this store survives one.

        Args:
            changes: The ids of services, and the services as they are now; None: gone.
            events: The events of these changes, to be added to the journal.
            maintenance: All entries of maintenance from now on; None: they are as before.

        Raises:
            StoreError: Nothing was stored.
        """

    def events(self, since: int, limit: int) -> list[Event]:
        """Return events of the journal, oldest first; at least one, if there are any.

        If the first has a number above `since + 1`, the journal no longer reaches back that far.

        Args:
            since: The number (`seq`) of the last event before those wanted.
            limit: The most that are returned; fewer if they are large.

        Raises:
            StoreError: The store can't be read.
        """

    def touch(self, heartbeats: Mapping[str, int]) -> None:
        """Store the times of the last heartbeats.

        Called at a clean stop, and, also without any, to see whether a store that failed can be
        written again.

        Args:
            heartbeats: The ids of services, and the times in seconds after 1970.

        Raises:
            StoreError: The store can't be written.
        """

    def close(self) -> object:
        """Close the store; a second call does nothing."""

    def describe(self) -> str:
        """Return where the store is, for people."""


@runtime_checkable
class Journaled(Protocol):
    """What a backend has, too, that can say how much it keeps of the past."""

    journal: Retention


@runtime_checkable
class Tended(Protocol):
    """What a backend may have, too, if somebody has to look after it."""

    def tend(self) -> None:
        """Look after the store: called twice a second, between two changes.

        Raises StoreLost if the store is no longer where it was; changes are refused then, until a
        later call finds it again. What can be given back of disk or memory is, a little at a time.
        """


@dataclass(frozen=True)
class Copied:
    """What a copy of a store holds: its bytes, services, and the number of its last event."""

    size: int
    services: int
    seq: int


@runtime_checkable
class Copyable(Protocol):
    """What a backend has, too, that can be copied."""

    def copy(self, target: Path, *, replace: bool) -> Copied:
        """Write a copy of all that is committed to a file, whole or not at all.

        Called in a thread of its own, beside everything else; ends soon after `close`. A file that
        is there is refused, unless it is to be replaced. Raises StoreError.
        """
