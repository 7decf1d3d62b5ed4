"""The types of events. docs/protocol.md, "Events", says what each one means."""

from __future__ import annotations

REGISTER, UPDATE = "register", "update"
#: The service is gone: another entry took its place, it left, or its lease ended.
REPLACE, DEREGISTER, EXPIRE = "replace", "deregister", "expire"
#: The health of the service changed; `health.HEALTH_EVENTS` says which event tells of which health.
CRITICAL, MAINTENANCE, RECOVERED = "critical", "maintenance", "recovered"

EVENT_TYPES = (
    *(REGISTER, UPDATE, REPLACE, DEREGISTER, EXPIRE),
    *(CRITICAL, MAINTENANCE, RECOVERED),
)
#: The types after which the service is no longer registered.
ENDINGS = frozenset({REPLACE, DEREGISTER, EXPIRE})
#: No event of a registry: a client says with it that events were missed, or that the numbering of
#: events is another one.
RESET = "reset"
