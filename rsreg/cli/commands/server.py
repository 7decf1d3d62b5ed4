"""The commands that run and end the server: start, stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from rsreg import config
from rsreg.admin import server_process
from rsreg.cli.options import (
    Settings,
    common_options,
    examples,
    pair,
    pass_settings,
    registry_option,
    seconds,
    store_options,
    yes_option,
)
from rsreg.cli.output import (
    ask,
    check_can_ask,
    fact_lines,
    json_text,
    put,
    put_beside,
    write,
    write_json,
)
from rsreg.errors import ConfigurationError
from rsreg.protocol.calls import Record
from rsreg.system.line_writer import Writer

#: Bytes of a log: it has to hold some lines.
_LEAST_LOG = 4096
_PORT = click.IntRange(0, 65535)
#: Seconds that the end waits until the announcement is written.
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
@click.option("--background", is_flag=True, help="Detach; print pid and log file once it answers.")
@click.option(
    "--req-port",
    metavar="PORT",
    type=_PORT,
    default=config.DEFAULT_RS_REQ_PORT,
    show_default=True,
    help="For requests; 0 is a free one, as for the others.",
)
@click.option(
    "--pub-port",
    metavar="PORT",
    type=_PORT,
    default=config.DEFAULT_RS_PUB_PORT,
    show_default=True,
    help="For events.",
)
@click.option(
    "--hb-port",
    metavar="PORT",
    type=_PORT,
    help="For heartbeats of CGSE's clients; 4244 beside request port 4242, else none.",
)
@click.option("--bind", metavar="ADDRESS", help="Listen on this address only.")
@store_options
@click.option(
    "--log-file",
    metavar="PATH",
    help="With --background, where it logs; a file in the folder for state by default.",
)
@click.option(
    "--log-size",
    metavar="BYTES",
    type=click.IntRange(_LEAST_LOG),
    help="How long that may get; then it is renamed to PATH.1. 16 MiB by default.",
)
@click.option(
    "--cleanup-interval",
    metavar="SECONDS",
    type=seconds,
    default=config.DEFAULT_CLEANUP_INTERVAL,
    show_default=True,
    help="Between two looks for services whose ttl is over.",
)
@click.option(
    "--journal-events",
    metavar="NUMBER",
    type=click.IntRange(1),
    default=config.DEFAULT_JOURNAL_EVENTS,
    show_default=True,
    help="Events that are kept for who was away.",
)
@click.option(
    "--journal-bytes",
    metavar="BYTES",
    type=click.IntRange(1),
    default=config.DEFAULT_JOURNAL_BYTES,
    show_default=True,
    help="Bytes that these may have; the oldest go first.",
)
@click.option(
    "--limit",
    "limits",
    metavar="NAME=NUMBER",
    multiple=True,
    type=pair,
    callback=_numbers,
    help="Another bound than the default; may be given several times. The page docs/security.md has"
    " all, status shows them.",
)
@click.option(
    "--gateway",
    "gateways",
    metavar="ADDRESS",
    multiple=True,
    help="An address or a network that many machines are behind: the bounds of one address do not"
    " hold for it; may be given several times.",
)
@click.option("--unique-service-types", is_flag=True, help="Refuse a second service of a type.")
@click.option(
    "--cgse-reply",
    type=click.Choice(["RESPONSE", "REP"]),
    default="RESPONSE",
    show_default=True,
    help="First frame of replies to CGSE's clients; those of mid-2025 want REP.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="What is logged on stderr; info by default.",
)
@click.option("--dev", is_flag=True, help="To try things: in memory, on 127.0.0.1, debug log.")
@common_options(timeout="Seconds that --background waits for an answer, 10 by default.")
@pass_settings
def start(
    settings: Settings, /, background: bool, dev: bool, log_file: str | None, **given: Any
) -> None:
    """Run the registry, here until Ctrl-C or in the background."""
    from rsreg.server.limits import read_limits

    if settings.registry is not None:
        raise ConfigurationError(
            "start has no address of a registry", hint="it has --bind and --req-port"
        )
    for option, value in (("--log-file", log_file), ("--log-size", given["log_size"])):
        if value is not None and not background:
            raise ConfigurationError(
                f"{option} is for --background", hint="here the log goes to stderr: 2> FILE"
            )
    config.default_endpoint()  # A wrong RSREG_ENDPOINT is said before anything is started.
    said = {name: value for name, value in given.items() if value is not None}
    wanted = server_process.ServerSettings(**{**(_DEV if dev else {}), **said})
    read_limits(wanted.limits, wanted.gateways)  # A wrong one, too.
    if background:
        patience = server_process.DEFAULT_PATIENCE if settings.timeout is None else settings.timeout
        log = None if log_file is None else Path(log_file)
        about = server_process.start_in_background(wanted, log, patience)
        for line in _announcement(settings, wanted, about):
            put(line)
        return
    writers: list[Writer | None] = []
    try:
        server_process.run(
            wanted,
            lambda about: writers.append(put_beside(_announcement(settings, wanted, about))),
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
    """Stop the registry of this machine; returns when it has."""
    check_can_ask(yes)
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


def _announcement(
    settings: Settings, wanted: server_process.ServerSettings, about: Record
) -> Iterator[str]:
    if settings.json:
        yield json_text({"success": True, **about})
        return
    # Where the others find it: of all addresses the name is the one to tell.
    where = (
        f"tcp://{about['host']}:" if wanted.bind in ("*", "0.0.0.0", "::") else about["endpoint"]
    )
    ports = {"requests": "req_port", "events": "pub_port", "heartbeats": "hb_port"}
    facts = {
        what: config.on_port(where, about[port]) for what, port in ports.items() if about[port]
    }
    facts["store"] = about["store"]
    if "log_file" in about:
        facts["log"] = about["log_file"]
    yield f"rsreg {about['version']}, pid {about['pid']}; {_how_to_stop(about)}"
    yield from fact_lines((f"  {label}", said) for label, said in facts.items())


def _how_to_stop(about: Record) -> str:
    if "log_file" not in about:
        return "Ctrl-C stops it"
    address = about["endpoint"].removeprefix("tcp://").replace("127.0.0.1", "localhost")
    known = config.default_endpoint() == f"tcp://{address}"
    return f'"rs_cs stop{"" if known else f" -e {address}"}" stops it'
