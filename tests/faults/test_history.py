"""What the fault tests are checked with notices each kind of broken promise."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rsreg.protocol.calls import Record
from tests.faults.history import History, Snapshot, broken


def event(seq: int, kind: str, name: str) -> Record:
    """An event of the service with this name."""
    service = {"id": f"id-{name}", "name": name}
    data = {"service_id": service["id"], "service_info": service}
    return {"seq": seq, "epoch": "e", "type": kind, "data": data}


def told() -> tuple[History, Snapshot]:
    """What clients were told, and a registry that kept its promises."""
    history = History()
    for name, action, outcome in (
        ("stays", "register", "done"),
        ("goes", "register", "done"),
        ("goes", "deregister", "done"),
        ("never", "register", "refused"),
        ("perhaps", "register", "unanswered"),
        ("perhaps not", "register", "unanswered"),
    ):
        history.note(name, action, outcome)
    history.ids["stays"] = "id-stays"
    events = [
        event(1, "register", "stays"),
        event(2, "register", "goes"),
        event(3, "deregister", "goes"),
        event(4, "register", "perhaps"),
    ]
    services = [{"id": f"id-{name}", "name": name} for name in ("stays", "perhaps")]
    return history, Snapshot(services, events, 4, "e")


def happens(snapshot: Snapshot, kind: str, name: str) -> None:
    """Something more, in the journal and in the list."""
    snapshot.seq += 1
    snapshot.events.append(event(snapshot.seq, kind, name))
    one = {"id": f"id-{name}", "name": name}
    if kind == "register":
        snapshot.services.append(one)
    else:
        snapshot.services.remove(one)


BREAKS: dict[str, Callable[[History, Snapshot], object]] = {
    "lost in the list": lambda _, s: s.services.pop(),
    "lost in both": lambda _, s: happens(s, "deregister", "stays"),
    "expired": lambda _, s: happens(s, "expire", "stays"),
    "never made": lambda h, _: h.note("new", "register", "done"),
    "back in the list": lambda _, s: s.services.append({"id": "id-goes", "name": "goes"}),
    "back in both": lambda _, s: happens(s, "register", "goes"),
    "refused and made": lambda _, s: happens(s, "register", "never"),
    "doubled": lambda _, s: happens(s, "register", "stays"),
    "listed twice": lambda _, s: s.services.append(s.services[0]),
    "invented": lambda _, s: happens(s, "register", "unheard of"),
    "another id": lambda h, _: h.ids.update(stays="id-other"),
    "a hole": lambda _, s: s.events[0].update(seq=0),
    "the end of the journal": lambda _, s: s.events.pop(),
    "another epoch": lambda _, s: s.events[2].update(epoch="f"),
}


def test_nothing_to_complain_of() -> None:
    assert broken(*told()) == []


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_promise_is_noticed(what: str) -> None:
    history, snapshot = told()
    BREAKS[what](history, snapshot)
    assert broken(history, snapshot) != []
