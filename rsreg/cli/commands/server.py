"""The commands that run and end the server: start, stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from rsreg import config
from rsreg.admin import server_process
from rsreg.cli import describe
from rsreg.cli.options import (
    Settings,
    common_options,
    examples,
    key_and_value,
    pass_settings,
    registry_option,
    seconds,
    store_options,
    yes_option,
)
from rsreg.cli.output import (
    check_can_confirm,
    confirm,
    fact_lines,
    json_text,
    put,
    write,
    write_in_background,
    write_json,
)
from rsreg.errors import ConfigurationError
from rsreg.protocol.calls import Record
from rsreg.system.line_writer import Writer

#: Smallest size of a log in bytes: some lines have to fit in.
_LEAST_LOG = 4096
_PORT = click.IntRange(0, 65535)
#: Seconds to wait at the end until the announcement is written.
_FLUSH = 0.5
_DEV = {"bind": "127.0.0.1", "db": server_process.IN_MEMORY, "log_level": "debug"}


def _numbers(
    _context: click.Context, _param: click.Parameter, value: Iterable[tuple[str, str]]
) -> dict[str, int]:
    for name, number in value:
        if not number.isascii() or not number.isdecimal():
            raise click.BadParameter(f"{name}={number} is not NAME=NUMBER, a whole number.")
    return {name: int(number) for name, number in value}


@click.command(epilog=examples("rs_cs start --dev", "rs_cs start --background --db registry.db"))
@click.option("--background", is_flag=True, help="Run in the background; print pid and log file.")
@click.option(
    "--req-port",
    metavar="PORT",
    type=_PORT,
    default=config.DEFAULT_RS_REQ_PORT,
    show_default=True,
    help="Port for requests; 0 is any free port, also for the other ports.",
)
@click.option(
    "--pub-port",
    metavar="PORT",
    type=_PORT,
    default=config.DEFAULT_RS_PUB_PORT,
    show_default=True,
    help="Port for events.",
)
@click.option(
    "--hb-port",
    metavar="PORT",
    type=_PORT,
    help="Port for heartbeats of CGSE's clients. Default: 4244 if --req-port is 4242, else none.",
)
@click.option("--bind", metavar="ADDRESS", help="Listen only on this address. Default: on all.")
@store_options
@click.option(
    "--log-file",
    metavar="PATH",
    help="Log file, with --background. Default: a file in the state directory.",
)
@click.option(
    "--log-size",
    metavar="BYTES",
    type=click.IntRange(_LEAST_LOG),
    help="Largest size of the log file; then it is renamed to PATH.1. Default: 16 MiB.",
)
@click.option(
    "--cleanup-interval",
    metavar="SECONDS",
    type=seconds,
    default=config.DEFAULT_CLEANUP_INTERVAL,
    show_default=True,
    help="Seconds between two removals of expired services.",
)
@click.option(
    "--journal-events",
    metavar="NUMBER",
    type=click.IntRange(1),
    default=config.DEFAULT_JOURNAL_EVENTS,
    show_default=True,
    help="Number of events to keep, for clients that were disconnected.",
)
@click.option(
    "--journal-bytes",
    metavar="BYTES",
    type=click.IntRange(1),
    default=config.DEFAULT_JOURNAL_BYTES,
    show_default=True,
    help="Largest size of these events together; the oldest are removed first.",
)
@click.option(
    "--limit",
    "limits",
    metavar="NAME=NUMBER",
    multiple=True,
    type=key_and_value,
    callback=_numbers,
    help="Change a limit; may be given several times. docs/security.md lists all limits, and"
    ' "rs_cs status" shows them.',
)
@click.option(
    "--gateway",
    "gateways",
    metavar="ADDRESS",
    multiple=True,
    help="Address or network that many machines share: the limits for one address do not apply to"
    " it; may be given several times.",
)
@click.option(
    "--unique-service-types", is_flag=True, help="Refuse a second service of the same type."
)
@click.option(
    "--cgse-reply",
    type=click.Choice(["RESPONSE", "REP"]),
    default="RESPONSE",
    show_default=True,
    help="First frame of replies to CGSE's clients; those of mid-2025 need REP.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Lowest level of messages to log. Default: info.",
)
@click.option(
    "--dev", is_flag=True, help="To try things out: store in memory, on 127.0.0.1, debug log."
)
@common_options(timeout="Seconds to wait for the first answer, with --background. Default: 10.")
@pass_settings
def start(
    settings: Settings, /, background: bool, dev: bool, log_file: str | None, **given: Any
) -> None:
    """Run the registry, until Ctrl-C or in the background."""
    from rsreg.server.limits import read_limits
    from rsreg.server.settings import ServerSettings

    if settings.registry is not None:
        raise ConfigurationError("start takes no --registry", hint="use --bind and --req-port")
    for option, value in (("--log-file", log_file), ("--log-size", given["log_size"])):
        if value is not None and not background:
            raise ConfigurationError(
                f"{option} needs --background",
                hint="in the foreground the log goes to stderr; 2> FILE keeps it",
            )
    # A wrong RSREG_ENDPOINT or limit is reported before anything is started.
    config.default_endpoint()
    options = {name: value for name, value in given.items() if value is not None}
    limits = read_limits(options.pop("limits"), options.pop("gateways"))
    server_settings = ServerSettings(**{**(_DEV if dev else {}), **options, "limits": limits})
    if background:
        timeout = server_process.DEFAULT_PATIENCE if settings.timeout is None else settings.timeout
        log = None if log_file is None else Path(log_file)
        about = server_process.start_in_background(server_settings, log, timeout)
        for line in _announcement(settings, server_settings.bind, about):
            put(line)
        return
    writers: list[Writer | None] = []
    try:
        server_process.run(
            server_settings,
            lambda about: writers.append(
                write_in_background(_announcement(settings, server_settings.bind, about))
            ),
        )
    finally:
        for writer in filter(None, writers):
            writer.flush(_FLUSH)


@click.command(epilog=examples("rs_cs stop", "rs_cs stop -e localhost:5555 --yes"))
@yes_option
@registry_option()
@common_options()
@pass_settings
def stop(settings: Settings, yes: bool) -> None:
    """Stop the registry on this machine.

    Asks for confirmation first, and returns when the registry has ended.
    """
    check_can_confirm(yes)
    with settings.client() as registry:
        about = registry.server_status(services=False)
        where = registry.settings.req_endpoint
        what = f"the registry on {where}, pid {about['pid']}"
        if not yes:
            confirm(f"Stop {what}, services: {about['counts']['services']}?")
        server_process.stop(registry)
    if settings.json:
        write_json({"success": True, "status": "stopped", "endpoint": where, "pid": about["pid"]})
    else:
        write(f"{what}, has stopped")


def _announcement(settings: Settings, bind: str, about: Record) -> Iterator[str]:
    """Yield the lines about a server that has started."""
    if settings.json:
        yield json_text({"success": True, **about})
        return
    # A server that listens on all addresses is announced by the name of its host.
    where = f"tcp://{about['host']}:" if bind in ("*", "0.0.0.0", "::") else about["endpoint"]
    facts = {use: config.on_port(where, port) for use, port in describe.ports(about).items()}
    facts["store"] = about["store"]
    if "log_file" in about:
        facts["log"] = about["log_file"]
    yield f"rsreg {about['version']}, pid {about['pid']}; {_how_to_stop(about)}"
    yield from fact_lines((f"  {label}", fact) for label, fact in facts.items())


def _how_to_stop(about: Record) -> str:
    if "log_file" not in about:
        return "Ctrl-C stops it"
    address = about["endpoint"].removeprefix("tcp://").replace("127.0.0.1", "localhost")
    is_default = config.default_endpoint() == f"tcp://{address}"
    return f'"rs_cs stop{"" if is_default else f" -e {address}"}" stops it'
