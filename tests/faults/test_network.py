"""Networks that are cut, lose, delay, or are slow; and connections on which nobody speaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket as tcp
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from rsreg import AsyncRegistryClient, RegistryClient, RegistryServer
from rsreg.errors import RequestTimeout
from rsreg.protocol.calls import Record
from tests.faults.net import CLIENT, SERVER, Agent, Network, Proxy, connections, percentile, seconds
from tests.helpers import FAR, ServerProcess, need, raw_socket, wait_until
from tests.usage import open_files

TIMED_OUT = {"error": "RequestTimeout"}


@dataclass
class Site:
    """A server on one side of a link, and a client on either; both listen to events."""

    network: Network
    server: ServerProcess
    near: Agent
    far: Agent

    @property
    def req_port(self) -> int | None:
        """Where requests go."""
        return self.server.ports[0]

    def ends(self) -> tuple[int, int]:
        """Connections over the link that the server has, and that clients have."""
        assert self.server.process is not None
        return (
            connections(self.server.process.pid, CLIENT),
            connections(self.far.process.pid, SERVER),
        )

    def hears_far(self) -> bool:
        """Whether the far client's connection for events is there."""
        assert self.server.process is not None
        return connections(self.server.process.pid, CLIENT, self.server.ports[1]) == 1

    def heard_far(self, service_id: str) -> bool:
        """Whether the far client was told that a service registered."""
        return any(
            (event["type"], event["data"]["service_id"]) == ("register", service_id)
            for event in self.far.heard()
        )

    def expired(self) -> list[str]:
        """The services that were told to have expired."""
        return [
            event["data"]["service_id"] for event in self.near.heard() if event["type"] == "expire"
        ]


