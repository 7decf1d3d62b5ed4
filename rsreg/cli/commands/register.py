"""The commands that change the registry: register, deregister."""

from __future__ import annotations

import signal
import time
from typing import Any

import click

from rsreg.admin import server_process
from rsreg.cli.options import (
    SIGNAL_LATENCY,
    Settings,
    common_options,
    complete_service,
    examples,
    force_option,
    pass_settings,
    registry_option,
    require_service,
    service_options,
    unknown_service,
    yes_option,
)
from rsreg.cli.output import check_can_confirm, confirm, note, write, write_json
from rsreg.client.registration.address import own_host
from rsreg.client.sync import RegistryClient


@click.command(
    epilog=examples(
        "rs_cs register --name puna_cs --type PUNA --port 5000 --heartbeat",
        "rs_cs register --name ls336 --type TEMP --host 10.0.0.7 --port 6000 --ttl 3600",
    )
)
@service_options
@click.option(
    "--id", "service_id", metavar="ID", help="Id of the service. Default: made from the name."
)
@force_option("Take over the id even from another process that is running.")
@click.option("--heartbeat", is_flag=True, help="Send heartbeats until Ctrl-C, then deregister.")
@registry_option()
@common_options()
@pass_settings
def register(settings: Settings, /, heartbeat: bool, mode: str | None, **service: Any) -> None:
    """Register a service by hand and print its id."""
    if heartbeat:
        server_process.log_to_stderr("info")
        # SIGTERM from a supervisor has the same effect as Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    service["host"] = service["host"] or own_host()
    with settings.client(mode=mode) as registry:
        try:
            # Without heartbeats the registration has to outlive this command.
            service_id = registry.register(**service, owned=heartbeat)
            if settings.json:
                write_json({"success": True, "service_id": service_id})
            else:
                write(service_id)
            if heartbeat:
                _beat_until_interrupted(registry)
        finally:
            if heartbeat:
                registry.deregister()
    if not settings.json:
        ttl = service["ttl"]
        note(f"without heartbeats the registration ends after {ttl:g} s; --heartbeat sends them")


@click.command(
    epilog=examples("rs_cs deregister puna_cs", "rs_cs deregister puna_cs-f47ac10b --yes")
)
@click.argument("service", metavar="ID|NAME|PREFIX", shell_complete=complete_service)
@yes_option
@force_option("Remove it even if its process is running.")
@registry_option()
@common_options()
@pass_settings
def deregister(settings: Settings, service: str, yes: bool, force: bool) -> None:
    """Remove a service.

    Give its id, its name, or the start of either. Stop its program first: without --force a service
    whose process is running is not removed, and a program that still sends heartbeats registers it
    again.
    """
    check_can_confirm(yes)
    with settings.client() as registry:
        record = require_service(registry, service)
        if not yes:
            confirm(f"Remove {record['id']} on {record['host']}:{record['port']}?")
        if not registry.deregister(record["id"], force=force):
            raise unknown_service(registry, service)
    if settings.json:
        write_json({"success": True, "service_id": record["id"]})
    else:
        write(record["id"])


def _beat_until_interrupted(registry: RegistryClient) -> None:
    registry.start_heartbeat()
    while True:
        time.sleep(SIGNAL_LATENCY)
