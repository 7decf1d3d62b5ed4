"""The systems that are measured, each a process of its own, and what is asked of them."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rsreg import SQLiteBackend
from rsreg.server.backends.stored import Service
from rsreg.server.limits import Limits
from tests.helpers import ServerProcess

HERE = Path(__file__).parent

#: A benchmark is one address, and asks more of the registry than one may: all else is as it is.
UNBOUND = Limits(
    services=10**6,
    services_per_address=10**6,
    services_per_name=10**6,
    bytes_per_address=2**40,
    writes_per_second=10**9,
    reply_bytes_per_second=10**12,
)
#: A ttl that no benchmark outlives.
TTL = 86_400


def record(number: int, kinds: int) -> dict[str, Any]:
    """A service as a lab has them, of one of so many types."""
    return {
        "id": f"driver-{number}",
        "name": f"driver {number}",
        "host": f"egse{number % 9}.lab",
        "port": 5000 + number % 9_000,
        "type": f"TYPE-{number % kinds}",
        "tags": ["optics"],
        "metadata": {"version": "1.4.2", "site": "leuven", "hb_port": 6000 + number % 9_000},
    }


def filled(path: Path, count: int, kinds: int) -> Path:
    """A database with so many services, as a registry leaves it."""
    store = SQLiteBackend(path)
    store.initialize()
    numbers = iter(range(count))
    while batch := list(itertools.islice(numbers, 1_000)):
        services = {
            one["id"]: Service(**one, ttl=TTL, extra={}, last_heartbeat=0)
            for one in (record(number, kinds) for number in batch)
        }
        store.commit(services, [])
    store.close()
    return path


def replies() -> dict[str, Any]:
    """What the echo servers answer: of the same size as a registry's answers."""
    one = {**record(1, 10), "ttl": TTL, "last_heartbeat": 1_700_000_000, "health": "passing"}
    return {
        "register": {
            "success": True,
            "service_id": f"driver-{uuid.uuid4()}",
            "message": "Service registered successfully",
        },
        "deregister": {"success": True, "message": "Service deregistered successfully"},
        "renew": {"success": True, "message": "Service renewed successfully"},
        "get": {"success": True, "service": one},
        "discover": {"success": True, "service": one},
        "list": {"success": True, "services": [one] * 100, "seq": 1, "epoch": "0" * 16},
    }


class System:
    """One of them: its process id, and where it takes requests and sends events."""

    def __init__(self, name: str, pid: int, endpoint: str, pub_endpoint: str = "") -> None:
        self.name = name
        self.pid = pid
        self.endpoint = endpoint
        self.pub_endpoint = pub_endpoint
        #: How many services of how many types it has; echo servers have none.
        self.count, self.kinds = 1_000, 10


def echo(stack: ExitStack, kind: str, folder: Path) -> System:
    """A reference."""
    said = folder / "replies.json"
    said.write_text(json.dumps(replies()))
    process = subprocess.Popen(
        [sys.executable, str(HERE / "echo.py"), kind, str(said)], stdout=subprocess.PIPE, text=True
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    stack.callback(process.stdout.close)
    return System(kind, process.pid, f"tcp://127.0.0.1:{process.stdout.readline().strip()}")


def registry(stack: ExitStack, name: str, folder: Path, count: int, kinds: int) -> System:
    """A registry on a file with so many services."""
    server = ServerProcess(filled(folder / f"{name}.db", count, kinds), limits=UNBOUND)
    stack.enter_context(server)
    assert server.process is not None
    system = System(name, server.process.pid, server.endpoint, server.pub_endpoint)
    system.count, system.kinds = count, kinds
    return system


def requests(action: str, count: int, kinds: int) -> Iterator[bytes]:
    """Requests of an action, without end, as our clients send them."""
    for number in itertools.count():
        place = number * 7919 % count
        if action == "register":
            about = record(number, kinds)
            del about["id"]
            asked: dict[str, Any] = {"service_info": about, "ttl": TTL}
        elif action in ("renew", "get"):
            asked = {"service_id": f"driver-{place}"}
        else:
            asked = {"service_type": f"TYPE-{place % kinds}"}
        request = {"action": action, **asked, "request_id": uuid.uuid4().hex}
        yield json.dumps(request).encode()
