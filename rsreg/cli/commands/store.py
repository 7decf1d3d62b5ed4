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

#: Seconds that the registry may take for a copy, if nothing is said.
_PATIENCE = 60.0


@click.command(
    epilog=examples(
        "rs_cs backup registry-$(date +%F).db", "rs_cs backup --replace /backup/registry.db"
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="FILE may be there: an older copy, which is lost.")
@registry_option()
@common_options(timeout="Seconds that the registry may take, 60 by default.")
@pass_settings
def backup(settings: Settings, file: Path, replace: bool) -> None:
    """Have the registry of this machine write a copy of its store to FILE.

    It goes on meanwhile. FILE is there when all of it is written, or not at all; only the user that
    the registry runs as may read it.
    """
    patience = _PATIENCE if settings.timeout is None else settings.timeout
    with settings.client(patience) as registry:
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
@common_options(timeout="Nothing here takes long.")
@pass_settings
def restore(settings: Settings, file: Path, db: str | None, state_dir: str | None) -> None:
    """Put the copy in FILE in the place of the store of a registry that is stopped.

    The copy is checked first, and stays. The store that was there stays too, under another name.
    """
    if settings.registry is not None:
        raise ConfigurationError(
            "restore has no address of a registry", hint="it has --db, and the registry is stopped"
        )
    restored = server_process.restore(file, db, state_dir)
    if settings.json:
        write_json({"success": True, **restored})
        return
    write(restored["store"])
    kept = restored["kept"]
    note(_contents(restored["services"], restored["seq"]) + "; start the registry to use it")
    note(f"what was there is in {kept}" if kept else "there was no store before")


def _contents(services: int, seq: int) -> str:
    return f"{services} {'service' if services == 1 else 'services'}, the last event is {seq}"
