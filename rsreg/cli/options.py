"""Options, settings and arguments that the commands share."""

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

#: Longest wait in seconds: a signal that comes just before a wait does not end it.
SIGNAL_LATENCY = 0.5
#: Words that need no quotes in any shell. Shells put a completed word into the command line
#: unquoted, so a name such as "x;reboot" would be run: such names are not completed.
_UNQUOTED = re.compile(r"[\w.:@+,/][\w.:@+,/%=-]*")
_UNITS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}


@dataclass
class Settings:
    """The options that every command has; they can be given before or after it."""

    registry: str | None = None
    timeout: float | None = None
    json: bool = False

    def client(
        self,
        timeout: float | None = None,
        mode: str | None = config.ANY_MODE,
        client_class: type[RegistryClient] = RegistryClient,
        events: str | None = None,
    ) -> RegistryClient:
        """Return a client of the registry that the options name.

        By default it sees services of all modes, whatever RSREG_MODE says, as an operator needs. A
        command that asks as a program does gives None as `mode`, or the mode of its option.
        """
        if timeout is None:
            timeout = config.DEFAULT_TIMEOUT if self.timeout is None else self.timeout
        return client_class(self.registry, events, timeout=timeout, client_id="rs_cs", mode=mode)


pass_settings = click.make_pass_decorator(Settings, ensure=True)


class CantRun(RegistryError):
    """A program can't be run; `exit_code` is that of a shell in this case."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class WaitOver(RegistryError):
    """Some services did not come in time; `details` has those that did."""

    def __init__(self, message: str, hint: str | None, details: Record) -> None:
        super().__init__(message, hint=hint)
        self.details = details


def seconds(value: str | float) -> float:
    """Convert an option that is a number of seconds, up to a day."""
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
    """Convert an option that is a longer time: "90", "30min", "2h", "1d"; return seconds."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d|)", str(value).strip())
    length = float(parts[1]) * _UNITS[parts[2]] if parts else 0
    if not 1 <= length <= MAX_MAINTENANCE:
        raise click.BadParameter(f"{value!r} is not a time, such as 30min, 2h or 1d, up to a year.")
    return length


def key_and_value(text: str) -> tuple[str, str]:
    """Convert an option that is KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE.")
    return key, value


def condition(value: str) -> tuple[str, str]:
    """Convert a condition: KEY=VALUE, KEY=>=1.4, or KEY>=1.4."""
    parts = re.fullmatch(r"([^=<>!~]+)([=<>!~].*)", value, re.DOTALL)
    if not parts:
        raise click.BadParameter(f"{value!r} is not KEY=VALUE.")
    return parts[1].strip(), parts[2].removeprefix("=")


def service_options(command: F) -> F:
    """Add the options that describe a service, named as in `RegistryClient.register`."""
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
                callback=_as_list,
                help="Additional tag to find the service by; may be given several times.",
            ),
            click.option(
                "--meta",
                "metadata",
                metavar="KEY=VALUE",
                multiple=True,
                type=key_and_value,
                callback=_as_dict,
                help="Metadata of the service; may be given several times.",
            ),
            click.option(
                "--also",
                "endpoints",
                metavar="NAME=PORT",
                multiple=True,
                type=key_and_value,
                callback=_as_ports,
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


def filter_options(command: F) -> F:
    """Add the options that select services."""
    tag = click.option(
        "--tag",
        "tags",
        metavar="TAG",
        multiple=True,
        callback=_as_list,
        help="Only services with this tag ('!TAG': without it); may be given several times.",
    )
    metadata = click.option(
        "--where",
        metavar="KEY=VALUE",
        multiple=True,
        type=condition,
        callback=_as_dict,
        help="Only services whose metadata has this value, or meets a condition such as"
        " 'version>=1.4,<2'; may be given several times.",
    )
    return tag(metadata(command))


def store_options(command: F) -> F:
    """Add the options that say where the store of a server is."""
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
    """Return the option to change an entry of somebody else."""
    return click.option("--force", is_flag=True, help=help_text)


def yes_option(command: F) -> F:
    """Add the option that answers yes to the question of a command."""
    return click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(command)


def mode_option(help_text: str) -> Callable[[F], F]:
    """Return the option that chooses between hardware and simulators."""
    return click.option("--mode", type=click.Choice(config.MODES), help=help_text)


def complete_service(
    context: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names and ids of services in the registry."""
    return _completions(context, incomplete, lambda one: [one["name"], one["id"]])


