"""What stands before the sockets: connections, handshakes, subscriptions, who is this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket as tcp
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
import zmq
import zmq.green
from hypothesis import given
from hypothesis import strategies as st

from rsreg import InMemoryBackend, RegistryClient, RegistryServer
from rsreg.server.guard import packet_filter
from rsreg.server.guard.connections import Table
from rsreg.server.guard.descriptors import Descriptors
from rsreg.server.guard.guard import Guard
from rsreg.server.guard.readiness import readable
from rsreg.server.limits import Limits
from rsreg.transport import sockets
from tests import zmtp
from tests.helpers import (
    NetworkSpace,
    ServerProcess,
    own_address,
    printed,
    raw_socket,
    received,
    serving,
    start_program,
    wait_until,
)
from tests.usage import busy, open_files

HEALTH = b'{"action":"health"}'


@contextlib.contextmanager
def guarded(**limits: Any) -> Iterator[RegistryServer]:
    """A server on all addresses with these limits."""
    options = {"bind": "*", "backend": InMemoryBackend(), "limits": Limits(**limits)}
    with serving(**options) as server:
        yield server


def about(server: RegistryServer) -> dict[str, Any]:
    """What it says of itself, to somebody new."""
    with raw_socket(zmq.DEALER, server.endpoint) as socket:
        socket.send_multipart([b"", b'{"action":"info"}'])
        return dict(json.loads(received(socket)[-1]))


def ready(kind: bytes, **properties: bytes) -> bytes:
    """The beginning of a connection: ZMTP 3.0."""
    body = b"\x05READY"
    for name, value in {"Socket-Type": kind, **properties}.items():
        body += bytes([len(name)]) + name.encode() + struct.pack(">I", len(value)) + value
    return zmtp.GREETING + b"\x04" + bytes([len(body)]) + body


def peer(stack: ExitStack, host: str, port: int | None, said: bytes = b"") -> tcp.socket:
    """A connection, on which something is said first."""
    raw = stack.enter_context(tcp.create_connection((host, port or 0), timeout=10))
    raw.sendall(said)
    return raw


def is_in(raw: tcp.socket) -> bool:
    """Whether a connection was let in; never waits."""
    with contextlib.suppress(BlockingIOError):
        return b"READY" in raw.recv(10_000, tcp.MSG_DONTWAIT | tcp.MSG_PEEK)
    return False


def subscribed(stack: ExitStack, port: int | None, said: bytes, minor: bytes = b"\0") -> tcp.socket:
    """A connection to the event port, on which something is said after the handshake."""
    hello = ready(b"SUB").replace(b"\x7f\x03\x00", b"\x7f\x03" + minor)
    raw = peer(stack, "127.0.0.1", port, hello)
    wait_until(lambda: is_in(raw))
    raw.sendall(said)
    return raw


def is_closed(raw: tcp.socket) -> bool:
    """Whether the other side has ended a connection; never waits."""
    raw.setblocking(False)
    try:
        while raw.recv(10_000):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


# -- connections


def test_an_address_has_so_many_connections_to_each_port(
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = own_address()
    with guarded(connections_per_address=5) as server, ExitStack() as stack:
        ports = (server.req_port, server.pub_port)
        there = {port: [peer(stack, address, port) for _ in range(20)] for port in ports}
        for those in there.values():
            wait_until(lambda those=those: sum(map(is_closed, those)) == 15)
            assert not any(map(is_closed, those[:5])), "the newest are cut"
        # Somebody else's are not, and who stays is served.
        assert about(server)["cut_connections"] == 30
        stack.close()
        wait_until(lambda: about(server)["connections"] == 1)
        with raw_socket(zmq.DEALER, f"tcp://{address}:{server.req_port}") as again:
            again.send_multipart([b"", HEALTH])
            assert json.loads(received(again)[-1])["success"]
    (told,) = [line for line in caplog.messages if line.startswith("cut a connection")]
    assert told in [f"cut a connection from {address}: it has 6 to port {one}" for one in ports]


def test_the_bound_of_connections_is_not_for_loopback_or_gateways() -> None:
    address = own_address()
    with (
        guarded(connections_per_address=2, gateways=(f"{address}/32",)) as server,
        ExitStack() as stack,
    ):
        there = [peer(stack, host, server.req_port) for host in ("127.0.0.1", address) * 5]
        wait_until(lambda: about(server)["connections"] == 11)
        assert not any(map(is_closed, there))


def test_some_descriptors_are_kept_free() -> None:
    """Without, libzmq's thread asks for the next connection all the while."""
    limited = ("prlimit", "--nofile=150:150")
    with ServerProcess(under=limited) as server, ExitStack() as stack:
        assert server.process is not None
        pid = server.process.pid
        with raw_socket(zmq.DEALER, server.endpoint) as old:
            old.send_multipart([b"", HEALTH])
            received(old)
            there = [peer(stack, "127.0.0.1", server.ports[number % 3]) for number in range(250)]
            wait_until(lambda: sum(map(is_closed, there)) > 120)
            wait_until(lambda: open_files(pid) <= 150 - 37 + 1)
            assert busy(pid, 0.5) < 0.3
            old.send_multipart([b"", HEALTH])
            assert json.loads(received(old)[-1])["success"]
        stack.close()
        with RegistryClient(server.endpoint, timeout=10) as client:
            assert client.server_status()["cut_connections"] > 120


