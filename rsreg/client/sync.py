"""The blocking client: for drivers, scripts and the Python shell.

Imports neither gevent nor a database.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import zmq

from rsreg import config, timing
from rsreg.client import verbs
from rsreg.client.connection import Connection
from rsreg.client.event_handlers import EventHandlers
from rsreg.client.registration.local_service import LocalService
from rsreg.client.registration.own_services import OwnServices
from rsreg.client.registration.registered import Registered, make_plan
from rsreg.client.registration.registration import Details, RegistrationFields, UpdateFields
from rsreg.client.registration.reports import Reports
from rsreg.client.session import Session
from rsreg.client.verbs import Instruction, RunBlocking, Verb
from rsreg.protocol.calls import Call, Record
from rsreg.protocol.query import Choice, ListFilters, check_watch
from rsreg.protocol.records import ServiceList, ServiceRecord
from rsreg.transport.driver import Ask, Receive, drive
from rsreg.transport.event_stream import EventStream
from rsreg.transport.listener import EventListener, Handler
from rsreg.transport.subscription import EventConsumer, Subscription

if TYPE_CHECKING:
    from typing_extensions import Unpack


H = TypeVar("H", bound=Handler)
C = TypeVar("C", bound="RegistryClient")
T = TypeVar("T")


class RegistryClient(Reports, EventHandlers):
    """Talks to a registry; every call ends within `timeout` seconds, with an answer or an error.

    "Not found" is an answer (None, False, []). A registry that can't be reached raises
    RequestTimeout, one that refuses raises a ServerError (docs/errors.md has all errors).

    Sockets are opened on first use. Threads may share a client; a second greenlet that enters it
    during a call gets a RuntimeError. In a forked child it has fresh sockets, and neither heartbeat
    nor registration. A gevent program passes `context=zmq.green.Context()`.

    Args:
        registry_req_endpoint: The registry: `tcp://host:port`, `host:port` or `host`. The default
            is `RSREG_ENDPOINT`, else this machine.
        registry_sub_endpoint: Where it publishes events; by default it is asked for that.
        registry_hb_endpoint: Where it takes heartbeats; by default where it takes requests.
        timeout: The seconds that each call may take in all.
        client_id: A name for this client, shown in its `repr`.
        cache: Follow the registry from the first question on, and answer `get_service`,
            `list_services`, `discover_service`, and what builds on them, from a ServiceCache: only
            passing services, and only while that is certain. All else is asked of the registry,
            and so is everything for about five seconds after this client changed something.
        mode: "hardware", "simulator" or "any": what is asked for, and what is registered, where a
            call does not say it. The default is `RSREG_MODE`. With "any", a simulator is found only
            where no hardware of its type is registered.
        context: The ZeroMQ context to use; by default one of rsreg's own.

    Raises:
        ConfigurationError: An argument, or a variable of the environment, is not valid.
    """

    _listener: EventListener | None

    def __init__(
        self,
        registry_req_endpoint: str | None = None,
        registry_sub_endpoint: str | None = None,
        registry_hb_endpoint: str | None = None,
        timeout: float = config.DEFAULT_TIMEOUT,
        client_id: str = "registry-client",
        *,
        cache: bool = False,
        mode: str | None = None,
        context: zmq.Context[Any] | None = None,
    ) -> None:
        super().__init__()
        self.settings = config.ClientSettings(
            registry_req_endpoint,
            registry_sub_endpoint,
            registry_hb_endpoint,
            timeout,
            client_id,
            mode,
        )
        self._session = Session(
            self.settings, OwnServices(self.settings, context), context, cache=cache
        )
        self._begin(context)

    def __repr__(self) -> str:
        return f"<RegistryClient {self.settings.client_id} on {self.settings.req_endpoint}>"

    def __enter__(self: C) -> C:
        self.connect()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # -- connecting

    def connect(self) -> None:
        """Open the socket for requests now. Needed only after `disconnect`: calls do it too."""
        self._after_fork()
        self._connection.open()
        if self._session.cache is not None:
            self._session.cache.open()

    def disconnect(self) -> None:
        """Stop heartbeats and events, and close the sockets; `close` is the same.

        Registrations stay until their ttl. Takes at most a second for each of them, also while the
        registry can't be reached.
        """
        self.stop_heartbeat()
        self.stop_event_listener()
        self._connection.closed.set()
        if self._session.cache is not None:
            self._session.cache.close()
        self._connection.close()

    close = disconnect

    # -- registering

    def register(
        self,
        name: str,
        host: str,
        port: int,
        service_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: float = config.DEFAULT_TTL,
        singleton: bool = False,
        allow_duplicate_service_type: bool = False,
        service_id: str | None = None,
        **details: Unpack[Details],
    ) -> str:
        """Register a service; the client keeps its id for the calls without one.

        A registration ends after `ttl` seconds without a heartbeat: `start_heartbeat` keeps it
        alive. An owned one takes the place of those of its name whose processes died on this host.

        Args:
            name: Its name.
            host: Where others reach it: an address, or a name that they can look up.
            port: Its port, 1 to 65535.
            service_type: What it is found under.
            metadata: Facts about it, as JSON.
            ttl: 1 to 86400 seconds without a heartbeat after which the registration ends.
            singleton: Refuse it if the type is taken.
            allow_duplicate_service_type: Allow a second one of the type, on a server that
                otherwise refuses it.
            service_id: An id of your own; one that is registered already is updated in place.
            **details: `tags`, a list of what it is found under beside its type;
                `mode`, "hardware" or "simulator";
                `endpoints`, further ports by name, like `{"command": 5000}`;
                `ready=False`, it is not discovered before `ready` is called;
                `exclusive=True`, it has to be the only live one of its name;
                `owned=False`, it is to outlive this process;
                `force=True`, take a `service_id` from another process that lives.

        Returns:
            The id of the service.

        Raises:
            InvalidRequest: The registry refuses a value.
            DuplicateServiceType: The type is taken, and there may be no second one.
            DuplicateName: A live service has the name, and one of the two is exclusive.
            OwnedByOther: The `service_id` is that of another process that lives.
            Unavailable: The registry can't store anything now.
        """
        return self._run(
            verbs.register(
                self._session,
                name,
                host,
                port,
                service_type,
                metadata,
                ttl,
                singleton,
                allow_duplicate_service_type,
                service_id,
                **details,
            )
        )

    def reregister(self) -> str | None:
        """Register the last registration again, in full and under its id.

        Returns:
            Its id, or None if nothing was registered.

        Raises:
            RegistryError: As in `register`.
        """
        return self._run(verbs.reregister(self._session))

    def deregister(self, service_id: str | None = None, *, force: bool = False) -> bool:
        """End a registration, and its heartbeat first: that would bring the service back.

        Args:
            service_id: The service; by default what this client registered last.
            force: Also that of another process that lives.

        Returns:
            False if there is no such service.

        Raises:
            OwnedByOther: It is another process's, which lives.
        """
        return self._run(verbs.deregister(self._session, service_id, force=force))

    def renew(self, service_id: str | None = None) -> bool:
        """Send one heartbeat.

        Args:
            service_id: The service; by default what this client registered last.

        Returns:
            False if the registry does not know the service.
        """
        return self._run(verbs.renew(self._session, service_id))

    def start_heartbeat(self, interval: float | None = None, *, reclaim: bool = True) -> None:
        """Keep the last registration alive from a real OS thread; others that are kept stay so.

        Args:
            interval: The seconds between two heartbeats; by default a third of the ttl.
            reclaim: If somebody else changes the registration, register it again as it was. The
                log says in any case who changed what.

        Raises:
            ConfigurationError: Nothing is registered, or the interval is not valid.
        """
        self._run(verbs.start_heartbeat(self._session, interval, reclaim=reclaim))

    def stop_heartbeat(self) -> None:
        """Stop all heartbeats of this client; the registrations end after their ttl."""
        self._run(verbs.stop_heartbeat(self._session))

    def registered(
        self,
        name: str,
        host: str | None = None,
        port: int | None = None,
        service_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: float = config.DEFAULT_TTL,
        *,
        socket: zmq.Socket[Any] | None = None,
        advertise: str | None = None,
        required: bool = False,
        heartbeat: str = "thread",
        watchdog: float | None = None,
        reclaim: bool = True,
        **fields: Unpack[RegistrationFields],
    ) -> Registered:
        """Keep a service registered: `with client.registered("puna_cs", port=5000): …`.

        Registers, sends heartbeats, and deregisters at the end of the block, of the function that
        it decorates, or of the interpreter. While the registry can't be reached the program runs
        without it, and the service is registered as soon as it can be.

        Args:
            name: Its name.
            host: Where others reach it. By default that is found out, and followed when it
                changes: the address of `socket`, or the local one of the route to the registry, or
                into the network of `advertise`.
            port: Its port; not needed with `socket` or `endpoints`.
            service_type: What it is found under.
            metadata: Facts about it, as JSON.
            ttl: 1 to 86400 seconds without a heartbeat after which the registration ends.
            socket: A bound ZeroMQ socket of the service, which says the port.
            advertise: The network in which others reach it, like "10.3.0.0/24".
            required: Raise an error if the registry can't be reached at the beginning.
            heartbeat: "thread", or "process" for a driver whose C code keeps the GIL: then a
                process of its own sends the heartbeats.
            watchdog: 1 to 86400 seconds within which the main loop has to call `feed`. After half
                of them the service is in `warning`; after all of them it is `critical`, and not
                discovered.
            reclaim: If somebody else changes the registration, register it again as it was.
            **fields: `singleton`, `allow_duplicate_service_type`, `service_id`, `tags`, `mode`,
                `endpoints`, `ready`, `exclusive`, `owned` and `force`, all as in `register`.

        Returns:
            An object for `with`, in asyncio for `async with`; also a decorator of functions.

        Raises:
            ConfigurationError: An argument is not valid.
            RegistryError: When it is entered: what the registry refuses with (see `register`).
        """
        plan = make_plan(
            self.settings,
            name,
            host,
            port,
            service_type,
            metadata,
            ttl,
            socket=socket,
            advertise=advertise,
            required=required,
            heartbeat=heartbeat,
            watchdog=watchdog,
            reclaim=reclaim,
            **fields,
        )
        return Registered(plan, self._session.own, self._session.on_change)

    def update(self, *, force: bool = False, **changes: Unpack[UpdateFields]) -> bool:
        """Change what was registered last; fields that are not given stay as they are.

        Args:
            force: Also if another process has registered it since.
            **changes: `host`, `port`, `metadata`, `tags`, `endpoints` and `ready`, each as in
                `register`; each replaces the whole field.

        Returns:
            False if the registry does not know the service now: then the next registration sends
            the change.

        Raises:
            ConfigurationError: Nothing is registered, or nothing is to change.
            OwnedByOther: Another process has registered it since.
        """
        return self._run(verbs.update(self._session, force=force, **changes))

    def ready(self) -> bool:
        """Let a service that was registered with `ready=False` be discovered.

        Returns:
            False if the registry does not know it now, as `update`.
        """
        return self._run(verbs.ready(self._session))

    # -- asking

    def get_service(self, service_id: str | None = None) -> ServiceRecord | None:
        """Get the record of one service.

        Args:
            service_id: The service; by default what this client registered last.

        Returns:
            The record, or None if there is no such service.
        """
        return self._run(verbs.get_service(self._session, service_id))

    def list_services(
        self, service_type: str | None = None, **filters: Unpack[ListFilters]
    ) -> ServiceList:
        """List the records of services, passing or not.

        Args:
            service_type: Only those found under this type, tag or `metadata["type"]`.
            **filters: `tags`, a list of tags, "!tag" for services without it;
                `where`, values by field, like `{"version": ">=1.4"}`;
                `mode`, "hardware", "simulator" or "any";
                `health`, a list of the states of health to show.

        Raises:
            ConfigurationError: A filter is not valid.
        """
        return self._run(verbs.list_services(self._session, service_type, **filters))

    def discover_service(self, service_type: str, **choice: Unpack[Choice]) -> ServiceRecord | None:
        """Find one passing service of a type.

        A service is found under its type, each of its tags, and `metadata["type"]`.

        Args:
            service_type: The type.
            **choice: `tags`, `where` and `mode` as in `list_services`;
                `strategy`, "random", "round-robin", "least-loaded", "same-host", or one of the
                server's own;
                `wait`, 0 to 86400 seconds to wait for one, also while the registry can't be
                reached.

        Returns:
            Its record, or None if there is none.

        Raises:
            ConfigurationError: An option is not valid.
            RequestTimeout: The registry did not answer, also not at the end of the wait.
        """
        return self._run(verbs.discover_service(self._session, service_type, **choice))

    def get_endpoint(
        self, service_type: str, endpoint: str | None = None, **choice: Unpack[Choice]
    ) -> str | None:
        """Find the ZeroMQ endpoint of one passing service of a type.

        Args:
            service_type: The type.
            endpoint: The name of one of several endpoints: of `endpoints`, or of CGSE's
                `<name>_port` in the metadata.
            **choice: As in `discover_service`.

        Returns:
            Like "tcp://10.0.0.5:5000", or None if there is no such service.

        Raises:
            ConfigurationError: The service has no endpoint of that name.
        """
        return self._run(verbs.get_endpoint(self._session, service_type, endpoint, **choice))

    def connect_to(
        self,
        service_type: str,
        kind: int = zmq.REQ,
        endpoint: str | None = None,
        *,
        timeout: float = 5.0,
        **choice: Unpack[Choice],
    ) -> Any:
        """Connect a ZeroMQ socket to one passing service of a type.

        It returns when the service has answered the handshake, so what is sent next arrives. If the
        service that the strategy chooses does not answer, others of the type are tried; one without
        that endpoint is passed over. Nothing is queued for a service that is gone. A REQ socket may
        send again after a timeout, and drops late replies.

        Args:
            service_type: The type.
            kind: The type of the socket, like `zmq.REQ` or `zmq.SUB`.
            endpoint: As in `get_endpoint`.
            timeout: Seconds to connect, and for each send and receive: after that they raise
                `zmq.Again`. A green socket does not know that: use gevent.Timeout.
            **choice: As in `discover_service`.

        Returns:
            The socket; the caller closes it.

        Raises:
            NoService: There is no passing service of the type.
            Unreachable: None of them answers.
            ConfigurationError: An argument is not valid.
        """
        return self._run(
            verbs.connect_to(self._session, service_type, kind, endpoint, timeout=timeout, **choice)
        )

    def find_service(self, name: str) -> ServiceRecord | None:
        """Find the one service that an id, a name, or the start of either means.

        Args:
            name: The id, the name, or the start of either.

        Returns:
            Its record, or None if there is none.

        Raises:
            AmbiguousName: It may mean several services.
        """
        return self._run(verbs.find_service(self._session, name))

    def wait_for(
        self, *service_types: str, timeout: float = 60.0
    ) -> dict[str, ServiceRecord | None]:
        """Wait until there is a passing service of each type.

        It follows the registry's events, and asks only after one. While the registry can't be
        reached it waits on.

        Args:
            *service_types: The types.
            timeout: Seconds to wait in all.

        Returns:
            A record by type, or None for a type of which there is no service in the end.

        Raises:
            RequestTimeout: The registry did not answer at the end.
        """
        return self._run(verbs.wait_for(self._session, *service_types, timeout=timeout))

    def maintenance(
        self,
        on: bool,
        *,
        service: str | None = None,
        service_type: str | None = None,
        host: str | None = None,
        for_: float | None = None,
        forever: bool = False,
        reason: str | None = None,
        by: str | None = None,
        force: bool = False,
    ) -> list[Record]:
        """Begin or end a maintenance: what is in maintenance is not discovered.

        Give exactly one of `service`, `service_type` and `host`.

        Args:
            on: True begins it, False ends it.
            service: The id or the name of a service.
            service_type: A type: all its services.
            host: A host: all services on it.
            for_: Seconds after which it ends by itself; 8 hours by default.
            forever: It never ends by itself.
            reason: Shown in lists.
            by: Who you are; by default user@host.
            force: End, or change, that of somebody else too.

        Returns:
            All entries there are now, each `{"service" | "service_type" | "host", "reason", "by",
            "says", "since", "until"}`, with times in unix seconds: `by` is the address of who
            began it, `says` is what that one gave as `by`.

        Raises:
            ConfigurationError: An argument is not valid.
            UnknownService: There is none to end, or no such service.
            OwnedByOther: It is somebody else's.
        """
        return self._run(
            verbs.maintenance(
                self._session,
                on,
                service=service,
                service_type=service_type,
                host=host,
                for_=for_,
                forever=forever,
                reason=reason,
                by=by,
                force=force,
            )
        )

    def health_check(self) -> bool:
        """Ask the registry whether it is well.

        Returns:
            False also if it can't be reached: this raises no RegistryError.
        """
        return self._run(verbs.health_check(self._session))

    def server_status(self, *, services: bool = True) -> Record:
        """Ask the server about itself (docs/protocol.md, "info").

        Args:
            services: With the records of all services.
        """
        return self._run(verbs.server_status(self._session, services=services))

    def backup(self, path: str | os.PathLike[str], *, replace: bool = False) -> Record:
        """Have the registry of this machine write a copy of its store to a new file.

        Args:
            path: The file.
            replace: Replace an older copy.

        Returns:
            `{"path", "size", "services", "seq"}`: its bytes, how many services it holds, and the
            number of its last event.

        Raises:
            BackupFailed: The copy could not be made.
            Forbidden: The registry runs on another machine.
            RequestTimeout: It takes longer; the registry goes on with it.
        """
        return self._run(verbs.backup(self._session, path, replace=replace))

    def terminate_registry_server(self) -> bool:
        """Stop the server.

        Returns:
            True once it said that it will stop.

        Raises:
            Forbidden: The registry runs on another machine.
        """
        return self._run(verbs.terminate_registry_server(self._session))

    # -- events

    @overload
    def on(self, event_type: str, handler: H) -> H: ...

    @overload
    def on(self, event_type: str) -> Callable[[H], H]: ...

    def on(self, event_type: str, handler: Any = None) -> Any:
        """Call `handler` for events of a type, and listen from now on; a decorator too.

        Args:
            event_type: As in `on_event`; "*" is any event, and gives the whole of it.
            handler: As in `on_event`.

        Returns:
            The handler.

        Raises:
            RequestTimeout: The listener has to be started, and the registry can't be reached.
        """
        if handler is None:
            return lambda decorated: self.on(event_type, decorated)
        self._after_fork()
        if self._listener is None:
            self.start_event_listener()
        self._handlers.add(event_type, handler)
        return handler

    def start_event_listener(self) -> None:
        """Listen to events from now on, on a thread.

        Raises:
            RequestTimeout: The registry can't be reached.
        """
        self.stop_event_listener()
        listener = EventListener(
            self._handlers, Subscription(timing.steady), self.settings, self._session.own.context
        )
        listener.start()
        self._listener = listener

    def stop_event_listener(self) -> None:
        """Stop listening to events, if it listens."""
        self._after_fork()
        if self._listener is not None:
            self._listener.stop()
            self._listener = None

    def watch(
        self,
        type: str | None = None,
        *,
        since: int | None = None,
        epoch: str | None = None,
        mark: str | None = None,
    ) -> Generator[Record, None, None]:
        """Generate whole events: in order, once each, without gaps.

        A registry that goes away is waited for. The generator ends when the client is closed. Where
        events are missed for good, it gives one of the type "reset".

        Args:
            type: Only events of services found under this type.
            since: The `seq` of the last event that you know; by default it begins now.
            epoch: The `epoch` of that event.
            mark: The `mark` of that event.

        Raises:
            ConfigurationError: An argument is not valid.
            RequestTimeout: The registry can't be reached at the beginning.
        """
        check_watch(type, since, epoch, mark)
        return self._stream(Subscription(timing.steady, since, epoch, mark)).events(type)

    def events_since(
        self, seq: int | None = None, epoch: str | None = None, mark: str | None = None
    ) -> Record:
        """Get the journal after an event (docs/protocol.md, "events"), at most 1000 events of it.

        Args:
            seq: The `seq` of the event; without it you get no events, only the position.
            epoch: The `epoch` of the event.
            mark: The `mark` of the event.

        Returns:
            `{"events": […], "seq": …, "epoch": …, "mark": …, "reset": …}`. `reset` says that the
            journal does not reach back to `seq`, or that its event `seq` is another one.
        """
        return self._run(verbs.events_since(self._session, seq, epoch, mark))

    # -- how it is done

    def _run(self, verb: Verb[T]) -> T:
        self._after_fork()
        return drive(verb, self._do)

    def _do(self, instruction: Instruction) -> Any:
        if isinstance(instruction, Call):
            return self._connection.run(instruction)
        if isinstance(instruction, Ask):
            try:
                return self._connection.run(instruction.call, instruction.timeout)
            finally:
                # After a timeout too: the change may have happened.
                if instruction.changes:
                    self._session.on_change()
        if isinstance(instruction, RunBlocking):
            return instruction.function()
        if isinstance(instruction, Receive):
            socket, seconds = instruction
            ready = socket.poll(math.ceil(seconds * 1000))
            return socket.recv_multipart(zmq.DONTWAIT) if ready else None
        waiting = instruction.waiting
        with contextlib.closing(self._stream(waiting)) as stream:
            while waiting.seconds_left:
                stream.next(waiting.seconds_left)
        return None

    def _ask(self, call: Call[T], timeout: float) -> T:
        self._after_fork()
        return self._connection.run(call, timeout)

    def _reporting(self) -> LocalService:
        self._after_fork()
        return self._session.own.of_last()

    def _stream(self, consumer: EventConsumer) -> EventStream:
        self._after_fork()
        context = self._session.own.context
        return EventStream(consumer, self.settings, context, self._connection.closed)

    def _after_fork(self) -> None:
        """Forget, in a forked child, everything of the parent's; nothing is closed."""
        if self._pid != os.getpid():
            self._session.after_fork()
            self._begin(None)

    def _begin(self, context: zmq.Context[Any] | None) -> None:
        self._pid = os.getpid()
        self._connection = Connection(self.settings, context)
        self._listener = None
