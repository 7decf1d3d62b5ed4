"""What the commands share: their options, settings and arguments."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from rsreg import config, display
from rsreg.client.sync import RegistryClient
from rsreg.errors import RegistryError, UnknownService
from rsreg.protocol import records
from rsreg.protocol.calls import Record
from rsreg.protocol.limits import MAX_MAINTENANCE
from rsreg.protocol.records import ServiceRecord

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds that a signal may go unnoticed: one that comes just before a wait does not end it.
SIGNAL_LATENCY = 0.5
#: Seconds that completion may keep the shell waiting.
_COMPLETION_TIMEOUT = 0.3
#: What means itself in every shell, without quotes. Shells put a completed word into the command
#: line as it is, so a name such as "x;reboot" would be run: it has to be typed, with quotes.
_UNQUOTED = re.compile(r"[\w.:@+,/][\w.:@+,/%=-]*")
_UNITS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}


@dataclass
class Settings:
    """The options that every command has, given before or after it."""

    registry: str | None = None
    timeout: float | None = None
    json: bool = False

    def client(
        self,
        timeout: float | None = None,
        mode: str | None = config.ANY_MODE,
        kind: type[RegistryClient] = RegistryClient,
        events: str | None = None,
    ) -> RegistryClient:
        """A client of the registry that is meant.

        Who looks after a registry sees services of all modes, whatever RSREG_MODE says; for who
        asks as a program would, `mode` is None, or the one that was given.
        """
        if timeout is None:
            timeout = config.DEFAULT_TIMEOUT if self.timeout is None else self.timeout
        return kind(self.registry, events, timeout=timeout, client_id="rs_cs", mode=mode)


pass_settings = click.make_pass_decorator(Settings, ensure=True)


class CantRun(RegistryError):
    """A program can't be run; `exit_code` is what shells report of it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class WaitOver(RegistryError):
    """The services waited for did not come in time; `details` tells which."""

    def __init__(self, message: str, hint: str | None, details: Record) -> None:
        super().__init__(message, hint=hint)
        self.details = details


def seconds(value: str | float) -> float:
    """The type of options that are a length of time, up to a day."""
    try:
        length = float(value)
    except ValueError:
        length = -1
    if not 0 <= length <= config.MAX_TIMEOUT:
        raise click.BadParameter(
            f"{value!r} is not a number of seconds from 0 to {config.MAX_TIMEOUT}."
        )
    return length


def period(value: str | float) -> float:
    """The type of options that are a longer time: "90", "30min", "2h", "1d"."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|)", str(value).strip())
    length = float(parts[1]) * _UNITS[parts[2]] if parts else 0
    if not 1 <= length <= MAX_MAINTENANCE:
        raise click.BadParameter(f"{value!r} is not a time, such as 30min, 2h or 1d, up to a year.")
    return length


def pair(value: str) -> tuple[str, str]:
    """The type of options that are a key and a value."""
    key, equals, said = value.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{value!r} is not KEY=VALUE.")
    return key, said


def where(value: str) -> tuple[str, str]:
    """The type of conditions: KEY=VALUE, KEY=>=1.4, or KEY>=1.4."""
    parts = re.fullmatch(r"([^=<>!~]+)([=<>!~].*)", value, re.DOTALL)
    if not parts:
        raise click.BadParameter(f"{value!r} is not KEY=VALUE.")
    key, said = parts[1].strip(), parts[2]
    return key, said.removeprefix("=")


def service_options(command: F) -> F:
    """The options on what is registered; their names are those of `RegistryClient.register`."""
    for decorate in reversed(
        [
            click.option("--name", required=True, metavar="NAME", help="Name of the service."),
            click.option(
                "--port",
                required=True,
                metavar="PORT",
                type=click.IntRange(1, 65535),
                help="Port that the service listens on.",
            ),
            click.option(
                "--host",
                metavar="HOST",
                help="Host where clients reach the service. Default: RSREG_ADVERTISE, else this"
                " machine.",
            ),
            click.option(
                "--type", "service_type", metavar="TYPE", help="Service type, such as PUNA."
            ),
            click.option(
                "--tag",
                "tags",
                metavar="TAG",
                multiple=True,
                callback=_listed,
                help="Additional tag to find the service by; may be given several times.",
            ),
            click.option(
                "--meta",
                "metadata",
                metavar="KEY=VALUE",
                multiple=True,
                type=pair,
                callback=_mapped,
                help="Metadata of the service; may be given several times.",
            ),
            click.option(
                "--also",
                "endpoints",
                metavar="NAME=PORT",
                multiple=True,
                type=pair,
                callback=_ports,
                help="Additional named port; may be given several times.",
            ),
            mode_option("What the service drives. Default: RSREG_MODE, else hardware."),
            click.option("--exclusive", is_flag=True, help="No other service may have this name."),
            click.option(
                "--ttl",
                metavar="SECONDS",
                type=seconds,
                default=config.DEFAULT_TTL,
                show_default=True,
                help="Seconds without a heartbeat after which the registration ends.",
            ),
        ]
    ):
        command = decorate(command)
    return command


def conditions(command: F) -> F:
    """The options on which services are meant."""
    tag = click.option(
        "--tag",
        "tags",
        metavar="TAG",
        multiple=True,
        callback=_listed,
        help="Only services with this tag ('!TAG': without it); may be given several times.",
    )
    condition = click.option(
        "--where",
        metavar="KEY=VALUE",
        multiple=True,
        type=where,
        callback=_mapped,
        help="Only services whose metadata has this value, or meets a condition such as"
        " 'version>=1.4,<2'; may be given several times.",
    )
    return tag(condition(command))


def store_options(command: F) -> F:
    """The options on where the store of a server is."""
    database = click.option(
        "--db",
        metavar="PATH|:memory:",
        help="Database file. Default: RSREG_DB, else a file in the state directory.",
    )
    folder = click.option(
        "--state-dir",
        metavar="PATH",
        help="State directory. Default: RSREG_STATE, else ~/.local/state/rsreg.",
    )
    return database(folder(command))


def force_option(help_text: str) -> Callable[[F], F]:
    """The option to change what is another's."""
    return click.option("--force", is_flag=True, help=help_text)


