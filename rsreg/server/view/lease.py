"""One lease: a service, how long it may stay, and how it is."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

from rsreg.protocol import wire
from rsreg.protocol.health import (
    CRITICAL,
    DISCOVERABLE,
    MAINTENANCE,
    PASSING,
    SILENT,
    STALLED,
    STARTING,
    WARNING,
    announced,
)
from rsreg.protocol.messages import NO_REPORT, Report
from rsreg.server.backends.stored import Maintenance, Service

#: The health of a lease that was not evaluated yet.
NOT_EVALUATED = ""
#: Bytes that a lease takes, and each value in its record, beside the text of the record: measured,
#: and rounded up.
_BASE, _VALUE = 1_500, 100


@dataclass(slots=True, eq=False)
class Lease:
    """A service in the live view, how long it may stay, and how it is.

    `deadline` is on the monotonic clock; `due` is when the heap of deadlines looks at the lease
    next, never later than `deadline`. `report_until` is when a report that was not repeated is
    over. `health` is the result of the last `evaluate`, `announced` the health that subscribers
    know of, `last_chosen` says when round-robin chose it last. `doubt` is why its process is taken
    for dead although the lease holds, until it is heard of again; `rival` is the name of a service
    of another process that is at its address, too; `at_addresses`: the view has it as alive.
    """

    service: Service
    deadline: float
    last_heartbeat: int
    report: Report = NO_REPORT
    maintenance: Maintenance | None = None
    doubt: str | None = None
    report_until: float = math.inf
    rival: str | None = field(init=False, default=None)
    at_addresses: bool = field(init=False, default=False)
    lapsed: bool = field(init=False, default=False)
    health: str = field(init=False, default=NOT_EVALUATED)
    announced: str = field(init=False, default=PASSING)
    #: Who said last what it is: from which address, and what of themselves; None: not known.
    changed: tuple[str | None, str | None] | None = field(init=False, default=None)
    last_chosen: int = field(init=False, default=0)
    due: float = field(init=False)
    #: About how many bytes of memory it takes.
    memory: int = field(init=False)
    _head: bytes = field(init=False)
    _tail: bytes | None = field(init=False, default=None)
    _entry: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.due = self.deadline
        # It comes last: the fingerprint is of what stands before.
        self._head = wire.encode(self.service.body())[:-1] + self._registered_by()
        # Each value is an object, however short it is as text.
        values = self._head.count(b",") + self._head.count(b"[") + self._head.count(b"{")
        self.memory = _BASE + 2 * len(self._head) + _VALUE * values

    @property
    def entry(self) -> str:
        """A fingerprint of all that was said of the service: who keeps it can tell if that is his.

        Of how it is, and of who registered it, there is nothing in it.
        """
        if self._entry is None:
            described = self._head[: -len(self._registered_by())]
            self._entry = hashlib.blake2b(described, digest_size=8).hexdigest()
        return self._entry

    def _registered_by(self) -> bytes:
        by = {"registered_by": self.service.registered_by}
        return b"," + wire.encode(by)[1:-1]

    def renew(self, deadline: float, last_heartbeat: int) -> None:
        """Move its end: it was heard of."""
        self.doubt = None
        self.deadline = deadline
        self.last_heartbeat = last_heartbeat
        self._tail = None

    @property
    def size(self) -> int:
        """Bytes of the record, but for what changes by itself."""
        return len(self._head) + 1

    def evaluate(self) -> None:
        """Set its health from what is known of it: the worst that holds."""
        if not self.alive or self.report.stalled:
            self.health = CRITICAL
        elif self.maintenance is not None:
            self.health = MAINTENANCE
        elif self.service.starting:
            self.health = STARTING
        else:
            self.health = WARNING if self.report.late or self.rival else PASSING
        self._tail = None

    @property
    def alive(self) -> bool:
        """Whether its process is taken to be there."""
        return not self.lapsed and self.doubt is None

    @property
    def discoverable(self) -> bool:
        """Whether it may be handed out."""
        return self.health in DISCOVERABLE

    @property
    def health_to_announce(self) -> str:
        """Its health as events show it."""
        return announced(self.health)

    @property
    def reason(self) -> str | None:
        """Why it is not well, where its health alone does not say so."""
        if self.health == CRITICAL:
            return SILENT if self.lapsed else self.doubt or STALLED
        if self.health == WARNING and self.rival is not None:
            return f"{self.rival} has the same address"
        return None

    def record(self) -> bytes:
        """Return the record as the protocol shows it, as JSON.

        What changes by itself comes last, and is kept apart from the rest.
        """
        tail = self._tail
        if tail is None:
            tail = b',"last_heartbeat":%d,"health":"%s"' % (
                self.last_heartbeat,
                self.health.encode(),
            )
            if more := self._more():
                tail += b"," + wire.encode(more)[1:-1]
            self._tail = tail = tail + b"}"
        return self._head + tail

    def _more(self) -> dict[str, Any]:
        """Return the fields that only some records have."""
        more: dict[str, Any] = {}
        if (reason := self.reason) is not None:
            more["reason"] = reason
        if self.maintenance is not None:
            more["maintenance"] = self.maintenance.terms()
        if self.report.status is not None:
            more["status"] = self.report.status
        if self.report.load is not None:
            more["load"] = self.report.load
        return more
