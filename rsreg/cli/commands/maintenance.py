"""The commands that take services out of discovery for a while: maintenance on, off, list."""

from __future__ import annotations

import sys
from typing import Any

import click

from rsreg.cli import describe
from rsreg.cli.options import (
    F,
    Settings,
    common_options,
    complete_service,
    complete_type,
    examples,
    force_option,
    pass_settings,
    period,
    registry_option,
    similar,
)
from rsreg.cli.output import confirm, note, write_json, write_table
from rsreg.client.sync import RegistryClient
from rsreg.errors import OwnedByOther
from rsreg.protocol import records
from rsreg.protocol.calls import Record
from rsreg.protocol.records import ServiceList

_FORCE = force_option("Do not ask, even if somebody else started it.")
_COLUMNS = {"OF": True, "BY": False, "FROM": False, "UNTIL": False, "REASON": True}


@click.group(
    epilog=examples(
        "rs_cs maintenance on puna_cs --for 2h --reason 'mirror swap'", "rs_cs maintenance list"
    )
)
def maintenance() -> None:
    """Take services out of discovery for some time.

    Lists still show them, with the reason. A maintenance also applies to services that register
    later, survives a restart of the registry, and ends by itself.
    """


def _target(command: F) -> F:
    """Add the argument and the options for a service, a type or a host."""
    for decorate in (
        click.option("--host", metavar="HOST", help="All services on this host."),
        click.option(
            "--type",
            "service_type",
            metavar="TYPE",
            shell_complete=complete_type,
            help="All services with this type or tag.",
        ),
        click.argument(
            "service", metavar="[NAME]", required=False, shell_complete=complete_service
        ),
    ):
        command = decorate(command)
    return command


@maintenance.command(
    epilog=examples(
        "rs_cs maintenance on puna_cs --for 2h --reason 'mirror swap'",
        "rs_cs maintenance on --host egse3 --forever --reason 'disk is broken'",
    )
)
@_target
@click.option(
    "--for", "length", metavar="TIME", type=period, help="How long: 30min, 2h, 1d, … Default: 8h."
)
@click.option("--forever", is_flag=True, help='Until somebody ends it with "off".')
@click.option("--reason", metavar="TEXT", help="Reason, shown in lists.")
@_FORCE
@registry_option()
@common_options()
@pass_settings
def on(
    settings: Settings,
    service: str | None,
    service_type: str | None,
    host: str | None,
    length: float | None,
    forever: bool,
    reason: str | None,
    force: bool,
) -> None:
    """Start the maintenance of a service, a type or a host.

    NAME is the name or the id of a service, or the start of either. If no service has this name
    yet, the maintenance applies to the service that registers with it later.
    """
    with settings.client() as registry:
        service = _full_name(registry, service)
        entries = _change(
            registry,
            True,
            force=force,
            service=service,
            service_type=service_type,
            host=host,
            for_=length,
            forever=forever,
            reason=reason,
        )
        services = registry.list_services()
    covered = {one["name"] for one in services if "maintenance" in one}
    _show(settings, entries, services.as_of)
    if not settings.json:
        names = ", ".join(sorted(covered))
        note(f"out of discovery: {names}" if names else "no service is affected now")
        if near := _target_hint(services, service, service_type, host):
            note(near)


@maintenance.command(
    epilog=examples("rs_cs maintenance off puna_cs", "rs_cs maintenance off --host egse3")
)
@_target
@_FORCE
@registry_option()
@common_options()
@pass_settings
def off(
    settings: Settings,
    service: str | None,
    service_type: str | None,
    host: str | None,
    force: bool,
) -> None:
    """End the maintenance of a service, a type or a host.

    Give the same NAME, --type or --host as at its start. Asks first if somebody else started it.
    """
    with settings.client() as registry:
        entries = _change(
            registry,
            False,
            force=force,
            service=_full_name(registry, service),
            service_type=service_type,
            host=host,
        )
        as_of = registry.events_since().get("timestamp")
    _show(settings, entries, as_of)


@maintenance.command("list", epilog=examples("rs_cs maintenance list"))
@registry_option()
@common_options()
@pass_settings
def list_(settings: Settings) -> None:
    """List everything that is in maintenance."""
    with settings.client() as registry:
        about = registry.server_status(services=False)
    _show(settings, about.get("maintenance", []), about.get("timestamp"))


def _change(registry: RegistryClient, on: bool, *, force: bool, **target: Any) -> list[Record]:
    """Start or end a maintenance; on a terminal ask first if it is somebody else's."""
    try:
        return registry.maintenance(on, force=force, **target)
    except OwnedByOther as error:
        if not sys.stdin.isatty():
            raise
        confirm(f"{error}. {'Replace' if on else 'End'} it nevertheless?")
    return registry.maintenance(on, force=True, **target)


def _full_name(registry: RegistryClient, name: str | None) -> str | None:
    """Return the name of the service that `name` is the start of; else `name` itself."""
    if name is None:
        return None
    record = registry.find_service(name)
    if record is None or name in (record["id"], record["name"]):
        return name
    return str(record["name"])


def _target_hint(
    services: ServiceList, service: str | None, service_type: str | None, host: str | None
) -> str | None:
    """Return a hint on a similar name, type or host if the given one does not exist."""
    for word, words in (
        (service, [word for one in services for word in (one["name"], one["id"])]),
        (service_type, [word for one in services for word in _types(one)]),
        (host, [one["host"] for one in services]),
    ):
        if word is not None and word not in words:
            return similar(word, words)
    return None


def _types(one: Record) -> set[str]:
    return records.service_types_of(one["type"], one["tags"], one["metadata"])


def _show(settings: Settings, entries: list[Record], as_of: float | None) -> None:
    if settings.json:
        write_json({"success": True, "maintenance": entries})
        return
    if entries:
        now = describe.registry_time(as_of)
        write_table(_COLUMNS, [_row(entry, now) for entry in entries])
    else:
        note("nothing is in maintenance")


def _row(entry: Record, now: float) -> list[str]:
    until = entry.get("until")
    return [
        describe.target(entry),
        entry.get("says") or "-",
        entry.get("by") or "-",
        "for good" if until is None else describe.time_of_day(until, now),
        entry.get("reason") or "-",
    ]
