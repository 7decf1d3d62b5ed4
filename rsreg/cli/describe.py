"""How a service, an event and the registry are described to people.

`now` is always by the registry's clock, in seconds after 1970: that of this machine may be wrong.
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

#: The columns of a list, and whether a cell may go on in the next line.
LIST_COLUMNS = {
    "TYPE": True,
    "NAME": True,
    "ENDPOINT": True,
    "MODE": False,
    "HEALTH": False,
    "BEAT": False,
    "DOING": True,
}
#: How a health is said of a service, if not by its name.
_HEALTH_PHRASES = {"maintenance": "in maintenance"}


def list_row(service: Record, now: float) -> list[str]:
    """The cells of a service in a list."""
    return [
        service["type"] or "-",
        *name_and_endpoint(service),
        records.mode_of(service),
        service["health"],
        age(now - service["last_heartbeat"]),
        doing(service, now),
    ]


def name_and_endpoint(service: Record | None) -> list[str]:
    """Who, and where; dashes for none."""
    return [service["name"], records.endpoint_of(service)] if service else ["-", "-"]


def doing(service: Record, now: float) -> str:
    """What it is at, or why it is not to be used, in a few words."""
    said = [service.get("reason", "")]
    if (terms := service.get("maintenance")) is not None:
        said.append(maintenance(terms, now))
    if (status := service.get("status")) is not None:
        said.append(_status(status, now))
    return "; ".join(filter(None, said))


def standing(service: Record, now: float) -> str:
    """How a service is, in a clause."""
    explained = ("critical", "maintenance", "warning")
    why = doing(service, now) if service["health"] in explained else ""
    health = _HEALTH_PHRASES.get(service["health"], service["health"])
    return f"{service['name']} ({records.mode_of(service)}) is {health}" + (
        f": {why}" if why else ""
    )


def maintenance(terms: Mapping[str, Any], now: float) -> str:
    """Who keeps it for how long, and why."""
    until = terms.get("until")
    parts = [who(terms), "for good" if until is None else f"until {moment(until, now)}"]
    reason = terms.get("reason")
    return " ".join(filter(None, parts)) + (f": {reason}" if reason else "")


def who(terms: Mapping[str, Any]) -> str:
    """Who keeps something in maintenance, in their own words; else their address."""
    # Earlier registries have the words in "by".
    return terms.get("says") or terms.get("by") or ""


def service_facts(service: Record, now: float) -> Iterator[tuple[str, str]]:
    """All about one service."""
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
        yield "doing", _status(status, now)
    yield "id", fields.pop("id")
    yield "tags", ", ".join(fields.pop("tags")) or "-"
    for index, (key, value) in enumerate(fields.pop("metadata").items()):
        yield "" if index else "metadata", f"{key}: {_said(value)}"
    beat = fields.pop("last_heartbeat")
    at = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(beat))
    yield "heartbeat", f"{age(now - beat)} ago, at {at}"
    yield "ttl", f"{fields.pop('ttl'):g} s"
    if owner := fields.pop("owner", None):
        yield "owner", _owner(owner, now)
    if (address := fields.pop("registered_by", None)) is not None:
        yield "registered", f"from {address}"
    for key, value in fields.items():
        if key not in ("host", "port"):
            yield key, _said(value)


def status_facts(about: Record, where: str, took: float) -> Iterator[tuple[str, str]]:
    """How the registry is, and what is the matter with services."""
    now = said_at(about.get("timestamp"))
    yield "registry", f"{where}, answers in {took * 1000:.1f} ms"
    yield (
        "server",
        f"rsreg {about['version']}, pid {about['pid']} on {about['host']}, "
        f"up {age(now - about['started'])}",
    )
    ports = {"requests": "req_port", "events": "pub_port", "heartbeats": "hb_port"}
    yield "ports", ", ".join(f"{what} {about[port]}" for what, port in ports.items() if about[port])
    yield "store", about["store"]
    if about["status"] != "ok":
        yield about["status"], f"changes are refused: {about['reason']}"
        if "hint" in about:
            yield "", about["hint"]
    yield "services", ", ".join(_counted(about["counts"]))
    for one in about["services"] or ():
        yield one["health"], f"{_title(one)}: {_matter(one, now)}"
    if about["services"] is None:
        yield "", "the registry sends no list of those that are not well now"
    if limits := dict(about.get("limits", {})):
        gateways = limits.pop("gateways", [])
        said = ", ".join(f"{name.replace('_', '-')} {bound}" for name, bound in limits.items())
        yield "limits", said + (f"; gateways {', '.join(gateways)}" if gateways else "")
    for entry in about.get("maintenance", []):
        yield "maintenance", f"{target(entry)} {maintenance(entry, now)}"


def target(entry: Record) -> str:
    """What a maintenance is about."""
    names = {"service": "service", "service_type": "type", "host": "host"}
    return next(f"{said} {entry[name]}" for name, said in names.items() if name in entry)


def event_line(event: Record) -> str:
    """An event as it passes by."""
    now = said_at(event.get("timestamp"))
    at = time.strftime("%H:%M:%S", time.localtime(now))
    service = event["data"].get("service_info")
    if service:
        parts = (*name_and_endpoint(service), _news(event, service, now), _by(event))
        said = "  ".join(filter(None, parts))
    else:
        said = event["data"].get("service_id", "events were missed: list anew")
    return f"{at}  #{event['seq']}  {event['type']:<11}  {said}"


def said_at(timestamp: float | None) -> float:
    """Now, if a registry said something at that time; one of an older version does not say when."""
    return time.time() if timestamp is None else timestamp


def moment(seconds: float, now: float) -> str:
    """A time of day, with the date if it is not today's."""
    then, today = time.localtime(seconds), time.localtime(now)
    return time.strftime("%H:%M" if then[:3] == today[:3] else "%Y-%m-%d %H:%M", then)


