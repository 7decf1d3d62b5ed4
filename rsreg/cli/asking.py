"""The commands that change nothing: status, list, get, discover, wait, watch."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue

import click

from rsreg import config, process, records
from rsreg.calls import Record
from rsreg.cli.options import (
    SIGNAL_LATENCY,
    Settings,
    WaitOver,
    common_options,
    complete_service,
    complete_type,
    examples,
    found,
    pass_settings,
    registry_option,
)
from rsreg.cli.output import note, write, write_facts, write_json, write_table
from rsreg.errors import NoService
from rsreg.text import age, printable

_LIST_COLUMNS = {"TYPE": True, "NAME": True, "ENDPOINT": True, "HEALTH": False, "BEAT": False}
_NOTHING_FOUND = 4
_DEGRADED = 1


@click.command(epilog=examples("rs_cs status", "rs_cs -e egse1 status --json"))
@registry_option()
@common_options()
@pass_settings
def status(settings: Settings) -> int:
    """Say how the registry and its services are; exits with 1 if it can't store changes."""
    with settings.client() as registry:
        asked = time.monotonic()
        about = registry.server_status()
        took = time.monotonic() - asked
        where = registry.settings.req_endpoint
    if settings.json:
        write_json(about)
    else:
        write_facts(_status_facts(about, where, took))
    return 0 if about["status"] == "ok" else _DEGRADED


@click.command("list", epilog=examples("rs_cs list", "rs_cs list PUNA --json"))
@click.argument("service_type", metavar="[TYPE]", required=False, shell_complete=complete_type)
@registry_option()
@common_options()
@pass_settings
def list_(settings: Settings, service_type: str | None) -> int:
    """List the services, or those of a type, passing or not.

    A service is found under its type and its tags. With a TYPE, exits with 4 if there is none.
    """
    with settings.client() as registry:
        services = registry.list_services(service_type)
    services.sort(key=lambda one: (one["type"] or "", one["name"]))
    if settings.json:
        write_json({"success": True, "services": services})
    elif services:
        write_table(_LIST_COLUMNS, map(_list_row, services))
    if not settings.json:
        failing = sum(one["health"] != "passing" for one in services)
        of_type = f" of type {service_type}" if service_type else ""
        plural = "" if len(services) == 1 else "s"
        not_passing = f", {failing} not passing" if failing else ""
        note(f"{len(services) or 'no'} service{plural}{of_type}{not_passing}")
    return _NOTHING_FOUND if service_type and not services else 0


@click.command(epilog=examples("rs_cs get puna_cs", "rs_cs get puna_cs-f47ac10b --json"))
@click.argument("service", metavar="ID|NAME|PREFIX", shell_complete=complete_service)
@registry_option()
@common_options()
@pass_settings
def get(settings: Settings, service: str) -> None:
    """Show all about one service.

    It is named by its id, its name, or the start of either.
    """
    with settings.client() as registry:
        record = found(registry.find_service(service), service)
    _show(settings, record)


@click.command(
    epilog=examples("rs_cs discover PUNA --endpoint", "rs_cs discover PUNA -e egse1 --json")
)
@click.argument("service_type", metavar="TYPE", shell_complete=complete_type)
@click.option("--endpoint", is_flag=True, help="Print only the service's ZeroMQ endpoint.")
@registry_option("-e", "--registry")
@common_options()
@pass_settings
def discover(settings: Settings, service_type: str, endpoint: bool) -> None:
    """Find one passing service of a type, as a program would.

    A service is found under its type and its tags. Here --endpoint is a flag; the registry's own
    address goes by -e, --registry or RSREG_ENDPOINT.
    """
    with settings.client() as registry:
        record = registry.discover_service(service_type)
    if record is None:
        raise NoService(
            f"no passing service of type {service_type!r}",
            hint=f'"rs_cs list" shows all, "rs_cs wait {service_type}" waits for one',
        )
    if not endpoint:
        _show(settings, record)
    elif settings.json:
        write_json({"success": True, "endpoint": records.endpoint_of(record)})
    else:
        write(records.endpoint_of(record))


