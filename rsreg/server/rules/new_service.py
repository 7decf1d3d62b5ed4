"""What a client asks to register, and the service that this becomes."""

from __future__ import annotations

import uuid
from typing import Any, NamedTuple

from rsreg.protocol import records
from rsreg.protocol.messages import ServiceInfo
from rsreg.server.backends.stored import Service


class NewService(NamedTuple):
    """What is to be registered; `extra` are further fields of the `service_info`."""

    info: ServiceInfo
    extra: dict[str, Any]
    ttl: float

    def service(self, service_id: str, last_heartbeat: int, registered_by: str | None) -> Service:
        """Return the service that is registered by this request."""
        info = self.info
        return Service(
            id=service_id,
            name=info.name,
            host=info.host,
            port=info.port,
            type=info.type,
            tags=info.tags or [],
            metadata=info.metadata or {},
            ttl=self.ttl,
            extra=self.extra,
            last_heartbeat=last_heartbeat,
            registered_by=registered_by,
        )

    def new_id(self) -> str:
        """Return an id that no other service has."""
        return f"{records.slug(self.info.name)}-{uuid.uuid4()}"