@pytest.fixture(scope="module")
def whole_site() -> Iterator[Site]:
    """One for all tests: most of a second goes into it."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(contextlib.closing(Network()))
        server = ServerProcess(under=network.at_server, bind=SERVER, limits=FAR)
        stack.enter_context(server)
        near = stack.enter_context(Agent(server.endpoint, 2, network.at_server))
        far = stack.enter_context(Agent(server.endpoint, 2, network.at_client))
        for agent in (near, far):
            # It keeps the timeout that it begins with; the client gets a longer one for its calls.
            wait_until(lambda agent=agent: agent.call("start_event_listener") is None)
            agent.call("allow", 20)
        yield Site(network, server, near, far)


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    """With an empty registry, and a link as good as new."""
    for service in whole_site.near.call("list_services"):
        whole_site.near.call("deregister", service["id"])
    yield whole_site
    whole_site.network.heal()
    whole_site.far.call("allow", 20)
    whole_site.far.call("stop_heartbeat")
    assert whole_site.far.call("health_check") is True


def test_a_cut_that_nobody_tells_of(site: Site, full: bool, figure: Callable[..., None]) -> None:
    """No FIN, no RST. Short: over before anybody needs to notice. Long: both sides do."""
    ways: dict[str, Callable[[], None]] = {
        "nftables drops all packets": site.network.swallow,
        "veth link down between two network namespaces": site.network.cut,
    }
    for way in list(ways)[: len(ways) if full else 1]:
        away = 30.0 if full else 3.5
        own = site.far.call("register", "far", "10.0.0.2", 5000, "FAR", None, 5 if full else 10)
        site.far.call("start_heartbeat")
        site.far.call("allow", 1.0)
        with Agent(site.server.endpoint, 90, site.network.at_client) as connecting:
            ways[way]()
            cut = time.monotonic()
            # The kernel tries to connect after 1, 3, 7, 15, 31 s; nobody should wait so long.
            connecting.begin("health_check")
            assert site.far.call("list_services") == TIMED_OUT
            assert site.far.took < 2
            meanwhile = site.near.call("register", "near", "10.0.0.1", 5000)
            if full:
                wait_until(lambda: site.ends() == (0, 0), timeout=away)
            noticed = time.monotonic() - cut
            time.sleep(away - (time.monotonic() - cut))  # It is the outage that is tested.
            site.network.heal()
            healed = time.monotonic()
            assert connecting.result() is True
            connected = time.monotonic() - healed
        wait_until(lambda: site.far.call("health_check"))
        called = time.monotonic() - healed
        wait_until(lambda meanwhile=meanwhile: site.heard_far(meanwhile))
        heard = time.monotonic() - healed
        wait_until(lambda: site.near.call("discover_service", "FAR"))
        back = time.monotonic() - healed
        # Beyond its ttl it was gone, and came back by itself under its id; else it never was.
        assert site.expired().count(own) == int(full)
        assert connected < (7 if full else 2.5)
        assert max(called, heard, back) < 10
        site.far.call("deregister", own)
        figure(
            f"network cut for {away:.0f} s, without FIN",
            way,
            "2, 5, 7",
            f"noticed by both sides after {noticed:.1f} s; after the network was back: calls "
            f"{called:.1f} s, missed events {heard:.1f} s, service discovered {back:.1f} s, a "
            f"client that was connecting {connected:.1f} s",
        )


def test_one_direction_is_lost(site: Site, full: bool, figure: Callable[..., None]) -> None:
    times = []
    for direction in ("input tcp dport", "output tcp sport"):
        # After a cut it is made again later than that for questions, and nobody can ask for what
        # was published until then. As soon as it has heard something, it is known to hear.
        wait_until(site.hears_far)
        before = site.near.call("register", "before", "10.0.0.1", 5000)
        wait_until(lambda before=before: site.heard_far(before))
        site.far.call("allow", 0.5)
        site.network.refuse(f"{direction} {site.req_port} drop")
        for _ in range(5 if full else 1):
            assert site.far.call("register", direction, "10.0.0.2", 5000) == TIMED_OUT
            times.append(site.far.took)
        published = site.near.call("register", "near", "10.0.0.1", 5000)
        # It can't ask: this comes on the events' own connection.
        wait_until(lambda published=published: site.heard_far(published))
        site.network.heal()
        wait_until(lambda: site.far.call("health_check"))
        site.far.call("allow", 20)
        kept = [service["name"] for service in site.far.call("list_services")]
        # What got no answer happened once or not at all.
        assert kept.count(direction) <= len(times)
        assert isinstance(site.far.call("register", direction, "10.0.0.2", 5000), str)
    assert max(times) < 1.5
    figure(
        "one direction of the request connection lost",
        "nftables drops packets to, then from the request port",
        "1, 2, 7",
        f"calls with a timeout of 0.5 s end after at most {max(times):.2f} s; events go on",
    )


def test_packets_are_lost(site: Site, full: bool, figure: Callable[..., None]) -> None:
    for percent in (5, 20) if full else (20,):
        own = site.far.call("register", "far", "10.0.0.2", 5000, "FAR", None, 10)
        site.far.call("start_heartbeat")
        site.far.call("allow", 5.0)
        site.network.lose(percent)
        times: list[float] = []
        unanswered = 0
        until = time.monotonic() + (60 if full else 1)
        while time.monotonic() < until:
            name = f"SVC-{len(times)}"
            wanted = site.near.call("register", name, "10.0.0.1", 5000, name)
            said = site.far.call("discover_service", name)
            times.append(site.far.took)
            if said == TIMED_OUT:
                unanswered += 1
            else:
                assert said["id"] == wanted
            site.near.call("deregister", wanted)
        assert max(times) < 6
        assert len(times) > unanswered
        assert site.expired().count(own) == 0
        site.network.heal()
        figure(
            f"{percent} % of the packets lost, both ways",
            "nftables, `numgen random`",
            "1, 2, 5",
            f"{len(times)} calls: p50 {percentile(times, 0.5) * 1000:.1f} ms, p99 "
            f"{percentile(times, 0.99):.2f} s, {unanswered} without an answer in 5 s, 0 wrong, "
            "0 expired at ttl 10",
        )


def test_connections_are_refused_for_a_while(site: Site) -> None:
    site.far.call("allow", 4)
    before = site.ends()[1]
    site.network.refuse(f"input tcp dport {site.req_port} reject with tcp reset")
    site.far.begin("register", "refused", "10.0.0.2", 5000, "REFUSED")
    wait_until(lambda: site.ends()[1] < before)
    site.network.heal()
    assert isinstance(site.far.result(), str)
    assert len(site.near.call("list_services", "REFUSED")) == 1


def test_long_lists_on_a_slow_line_do_not_starve_heartbeats(
    site: Site, full: bool, figure: Callable[..., None]
) -> None:
    services, ttl = (2000, 10.0) if full else (100, 2.0)
    for number in range(services):
        site.near.call("register", f"service {number}", "10.0.0.1", 5000, "MANY", None, 3600)
    own = site.far.call("register", "far", "10.0.0.2", 5000, "FAR", None, ttl)
    site.far.call("start_heartbeat")
    site.far.call("allow", 60)
    site.network.narrow("256kbit")
    times: list[float] = []
    while sum(times) < 1.1 * ttl:
        assert len(site.far.call("list_services", "MANY")) == services
        times.append(site.far.took)
    assert site.expired().count(own) == 0
    figure(
        f"slow line, and lists of {services} services",
        "`tc` tbf with 256 kbit/s; one list after the other, heartbeats with ttl "
        f"{ttl:.0f} meanwhile",
        "5",
        f"a list takes {max(times):.1f} s; 0 expired",
    )


# -- connections that break


def test_connections_that_break_are_made_again(
    server: RegistryServer, full: bool, figure: Callable[..., None]
) -> None:
    times = []
    with Proxy(server.req_port) as proxy, RegistryClient(proxy.endpoint, timeout=1.8) as client:
        client.register("kept", "egse3", 5000, "KEPT")
        for _ in range(20 if full else 1):
            for damage in (proxy.reset, proxy.half_close):
                damage()
                times.append(seconds(lambda: client.discover_service("KEPT")))
                proxy.replies.held = True
                threading.Timer(0.1, damage).start()
                threading.Timer(0.2, setattr, (proxy.replies, "held", False)).start()
                times.append(seconds(lambda: client.discover_service("KEPT")))
    assert max(times) < 1.8
    figure(
        "connection reset, or half closed, before and during a call",
        "TCP proxy",
        "1, 2",
        f"{len(times)} calls with a timeout of 1.8 s: all answered, the slowest after "
        f"{max(times):.2f} s",
    )


def test_a_slow_way_there_and_back(server: RegistryServer) -> None:
    with Proxy(server.req_port) as proxy, RegistryClient(proxy.endpoint, timeout=20) as client:
        client.health_check()
        proxy.requests.delay = proxy.replies.delay = lambda: 0.1
        ids = [client.register(f"svc-{number}", "egse3", 5000) for number in range(2)]
        assert [service["id"] for service in client.list_services()] == ids
        assert seconds(client.health_check) >= 0.2


def test_a_lost_reply_to_a_change_is_got_by_asking_again(
    server: RegistryServer, full: bool, figure: Callable[..., None]
) -> None:
    rounds = 30 if full else 1
    with Proxy(server.req_port) as proxy, RegistryClient(proxy.endpoint, timeout=1.8) as client:
        client.health_check()
        for number in range(rounds):
            proxy.replies.lose = True
            kept = client.register(f"svc-{number}", "egse3", 5000, ttl=3600)
            proxy.replies.lose = True
            assert client.deregister(kept) is True
            proxy.replies.lose = True
            again = client.register(f"svc-{number}", "egse3", 5000, ttl=3600)
            assert client.get_service(again) is not None
        names = [service["name"] for service in client.list_services()]
        journal = [event["type"] for event in client.events_since(0)["events"]]
        assert proxy.lost == 3 * rounds
    assert names == [f"svc-{number}" for number in range(rounds)]
    assert journal == ["register", "deregister", "register"] * rounds
    figure(
        "reply to a register or deregister lost",
        "TCP proxy drops it and resets the connection",
        "1, 3",
        f"{proxy.lost} changes: each acknowledged, and done exactly once",
    )


def test_late_replies_are_no_answers_to_later_questions(
    server: RegistryServer, full: bool, figure: Callable[..., None]
) -> None:
    """A sync and an async client, and a REQ socket as docs/protocol.md says it has to be set up."""
    kinds = [f"KIND-{number}" for number in range(50)]
    with RegistryClient(f"127.0.0.1:{server.req_port}", timeout=20) as client:
        for kind in kinds:
            client.register(kind, "egse3", 5000, kind, ttl=3600)
    wanted = 300 if full else 6
    until = time.monotonic() + 300

    class Tally:
        """What one asker got: goes on until it had enough answers, and enough came too late."""

        def __init__(self) -> None:
            self.answered = self.late = self.wrong = 0

        def goes_on(self) -> bool:
            assert time.monotonic() < until
            return min(self.answered, 3 * self.late) < wanted

        def note(self, kind: str, service: Record | None) -> None:
            self.answered += 1
            self.wrong += service is None or service["name"] != kind

    def ask_sync(tally: Tally) -> None:
        with RegistryClient(proxy.endpoint, timeout=0.3) as client:
            while tally.goes_on():
                kind = random.choice(kinds)
                try:
                    tally.note(kind, client.discover_service(kind))
                except RequestTimeout:
                    tally.late += 1

    async def ask_async(tally: Tally) -> None:
        async with AsyncRegistryClient(proxy.endpoint, timeout=0.3) as client:
            while tally.goes_on():
                kind = random.choice(kinds)
                try:
                    tally.note(kind, await client.discover_service(kind))
                except RequestTimeout:
                    tally.late += 1

    def ask_raw(tally: Tally) -> None:
        with raw_socket(zmq.REQ, proxy.endpoint, req_relaxed=1, req_correlate=1) as socket:
            socket.rcvtimeo = 300
            while tally.goes_on():
                kind = random.choice(kinds)
                socket.send(json.dumps({"action": "discover", "service_type": kind}).encode())
                try:
                    tally.note(kind, json.loads(socket.recv())["service"])
                except zmq.Again:
                    tally.late += 1

    askers: dict[str, Callable[[Tally], None]] = {
        "sync": ask_sync,
        "async": lambda tally: asyncio.run(ask_async(tally)),
        "REQ": ask_raw,
    }
    with Proxy(server.req_port) as proxy, ThreadPoolExecutor() as pool:
        proxy.replies.delay = lambda: random.choice([0, 0, 0, 0, 0, 0, 0.15, 0.25, 0.45])
        tallies = {name: Tally() for name in askers}
        for done in [pool.submit(askers[name], tally) for name, tally in tallies.items()]:
            done.result()
    assert [tally.wrong for tally in tallies.values()] == [0, 0, 0]
    figure(
        "late replies, to a sync, an async and a plain REQ client",
        "TCP proxy delays some replies up to 0.45 s; timeout 0.3 s",
        "1",
        ", ".join(
            f"{name}: {tally.answered} answers, {tally.late} timeouts, {tally.wrong} wrong"
            for name, tally in tallies.items()
        ),
    )


# -- connections on which nobody speaks


def test_file_descriptors_run_out(full: bool, figure: Callable[..., None], tmp_path: Path) -> None:
    """Silent connections take all but those that are kept. Long: until they time out."""
    need("prlimit")
    with (
        ServerProcess(tmp_path / "registry.db", under=["prlimit", "--nofile=96"]) as server,
        contextlib.ExitStack() as stack,
    ):
        assert server.process is not None
        old = stack.enter_context(RegistryClient(server.endpoint, timeout=20))
        old.register("kept", "egse3", 5000, "KEPT", ttl=5)
        old.start_heartbeat()
        old.start_event_listener()
        # For calls, for heartbeats, and two for events.
        wait_until(lambda: old.server_status()["connections"] == 4)
        address = ("127.0.0.1", server.ports[0])
        started = time.monotonic()
        silent = [stack.enter_context(tcp.create_connection(address, 20)) for _ in range(150)]
        wait_until(lambda: old.server_status()["cut_connections"] > 0)
        assert server.process is not None
        pid = server.process.pid
        wait_until(lambda: 96 - 30 < open_files(pid) < 96 - 10)
        times = [seconds(lambda: old.discover_service("KEPT")) for _ in range(20)]
        assert old.deregister(old.register("another", "egse3", 5001))
        if not full:
            for connection in silent:
                connection.close()
        with RegistryClient(server.endpoint, timeout=30) as new:
            new.server_status()
        locked_out = time.monotonic() - started
        kinds = [event["type"] for event in old.events_since(0)["events"]]
        assert "expire" not in kinds
    figure(
        "file descriptors run out",
        "`prlimit --nofile=96`, 150 silent TCP connections",
        "5, 8",
        f"old clients: slowest call {max(times) * 1000:.0f} ms, changes are stored; a new one is "
        f"served after {locked_out:.1f} s",
    )
