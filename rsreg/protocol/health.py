"""The states of health of a service, and what events tell of them.

Each state holds as long as its condition does; where several do, the one that stands first:

| health        | condition                                                    | discovered |
| ------------- | ------------------------------------------------------------ | ---------- |
| `critical`    | no heartbeat for `ttl`, a main loop that stands still, or    | no         |
|               | another process that has registered the same address         |            |
| `maintenance` | somebody put it into maintenance                             | no         |
| `starting`    | it said that it is not ready                                 | no         |
| `warning`     | its main loop is late, or another service has its address    | yes        |
| `passing`     | none of these                                                | yes        |
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rsreg.protocol import event_types

PASSING, WARNING, CRITICAL = "passing", "warning", "critical"
MAINTENANCE, STARTING = "maintenance", "starting"
HEALTHS = (PASSING, WARNING, CRITICAL, MAINTENANCE, STARTING)
#: The states in which a service may be discovered.
DISCOVERABLE = frozenset({PASSING, WARNING})
#: Why a service is critical.
SILENT, STALLED = "no heartbeat", "stalled"

#: The event that tells of a change, by the health after it. There is none for `warning`: the
#: service is still discovered, so subscribers take it for passing.
HEALTH_EVENTS: Mapping[str, str] = MappingProxyType(
    {
        CRITICAL: event_types.CRITICAL,
        MAINTENANCE: event_types.MAINTENANCE,
        STARTING: event_types.RECOVERED,
        PASSING: event_types.RECOVERED,
    }
)


def announced(health: str) -> str:
    """Return the health that events tell for a state of health."""
    return PASSING if health == WARNING else health
