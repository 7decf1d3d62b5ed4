"""The source of rsreg: its files, their names as modules, and what they import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.helpers import ROOT

PACKAGE = ROOT / "rsreg"


class Import(NamedTuple):
    """One import: which module imports what, and where that stands."""

    importer: str
    imported: str
    where: str


def module_of(path: Path) -> str:
    """The dotted name of a file below rsreg; that of a package's `__init__` is the package's."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix("__init__").rstrip(".")


def imports(path: Path) -> Iterator[Import]:
    """All imports in a file, those inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module_of(path), alias.name, where)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}: a relative import"
            for alias in node.names:
                yield Import(module_of(path), f"{node.module}.{alias.name}", where)


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_of(path) for path in FILES}
#: The packages' own `__init__` offer resolver of the modules inside, so they are on no floor.
PACKAGES = {module_of(path) for path in FILES if path.name == "__init__.py"}
IMPORTS = [found for path in FILES for found in imports(path)]
#: The files of what a client needs.
CLIENT_SIDE = [
    path
    for path in FILES
    if module_of(path).partition(".")[0] not in ("server", "admin", "testing", "cli", "__main__")
]