def test_the_table_of_connections() -> None:
    table = Table()
    assert [table.add(number, "a") for number in (7, 8)] == [1, 2]
    # The end of 7 was not told.
    assert table.add(7, "b") == 1
    assert table.add(9, "a") == 2
    for number in (7, 7, 8, 9, 1):
        table.remove(number)
    assert len(table) == 0
    assert not table._counts


# -- handshakes


def test_who_connects_too_often_has_to_wait_and_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = own_address()
    with guarded(handshakes_per_second=20) as server, ExitStack() as stack:
        started = time.monotonic()
        for _ in range(116):
            peer(stack, address, server.req_port, ready(b"DEALER"))
        wait_until(lambda: about(server)["barred"])
        # Here, or already before. The kernel's next try is after a second.
        late = peer(stack, address, server.req_port, ready(b"DEALER"))
        assert time.monotonic() - started > 0.5
        wait_until(lambda: is_in(late))
        for _ in range(30):
            asked = time.monotonic()
            found = about(server)
            assert time.monotonic() - asked < 0.5
        assert 1 <= found["barred"] <= 5
        assert found["cut_connections"] == 0
    told = [line for line in caplog.messages if "too often" in line]
    assert told == [f"{address} connects too often: it has to wait"]


def test_where_nobody_can_be_barred_connections_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_filter, "bar", lambda *_: False)
    address = own_address()
    with guarded(handshakes_per_second=4) as server, ExitStack() as stack:
        there = [peer(stack, address, server.req_port) for _ in range(40)]
        wait_until(lambda: sum(map(is_closed, there)) > 10)
        assert not any(map(is_closed, there[:20]))

        def comes_in() -> bool:
            late = peer(stack, address, server.req_port, ready(b"DEALER"))
            wait_until(lambda: is_in(late) or is_closed(late))
            return is_in(late)

        wait_until(comes_in)


def addressed(address: str) -> bytes:
    """The head of a packet from an address."""
    found = ipaddress.ip_address(address)
    before = b"\x45" + bytes(11) if found.version == 4 else b"\x60" + bytes(7)
    return before + found.packed + bytes(20)