@click.command(
    epilog=examples("rs_cs wait PUNA TEMP --timeout 120", "rs_cs wait PUNA && ./measure.py")
)
@click.argument(
    "service_types", metavar="TYPE...", nargs=-1, required=True, shell_complete=complete_type
)
@registry_option()
@common_options(timeout="Seconds to wait in all, 60 by default.")
@pass_settings
def wait(settings: Settings, service_types: tuple[str, ...]) -> None:
    """Wait until there is a passing service of each TYPE.

    Exits with 124 when the time is over. A registry that does not answer yet is waited for too.
    """
    patience = 60.0 if settings.timeout is None else settings.timeout
    with settings.client(config.DEFAULT_TIMEOUT) as registry:
        services = registry.wait_for(*service_types, timeout=patience)
    missing = [kind for kind, service in services.items() if service is None]
    if not settings.json:
        rows = [[kind, *_name_and_endpoint(one)] for kind, one in services.items()]
        write_table({"TYPE": True, "NAME": True, "ENDPOINT": True}, rows)
    elif not missing:
        write_json({"success": True, "found": services})
    if missing:
        raise WaitOver(
            f"no passing service of type {', '.join(missing)} after {patience:g} s",
            {"found": services},
        )


@click.command(epilog=examples("rs_cs watch", "rs_cs watch --json | jq .data.service_info.name"))
@registry_option()
@common_options()
@pass_settings
def watch(settings: Settings) -> None:
    """Print changes of the registry as they come.

    Each in a line of its own, until interrupted, which gives the exit code 130.
    """
    process.log_to_stderr("warning")
    events: SimpleQueue[Record] = SimpleQueue()
    with settings.client() as registry:
        registry.on_any_event(events.put)
        registry.start_event_listener()
        note(f"watching {registry.settings.req_endpoint}; Ctrl-C ends it")
        while True:
            with contextlib.suppress(Empty):
                _write_event(events.get(timeout=SIGNAL_LATENCY), settings.json)


COMMANDS = (status, list_, get, discover, wait, watch)


def _show(settings: Settings, service: Record) -> None:
    if settings.json:
        write_json({"success": True, "service": service})
    else:
        write_facts(_service_facts(service))


def _status_facts(about: Record, where: str, took: float) -> Iterator[tuple[str, str]]:
    services = about["services"]
    critical = [one for one in services if one["health"] != "passing"]
    yield "registry", f"{where}, answers in {took * 1000:.1f} ms"
    yield (
        "server",
        f"rsreg {about['version']}, pid {about['pid']} on {about['host']}, "
        f"up {_since(about['started'])}",
    )
    ports = {"requests": "req_port", "events": "pub_port", "heartbeats": "hb_port"}
    yield "ports", ", ".join(f"{what} {about[port]}" for what, port in ports.items() if about[port])
    yield "store", about["store"]
    if about["status"] != "ok":
        yield about["status"], f"changes are refused: {about['reason']}"
    yield (
        "services",
        f"{len(services) or 'none'}"
        + (f", {len(services) - len(critical)} passing" if services else ""),
    )
    for one in critical:
        silence = f"no heartbeat for {_since(one['last_heartbeat'])}, ttl {one['ttl']:g} s"
        yield "critical", f"{_title(one)}: {silence}"


def _service_facts(service: Record) -> Iterator[tuple[str, str]]:
    fields = dict(service)
    yield "name", fields.pop("name")
    yield "type", fields.pop("type") or "-"
    yield "endpoint", records.endpoint_of(service)
    yield "health", fields.pop("health")
    yield "id", fields.pop("id")
    yield "tags", ", ".join(fields.pop("tags")) or "-"
    metadata = fields.pop("metadata")
    for index, (key, value) in enumerate(metadata.items()):
        yield "" if index else "metadata", f"{key}: {_said(value)}"
    beat = fields.pop("last_heartbeat")
    at = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(beat))
    yield "heartbeat", f"{_since(beat)} ago, at {at}"
    yield "ttl", f"{fields.pop('ttl'):g} s"
    for key, value in fields.items():
        if key not in ("host", "port"):
            yield key, _said(value)


def _list_row(service: Record) -> list[str]:
    beat = _since(service["last_heartbeat"])
    return [service["type"] or "-", *_name_and_endpoint(service), service["health"], beat]


def _write_event(event: Record, as_json: bool) -> None:
    if as_json:
        write_json(event, indented=False)
        return
    at = time.strftime("%H:%M:%S", time.localtime(event.get("timestamp")))
    service = event["data"].get("service_info") or {}
    about = event["data"].get("service_id", "events were missed for good: list anew")
    said = "  ".join(_name_and_endpoint(service)) if service else about
    write(f"{at}  #{event['seq']}  {event['type']:<10}  {said}")


def _name_and_endpoint(service: Record | None) -> list[str]:
    return [service["name"], records.endpoint_of(service)] if service else ["-", "-"]


def _title(service: Record) -> str:
    return f"{service['type']} {service['name']}" if service["type"] else str(service["name"])


def _said(value: object) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _since(moment: float) -> str:
    return age(time.time() - moment)
