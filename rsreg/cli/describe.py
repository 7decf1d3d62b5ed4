"""Texts that describe services, events and the registry to people.

`now` is always the time of the registry, in seconds since 1970: the clock of this machine may be
wrong.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rsreg import config
from rsreg.display import age, printable
from rsreg.protocol import records
from rsreg.protocol.calls import Record
from rsreg.protocol.health import SILENT, STALLED

#: The columns of a list, and whether they can be wrapped.
LIST_COLUMNS = {
    "TYPE": True,
    "NAME": True,
    "ENDPOINT": True,
    "MODE": False,
    "HEALTH": False,
    "BEAT": False,
    "DOING": True,
}
#: Words for a health where its name alone would be wrong.
_HEALTH_PHRASES = {"maintenance": "in maintenance"}
#: The use of each port of a registry, and the field of a status that has it.
_PORT_FIELDS = {"requests": "req_port", "events": "pub_port", "heartbeats": "hb_port"}


def list_row(service: Record, now: float) -> list[str]:
    """Return the cells of a service in a list."""
    return [
        service["type"] or "-",
        *name_and_endpoint(service),
        records.mode_of(service),
        service["health"],
        age(now - service["last_heartbeat"]),
        doing(service, now),
    ]


def name_and_endpoint(service: Record | None) -> list[str]:
    """Return the name and the endpoint of a service; dashes without a service."""
    return [service["name"], records.endpoint_of(service)] if service else ["-", "-"]


def doing(service: Record, now: float) -> str:
    """Return in a few words what a service is doing, or why it is not available."""
    parts = [service.get("reason", "")]
    if (terms := service.get("maintenance")) is not None:
        parts.append(maintenance(terms, now))
    if (status := service.get("status")) is not None:
        parts.append(_status_text(status, now))
    return "; ".join(filter(None, parts))


def health_clause(service: Record, now: float) -> str:
    """Return a clause about the health of a service, with the reason."""
    explained = ("critical", "maintenance", "warning")
    why = doing(service, now) if service["health"] in explained else ""
    health = _HEALTH_PHRASES.get(service["health"], service["health"])
    return f"{service['name']} ({records.mode_of(service)}) is {health}" + (
        f": {why}" if why else ""
    )


def maintenance(terms: Mapping[str, Any], now: float) -> str:
    """Return who started a maintenance, until when it lasts, and why."""
    until = terms.get("until")
    parts = [started_by(terms), "for good" if until is None else f"until {time_of_day(until, now)}"]
    reason = terms.get("reason")
    return " ".join(filter(None, parts)) + (f": {reason}" if reason else "")


def started_by(terms: Mapping[str, Any]) -> str:
    """Return who started a maintenance, by their own name, else by their address."""
    # Older registries have the name in "by".
    return terms.get("says") or terms.get("by") or ""


def service_facts(service: Record, now: float) -> Iterator[tuple[str, str]]:
    """Yield labels and facts: everything about one service."""
    fields = dict(service)
    yield "name", fields.pop("name")
    yield "type", fields.pop("type") or "-"
    yield "endpoint", records.endpoint_of(service)
    for index, name in enumerate(fields.pop("endpoints", {})):
        yield "" if index else "endpoints", f"{name}: {records.endpoint_of(service, name)}"
    yield "mode", fields.pop("mode", config.HARDWARE)
    yield "health", fields.pop("health")
    if (reason := fields.pop("reason", None)) is not None:
        yield "reason", reason
    if (terms := fields.pop("maintenance", None)) is not None:
        yield "maintenance", maintenance(terms, now)
        if terms.get("says") and terms.get("by"):
            yield "", f"begun from {terms['by']}"
    if (status := fields.pop("status", None)) is not None:
        yield "doing", _status_text(status, now)
    yield "id", fields.pop("id")
    yield "tags", ", ".join(fields.pop("tags")) or "-"
    for index, (key, value) in enumerate(fields.pop("metadata").items()):
        yield "" if index else "metadata", f"{key}: {_value_text(value)}"
    beat = fields.pop("last_heartbeat")
    at = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(beat))
    yield "heartbeat", f"{age(now - beat)} ago, at {at}"
    yield "ttl", f"{fields.pop('ttl'):g} s"
    if owner := fields.pop("owner", None):
        yield "owner", _owner_text(owner, now)
    if (address := fields.pop("registered_by", None)) is not None:
        yield "registered", f"from {address}"
    for key, value in fields.items():
        if key not in ("host", "port"):
            yield key, _value_text(value)


def status_facts(about: Record, where: str, took: float) -> Iterator[tuple[str, str]]:
    """Yield labels and facts: the state of the registry, and problems of services."""
    now = registry_time(about.get("timestamp"))
    yield "registry", f"{where}, answers in {took * 1000:.1f} ms"
    yield (
        "server",
        f"rsreg {about['version']}, pid {about['pid']} on {about['host']}, "
        f"up {age(now - about['started'])}",
    )
    yield "ports", ", ".join(f"{use} {port}" for use, port in ports(about).items())
    yield "store", about["store"]
    if about["status"] != "ok":
        yield about["status"], f"changes are refused: {about['reason']}"
        if "hint" in about:
            yield "", about["hint"]
    yield "services", ", ".join(_counts(about["counts"]))
    for one in about["services"] or ():
        yield one["health"], f"{_title(one)}: {_problem(one, now)}"
    if about["services"] is None:
        yield "", "the registry sends no list of those that are not well now"
    if limits := dict(about.get("limits", {})):
        gateways = limits.pop("gateways", [])
        bounds = ", ".join(f"{name.replace('_', '-')} {bound}" for name, bound in limits.items())
        yield "limits", bounds + (f"; gateways {', '.join(gateways)}" if gateways else "")
    for entry in about.get("maintenance", []):
        yield "maintenance", f"{target(entry)} {maintenance(entry, now)}"


def ports(about: Record) -> dict[str, int]:
    """Return the ports of a registry by what each is for."""
    return {use: about[field] for use, field in _PORT_FIELDS.items() if about[field]}


def target(entry: Record) -> str:
    """Return what a maintenance applies to."""
    words = {"service": "service", "service_type": "type", "host": "host"}
    return next(f"{word} {entry[field]}" for field, word in words.items() if field in entry)


def event_line(event: Record) -> str:
    """Return the line of an event."""
    now = registry_time(event.get("timestamp"))
    at = time.strftime("%H:%M:%S", time.localtime(now))
    service = event["data"].get("service_info")
    if service:
        parts = (
            *name_and_endpoint(service),
            _reason(event, service, now),
            _cause(event),
        )
        text = "  ".join(filter(None, parts))
    else:
        text = event["data"].get("service_id", "events were missed: list anew")
    return f"{at}  #{event['seq']}  {event['type']:<11}  {text}"


def registry_time(timestamp: float | None) -> float:
    """Return the time at which the registry replied; older registries do not send it."""
    return time.time() if timestamp is None else timestamp


def time_of_day(seconds: float, now: float) -> str:
    """Return a time of day, with the date unless it is today."""
    then, today = time.localtime(seconds), time.localtime(now)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def _reason(event: Record, service: Record, now: float) -> str:
    """Return the reason of an event; empty if its type says everything."""
    return doing(service, now) if event["type"] in ("critical", "maintenance") else ""


def _cause(event: Record) -> str:
    """Return who caused an event, and from where; a maintenance has the name in its reason."""
    says = None if event["type"] == "maintenance" else event.get("says")
    parts = (("by", says), ("from", event.get("by")))
    return " ".join(f"{word} {value}" for word, value in parts if value)


def _counts(counts: Mapping[str, int]) -> Iterator[str]:
    healths = dict(counts)
    services, simulators = healths.pop("services"), healths.pop("simulators")
    yield str(services or "none")
    for health, count in healths.items():
        yield f"{count} {_HEALTH_PHRASES.get(health, health)}"
    if simulators:
        yield f"{simulators} simulator{'' if simulators == 1 else 's'}"


def _problem(service: Record, now: float) -> str:
    if service.get("reason") == SILENT:
        return f"no heartbeat for {age(now - service['last_heartbeat'])}, ttl {service['ttl']:g} s"
    if service["health"] == "starting":
        return "it said that it is not ready yet"
    if service["health"] == "warning":
        return str(service.get("reason", "its main loop is late"))
    reason = service.get("reason", STALLED)
    return "its main loop stands still" if reason == STALLED else str(reason)


def _status_text(status: Mapping[str, Any], now: float) -> str:
    parts = [status["text"]]
    if (progress := status.get("progress")) is not None:
        parts.append(f"{progress:.0%}")
    if (begun := status.get("since")) is not None and (most := status.get("max")) is not None:
        parts.append(f"{max(0, now - begun):.0f} s of {most:g}")
    return ", ".join(parts)


def _owner_text(owner: Mapping[str, Any], now: float) -> str:
    parts = [records.describe_process(owner)]
    if "started" in owner:
        parts.append(f"since {time_of_day(owner['started'], now)}")
    if "program" in owner:
        parts.append(f"({owner['program']})")
    return " ".join(filter(None, parts)) or _value_text(owner)


def _title(service: Record) -> str:
    return f"{service['type']} {service['name']}" if service["type"] else str(service["name"])


def _value_text(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