def taken(program: bytes, packet: bytes) -> bool:
    """What the kernel does with a program of BPF, of those instructions that we use."""
    at = value = 0
    while True:
        what, equal, other, number = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if what == 0x30:
            value = packet[number - 0xFFF00000]
        elif what == 0x20:
            (value,) = struct.unpack_from(">I", packet, number - 0xFFF00000)
        elif what == 0x74:
            value >>= number
        elif what == 0x15:
            at += equal if value == number else other
        elif what == 0x05:
            at += number
        else:
            assert what == 0x06
            return bool(number)


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@given(st.sets(addresses, max_size=packet_filter.MOST), st.lists(addresses, max_size=20))
def test_just_those_are_barred(barred: set[str], others: list[str]) -> None:
    program = packet_filter.program(barred)
    assert len(program) // 8 <= 4096
    for address in [*barred, *others]:
        plain = getattr(ipaddress.ip_address(address), "ipv4_mapped", None) or address
        assert taken(program, addressed(str(plain))) is not any(
            (getattr(ipaddress.ip_address(one), "ipv4_mapped", None) or ipaddress.ip_address(one))
            == ipaddress.ip_address(str(plain))
            for one in barred
        )


@pytest.mark.parametrize("family", [tcp.AF_INET, tcp.AF_INET6])
def test_the_kernel_bars_and_lets_in_again(family: tcp.AddressFamily) -> None:
    here = "127.0.0.1" if family == tcp.AF_INET else "::1"
    with tcp.socket(family) as listener:
        try:
            listener.bind((here, 0))
        except OSError:
            pytest.skip("no IPv6")
        listener.listen()
        others = [f"10.0.{number}.1" for number in range(99)]
        others += [f"fd00::{number}" for number in range(99)]
        assert packet_filter.bar(listener, [*others, here])
        with tcp.socket(family) as knocking:
            knocking.settimeout(0.1)
            with pytest.raises(TimeoutError):
                knocking.connect(listener.getsockname())
        assert packet_filter.bar(listener, others)
        with tcp.create_connection(listener.getsockname()[:2], timeout=5):
            pass
        assert packet_filter.bar(listener, [])


@contextlib.contextmanager
def hub() -> Iterator[zmq.Socket[bytes]]:
    """A guarded socket for requests in this thread; its port is its LAST_ENDPOINT."""
    context = zmq.green.Context()
    guard = Guard(Limits())
    router = sockets.router(context)
    guard.watch_router(router)
    router.bind("tcp://127.0.0.1:0")
    try:
        yield router
    finally:
        guard.close()
        router.close()
        context.term()


def message(router: zmq.Socket[bytes], seconds: float = 10.0) -> list[zmq.Frame]:
    """The next message; the hub runs meanwhile. Empty if none comes."""
    until = time.monotonic() + seconds
    while not readable(router):
        if time.monotonic() > until:
            return []
        gevent.sleep(0.005)
    return router.recv_multipart(copy=False)


def said_hello(router: zmq.Socket[bytes], stack: ExitStack, **properties: bytes) -> tcp.socket:
    """A connection that sent a message after its handshake."""
    raw = peer(stack, "127.0.0.1", port_of(router), ready(b"DEALER", **properties))
    while not is_in(raw):
        gevent.sleep(0.005)
    raw.sendall(b"\x00\x02hi")
    return raw