def complete_type(
    context: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the types and tags of services in the registry."""
    return _completions(context, incomplete, lambda one: [one["type"] or "", *one["tags"]])


def common_options(
    *, timeout: str | None = "Seconds to wait for an answer of the registry. Default: 2."
) -> Callable[[F], F]:
    """Add the options of every command; a `--timeout` without help is accepted, but not shown."""

    def decorate(command: F) -> F:
        command = _shared_option("--json", is_flag=True, help="Print JSON, also for errors.")(
            command
        )
        return _shared_option(
            "--timeout", metavar="SECONDS", type=seconds, help=timeout, hidden=timeout is None
        )(command)

    return decorate


def registry_option(*names: str) -> Callable[[F], F]:
    """Return the option of every command that talks to a registry."""
    return _shared_option(
        *(names or ("-e", "--registry", "--endpoint")),
        "registry",
        metavar="URL",
        help="Address of the registry, as host:port. Default: RSREG_ENDPOINT, else localhost.",
    )


def examples(*lines: str, after: str = "") -> str:
    """Return the end of a help page: examples, and a text after them."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines), after])


def require_service(registry: RegistryClient, name: str) -> ServiceRecord:
    """Return the service with an id, a name, or the start of either; raises UnknownService."""
    service = registry.find_service(name)
    if service is None:
        raise unknown_service(registry, name)
    return service


def unknown_service(registry: RegistryClient, name: str) -> UnknownService:
    """Return the error that no service has this name, with a similar name as its hint."""
    words: list[str] = []
    with contextlib.suppress(RegistryError):
        words = [word for one in registry.list_services() for word in (one["name"], one["id"])]
    return UnknownService(
        f"no service {name!r}",
        hint=similar(name, words)
        or '"rs_cs list" shows all; an id, a name, or the start of either will do',
    )


def similar(word: str, words: Iterable[str]) -> str | None:
    """Return the hint that a similar word may be meant, or None."""
    near = display.near(word, dict.fromkeys(words))
    return None if near is None else display.did_you_mean(near)


def type_hint(registry: RegistryClient, service_types: Iterable[str]) -> str | None:
    """Return the hint that types or tags similar to these exist, or None."""
    services = registry.list_services(mode=config.ANY_MODE)
    existing = {
        service_type
        for one in services
        for service_type in records.service_types_of(one["type"], one["tags"], one["metadata"])
    }
    hints = [similar(name, existing) for name in service_types if name not in existing]
    return "; ".join(filter(None, hints)) or None


def _as_list(_context: click.Context, _param: click.Parameter, value: Iterable[str]) -> list[str]:
    return list(value)


def _as_dict(
    _context: click.Context, _param: click.Parameter, value: Iterable[tuple[str, str]]
) -> dict[str, str]:
    return dict(value)


def _as_ports(
    _context: click.Context, _param: click.Parameter, value: Iterable[tuple[str, str]]
) -> dict[str, int] | None:
    for name, port in value:
        if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
            raise click.BadParameter(f"{name}={port} is not NAME=PORT, a port from 1 to 65535.")
    return {name: int(port) for name, port in value} or None


def _shared_option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """Return an option whose value goes to the settings, not to the command."""
    return click.option(*names, expose_value=False, callback=_keep_in_settings, **attributes)


def _keep_in_settings(context: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and value is not False:
        setattr(context.ensure_object(Settings), str(param.name), value)


def _completions(
    context: click.Context, incomplete: str, words: Callable[[Record], list[str]]
) -> list[CompletionItem]:
    try:
        with context.ensure_object(Settings).client(config.COMPLETION_TIMEOUT) as registry:
            services = registry.list_services()
    except RegistryError:
        return []
    fitting = {word for one in services for word in words(one) if word.startswith(incomplete)}
    return [CompletionItem(word) for word in sorted(fitting) if _UNQUOTED.fullmatch(word)]
