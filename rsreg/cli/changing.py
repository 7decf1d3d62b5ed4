"""The commands that change the registry: register, deregister, stop."""

from __future__ import annotations

import signal
import sys
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
    found,
    pass_settings,
    registry_option,
    service_options,
    unknown,
)
from rsreg.cli.output import ask, note, write, write_json
from rsreg.client.registration.address import own_host
from rsreg.client.sync import RegistryClient
from rsreg.errors import ConfigurationError

_YES = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command(
    epilog=examples(
        "rs_cs register --name puna_cs --type PUNA --port 5000 --heartbeat",
        "rs_cs register --name ls336 --type TEMP --host 10.0.0.7 --port 6000 --ttl 3600",
    )
)
@service_options
@click.option("--id", "service_id", metavar="ID", help="Its id; else one is made of the name.")
@force_option("Take the id also from another process that lives.")
@click.option("--heartbeat", is_flag=True, help="Stay, beat until interrupted, then deregister.")
@registry_option()
@common_options()
@pass_settings
def register(settings: Settings, /, heartbeat: bool, mode: str | None, **service: Any) -> None:
    """Register a service by hand; prints its id."""
    if heartbeat:
        server_process.log_to_stderr("info")
        # A supervisor that ends us means the same as Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    service["host"] = service["host"] or own_host()
    with settings.client(mode=mode) as registry:
        try:
            # What is registered by hand is not gone when this command is.
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
        note(f"it stays for {ttl:g} s without heartbeats; with --heartbeat this command beats")


@click.command(
    epilog=examples("rs_cs deregister puna_cs", "rs_cs deregister puna_cs-f47ac10b --yes")
)
@click.argument("service", metavar="ID|NAME|PREFIX", shell_complete=complete_service)
@_YES
@force_option("Also the entry of a process that lives.")
@registry_option()
@common_options()
@pass_settings
def deregister(settings: Settings, service: str, yes: bool, force: bool) -> None:
    """Remove a service.

    It is named by its id, its name, or the start of either. A program that still beats for it
    registers it again; without --force it has to be stopped first.
    """
    _check_can_ask(yes)
    with settings.client() as registry:
        record = found(registry, service)
        if not yes:
            ask(f"Remove {record['id']} on {record['host']}:{record['port']}?")
        if not registry.deregister(record["id"], force=force):
            raise unknown(registry, service)
    if settings.json:
        write_json({"success": True, "service_id": record["id"]})
    else:
        write(record["id"])


@click.command(epilog=examples("rs_cs stop", "rs_cs stop -e localhost:5555 --yes"))
@_YES
@registry_option()
@common_options()
@pass_settings
def stop(settings: Settings, yes: bool) -> None:
    """Stop the registry of this machine; returns when it has."""
    _check_can_ask(yes)
    with settings.client() as registry:
        about = registry.server_status(services=False)
        where = registry.settings.req_endpoint
        what = f"the registry on {where}, pid {about['pid']}"
        if not yes:
            ask(f"Stop {what}, services: {about['counts']['services']}?")
        server_process.stop(registry)
    if settings.json:
        write_json({"success": True, "status": "stopped", "endpoint": where, "pid": about["pid"]})
    else:
        write(f"{what}, has stopped")


COMMANDS = (register, deregister, stop)


def _beat_until_interrupted(registry: RegistryClient) -> None:
    registry.start_heartbeat()
    while True:
        time.sleep(SIGNAL_LATENCY)


def _check_can_ask(yes: bool) -> None:
    """Refuse before anything is sent where nobody is there to be asked."""
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError(
            "this asks first, and there is no terminal to ask on",
            hint="--yes does it without asking",
        )
