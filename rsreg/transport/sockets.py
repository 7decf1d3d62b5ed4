"""How every socket is set up, on both sides. Opens sockets, sends and reads nothing."""

from __future__ import annotations

import errno
import math
import os
import random
from typing import Any

import zmq

from rsreg.errors import ConfigurationError, Disconnected
from rsreg.protocol.limits import MAX_FRAME, MAX_REPLY
from rsreg.transport.resolver import Numeric

#: Seconds of silence after which the kernel probes a connection, and between two probes: a cut
#: cable sends no FIN. ZMTP heartbeats would tell too, but libzmq 4.3.5 aborts the process if one is
#: due on a connection that broke while its queue was full: a slow handler would end its driver.
_KEEPALIVE_IDLE, _KEEPALIVE_INTVL = 5, 5
#: Probes in vain, and milliseconds that sent data is not acknowledged, until a connection is lost.
_KEEPALIVE_CNT, _MAX_UNACKNOWLEDGED = 3, 15_000
#: Milliseconds for a handshake; silent connections hold a file descriptor that long.
_HANDSHAKE_IVL = 5_000
#: Milliseconds to connect, before it is tried anew: the kernel's own tries are up to a minute apart
#: after a long outage, and so much later would a client notice its end.
_CONNECT_TIMEOUT = 3_000
#: Requests queued from each peer of a ROUTER, and replies queued for it. With `MAX_FRAME` the first
#: bounds the memory that one peer can take: 13 MB. More wait at the peer; more replies are lost.
_REQUESTS_HWM, _REPLIES_HWM = 50, 200
#: Events queued for one slow subscriber; it learns from `seq` what it lost. Each takes 130 bytes of
#: memory for each of them, beside the event itself.
_PUB_HWM = 1_000
#: Subscriptions queued from one peer, and bytes of them in the kernel. With more than one, libzmq
#: would find the next ones there while it takes in the first, and would not return.
_SUBSCRIPTIONS_HWM, _SUBSCRIPTIONS_BUFFER = 1, 8 * 1024

#: File descriptors that a context needs to start its threads, with some to spare.
_START = 12

_own: dict[tuple[int, str], zmq.Context[Any]] = {}


def own_context(use: str = "calls") -> zmq.Context[Any]:
    """The context of rsreg in this process for a use; a forked child gets one of its own.

    It is not `zmq.Context.instance()`, so that a program may terminate that one when it likes.
    Raises Disconnected if there can be none.
    """
    context = _own.get((os.getpid(), use))
    return _started(use) if context is None else context


def _started(use: str) -> zmq.Context[Any]:
    try:
        # To start without them would end the process: libzmq aborts.
        spare = []
        try:
            for _ in range(_START):
                spare.append(os.open(os.devnull, os.O_RDONLY))
        finally:
            for each in spare:
                os.close(each)
        context: zmq.Context[Any] = zmq.Context()
        # The threads start with the first socket.
        context.socket(zmq.DEALER).close(0)
    except (zmq.ZMQError, OSError) as error:
        raise failed("no connection can be made", error) from error
    first = _own.setdefault((os.getpid(), use), context)
    if first is not context:
        # Another thread was faster.
        context.term()
    return first


def failed(what: str, error: OSError | zmq.ZMQError) -> Disconnected:
    """Return what to raise for an error of a socket, or of the system."""
    hint = None
    if error.errno in (errno.EMFILE, errno.ENFILE):
        hint = (
            "too many files and sockets are open: close some, or raise the limit (ulimit -n; a "
            "ZeroMQ context takes 1023 sockets)"
        )
    elif error.errno in (errno.ENOMEM, errno.ENOBUFS):
        hint = "this machine, or what is allowed to this process, is out of memory"
    return Disconnected(f"{what}: {error}", hint=hint)


def _opened(context: zmq.Context[Any], socket_type: int) -> Any:
    """A socket of a client; raises Disconnected if there can be no more of them."""
    try:
        return context.socket(socket_type)
    except (zmq.ZMQError, OSError) as error:
        raise failed("no socket can be opened", error) from error


def is_green(context: object) -> bool:
    """True if a context is one of `zmq.green`, without importing that."""
    return any(cls.__module__.startswith("zmq.green") for cls in type(context).__mro__)


def dealer(context: zmq.Context[Any], endpoint: Numeric) -> Any:
    """Open a client's socket for requests. It sets no identity: with two of one, replies mix up."""
    socket = _for_registry(context, zmq.DEALER)
    connect(socket, endpoint)
    return socket


