"""Stores and what is in them, for tests of stores."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rsreg import RegistryBackend, SQLiteBackend
from rsreg.server.backends.stored import Event, Service


@contextmanager
def opened(path: Path) -> Iterator[SQLiteBackend]:
    """A store on a file."""
    made = SQLiteBackend(path)
    made.initialize()
    try:
        yield made
    finally:
        made.close()


def service(number: int = 1, **fields: Any) -> Service:
    """A service."""
    known: dict[str, Any] = {
        "id": f"s-{number}",
        "name": f"service {number}",
        "host": "10.0.0.5",
        "port": 5000,
        "type": "PUNA",
        "tags": ["optics"],
        "metadata": {"number": number},
        "ttl": 30,
        "extra": {},
        "last_heartbeat": 1_000,
    }
    return Service(**{**known, **fields})


def event(seq: int, **fields: Any) -> Event:
    """An event of `service(seq)`."""
    known: dict[str, Any] = {
        "type": "register",
        "service_id": f"s-{seq}",
        "body": b'{"seq":%d}' % seq,
    }
    return Event(seq=seq, **{**known, **fields})


def fill(store: RegistryBackend, number: int) -> None:
    """Store that many services, with an event each."""
    numbers = range(1, number + 1)
    store.commit({f"s-{n}": service(n) for n in numbers}, [event(n) for n in numbers])


def outside(path: Path, *statements: str) -> list[Any]:
    """What another program gets from SQL on the file."""
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        return [connection.execute(statement).fetchall() for statement in statements]


def sequence(store: RegistryBackend) -> list[int]:
    """The numbers of all events that a store has."""
    numbers: list[int] = []
    while more := store.events(numbers[-1] if numbers else 0, 1_000):
        numbers += [event.seq for event in more]
    return numbers


def contents(directory: Path) -> dict[str, bytes]:
    """All files but the lock."""
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.suffix != ".lock"}
