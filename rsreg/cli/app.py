"""The command `rs_cs` with its subcommands, and the exit code of each error."""

from __future__ import annotations

import errno
import io
import itertools
import sys
from typing import Any

import click

from rsreg import __version__, errors
from rsreg.cli import INTERRUPTED
from rsreg.cli.commands import (
    events,
    maintenance,
    query,
    register,
    run,
    server,
    shell,
    store,
)
from rsreg.cli.options import CantRun, Settings, WaitOver, common_options, examples, registry_option
from rsreg.cli.output import (
    CantWrite,
    discard_output,
    open_standard_streams,
    write_error,
    write_json,
)
from rsreg.errors import RegistryError

#: Errors of an output that can't be written.
_OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF)
#: The exit code and the `code` in JSON of an error, by the first class that matches. An error from
#: the registry has a code of its own.
_OUTCOMES: list[tuple[type[RegistryError], int, str]] = [
    (WaitOver, 124, "wait-over"),
    (CantRun, 126, "cant-run"),
    (errors.ConfigurationError, 2, "usage"),
    (errors.TransportError, 3, "unreachable"),
    (errors.NoService, 4, ""),
    (errors.UnknownService, 4, ""),
    (errors.DuplicateServiceType, 5, ""),
    (errors.DuplicateName, 5, ""),
    (errors.AmbiguousName, 5, "ambiguous-name"),
    (errors.PortInUse, 5, "port-in-use"),
    (errors.StoreInUse, 5, "store-in-use"),
    (errors.StoreError, 1, "store"),
    (errors.BackupFailed, 1, ""),
    (RegistryError, 1, "failed"),
]


class _Ordered(click.Group):
    """Lists the commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_Ordered,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "rs_cs start --dev",
        "rs_cs -e egse1:4242 list",
        after="""
Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 registry unreachable,
4 nothing found, 5 conflict, 124 timeout of "wait", 130 interrupted.""",
    ),
)
@registry_option()
@common_options()
@click.version_option(__version__, message="rs_cs %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Run a service registry, query it, and change what is registered.

    The options can also follow the command. -e, --registry and --endpoint are the same option,
    except after "discover": there --endpoint is a flag to print only the endpoint of the service.
    """
    if context.invoked_subcommand is None:
        if context.ensure_object(Settings).json:
            raise click.UsageError("Missing command.")
        click.echo(context.get_help(), err=True)
        context.exit(2)


#: In the order of the help page.
for _command in (
    server.start,
    query.status,
    query.list_,
    query.get,
    query.discover,
    events.wait,
    events.watch,
    register.register,
    register.deregister,
    server.stop,
    run.run,
    maintenance.maintenance,
    store.backup,
    store.restore,
    shell.shell,
    shell.completion,
):
    cli.add_command(_command)


def execute(args: list[str]) -> int:
    """Run one command line; return the exit code."""
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        # A name may have characters that the encoding of the terminal does not have.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    as_json = "--json" in itertools.takewhile(lambda one: one != "--", args)
    try:
        return int(_run(args) or 0)
    except CantWrite as error:
        discard_output(sys.stdout)
        # A reader that stops early, such as "head", needs no error.
        if not isinstance(error.__cause__, BrokenPipeError):
            _report(False, str(error), error.hint, "output")
        return 1
    except click.Abort:
        # The output may hold a part of a line.
        discard_output(sys.stdout)
        return INTERRUPTED
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "rs_cs"
        _report(as_json, error.format_message(), f'see "{command} -h"', "usage")
        return error.exit_code
    except RegistryError as error:
        exit_code, code = next((ex, co) for cls, ex, co in _OUTCOMES if isinstance(error, cls))
        details = getattr(error, "details", {})
        _report(as_json, str(error), error.hint, getattr(error, "code", code), **details)
        return int(getattr(error, "exit_code", exit_code))
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        text = f"rs_cs itself failed: {type(error).__name__}: {error}"
        _report(
            as_json,
            text,
            'run "python -X dev -m rsreg" with the same arguments to see where',
            "internal",
        )
        return 1


def _run(args: list[str]) -> Any:
    """Run a command line with click, which writes help itself, and exits if nobody reads it."""
    try:
        return cli.main(args, prog_name="rs_cs", standalone_mode=False)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):
            raise CantWrite("nobody reads the help") from error.__context__
        raise
    except OSError as error:
        if error.errno in _OUTPUT_ERRORS:
            raise CantWrite(f"can't write the help: {error.strerror}") from error
        raise


def _report(as_json: bool, text: str, hint: str | None, code: str, **details: object) -> None:
    if not as_json:
        write_error(text, hint)
        return
    body = {"success": False, "error": text, "code": code}
    write_json(body | ({"hint": hint} if hint else {}) | details)
