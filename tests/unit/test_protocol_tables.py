"""What docs/protocol.md lists in tables is what the code has in one place."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import time
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest

from rsreg import InMemoryBackend
from rsreg.protocol import calls, event_types, health, limits
from rsreg.protocol.calls import Call
from rsreg.protocol.requests import RegisterRequest
from rsreg.server.dispatch import Dispatcher
from rsreg.server.rules.registry import Registry
from tests.helpers import ROOT

PAGE = (ROOT / "docs" / "protocol.md").read_text()


def section(heading: str) -> str:
    """The text under a heading, up to the next one."""
    found = re.search(
        rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    assert found, heading
    return found[1]


def rows(heading: str) -> Iterator[list[str]]:
    """The rows of the first table under a heading, without its head."""
    table = re.search(r"(?:^\|.*\n)+", section(heading), re.MULTILINE)
    assert table, heading
    for row in table[0].splitlines()[2:]:
        yield [cell.strip() for cell in row.strip("|").split("|")]


def test_the_states_of_health() -> None:
    table = {row[0].strip("`"): row[2] for row in rows("Health")}
    assert {*table} == {*health.HEALTHS}
    assert {state for state, discovered in table.items() if discovered == "yes"} == {
        *health.DISCOVERABLE
    }


def test_the_types_of_events() -> None:
    assert {row[0].strip("`") for row in rows("Events")} == {*event_types.EVENT_TYPES}
    assert {*health.HEALTH_EVENTS.values()} | event_types.ENDINGS < {*event_types.EVENT_TYPES}


def test_each_health_that_events_tell_has_its_event() -> None:
    assert {*health.HEALTH_EVENTS} == {health.announced(state) for state in health.HEALTHS}


LIMITS = {
    "a request": limits.MAX_REQUEST // 1024,
    "a frame": limits.MAX_FRAME // 1024,
    "frames of a request": limits.MAX_FRAMES,
    "levels of objects and arrays": limits.MAX_DEPTH,
    "`request_id`": limits.MAX_REQUEST_ID,
    "`name`, `host`, `type`, each tag": limits.MAX_TEXT,
    "`id`": limits.MAX_ID,
    "`tags`": limits.MAX_TAGS,
    "`port`": limits.MAX_PORT,
    "`ttl`, `watchdog`": limits.MAX_TTL,
    "`endpoints`": limits.MAX_ENDPOINT_NAME,
    "`replaces`": limits.MAX_REPLACED,
    "`where`": limits.MAX_KEYS,
    "a version, in metadata and in `where`": limits.MAX_VERSION,
    "texts of an `owner`; `text` of a `status`, `reason`, `by`": limits.MAX_TEXT,
    "`for` of a maintenance": limits.MAX_MAINTENANCE,
    "a list of services in a reply": limits.MAX_LIST // 1024**2,
}


@pytest.mark.parametrize("what", LIMITS)
def test_the_limits(what: str) -> None:
    table = {row[0]: row[1] for row in rows("Limits")}
    numbers = [int(number) for number in re.findall(r"\d+", table[what])]
    assert LIMITS[what] in numbers


#: Each call of a client, with all that it can send.
CALLS: list[Call[Any]] = [
    calls.register(
        RegisterRequest(
            service_info={}, ttl=30, report={}, judges=True, replaces={}, owner={}, force=True
        )
    ),
    calls.update("id", {}, {}, force=True),
    calls.deregister("id", {}, force=True),
    calls.renew("id", {}),
    calls.get("id"),
    calls.list_services("PUNA", {"tags": [], "where": {}, "mode": "any", "health": []}),
    calls.find("p"),
    calls.namesakes("puna"),
    calls.discover("PUNA", {"strategy": "random", "asker": {}, "tags": []}),
    calls.maintenance({"on": True, "service": "id", "for": 60, "reason": "cooling", "by": "rik"}),
    calls.health(),
    calls.info(),
    calls.backup("/copy.db", replace=True),
    calls.terminate(),
    calls.events(1, "e", "m", 5),
]


HANDLERS = Dispatcher(Registry(InMemoryBackend()), time.time, dict, lambda: None)._handlers


def request_of(action: str) -> type:
    """The type of an action's request: that of the first argument of its handler."""
    handler = HANDLERS[action]
    first = next(iter(inspect.signature(handler).parameters))
    found: type = get_type_hints(handler)[first]
    return found


def fields_of(action: str) -> set[str]:
    """The fields of an action's request."""
    return {*get_type_hints(request_of(action))}


#: How handlers read a field, and which argument names it.
READS = {"request.get": 0, "_text": 1, "_text_or_none": 1, "_count": 1}


def test_the_server_reads_the_fields_of_the_type() -> None:
    """The type checker does not see it where a field is read by `get` or by its name."""
    for action, handler in HANDLERS.items():
        tree = ast.parse(textwrap.dedent(inspect.getsource(handler)))
        named = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in READS:
                field = node.args[READS[ast.unparse(node.func)]]
                assert isinstance(field, ast.Constant), ast.unparse(node)
                named.add(field.value)
        assert named <= fields_of(action), action


def test_clients_send_what_the_server_reads() -> None:
    for call in CALLS:
        assert {*call.params} <= fields_of(call.action), call.action
    assert {call.action for call in CALLS} == {*HANDLERS}


def test_the_page_has_each_action_and_each_field() -> None:
    for action in HANDLERS:
        section(action)
        for field in fields_of(action):
            assert f"`{field}`" in PAGE or f'"{field}"' in PAGE, (action, field)
