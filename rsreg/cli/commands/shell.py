"""The commands for shells: a Python shell, and completion for the system's shell."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any

import click
from click.shell_completion import get_completion_class

from rsreg import __version__
from rsreg.admin import server_process
from rsreg.cli.options import Settings, common_options, examples, pass_settings, registry_option
from rsreg.cli.output import put, write_json
from rsreg.client.interactive import InteractiveClient
from rsreg.errors import InternalError


@click.command(epilog=examples("rs_cs shell", "rs_cs shell -e egse1:4242"))
@registry_option()
@common_options()
@pass_settings
def shell(settings: Settings) -> None:
    """Open a Python shell with a connected client named "reg".

    Services are attributes of "reg", by type and by name; "reg" alone shows all. The shell is
    IPython if that is installed, else Python's own. --json applies only to errors here.
    """
    server_process.log_to_stderr("warning")
    with settings.client(client_class=InteractiveClient) as registry:
        about = registry.server_status(services=False)
        banner = (
            f"rsreg {__version__} on Python {sys.version.split()[0]}: "
            f"reg is connected to {registry.settings.req_endpoint}, "
            f"services: {about['counts']['services']}.\n"
            f"Try reg, reg.TYPE.endpoint, reg.NAME, reg.<TAB>"
        )
        names: dict[str, Any] = {"reg": registry}
        try:
            ipython = importlib.import_module("IPython")
        except ImportError:
            ipython = None
        # Outside the handler: else tracebacks in the shell would begin with the missing IPython.
        if ipython is None:
            _plain_shell(names, banner)
        else:
            _ipython_shell(ipython, names, banner)


@click.command(
    epilog=examples(
        'eval "$(rs_cs completion bash)"',
        "rs_cs completion fish > ~/.config/fish/completions/rs_cs.fish",
    )
)
@click.argument("shell_name", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
@common_options(timeout=None)
@click.pass_context
def completion(context: click.Context, shell_name: str) -> None:
    """Print the completion script for a shell.

    It completes commands and options, and asks the registry for services and types.
    """
    completion_class = get_completion_class(shell_name)
    if completion_class is None:
        raise InternalError(f"click knows no completion for {shell_name}")
    root = context.find_root()
    script = completion_class(root.command, {}, "rs_cs", "_RS_CS_COMPLETE").source()
    if context.ensure_object(Settings).json:
        write_json({"success": True, "shell": shell_name, "script": script})
    else:
        put(script)


def _ipython_shell(ipython: Any, names: dict[str, Any], banner: str) -> None:
    config = importlib.import_module("traitlets.config").Config()
    config.TerminalInteractiveShell.banner1 = banner + "\n"
    ipython.start_ipython(argv=[], user_ns=names, config=config)


def _plain_shell(names: dict[str, Any], banner: str) -> None:
    from code import InteractiveConsole

    # Windows has no readline; its console completes by itself.
    if sys.platform != "win32":
        with contextlib.suppress(ImportError):
            import readline
            import rlcompleter

            readline.set_completer(rlcompleter.Completer(names).complete)
            readline.parse_and_bind("tab: complete")
    InteractiveConsole(names).interact(banner=banner, exitmsg="")