def subscriber(context: zmq.Context[Any]) -> Any:
    """Open a client's socket for events, of all types: else each gap in `seq` might be a loss.

    It is not connected yet.
    """
    socket = _for_registry(context, zmq.SUB)
    socket.subscribe(b"")
    return socket


def connect(socket: Any, endpoint: Numeric) -> None:
    """Have a socket connect; raises ConfigurationError, with the socket closed.

    A name would be looked up on libzmq's thread, and stop all sockets there: see `resolver`.
    """
    # Only where it is asked for: a name that has addresses of both kinds is mostly served on IPv4.
    socket.ipv6 = "[" in endpoint
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise ConfigurationError(f"can't connect to {endpoint!r}: {error}") from error


def peer(context: zmq.Context[Any], socket_type: int, timeout: float) -> Any:
    """A socket with which a client talks to a service; it is not connected yet.

    To send and to receive take `timeout` seconds at most (green sockets have no such option),
    nothing is queued for a service that is not there, and a REQ socket never takes a late reply for
    the answer to a later request.
    """
    socket = _opened(context, socket_type)
    _guard(socket)
    _reconnect(socket)
    socket.immediate = 1
    if not is_green(context):
        socket.rcvtimeo = socket.sndtimeo = math.ceil(timeout * 1000)
    if socket_type == zmq.REQ:
        socket.req_relaxed = 1
        socket.req_correlate = 1
    return socket


def monitor(socket: Any, events: int) -> Any:
    """A socket that tells of these events of another; raises Disconnected if there can be none."""
    try:
        return socket.get_monitor_socket(events)
    except (zmq.ZMQError, OSError) as error:
        raise failed("no socket can be opened", error) from error


def router(context: zmq.Context[Any]) -> zmq.Socket[bytes]:
    """A server's socket for requests or heartbeats.

    A plain socket even on a green context: its one owner, the request loop, waits on its file
    descriptor.
    """
    socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER, socket_class=zmq.Socket)
    _guard(socket)
    socket.maxmsgsize = MAX_FRAME
    socket.rcvhwm, socket.sndhwm = _REQUESTS_HWM, _REPLIES_HWM
    socket.backlog = 1024
    # CGSE's clients reconnect under their own identity; the newest connection has it.
    socket.router_handover = 1
    # A reply that can't be delivered is an error to count, not a silence.
    socket.router_mandatory = 1
    return socket


def publisher(context: zmq.Context[Any], topic_bytes: int) -> zmq.Socket[bytes]:
    """A server's socket for events; a plain one too, since to publish never waits.

    It can be read: each subscription, and its end, is a message. One with a longer topic than
    `topic_bytes` ends its connection.
    """
    socket: zmq.Socket[bytes] = context.socket(zmq.XPUB, socket_class=zmq.Socket)
    _guard(socket)
    # Those that somebody else has already, too: they are counted.
    socket.setsockopt(zmq.XPUB_VERBOSER, 1)
    socket.maxmsgsize = 1 + topic_bytes
    # What waits here, or in the kernel, is subscribed even if the connection is cut meanwhile.
    socket.rcvhwm, socket.rcvbuf = _SUBSCRIPTIONS_HWM, _SUBSCRIPTIONS_BUFFER
    socket.sndhwm = _PUB_HWM
    return socket


def connection_monitor(socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """Return a plain socket that gets a message for each connection of a server's socket.

    Before it is closed, the other socket has to stop its messages: `disable_monitor`.
    """
    address = f"inproc://connections-{socket.fileno()}"
    events = zmq.EVENT_LISTENING | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
    socket.monitor(address, events)
    monitor: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR, socket_class=zmq.Socket)
    monitor.linger = 0
    # No bound: while it is full, libzmq's thread would wait, and with it all connections.
    monitor.rcvhwm = 0
    monitor.connect(address)
    return monitor


def _for_registry(context: zmq.Context[Any], socket_type: int) -> Any:
    socket = _opened(context, socket_type)
    _guard(socket)
    _reconnect(socket)
    socket.maxmsgsize = MAX_REPLY
    return socket


def _reconnect(socket: Any) -> None:
    # Random, since libzmq itself has no jitter once a maximum is set.
    socket.reconnect_ivl = random.randint(100, 300)
    socket.reconnect_ivl_max = 2_000
    socket.connect_timeout = _CONNECT_TIMEOUT


def _guard(socket: Any) -> None:
    socket.linger = 0
    socket.handshake_ivl = _HANDSHAKE_IVL
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = _KEEPALIVE_IDLE
    socket.tcp_keepalive_intvl = _KEEPALIVE_INTVL
    socket.tcp_keepalive_cnt = _KEEPALIVE_CNT
    socket.tcp_maxrt = _MAX_UNACKNOWLEDGED
