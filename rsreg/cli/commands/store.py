"""The commands that copy the registry's store, and put a copy back: backup, restore."""

from __future__ import annotations

from pathlib import Path

import click

from rsreg.admin import server_process
from rsreg.cli.options import (
    Settings,
    common_options,
    examples,
    pass_settings,
    registry_option,
    store_options,
)
from rsreg.cli.output import note, write, write_json
from rsreg.errors import ConfigurationError

#: Seconds that the registry may take for a copy, by default.
_TIMEOUT = 60.0


@click.command(
    epilog=examples(
        "rs_cs backup registry-$(date +%F).db", "rs_cs backup --replace /backup/registry.db"
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Replace an older copy in FILE.")
@registry_option()
@common_options(timeout="Seconds to wait for the copy. Default: 60.")
@pass_settings
def backup(settings: Settings, file: Path, replace: bool) -> None:
    """Write a copy of the registry's store to FILE.

    The registry on this machine writes FILE, and goes on serving meanwhile. FILE appears only when
    the copy is complete. Only the user that the registry runs as can read it.
    """
    timeout = _TIMEOUT if settings.timeout is None else settings.timeout
    with settings.client(timeout) as registry:
        copied = registry.backup(file, replace=replace)
    if settings.json:
        write_json({"success": True, **copied})
        return
    write(copied["path"])
    note(_contents(copied["services"], copied["seq"]) + f", {copied['size']} bytes")


@click.command(
    epilog=examples(
        "rs_cs restore registry-2026-11-25.db",
        "rs_cs restore copy.db --db /var/lib/rsreg/service_registry.db",
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@store_options
@common_options(timeout=None)
@pass_settings
def restore(settings: Settings, file: Path, db: str | None, state_dir: str | None) -> None:
    """Restore the store of a stopped registry from a copy.

    FILE is a copy that "rs_cs backup" wrote. It is checked first, and kept. The previous store is
    kept too, under another name.
    """
    if settings.registry is not None:
        raise ConfigurationError(
            "restore takes no --registry", hint="stop the registry, and give its store with --db"
        )
    restored = server_process.restore(file, db, state_dir)
    if settings.json:
        write_json({"success": True, **restored})
        return
    write(restored["store"])
    kept = restored["kept"]
    note(_contents(restored["services"], restored["seq"]) + "; start the registry to use it")
    note(f"the previous store is in {kept}" if kept else "there was no store before")


def _contents(services: int, seq: int) -> str:
    return f"{services} {'service' if services == 1 else 'services'}, the last event is {seq}"
