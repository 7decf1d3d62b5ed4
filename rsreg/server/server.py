"""RegistryServer: binds the sockets, starts the greenlets, watches over them, and stops them."""

from __future__ import annotations

import inspect
import logging
import os
import socket as hosts
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import gevent
import zmq
import zmq.green
from gevent.event import Event as Flag

from rsreg import __version__, config, timing
from rsreg.errors import ConfigurationError, PortInUse, RegistryError
from rsreg.protocol import calls, wire
from rsreg.server.backends.base import Journaled, RegistryBackend
from rsreg.server.backends.sqlite import SQLiteBackend
from rsreg.server.caretaker import Caretaker
from rsreg.server.deferred import Body
from rsreg.server.dispatch import Dispatcher
from rsreg.server.guard.guard import Guard
from rsreg.server.limits import Limits
from rsreg.server.publisher import Publisher
from rsreg.server.reaper import Reaper
from rsreg.server.request_loop import RequestLoop
from rsreg.server.rules.registry import Registry
from rsreg.server.rules.selection import Strategy
from rsreg.server.settings import ServerSettings
from rsreg.timing import Clock
from rsreg.transport import sockets
from rsreg.transport.channel import Channel

log = logging.getLogger(__name__)

#: Milliseconds that the last replies and events may take at a stop.
_LINGER = 1_000
#: Seconds that a backup may take to end when the store is closed.
_THREADS = 0.5
#: Seconds to find out who has a port.
_ASK_HOLDER = 0.5
#: What listens on all addresses, and where this machine finds it.
_ANY = {"tcp://0.0.0.0": "tcp://127.0.0.1", "tcp://[::]": "tcp://[::1]"}


class _Bound(NamedTuple):
    """Where a socket is bound: `tcp://` and the host, and the port."""

    host: str
    port: int


