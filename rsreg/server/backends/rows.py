"""Rows of the tables, and what is stored in them: each made from the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from rsreg.protocol.health import PASSING
from rsreg.server.backends.stored import Event, Service


def service_row(service: Service) -> tuple[Any, ...]:
    """Return a row in the order of `tables.columns`; the announced health is set later."""
    return (
        service.id,
        service.name,
        service.host,
        service.port,
        service.type,
        json_text(service.tags),
        json_text(service.metadata),
        json_text(service.extra),
        service.ttl,
        service.last_heartbeat,
        service.registered_by,
        None,
        None,
    )


def announced_rows(
    changes: Mapping[str, Service | None], events: Sequence[Event]
) -> list[tuple[Any, ...]]:
    """Return the last announced health of each service; a row just written has "passing"."""
    announced = {
        event.service_id: event.announced for event in events if event.announced is not None
    }
    return [
        (None if last.health == PASSING else last.health, last.reason, service_id)
        for service_id, last in announced.items()
        if last.health != PASSING or service_id not in changes
    ]


def service_of(row: tuple[Any, ...]) -> Service:
    """Return the service of a row."""
    (
        service_id,
        name,
        host,
        port,
        service_type,
        tags,
        metadata,
        extra,
        ttl,
        last_heartbeat,
        by,
        *_,
    ) = row
    return Service(
        id=service_id,
        name=name,
        host=host,
        port=port,
        type=service_type,
        tags=msgspec.json.decode(tags),
        metadata=msgspec.json.decode(metadata),
        extra=msgspec.json.decode(extra),
        ttl=int(ttl) if ttl == int(ttl) else ttl,
        last_heartbeat=last_heartbeat,
        registered_by=by,
    )


def json_text(value: Any) -> str:
    """Return a value as JSON, as it is stored."""
    return msgspec.json.encode(value).decode()


def event_row(event: Event) -> tuple[Any, ...]:
    """Return a row in the order of `tables.columns`."""
    return (
        event.seq,
        event.type,
        event.service_id,
        event.body.decode(),
        event.token,
        event.request_number,
    )


def event_of(row: tuple[Any, ...]) -> Event:
    """Return the event of a row."""
    seq, event_type, service_id, body, token, request_number = row
    return Event(
        seq=seq,
        type=event_type,
        service_id=service_id,
        body=body.encode(),
        token=token,
        request_number=request_number,
    )
