"""Many services, and many of them stop: those that beat stay, the others go, in time."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rsreg import RegistryClient
from rsreg.protocol.calls import Record
from tests.faults.drivers import ENDED, KNOWN, SENT, WOKE, Drivers, Plan
from tests.helpers import FAR, ServerProcess, wait_until

CLEANUP = 1.0

#: A service: who beats for it, and where its times stand.
Place = tuple[Drivers, int]


def test_a_third_of_the_services_stops(
    full: bool, figure: Callable[..., None], tmp_path: Path
) -> None:
    """At random; a subscriber that was there first hears every event once, and in order."""
    processes, each, ttl, lasts = (20, 100, 3.0, 60.0) if full else (2, 30, 2.0, 3.0)
    heard: list[tuple[float, Record]] = []
    looks = 0
    with (
        ServerProcess(tmp_path / "registry.db", cleanup_interval=CLEANUP, limits=FAR) as server,
        RegistryClient(server.endpoint, timeout=20) as client,
        ExitStack() as stack,
    ):
        client.on_any_event(lambda event: heard.append((time.monotonic(), event)))
        client.start_event_listener()
        drivers = []
        for count in range(processes):
            plan = Plan(f"d{count}", each, ttl, part=1 / 3, last=lasts, seed=count + 1)
            drivers.append(Drivers(server.endpoint, tmp_path, plan))
            stack.callback(drivers[-1].close)
        places = {f"{one.name}.{slot}": (one, slot) for one in drivers for slot in range(each)}
        wait_until(lambda: all(of(at, KNOWN) or of(at, ENDED) for at in places.values()))
        until = time.monotonic() + lasts
        while time.monotonic() < until:
            all_living_are_listed(client, places)
            looks += 1
        wait_until(lambda: passing(client) == {n for n, at in places.items() if not of(at, ENDED)})
        living = passing(client)
        wait_until(lambda: len(client.list_services()) == len(living))
        seq = client.server_status()["seq"]
        wait_until(lambda: len(heard) >= seq)
        late = max(delays(places, heard))
    assert [event["seq"] for _, event in heard] == list(range(1, seq + 1))
    registered = {name for name, place in places.items() if of(place, KNOWN)}
    stopped = registered - living
    assert stopped
    if full:
        assert len(stopped) > 500
        assert late < CLEANUP + 1
    figure(
        f"{len(stopped)} of {len(registered):,} services fall silent at random within {lasts:g} s",
        f"ttl {ttl:g} s, cleanup interval {CLEANUP:g} s",
        "5, 6, 7",
        f"each one gone, with one event, at most {late:.2f} s after its ttl; no living one missing "
        f"in {looks} lists; a subscriber heard all {seq:,} events once and in order",
    )


def of(place: Place, what: int) -> float:
    """One of the times that a service writes down."""
    owner, slot = place
    return owner.book.get(slot, what)


def passing(client: RegistryClient) -> set[str]:
    """The names of the services that are."""
    services = client.list_services()
    return {service["name"] for service in services if service["health"] == "passing"}


def all_living_are_listed(client: RegistryClient, places: dict[str, Place]) -> None:
    """Fail if one is missing that was there before and beats still."""
    woke = {name: of(place, WOKE) for name, place in places.items()}
    asked = time.monotonic()
    found = passing(client)
    answered = time.monotonic()
    for name, place in places.items():
        ttl = place[0].plan.ttl
        beats = answered - 0.6 * ttl < of(place, SENT) and not of(place, ENDED)
        if beats and woke[name] == of(place, WOKE) < of(place, KNOWN) < asked:
            assert name in found


def delays(places: dict[str, Place], heard: Sequence[tuple[float, Record]]) -> list[float]:
    """Seconds from the end of each lease to its event; fails if there is one without the other.

    Who was not given the processor for a ttl has lost its lease too, and wrote that down.
    """
    silent_since = defaultdict(list)
    for owner in {owner for owner, _ in places.values()}:
        for _, word, name, *rest in owner.lines():
            if word == "gap":
                silent_since[name].append(rest[0])
    for name, place in places.items():
        if of(place, ENDED):
            silent_since[name].append(of(place, SENT))
    found = []
    final: Counter[str] = Counter()
    for moment, event in heard:
        name = event["data"]["service_info"]["name"]
        if event["type"] == "expire":
            late = [moment - since - places[name][0].plan.ttl for since in silent_since[name]]
            found.append(min(delay for delay in late if delay > -0.05))
            final[name] += moment > of(places[name], SENT)
    for name, place in places.items():
        # Who never heard whether it is registered may have no event.
        if of(place, KNOWN) or final[name]:
            assert final[name] == bool(of(place, ENDED)), name
    return found
