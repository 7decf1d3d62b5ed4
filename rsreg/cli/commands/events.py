"""The commands that wait for changes of the registry: wait, watch."""

from __future__ import annotations

import click

from rsreg import config
from rsreg.admin import server_process
from rsreg.cli import describe
from rsreg.cli.options import (
    Settings,
    WaitOver,
    common_options,
    complete_type,
    examples,
    mode_option,
    pass_settings,
    registry_option,
    type_hint,
)
from rsreg.cli.output import note, write, write_json, write_table
from rsreg.client.sync import RegistryClient
from rsreg.errors import RegistryError


@click.command(
    epilog=examples("rs_cs wait PUNA TEMP --timeout 120", "rs_cs wait PUNA && ./measure.py")
)
@click.argument(
    "service_types", metavar="TYPE...", nargs=-1, required=True, shell_complete=complete_type
)
@mode_option("Only services of this mode. Default: RSREG_MODE.")
@registry_option()
@common_options(timeout="Seconds to wait in total. Default: 60.")
@pass_settings
def wait(settings: Settings, service_types: tuple[str, ...], mode: str | None) -> None:
    """Wait until each TYPE has a passing service.

    Exits with 124 if that takes longer than --timeout. Also waits for a registry that does not
    answer yet.
    """
    timeout = 60.0 if settings.timeout is None else settings.timeout
    with settings.client(config.DEFAULT_TIMEOUT, mode) as registry:
        services = registry.wait_for(*service_types, timeout=timeout)
        missing = [name for name, service in services.items() if service is None]
        hint = _hint_in_time(registry, missing)
    if not settings.json:
        rows = [[name, *describe.name_and_endpoint(one)] for name, one in services.items()]
        write_table({"TYPE": True, "NAME": True, "ENDPOINT": True}, rows)
    elif not missing:
        write_json({"success": True, "found": services})
    if missing:
        raise WaitOver(
            f"no passing service of type {', '.join(missing)} after {timeout:g} s",
            hint,
            {"found": services},
        )


@click.command(
    epilog=examples("rs_cs watch", "rs_cs watch PUNA --json | jq .data.service_info.name")
)
@click.argument("service_type", metavar="[TYPE]", required=False, shell_complete=complete_type)
@click.option(
    "--events",
    metavar="HOST:PORT",
    help="Address of the registry's events, if it differs from the one that the registry gives.",
)
@registry_option()
@common_options()
@pass_settings
def watch(settings: Settings, service_type: str | None, events: str | None) -> None:
    """Print each change in the registry when it happens.

    With a TYPE: only changes of services of this type. Each change is one line. The command runs
    until Ctrl-C; then its exit code is 130.
    """
    server_process.log_to_stderr("warning")
    with settings.client(events=events) as registry:
        changes = registry.watch(service_type)
        note(f"watching {registry.settings.req_endpoint}; Ctrl-C ends it")
        # While stdout blocks, events wait in the journal of the registry, not in memory here.
        for event in changes:
            if settings.json:
                write_json(event, indented=False)
            else:
                write(describe.event_line(event))


def _hint_in_time(registry: RegistryClient, missing: list[str]) -> str | None:
    """Return a hint on similar types, if the registry still answers."""
    try:
        return type_hint(registry, missing) if missing else None
    except RegistryError:
        return None
