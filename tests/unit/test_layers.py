"""The harness: which module may import which, and that the client side stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest

import rsreg
import rsreg.client
import rsreg.server
import rsreg.server.backends
from tests.helpers import ROOT
from tests.source import CLIENT_SIDE, FILES, IMPORTS, MODULES, PACKAGES, Import, module_of

#: From the ground up. A room is a package, or a single module. It imports only from the floors
#: below its own; rooms of one floor import nothing of each other.
FLOORS = [
    ("lazy", "display", "timing", "awaitable"),
    ("errors",),
    ("config",),
    ("system", "protocol"),
    ("transport",),
    ("client.registration", "client.cache", "server.limits", "server.backends"),
    ("server.view", "server.guard", "server.settings"),
    ("server.rules",),
    ("client", "server"),
    ("admin", "testing"),
    ("cli", "pytest_plugin"),
    ("cli.commands",),
    ("cli.app",),
    ("__main__",),
]
#: The packages with the modules of each, from the ground up: a module imports only from those
#: before it. The map in docs/architecture.md has the same order.
ROOMS = {
    "system": "threads background child_process line_writer private_files log_file",
    "protocol": "limits event_types health hosts records messages requests query calls wire",
    "transport": (
        "driver exchange resolver sockets channel async_channel shared_channel subscription "
        "stream_rules event_stream async_event_stream listener async_listener connect"
    ),
    "client.registration": (
        "owner address driver_status registration local_service reports heartbeat "
        "heartbeat_thread own_services heartbeat_process registered async_registered"
    ),
    "client.cache": "view service_cache client_cache",
    "client": "event_handlers session waiting verbs connection sync aio interactive",
    "server.backends": (
        "stored retention base tables rows table_backend store_lock store_files vacuum "
        "sqlite_copy sqlite_file sqlite memory restore"
    ),
    "server.view": "lease lease_index type_index shares addresses maintenance live_view",
    "server.rules": (
        "conditions selection ownership policies rates journal maintenance_rules hints "
        "new_service takeover registry"
    ),
    "server.guard": (
        "log_limiter readiness packet_filter descriptors connections endless_messages "
        "unread_replies topics fair_queue guard"
    ),
    "server": "deferred request dispatch publisher request_loop reaper caretaker server aio",
    "admin": "server_process",
    "cli": "output options describe",
    "cli.commands": "server query events register run maintenance store shell",
}
ROOM_FLOOR = {room: floor for floor, row in enumerate(FLOORS) for room in row}
MODULE_PLACE = {
    f"{room}.{module}": place
    for room, modules in ROOMS.items()
    for place, module in enumerate(modules.split())
}

#: Who may import what is not ours: rooms, and modules; anybody may import the rest of the standard
#: library.
GUESTS = {
    "zmq": {
        *("transport", "client.registration.address", "client.cache", "client"),
        *("server.guard", "server"),
    },
    "msgspec": {
        *("protocol", "client.cache.view", "server.backends", "server.view.live_view"),
        *("server.rules", "server.dispatch", "server.settings"),
    },
    "packaging": {"server.rules.conditions"},
    "gevent": {
        *("transport.channel", "transport.listener"),
        *("server.guard", "server", "admin.server_process", "testing"),
    },
    "peewee": {"server.backends"},
    "sqlite3": {"server.backends"},
    "psutil": {"client.registration"},
    "asyncio": {
        *("transport", "client.registration.async_registered", "client.cache.service_cache"),
        *("client.aio", "server.aio"),
    },
    "click": {"cli", "cli.commands", "cli.app"},
    "rich": {"cli"},
    "IPython": {"cli.commands.shell"},
    "pytest": {"pytest_plugin"},
    # For type checkers alone: the `typing` of Python 3.10 has no Unpack.
    "typing_extensions": {"client", "client.registration"},
}


@cache
def inner(imported: str) -> str | None:
    """The module of ours that an import means; None for what is not ours, "" for rsreg itself."""
    package, _, rest = imported.partition(".")
    if package != "rsreg":
        return None
    while rest and rest not in MODULES:
        rest = rest.rpartition(".")[0]
    return rest


def room_of(module: str) -> str:
    """The room on whose floor a module stands."""
    while module not in ROOM_FLOOR:
        module = module.rpartition(".")[0]
    return module


def may_import(importer: str, imported: str) -> bool:
    """Whether the plan of the harness allows an import between two modules of ours."""
    here, there = room_of(importer), room_of(imported)
    if here != there:
        sides = {here.partition(".")[0], there.partition(".")[0]}
        return ROOM_FLOOR[there] < ROOM_FLOOR[here] and sides != {"client", "server"}
    if importer in MODULE_PLACE and imported in MODULE_PLACE:
        return MODULE_PLACE[imported] < MODULE_PLACE[importer]
    return False


def test_every_module_has_its_place() -> None:
    single = {room for room in ROOM_FLOOR if room not in ROOMS}
    assert {*single, *MODULE_PLACE} == MODULES - PACKAGES
    assert {*ROOMS} <= {*ROOM_FLOOR}
    assert {"", *ROOMS} == PACKAGES


def test_a_module_imports_only_from_below_and_never_from_beside() -> None:
    wrong = [
        f"{found.where} imports {target}"
        for found in IMPORTS
        if (target := inner(found.imported)) and found.importer not in PACKAGES
        if target not in PACKAGES or target == "cli"
        if not may_import(found.importer, target)
        # The exit code of an interrupted program is where click is not loaded yet.
        if found.imported != "rsreg.cli.INTERRUPTED"
    ]
    assert wrong == []


def test_nobody_takes_a_name_from_the_front_door_of_a_package_inside() -> None:
    """The names that a package offers are for users: inside they would hide where a name lives."""
    wrong = [
        found.where
        for found in IMPORTS
        if inner(found.imported) in PACKAGES - {"cli"} and found.importer not in PACKAGES
        if found.imported != "rsreg.__version__"
    ]
    assert wrong == []


def test_the_packages_offer_what_their_modules_define() -> None:
    for package in (rsreg, rsreg.client, rsreg.server, rsreg.server.backends):
        assert {*dir(package)} == {*package.__all__}
        for name in package.__all__:
            assert getattr(package, name) is not None
        with_types = {
            found.imported.rpartition(".")[2]
            for found in IMPORTS
            if f"rsreg.{found.importer}".rstrip(".") == package.__name__
            if (inner(found.imported) or "").rpartition(".")[2] not in ("", "lazy")
        }
        assert with_types == {*package.__all__}, f"{package.__name__}: what type checkers see"
        assert not hasattr(package, "nonsense")


def test_guests_are_let_in_only_where_they_belong() -> None:
    known = {*GUESTS, *sys.stdlib_module_names, "rsreg"}
    wrong = [
        f"{found.where} imports {found.imported}"
        for found in IMPORTS
        if (guest := found.imported.partition(".")[0]) not in known
        or (guest in GUESTS and not {found.importer, room_of_file(found)} & GUESTS[guest])
    ]
    assert wrong == []


def room_of_file(found: Import) -> str:
    """The room of the importer of something; the packages themselves let nobody in."""
    return "" if found.importer in PACKAGES else room_of(found.importer)


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


def test_the_map_in_the_documentation_is_this_one() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    found: dict[str, list[str]] = {}
    for heading, table in re.findall(r"^\*\*`(.*?)`\*\*.*?\n\n((?:\|.*\n)+)", text, re.MULTILINE):
        cells = [row.split("|")[1].strip(" `") for row in table.splitlines()[2:]]
        found[heading.strip("/").replace("/", ".")] = cells
    alone = [room for row in FLOORS for room in row if room not in ROOMS and "." not in room]
    assert sorted(found.pop("rsreg")) == sorted({*alone} - {"__main__"})
    documented = {room for room in ROOMS if room.partition(".")[0] != "cli"}
    expected = {room: modules.split() for room, modules in ROOMS.items() if room in documented}
    expected["server"] = ["limits", "settings", *expected["server"]]
    assert found == expected


SERVER_SIDE = {f"rsreg.{module}" for module in MODULES if module.startswith("server")}
HEAVY = {"gevent", "greenlet", "peewee", "sqlite3", "click", "rich", "IPython"} | SERVER_SIDE
ALONE = {
    **{f"import rsreg.{module_of(path)}".rstrip("."): HEAVY for path in CLIENT_SIDE},
    "from rsreg import RegistryClient": HEAVY,
    "from rsreg import AsyncRegistryClient": HEAVY,
    "from rsreg.client import AsyncRegistryClient": HEAVY,
    "import rsreg.server": HEAVY - {"rsreg.server"} | {"zmq"},
    "import rsreg.server.backends": HEAVY - {"rsreg.server", "rsreg.server.backends"} | {"zmq"},
    "import rsreg.admin.server_process": HEAVY,
    "import rsreg.cli": HEAVY - {"click", "rich"},
    "import rsreg.cli.app": HEAVY - {"click", "rich"},
    "import rsreg.pytest_plugin": HEAVY | {"zmq", "msgspec", "rsreg.client.sync"},
}


def loaded_by(statement: str) -> set[str]:
    """The modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, f"{statement}: {done.stderr}"
    return set(done.stdout.split())


@pytest.mark.unmeasured
def test_the_client_side_loads_no_server_and_no_database() -> None:
    with ThreadPoolExecutor(4) as pool:
        loaded = dict(zip(ALONE, pool.map(loaded_by, ALONE), strict=True))
    too_much = {statement: loaded[statement] & heavy for statement, heavy in ALONE.items()}
    assert {statement: names for statement, names in too_much.items() if names} == {}
