"""The house: which module may import which, and that the client side stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from helpers import ROOT

import rsreg

PACKAGE = ROOT / "rsreg"

#: From the ground up. A module imports only from the rows below its own, wherever in its text.
CLIENT = [
    ("text",),
    ("errors", "timing", "native"),
    ("config", "writing", "lasting", "names"),
    ("records", "wire", "vitals", "child"),
    ("sockets", "filters"),
    ("calls", "owner"),
    ("exchange",),
    ("registration", "channel", "aiochannel", "line"),
    ("waiting", "follower", "address", "peers"),
    ("mirror", "presence", "stream"),
    ("listener", "aiostream", "pulse"),
    ("service_cache", "beater", "aiolistener"),
    ("clientcache",),
    ("heartbeat",),
    ("helper",),
    ("registered",),
    ("aioregistered", "carrier"),
    ("client", "aio"),
    ("bench",),
]
SERVER = [
    ("private",),
    ("model", "journal", "compact", "lock", "place", "later", "rotation"),
    ("limits", "seldom", "draining", "turns", "barring"),
    ("copying", "ends"),
    ("backend", "lease", "conditions", "bounds"),
    ("index", "kinds", "maintained", "shares"),
    ("addresses", "restoring", "ownership"),
    ("live",),
    ("changes", "choosing", "policies"),
    ("registry",),
    ("dispatch", "connections", "replies", "unfinished"),
    ("subscriptions", "asked"),
    ("loops",),
    ("guard",),
    ("server",),
    ("aioserver",),
]
FACES = [
    ("process", "testing"),
    ("cli", "pytest_plugin"),
    ("__main__",),
]
LAYERS = [*CLIENT, *SERVER, *FACES]
FLOOR = {module: floor for floor, row in enumerate(LAYERS) for module in row}

#: The exceptions: names that the specification imports from there, offered by `__getattr__`. The
#: package itself offers names of all modules in the same way.
OFFERS = {("client", "aio"), ("server", "aioserver")}

#: Who may import what is not ours; anybody may import the rest of the standard library.
GUESTS = {
    "zmq": {
        *("sockets", "channel", "aiochannel", "address", "peers", "stream", "aiostream"),
        *(
            "line",
            "listener",
            "service_cache",
            "clientcache",
            "carrier",
            "client",
            "aio",
            "loops",
            "server",
        ),
        *("draining", "connections", "subscriptions", "asked", "guard"),
    },
    "msgspec": {
        *("records", "wire", "mirror", "backend", "live", "changes", "choosing"),
        *("registry", "dispatch", "conditions"),
    },
    "packaging": {"conditions"},
    "gevent": {
        *("listener", "channel", "draining", "connections", "unfinished", "loops", "server"),
        "aioserver",
        *("process", "testing"),
    },
    "peewee": {"model", "backend"},
    "sqlite3": {"backend", "compact", "copying", "place", "restoring"},
    "psutil": {"owner", "address"},
    "asyncio": {
        *(
            "listener",
            "aiochannel",
            "aiostream",
            "aiolistener",
            "aioregistered",
            "aio",
            "aioserver",
        ),
    },
    "click": {"cli"},
    "rich": {"cli"},
    "IPython": {"cli"},
    "pytest": {"pytest_plugin"},
    # For type checkers alone: the `typing` of Python 3.10 has no Unpack.
    "typing_extensions": {"registered", "aioregistered", "client", "aio"},
}


class Found(NamedTuple):
    """One import: who, what, and whether it is an offer (`__getattr__`, or for type checkers)."""

    importer: str
    imported: str
    offered: bool
    where: str


def module_of(path: Path) -> str:
    """The name in the table of a file; that of the package is rsreg."""
    first = path.relative_to(PACKAGE).parts[0]
    return "rsreg" if first == "__init__.py" else first.removesuffix(".py")


def imports(node: ast.AST, path: Path, offered: bool = False) -> Iterator[Found]:
    """All imports in a file, those inside functions too."""
    where = f"{path.name}:{getattr(node, 'lineno', 0)}"
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Found(module_of(path), alias.name, offered, where)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{where}: a relative import"
        for alias in node.names:
            yield Found(module_of(path), f"{node.module}.{alias.name}", offered, where)
    if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
        offered = True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        offered = True
    for child in ast.iter_child_nodes(node):
        yield from imports(child, path, offered)


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [found for path in FILES for found in imports(ast.parse(path.read_text()), path)]


def inner(found: Found) -> str | None:
    """The module of ours that is imported, or None: `from rsreg import X` is where X lives."""
    package, name, *_ = [*found.imported.split("."), ""]
    if package != "rsreg":
        return None
    if name in ("", "__version__"):
        return "rsreg"
    return rsreg._HOME.get(name, name).removeprefix("rsreg.")


def test_every_module_has_its_place() -> None:
    assert {module_of(path) for path in FILES} == {*FLOOR, "rsreg"}
    assert len(FLOOR) == sum(map(len, LAYERS)), "a module stands in two rows"


def test_a_module_imports_only_from_layers_below() -> None:
    wrong = [
        f"{found.where} imports {target}"
        for found in IMPORTS
        if (target := inner(found)) not in (None, "rsreg", found.importer)
        and found.importer != "rsreg"
        and not FLOOR[str(target)] < FLOOR[found.importer]
        and not (found.offered and (found.importer, target) in OFFERS)
    ]
    assert wrong == []


def test_the_exceptions_are_what_they_say() -> None:
    upward = {
        (found.importer, target)
        for found in IMPORTS
        if found.offered and (target := inner(found)) and found.importer in dict(OFFERS)
    }
    assert upward == OFFERS
    assert {inner(found) for found in IMPORTS if found.importer == "rsreg"} - {None} == {
        "config",
        *(home.removeprefix("rsreg.") for home in rsreg._HOME.values()),
    }
    assert all(
        found.offered or inner(found) in (None, "config")
        for found in IMPORTS
        if found.importer == "rsreg"
    )


def test_guests_are_let_in_only_where_they_belong() -> None:
    known = {*GUESTS, *sys.stdlib_module_names, "rsreg"}
    wrong = [
        f"{found.where} imports {found.imported}"
        for found in IMPORTS
        if (guest := found.imported.partition(".")[0]) not in known
        or found.importer not in GUESTS.get(guest, {found.importer})
    ]
    assert wrong == []


def test_nobody_patches() -> None:
    assert [found for found in IMPORTS if found.imported.startswith("gevent.monkey")] == []


def test_only_config_reads_the_environment() -> None:
    readers = {
        module_of(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    }
    assert readers == {"config"}


def test_the_layers_in_the_documentation_are_these() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("| --- | --- |")[2].partition("\n\n")[0]
    cells = [row.split("|")[1].strip(" `") for row in table.strip().splitlines()]
    modules = [cell for cell in cells if not cell.startswith("**")]
    assert sorted(modules) == sorted(FLOOR.keys() - {"__main__"})
    place = {module: number for number, module in enumerate(modules)}
    wrong = [
        found.where
        for found in IMPORTS
        if found.importer in place
        and not found.offered
        and (target := inner(found)) in place
        and place[str(target)] > place[found.importer]
    ]
    assert wrong == []


HEAVY = {"gevent", "greenlet", "peewee", "sqlite3", "click", "rich", "IPython"} | {
    f"rsreg.{module}" for row in SERVER for module in row
}
ALONE = {
    **{f"import rsreg.{module}": HEAVY for row in CLIENT for module in row},
    "import rsreg": HEAVY,
    "from rsreg import RegistryClient": HEAVY,
    "from rsreg import AsyncRegistryClient": HEAVY,
    "from rsreg.client import AsyncRegistryClient": HEAVY,
    "import rsreg.process": HEAVY,
    "import rsreg.cli": HEAVY - {"click", "rich"},
    "import rsreg.cli.app": HEAVY - {"click", "rich"},
    "import rsreg.pytest_plugin": HEAVY | {"zmq", "msgspec", "rsreg.client"},
}


def loaded_by(statement: str) -> set[str]:
    """The modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, f"{statement}: {done.stderr}"
    return set(done.stdout.split())


def test_the_client_side_loads_no_server_and_no_database() -> None:
    with ThreadPoolExecutor(4) as pool:
        loaded = dict(zip(ALONE, pool.map(loaded_by, ALONE), strict=True))
    too_much = {statement: loaded[statement] & heavy for statement, heavy in ALONE.items()}
    assert {statement: names for statement, names in too_much.items() if names} == {}


def test_the_names_of_the_package() -> None:
    assert set(dir(rsreg)) == set(rsreg.__all__)
    for name in rsreg.__all__:
        assert getattr(rsreg, name) is not None
    assert not hasattr(rsreg, "nonsense")