def yes_option(command: F) -> F:
    """The option not to be asked."""
    return click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(command)


def mode_option(help_text: str) -> Callable[[F], F]:
    """The option that tells hardware from simulators."""
    return click.option("--mode", type=click.Choice(config.MODES), help=help_text)


def complete_service(
    context: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names and ids of the live registry."""
    return _completed(context, incomplete, lambda one: [one["name"], one["id"]])


def complete_type(
    context: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Types and tags of the live registry."""
    return _completed(context, incomplete, lambda one: [one["type"] or "", *one["tags"]])


def common_options(
    *, timeout: str | None = "Seconds to wait for an answer of the registry. Default: 2."
) -> Callable[[F], F]:
    """Add the options of every command; a `--timeout` without help is accepted, but not shown."""

    def decorate(command: F) -> F:
        command = _kept("--json", is_flag=True, help="Print JSON, also for errors.")(command)
        return _kept(
            "--timeout", metavar="SECONDS", type=seconds, help=timeout, hidden=timeout is None
        )(command)

    return decorate


def registry_option(*names: str) -> Callable[[F], F]:
    """The option of every command that talks to a registry."""
    return _kept(
        *(names or ("-e", "--registry", "--endpoint")),
        "registry",
        metavar="URL",
        help="Address of the registry, as host:port. Default: RSREG_ENDPOINT, else localhost.",
    )


def examples(*lines: str, after: str = "") -> str:
    """The end of a help page."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines), after])


def found(registry: RegistryClient, name: str) -> ServiceRecord:
    """The service of an id, a name, or the start of either; raises UnknownService."""
    service = registry.find_service(name)
    if service is None:
        raise unknown(registry, name)
    return service


def unknown(registry: RegistryClient, name: str) -> UnknownService:
    """The error that there is no service of this name, with the one that may have been meant."""
    words: list[str] = []
    with contextlib.suppress(RegistryError):
        words = [word for one in registry.list_services() for word in (one["name"], one["id"])]
    return UnknownService(
        f"no service {name!r}",
        hint=meant(name, words)
        or '"rs_cs list" shows all; an id, a name, or the start of either will do',
    )


def meant(word: str, words: Iterable[str]) -> str | None:
    """The question whether another word was meant, or None."""
    near = display.near(word, dict.fromkeys(words))
    return None if near is None else display.did_you_mean(near)


def type_meant(registry: RegistryClient, kinds: Iterable[str]) -> str | None:
    """The question whether another of the types and tags that there are was meant, or None."""
    services = registry.list_services(mode=config.ANY_MODE)
    there = {
        kind
        for one in services
        for kind in records.kinds_of(one["type"], one["tags"], one["metadata"])
    }
    said = [meant(kind, there) for kind in kinds if kind not in there]
    return "; ".join(filter(None, said)) or None


def _listed(_context: click.Context, _param: click.Parameter, value: Iterable[str]) -> list[str]:
    return list(value)


def _mapped(
    _context: click.Context, _param: click.Parameter, value: Iterable[tuple[str, str]]
) -> dict[str, str]:
    return dict(value)


def _ports(
    _context: click.Context, _param: click.Parameter, value: Iterable[tuple[str, str]]
) -> dict[str, int] | None:
    for name, port in value:
        if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
            raise click.BadParameter(f"{name}={port} is not NAME=PORT, a port from 1 to 65535.")
    return {name: int(port) for name, port in value} or None


def _kept(*names: str, **attributes: Any) -> Callable[[F], F]:
    """An option whose value goes to the settings, not to the command."""
    return click.option(*names, expose_value=False, callback=_keep, **attributes)


def _keep(context: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and value is not False:
        setattr(context.ensure_object(Settings), str(param.name), value)


def _completed(
    context: click.Context, incomplete: str, words: Callable[[Record], list[str]]
) -> list[CompletionItem]:
    try:
        with context.ensure_object(Settings).client(_COMPLETION_TIMEOUT) as registry:
            services = registry.list_services()
    except RegistryError:
        return []
    fitting = {word for one in services for word in words(one) if word.startswith(incomplete)}
    return [CompletionItem(word) for word in sorted(fitting) if _UNQUOTED.fullmatch(word)]