def _news(event: Record, service: Record, now: float) -> str:
    """What an event tells beside its type."""
    return doing(service, now) if event["type"] in ("critical", "maintenance") else ""


def _by(event: Record) -> str:
    """Who caused it, and from where; the words of who began a maintenance are there already."""
    says = None if event["type"] == "maintenance" else event.get("says")
    said = (("by", says), ("from", event.get("by")))
    return " ".join(f"{word} {value}" for word, value in said if value)


def _counted(counts: Mapping[str, int]) -> Iterator[str]:
    healths = dict(counts)
    services, simulators = healths.pop("services"), healths.pop("simulators")
    yield str(services or "none")
    for health, count in healths.items():
        yield f"{count} {_HEALTH_PHRASES.get(health, health)}"
    if simulators:
        yield f"{simulators} simulator{'' if simulators == 1 else 's'}"


def _matter(service: Record, now: float) -> str:
    if service.get("reason") == SILENT:
        return f"no heartbeat for {age(now - service['last_heartbeat'])}, ttl {service['ttl']:g} s"
    if service["health"] == "starting":
        return "it said that it is not ready yet"
    if service["health"] == "warning":
        return str(service.get("reason", "its main loop is late"))
    reason = service.get("reason", STALLED)
    return "its main loop stands still" if reason == STALLED else str(reason)


def _status(status: Mapping[str, Any], now: float) -> str:
    said = [status["text"]]
    if (progress := status.get("progress")) is not None:
        said.append(f"{progress:.0%}")
    if (begun := status.get("since")) is not None and (most := status.get("max")) is not None:
        said.append(f"{max(0, now - begun):.0f} s of {most:g}")
    return ", ".join(said)


def _owner(owner: Mapping[str, Any], now: float) -> str:
    said = [records.describe_process(owner)]
    if "started" in owner:
        said.append(f"since {moment(owner['started'], now)}")
    if "program" in owner:
        said.append(f"({owner['program']})")
    return " ".join(filter(None, said)) or _said(owner)


def _title(service: Record) -> str:
    return f"{service['type']} {service['name']}" if service["type"] else str(service["name"])


def _said(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
