"""The commands that ask the registry: status, list, get, discover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rsreg import config, timing
from rsreg.cli import describe
from rsreg.cli.options import (
    Settings,
    common_options,
    complete_service,
    complete_type,
    examples,
    filter_options,
    mode_option,
    pass_settings,
    registry_option,
    require_service,
    seconds,
    type_hint,
)
from rsreg.cli.output import note, write, write_facts, write_json, write_table
from rsreg.client.sync import RegistryClient
from rsreg.errors import InvalidRequest, NoService, SlowDown
from rsreg.protocol import records
from rsreg.protocol.health import CRITICAL, PASSING, STARTING, WARNING
from rsreg.protocol.records import ServiceList, ServiceRecord

if TYPE_CHECKING:
    from rsreg.server.rules.selection import Filter

_NOTHING_FOUND = 4
#: Most services that an explanation names.
_MOST_NAMED = 3
_DEGRADED = 1


@click.command(epilog=examples("rs_cs status", "rs_cs -e egse1 status --json"))
@registry_option()
@common_options()
@pass_settings
def status(settings: Settings) -> int:
    """Show the state of the registry and of its services.

    Exits with 1 if the registry can't store changes.
    """
    with settings.client() as registry:
        asked_at = timing.steady()
        about = registry.server_status(services=False)
        took = timing.steady() - asked_at
        where = registry.settings.req_endpoint
        about["services"] = _services_to_show(registry, settings)
    if settings.json:
        write_json(about)
    else:
        write_facts(describe.status_facts(about, where, took))
    return 0 if about["status"] == "ok" else _DEGRADED


@click.command(
    "list",
    epilog=examples("rs_cs list", "rs_cs list CAMERA --where 'version=>=1.4' --tag '!spare'"),
)
@click.argument("service_type", metavar="[TYPE]", required=False, shell_complete=complete_type)
@filter_options
@mode_option("Only services of this mode. Default: all.")
@registry_option()
@common_options()
@pass_settings
def list_(
    settings: Settings,
    service_type: str | None,
    mode: str | None,
    tags: list[str],
    where: dict[str, str],
) -> int:
    """List all services, or those of a type, whatever their health.

    TYPE is a service type or a tag. With a TYPE, exits with 4 if there is no such service.
    """
    with settings.client() as registry:
        services = registry.list_services(service_type, tags=tags, where=where, mode=mode)
        why = None
        if not (services or settings.json):
            why = _why_empty(registry, service_type, _filter(tags, where, mode))
    services.sort(key=lambda one: (one["type"] or "", one["name"]))
    if settings.json:
        write_json({"success": True, "services": services})
    elif services:
        now = describe.registry_time(services.as_of)
        write_table(*_columns([describe.list_row(one, now) for one in services]))
    if not settings.json:
        failing = sum(one["health"] != "passing" for one in services)
        of_type = f" of type {service_type}" if service_type else ""
        plural = "" if len(services) == 1 else "s"
        not_passing = f", {failing} not passing" if failing else ""
        note(
            f"{len(services) or 'no'} service{plural}{of_type}{not_passing}"
            + (f": {why}" if why else "")
        )
    return _NOTHING_FOUND if service_type and not services else 0


@click.command(epilog=examples("rs_cs get puna_cs", "rs_cs get puna_cs-f47ac10b --json"))
@click.argument("service", metavar="ID|NAME|PREFIX", shell_complete=complete_service)
@registry_option()
@common_options()
@pass_settings
def get(settings: Settings, service: str) -> None:
    """Show everything about one service.

    Give its id, its name, or the start of either.
    """
    with settings.client() as registry:
        record = require_service(registry, service)
    _show(settings, record)


@click.command(
    epilog=examples(
        "rs_cs discover PUNA --endpoint",
        "rs_cs discover CAMERA --where 'version=>=1.4' --strategy least-loaded -e egse1",
    )
)
@click.argument("service_type", metavar="TYPE", shell_complete=complete_type)
@click.option("--endpoint", is_flag=True, help="Print only the ZeroMQ endpoint of the service.")
@click.option("--named", metavar="NAME", help="Print only the endpoint with this name.")
@click.option(
    "--strategy", metavar="NAME", help="How to choose among several: random, round-robin, …"
)
@click.option(
    "--wait", metavar="SECONDS", type=seconds, default=0.0, help="Wait up to SECONDS for one."
)
@filter_options
@mode_option("Only services of this mode. Default: RSREG_MODE.")
@registry_option("-e", "--registry")
@common_options()
@pass_settings
def discover(
    settings: Settings,
    service_type: str,
    endpoint: bool,
    named: str | None,
    strategy: str | None,
    wait: float,
    mode: str | None,
    tags: list[str],
    where: dict[str, str],
) -> None:
    """Find one passing service of a type, as a program does.

    TYPE is a service type or a tag. --endpoint is a flag here: give the address of the registry
    with -e, --registry or RSREG_ENDPOINT.
    """
    with settings.client(mode=mode) as registry:
        record = registry.discover_service(
            service_type, tags=tags, where=where, strategy=strategy, wait=wait
        )
        if record is None:
            raise NoService(
                f"no passing service of type {service_type!r}",
                hint=_why_none(
                    registry.list_services(service_type, mode=config.ANY_MODE),
                    _filter(tags, where, mode),
                )
                or type_hint(registry, [service_type])
                or f'"rs_cs list" shows all, "rs_cs wait {service_type}" waits for one',
            )
    if not endpoint and named is None:
        _show(settings, record)
        return
    address = records.endpoint_of(record, named)
    if settings.json:
        write_json({"success": True, "endpoint": address})
    else:
        write(address)


def _services_to_show(registry: RegistryClient, settings: Settings) -> ServiceList | None:
    """Return the services that are not well, or all of them for JSON.

    Return None if the registry refuses the list: it is too long, or the registry is too busy.
    """
    try:
        if settings.json:
            return registry.list_services()
        return registry.list_services(health=[WARNING, CRITICAL, STARTING], mode=config.ANY_MODE)
    except (InvalidRequest, SlowDown):
        return None


def _show(settings: Settings, service: ServiceRecord) -> None:
    if settings.json:
        write_json({"success": True, "service": service})
    else:
        write_facts(describe.service_facts(service, describe.registry_time(service.as_of)))


def _columns(rows: list[list[str]]) -> tuple[dict[str, bool], list[list[str]]]:
    """Return the columns and rows of a list, without the last column if that is empty."""
    if any(row[-1] for row in rows):
        return describe.LIST_COLUMNS, rows
    return dict(list(describe.LIST_COLUMNS.items())[:-1]), [row[:-1] for row in rows]


def _filter(tags: list[str], where: dict[str, str], mode: str | None) -> Filter:
    """Return the filter of the registry; its module is loaded only for an explanation."""
    from rsreg.server.rules.selection import read_filter

    return read_filter({"tags": tags, "where": where, "mode": mode})


def _why_none(services: ServiceList, condition: Filter) -> str:
    """Return why these services were not discovered: their health, or a condition."""
    now = describe.registry_time(services.as_of)
    reasons = []
    for one in services[:_MOST_NAMED]:
        why = condition.against(one) if one["health"] in (PASSING, WARNING) else None
        reasons.append(f"{one['name']} {why}" if why else describe.health_clause(one, now))
    return "; ".join(reasons)


def _why_empty(registry: RegistryClient, service_type: str | None, condition: Filter) -> str | None:
    """Return why a list is empty: which conditions services do not meet, or a similar type."""
    others = registry.list_services(service_type, mode=config.ANY_MODE)[:_MOST_NAMED]
    reasons = [f"{one['name']} {why}" for one in others if (why := condition.against(one))]
    if reasons or service_type is None:
        return "; ".join(reasons) or None
    return type_hint(registry, [service_type])