class RegistryServer:
    """The registry as a gevent server.

    A server belongs to the hub of the thread that starts it. It patches nothing and installs no
    signal handler. `req_port`, `pub_port` and `hb_port` hold the real ports once it is started.

    Args:
        req_port: The port of requests; 0 is a free one, as for the other ports.
        pub_port: The port of events.
        hb_port: The port for heartbeats of CGSE's clients. None is 4244 beside the default request
            port, and no such port beside another.
        backend: Where services and events are stored; an SQLiteBackend on the default file if
            None.
        cleanup_interval: Seconds between two looks for services whose ttl is over; above 0.
        bind: The local address to listen on, `*` for all of IPv4, `::` for all.
        unique_service_types: Refuse a second service of a type.
        strategy: Chooses in discovery where the question names no strategy; a name or a function.
        strategies: More strategies that a question may name, by their names.
        cgse_reply: The first frame of replies to CGSE's clients, `REP` for those of mid-2025.
        limits: How much one peer, and all together, may take.
        clock: A monotonic clock in seconds, which rules the leases.
        wall: The time of day, in seconds after 1970.

    Raises:
        ConfigurationError: An argument is wrong, or this system can run no server.
    """

    def __init__(
        self,
        req_port: int = config.DEFAULT_RS_REQ_PORT,
        pub_port: int = config.DEFAULT_RS_PUB_PORT,
        hb_port: int | None = None,
        backend: RegistryBackend | None = None,
        cleanup_interval: float = config.DEFAULT_CLEANUP_INTERVAL,
        *,
        bind: str = "*",
        unique_service_types: bool = False,
        strategy: Strategy | str = "random",
        strategies: Mapping[str, Strategy] | None = None,
        cgse_reply: str = wire.CGSE_REPLY.decode(),
        limits: Limits | None = None,
        clock: Clock = timing.steady,
        wall: Clock = time.time,
    ) -> None:
        _check_system()
        self.settings = ServerSettings(
            req_port,
            pub_port,
            hb_port,
            bind,
            cleanup_interval=cleanup_interval,
            unique_service_types=unique_service_types,
            cgse_reply=cgse_reply,
            limits=Limits() if limits is None else limits,
        )
        self.req_port = req_port
        self.pub_port = pub_port
        self.hb_port = self.settings.heartbeat_port
        self.backend = SQLiteBackend(config.default_database()) if backend is None else backend
        check_backend(self.backend)
        self.registry = Registry(
            self.backend,
            clock=clock,
            wall=wall,
            strategy=strategy,
            strategies=strategies,
            unique_service_types=unique_service_types,
            limits=self.settings.limits,
        )
        self._clock = clock
        self._wall = wall
        self._since = wall()
        self._context: zmq.Context[Any] | None = None
        self._guard: Guard | None = None
        self._open: list[zmq.Socket[bytes]] = []
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._stop = Flag()
        self._stopped = Flag()
        self._stop_asked = False
        self._failure: BaseException | None = None
        self._requests: RequestLoop | None = None
        self._publisher: Publisher | None = None
        self._host = ""
        self._wake: Any = None

    @property
    def started(self) -> bool:
        """Whether it serves."""
        return bool(self._greenlets) and not self._stop.is_set()

    @property
    def endpoint(self) -> str:
        """Where clients on this machine find it, once it is started."""
        return f"{_ANY.get(self._host, self._host)}:{self.req_port}"

    def start(self) -> None:
        """Bind the ports, open the store, and serve from now on; return at once.

        A server is started once. If the start fails, no port and no file stays open.

        Raises:
            PortInUse: Another program has a port.
            ConfigurationError: This machine can't listen on the address.
            StoreError: The store can't be opened.
        """
        if self._context is not None:
            return
        self._context = zmq.green.Context()
        self._guard = guard = Guard(self.settings.limits)
        try:
            routers, self._publisher = self._bind(self._context, guard)
            self.registry.open()
        except RegistryError:
            self._close()
            raise
        publish = self._publisher.publish
        dispatcher = Dispatcher(self.registry, self._wall, self.about, self.request_stop)
        self._requests = RequestLoop(
            routers,
            self.registry,
            dispatcher,
            publish,
            self._clock,
            self.settings.cgse_reply.encode(),
            replies=guard.replies,
            unfinished=guard.unfinished,
        )
        caretaker = Caretaker(self.registry, guard.look)
        reaper = Reaper(self.registry, publish, self.settings.cleanup_interval)
        self._wake = gevent.get_hub().loop.async_()
        self._wake.start(lambda: gevent.spawn(self.stop))
        self._since = self._wall()
        for loop in (self._requests, self._publisher, reaper, caretaker, guard.unfinished):
            self._spawn(type(loop).__name__, loop.run)
        if self._stop_asked:
            self.request_stop()
        ports = [port for port in (self.req_port, self.pub_port, self.hb_port) if port is not None]
        log.info(
            "registry started on ports %s with %d services from %s",
            ", ".join(map(str, ports)),
            len(self.registry),
            self.backend.describe(),
        )

    def serve_forever(self) -> None:
        """Start the server if it is not started, and serve until it is stopped.

        Raises what `start` raises, and the error that ended the server, if one did.
        """
        self.start()
        self._stopped.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Stop within 2 s: deliver the last answers, and store the times of the last heartbeats."""
        if self._context is None or self._stop.is_set():
            return
        self._stop.set()
        gevent.killall(self._greenlets, block=True, timeout=1)
        self._wake.close()
        if self._requests is not None:
            self._requests.close()
        if self._publisher is not None:
            self._publisher.flush()
        try:
            self.registry.close()
        except RegistryError as error:
            log.error("the last heartbeats were not stored: %s", error)
        if self._requests is not None:
            self._requests.wait_for_threads(_THREADS)
        self._close()
        log.info("registry stopped")
        self._stopped.set()

    def request_stop(self) -> None:
        """Ask the server to stop soon; may be called from any thread or signal handler."""
        self._stop_asked = True
        if self._wake is not None and not self._stop.is_set():
            self._wake.send()

    def _bind(
        self, context: zmq.Context[Any], guard: Guard
    ) -> tuple[list[zmq.Socket[bytes]], Publisher]:
        routers = [sockets.router(context) for _ in range(1 if self.hb_port is None else 2)]
        publisher = sockets.publisher(context, self.settings.limits.topic_bytes)
        self._open += [*routers, publisher]
        for router in routers:
            guard.watch_router(router)
        self._host, self.req_port = self._bind_to(routers[0], self.req_port)
        if self.hb_port is not None:
            self.hb_port = self._bind_to(routers[1], self.hb_port).port
        topics = guard.watch_publisher(publisher)
        self.pub_port = self._bind_to(publisher, self.pub_port).port
        return routers, Publisher(publisher, topics.look)

    def _bind_to(self, socket: zmq.Socket[bytes], port: int) -> _Bound:
        """Bind a socket to a port, 0 for a free one; raises PortInUse and ConfigurationError."""
        bind = self.settings.bind
        socket.ipv6 = ":" in bind
        try:
            socket.bind(f"tcp://[{bind}]:{port}" if socket.ipv6 else f"tcp://{bind}:{port}")
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise PortInUse(
                    f"port {port} is in use by {self._holder_of(port)}",
                    hint="it may be the registry you want (rs_cs status); else choose other ports",
                ) from error
            raise ConfigurationError(
                f"can't listen on {bind}:{port}: {error}",
                hint="an address of this machine, or * for all, is needed",
            ) from error
        host, _, bound = socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")
        return _Bound(host, int(bound))

    def _holder_of(self, port: int) -> str:
        host = {"*": "localhost", "::": "[::1]"}.get(self.settings.bind, self.settings.bind)
        try:
            with closing(Channel(f"tcp://{host}:{port}")) as channel:
                about = channel.run(calls.info(services=False), _ASK_HOLDER)
        except RegistryError:
            return "another program"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(about["started"]))
        return f"the registry with pid {about['pid']} on {about['host']} since {since}"

    def _spawn(self, name: str, run: Callable[[Flag], None]) -> None:
        greenlet = gevent.spawn(run, self._stop)
        greenlet.name = name
        greenlet.link(self._ended)
        self._greenlets.append(greenlet)

    def _ended(self, greenlet: Any) -> None:
        """End the server if one of its greenlets has ended before a stop."""
        if self._stop.is_set():
            return
        self._failure = greenlet.exception or RuntimeError("it ended too early")
        log.critical("%s failed; the server ends", greenlet.name, exc_info=greenlet.exc_info)
        self.request_stop()

    def about(self) -> Body:
        """Return what the server says about itself (docs/protocol.md, "info")."""
        about: Body = {
            "req_port": self.req_port,
            "pub_port": self.pub_port,
            "hb_port": self.hb_port,
            "bind": self.settings.bind,
            "enforce_unique_service_types": self.registry.unique_service_types,
            "version": __version__,
            "pid": os.getpid(),
            "host": hosts.gethostname(),
            "started": int(self._since),
            "store": self.backend.describe(),
            "cleanup_interval": self.settings.cleanup_interval,
            "limits": self.settings.limits.body(),
            "dropped_replies": self._requests.dropped if self._requests else 0,
        }
        if self._guard is not None:
            about.update(self._guard.body())
        if isinstance(self.backend, Journaled):
            about["journal"] = self.backend.journal.body()
        return about

    def _close(self) -> None:
        if self._guard is not None:
            self._guard.close()
        for socket in self._open:
            socket.close(linger=_LINGER)
        self._open.clear()
        if self._context is not None:
            self._context.term()


def _check_system() -> None:
    if sys.platform == "win32":
        raise config.no_server_here()


def check_backend(backend: object, *, coroutines: bool = False) -> None:
    """Raise ConfigurationError for what is no RegistryBackend, or has coroutines but may not."""
    name = type(backend).__name__
    needed = [method for method in vars(RegistryBackend) if not method.startswith("_")]
    missing = [method for method in needed if not callable(getattr(backend, method, None))]
    if missing:
        raise ConfigurationError(
            f"{name} is not a backend: it lacks {', '.join(missing)}",
            hint="rsreg.RegistryBackend says what a backend has; one made for CGSE's server is "
            "another thing",
        )
    if not coroutines and any(inspect.iscoroutinefunction(getattr(backend, one)) for one in needed):
        raise ConfigurationError(
            f"{name} has methods that are coroutines", hint="AsyncRegistryServer takes it"
        )