def port_of(router: zmq.Socket[bytes]) -> int:
    return int(router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


# -- subscriptions


def test_subscriptions_of_a_connection_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    with guarded(subscriptions=3) as server, ExitStack() as stack:
        for new in (b"\x00\x02\x01%d", b"\x04\x0b\x09SUBSCRIBE%d"):
            minor = b"\x01" if b"SUB" in new else b"\x00"
            three = b"".join(new % number for number in range(3))
            well = subscribed(stack, server.pub_port, 3 * three, minor)
            most = subscribed(stack, server.pub_port, three + new % 3, minor)
            wait_until(lambda most=most: is_closed(most))
            assert not is_closed(well)
    told = [line for line in caplog.messages if line.startswith("cut")]
    assert told == ["cut a connection from 127.0.0.1: it has more than 3 subscriptions"]


def test_who_subscribes_and_unsubscribes_all_the_while_is_cut() -> None:
    with guarded() as server, ExitStack() as stack:
        for new in (b"\x00\x02\x01x", b"\x00\x02\x01x\x00\x02\x00x"):
            raw = subscribed(stack, server.pub_port, 600 * new)
            wait_until(lambda raw=raw: is_closed(raw))


def test_what_was_unsubscribed_does_not_count() -> None:
    with guarded(subscriptions=3) as server, ExitStack() as stack:
        changes = b"".join(b"\x00\x04\x01%03d\x00\x04\x00%03d" % (n, n) for n in range(5))
        well = subscribed(stack, server.pub_port, changes)
        well.sendall(b"".join(b"\x00\x02\x01%d" % number for number in range(3)))
        time.sleep(0.1)
        assert not is_closed(well)
        well.setblocking(True)
        well.sendall(b"\x00\x02\x013")
        wait_until(lambda: is_closed(well))


@pytest.mark.parametrize(
    "said",
    [b"\x02" + struct.pack(">Q", 300) + b"\x01" + bytes(299), b"\x00\x03\x02hi", b"\x00\x00"],
    ids=["too long", "no subscription", "empty"],
)
def test_other_messages_to_the_event_port_end_the_connection(said: bytes) -> None:
    with guarded() as server, ExitStack() as stack:
        raw = subscribed(stack, server.pub_port, said)
        wait_until(lambda: is_closed(raw))


def test_subscribers_get_their_topics_and_nothing_else(
    client: RegistryClient, server: RegistryServer
) -> None:
    endpoint = f"tcp://127.0.0.1:{server.pub_port}"
    with (
        raw_socket(zmq.SUB, endpoint, subscribe=b"") as everything,
        raw_socket(zmq.SUB, endpoint, subscribe=b"deregister") as some,
        raw_socket(zmq.XSUB, endpoint) as other,
    ):
        other.send(b"\x01" + b"reg")

        def heard() -> bool:
            client.deregister(client.register("probe", "lab1", 1))
            return all(each.poll(20) for each in (everything, some, other))

        wait_until(heard)
        client.register("last", "lab1", 1)
        kinds: list[Any] = []
        while not kinds or kinds[-1] != ["last"]:
            kind, body = received(everything)
            kinds.append(
                [json.loads(body)["data"]["service_info"]["name"]] if kind == b"register" else kind
            )
        for each, wanted in ((some, b"deregister"), (other, b"register")):
            while each.poll(100):
                assert each.recv_multipart()[0] == wanted


# -- peers of ZMTP 2, whose messages tell neither connection nor address


def test_subscriptions_of_old_peers_are_bounded_together(server: RegistryServer) -> None:
    with (
        raw_socket(zmq.SUB, f"tcp://127.0.0.1:{server.pub_port}", subscribe=b"") as known,
        raw_socket(zmq.DEALER, server.endpoint) as client,
        ExitStack() as stack,
    ):

        def heard() -> bool:
            info = {"name": "x", "host": "h", "port": 1, "id": "x"}
            said = json.dumps({"action": "register", "service_info": info}).encode()
            client.send_multipart([b"", said])
            received(client)
            return bool(known.poll(20))

        wait_until(heard)
        most = peer(stack, "127.0.0.1", server.pub_port, zmtp.SUB_2)
        # Others end none that is not theirs.
        other = peer(stack, "127.0.0.1", server.pub_port, zmtp.SUB_2)
        for number in range(200):
            with contextlib.suppress(ConnectionError):
                most.sendall(b"\x00\x04\x01%03d" % number)
                other.sendall(b"\x00\x04\x00%03d" % number)
        wait_until(lambda: is_closed(most))
        while known.poll(0):
            known.recv_multipart()
        wait_until(heard)


def test_an_old_peer_is_answered_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with guarded() as server, ExitStack() as stack:
        raw = peer(stack, "127.0.0.1", server.req_port, zmtp.DEALER_2)
        wait_until(lambda: len(raw.recv(100, tcp.MSG_PEEK)) >= 14)
        for said, wanted in (
            (HEALTH, b'"success":true'),
            (b'{"action":"terminate"}', b"forbidden"),
            (bytes(70_000), b"too long"),
            (HEALTH, b'"success":true'),
        ):
            raw.sendall(zmtp.frame(b"", more=True) + zmtp.frame(said, more=False))
            got = b""
            while b"}" not in got:
                got += raw.recv(10_000)
            assert wanted in got
    assert "refused a request of 70000 bytes" in caplog.text


# -- who is this machine


def test_a_frame_tells_the_descriptor_of_its_connection() -> None:
    """What much here rests on: libzmq says that this may go."""
    with hub() as router, ExitStack() as stack:
        raw = said_hello(router, stack)
        number = int(message(router)[0].get(zmq.SRCFD))
        descriptors = Descriptors()
        ends = descriptors.look(number)
        assert ends is not None
        assert (ends.peer, ends.port) == ("127.0.0.1", port_of(router))
        with tcp.socket(fileno=os.dup(number)) as other:
            assert other.getpeername() == raw.getsockname()
        descriptors.cut(number, ends._replace(port=1))
        assert not is_closed(raw)
        descriptors.cut(number, ends)
        wait_until(lambda: is_closed(raw))
        descriptors.close()


def test_what_is_no_connection_has_no_ends(tmp_path: Any) -> None:
    descriptors = Descriptors()
    here, there = tcp.socketpair()
    with here, there, (tmp_path / "file").open("w") as file, tcp.socket() as idle:
        for number in (-1, 999_999, file.fileno(), here.fileno(), idle.fileno()):
            assert descriptors.look(number) is None
            assert descriptors.unsent(number, "127.0.0.1") == 0
    before = len(os.listdir("/proc/self/fd"))
    descriptors.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_the_kernel_tells_what_was_not_read() -> None:
    descriptors = Descriptors()
    with tcp.create_server(("127.0.0.1", 0)) as listener:
        raw = tcp.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        with raw, accepted:
            number = accepted.fileno()
            assert descriptors.unsent(number, "127.0.0.1") == 0
            accepted.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += accepted.send(bytes(100_000))
            assert descriptors.unsent(number, "127.0.0.1") is None
            # Another one, that has the number now.
            assert descriptors.unsent(number, "10.0.0.1") == 0
            while sent:
                sent -= len(raw.recv(100_000))
            wait_until(lambda: descriptors.unsent(number, "127.0.0.1") == 0)
    descriptors.close()


@pytest.mark.parametrize("bind", ["127.0.0.1", "own", "*", "::", "::1"])
def test_terminate_through_each_address_of_this_machine(bind: str) -> None:
    address = own_address() if bind in ("own", "*") else bind
    if ":" in bind:
        with contextlib.suppress(OSError), tcp.socket(tcp.AF_INET6) as probe:
            probe.bind(("::1", 0))
            address = "[::1]"
        if address == bind:
            pytest.skip("no IPv6")
    with (
        serving(bind=address if bind == "own" else bind, backend=InMemoryBackend()) as server,
        raw_socket(zmq.DEALER, f"tcp://{address}:{server.req_port}", ipv6=1) as socket,
    ):
        socket.send_multipart([b"", b'{"action":"terminate"}'])
        assert json.loads(received(socket)[-1])["success"]


def test_who_may_bind_any_address_is_not_this_machine_for_it() -> None:
    """As keepalived and haproxy have it: net.ipv4.ip_nonlocal_bind."""
    with NetworkSpace() as space, NetworkSpace() as other:
        other.ip("link", "delete", "lab")
        space.ip("link", "set", "other", "netns", other.name)
        space.ip("addr", "add", "10.77.1.1/24", "dev", "lab")
        other.ip("addr", "add", "10.77.1.2/24", "dev", "other")
        other.ip("link", "set", "other", "up")
        setting = ["sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=1"]
        under = [*space.inside, "sh", "-c", " ".join(setting) + ' && exec "$@"', "sh"]
        with ServerProcess(under=under, bind="10.77.1.1") as server:
            for inside, wanted in ((other.inside, "forbidden"), (space.inside, None)):
                asking = start_program("ask_to_terminate", server.endpoint, under=inside)
                reply = json.loads(printed(asking))
                assert reply.get("code") == wanted
                asking.communicate()
            assert server.wait() == 0
