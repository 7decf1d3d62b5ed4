"""The synchronous client: for drivers, scripts and the Python shell.

Imports neither gevent nor a database. `AsyncRegistryClient` is offered here too, as in the
specification.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import zmq

from rsreg import config, timing
from rsreg.client.cache.client_cache import discovered
from rsreg.client.cache.service_cache import ServiceCache
from rsreg.client.connection import Carrier
from rsreg.client.registration import owner, registration
from rsreg.client.registration.local_service import Busy, Presence
from rsreg.client.registration.own_services import Heartbeats
from rsreg.client.registration.registered import Registered, plan
from rsreg.client.registration.registration import (
    Details,
    Registration,
    UpdateFields,
    fields_of_update,
)
from rsreg.client.waiting import Waiting
from rsreg.errors import RegistryError
from rsreg.protocol import calls, records
from rsreg.protocol.calls import Call, Record
from rsreg.protocol.query import (
    Choice,
    Listed,
    check_type,
    check_watch,
    checked_maintenance,
    checked_wait,
    chosen,
    listed,
    narrowed,
    pooled,
)
from rsreg.protocol.records import ServiceList, ServiceRecord
from rsreg.transport import connect, sockets
from rsreg.transport.event_stream import EventStream
from rsreg.transport.exchange import carried
from rsreg.transport.listener import EventListener, Handler, Handlers
from rsreg.transport.subscription import Follower, Listening

if TYPE_CHECKING:
    from typing_extensions import Unpack


H = TypeVar("H", bound=Handler)
T = TypeVar("T")


class RegistryClient(Carrier):
    """Talks to a registry; every call ends within `timeout` seconds, with an answer or an error.

    "Not found" is an answer (None, False, []); a registry that can't be reached raises
    RequestTimeout, one that refuses raises a ServerError (docs/api.md has the whole tree).

    Sockets are opened on first use. Threads may share a client; a second greenlet that enters it
    while a call is under way gets a RuntimeError. In a forked child it has fresh sockets, and
    neither heartbeat nor registration. A gevent program passes `context=zmq.green.Context()`.

    `registry_req_endpoint` is `tcp://host:port`, `host:port` or `host`; the default is
    `RSREG_ENDPOINT`, else this machine. The endpoints for events and heartbeats are asked of the
    server where they are needed and not given. `client_id` names this client in its `repr`.

    `mode` is "hardware", "simulator" or "any", the default is `RSREG_MODE`: what is asked for, and
    what is registered, where a call says none. With none at all ("any"), a simulator is found only
    where no hardware of its type is registered.

    With `cache` it follows the registry from the first question on, and answers `get_service`,
    `list_services`, `discover_service`, and what is made of them, from a ServiceCache: only passing
    services, and only as long as that is sure. It asks for all else, and for five seconds or so
    after it changed something itself.
    """

    _heartbeats: Heartbeats
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
        self._handlers = Handlers()
        settings = config.ClientSettings(
            registry_req_endpoint,
            registry_sub_endpoint,
            registry_hb_endpoint,
            timeout,
            client_id,
            mode,
        )
        super().__init__(settings, context, cache=cache)

    def __repr__(self) -> str:
        return f"<RegistryClient {self.settings.client_id} on {self.settings.req_endpoint}>"

    def __enter__(self) -> RegistryClient:
        self.connect()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def disconnect(self) -> None:
        """Stop the heartbeat and the events, and close the sockets.

        A registration stays until its ttl. Takes at most a second for each of them, also with the
        registry gone.
        """
        self.stop_heartbeat()
        self.stop_event_listener()
        self._hang_up()

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
        """Register a service; returns its id, which the client keeps for the calls without one.

        `ttl` is 1 to 86400 seconds of silence, after which the registration ends: `start_heartbeat`
        keeps it alive. A `service_id` that is registered already is updated in place. `singleton`
        refuses if the type is taken, `allow_duplicate_service_type` permits it on a server that
        otherwise refuses. Raises InvalidRequest, DuplicateServiceType, DuplicateName, OwnedByOther,
        Unavailable.

        In `details`: `tags`; `mode`, "hardware" or "simulator"; `endpoints`, ports by name;
        `ready=False` for a service that says by `ready` when it may be discovered; `exclusive` for
        the only live one of its name; `owned=False` for one that is to outlive this process. An
        owned one takes the place of those of its name whose processes died on this host. `force`
        takes a `service_id` from another process that lives, which is refused else.
        """
        wanted = Registration.of(
            name,
            host,
            port,
            service_type,
            metadata,
            ttl,
            singleton=singleton,
            allow_duplicate_service_type=allow_duplicate_service_type,
            service_id=service_id,
            default_mode=self.settings.mode,
            **details,
        )
        return self._register(wanted, judges=service_id is None)

    def reregister(self) -> str | None:
        """Register the last registration again, in full and under its id; None if there is none."""
        last = self._heartbeats.last if self._current_process() else None
        return self._register(last.registration) if last else None

    def deregister(self, service_id: str | None = None, *, force: bool = False) -> bool:
        """End a registration, this client's own by default; False if there is none.

        Its heartbeat is stopped first, else it would bring the service back. Raises OwnedByOther
        for that of another process that lives, unless it is to be done by `force`.
        """
        target = self._own_id(service_id)
        if target is None:
            return False
        self._heartbeats.left(target)
        return self._change(calls.deregister(target, owner.this_process(), force=force))

    def renew(self, service_id: str | None = None) -> bool:
        """Send one heartbeat; False if the registry knows no such service."""
        target = self._own_id(service_id)
        if target is None:
            return False
        return (self._run(calls.renew(target, self._heartbeats.report(target)))) is not None

    def start_heartbeat(self, interval: float | None = None, *, reclaim: bool = True) -> None:
        """Keep the last registration alive from a real OS thread, every `interval` seconds.

        The default is a third of the ttl. Others that are kept alive stay so. If somebody else
        changes the registration, the log says who and what, and with `reclaim` it is registered
        again as it was. Raises ConfigurationError without a registration.
        """
        self._current_process()
        self._heartbeats.start(interval, reclaim=reclaim)

    def stop_heartbeat(self) -> None:
        """Stop all of them, if any run; the registrations end after their ttl."""
        if self._current_process():
            self._heartbeats.stop()

    def registered(
        self,
        name: str,
        host: str | None = None,
        port: int | None = None,
        service_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: float = config.DEFAULT_TTL,
        *,
        singleton: bool = False,
        allow_duplicate_service_type: bool = False,
        service_id: str | None = None,
        socket: zmq.Socket[Any] | None = None,
        advertise: str | None = None,
        required: bool = False,
        heartbeat: str = "thread",
        watchdog: float | None = None,
        reclaim: bool = True,
        **details: Unpack[Details],
    ) -> Registered:
        """Keep a service registered: `with client.registered("puna_cs", port=5000): …`.

        Registers, beats, and deregisters at the end of the block, of the function that it
        decorates, or of the interpreter, whatever ends it. With the registry away it goes on
        without, and registers as soon as that is there, unless it is `required`.

        `socket` is a bound ZeroMQ socket, whose port it is. Without a `host` that is the address of
        the socket, or the local one of the route to the registry, or into a network that
        `advertise` says ("10.3.0.0/24"); a host that was found follows its changes.

        `heartbeat="process"` beats from a process of its own, for C code that keeps the GIL.
        `watchdog` is the seconds (1 to 86400) within which the main loop has to call `feed`: beyond
        half of them the service is in `warning`, beyond all of them `critical`, and not discovered.
        `reclaim` is as in `start_heartbeat`.

        All else is as in `register`. Raises ConfigurationError, and what the registry refuses with.
        """
        wanted = plan(
            self.settings,
            name,
            host,
            port,
            service_type,
            metadata,
            ttl,
            singleton=singleton,
            allow_duplicate_service_type=allow_duplicate_service_type,
            service_id=service_id,
            socket=socket,
            advertise=advertise,
            required=required,
            heartbeat=heartbeat,
            watchdog=watchdog,
            reclaim=reclaim,
            **details,
        )
        return Registered(wanted, self.settings, self._here, self._changed)

    def update(self, *, force: bool = False, **changes: Unpack[UpdateFields]) -> bool:
        """Change `host`, `port`, `metadata`, `tags`, `endpoints` or `ready` of a registration.

        It is for what was registered last; what is not said stays. False if the registry does not
        know the service now: then it is told with the next registration. Raises OwnedByOther if
        another process has registered it since, unless it is to be done by `force`.
        """
        presence, changed = self._own(), fields_of_update(**changes)
        # Before anything is told: it has to fit into a registration, too.
        presence.registration.changed(changed)
        service_id = presence.service_id
        told = None
        with presence.changing(changed):
            if service_id is not None:
                call = calls.update(service_id, changed, presence.registration.asker, force=force)
                told = self._change(call)
            presence.change(changed, told)
        return told is not None

    def ready(self) -> bool:
        """What was registered with `ready=False` may be discovered now; as `update`."""
        return self.update(ready=True)

    def status(
        self, text: str | None = None, *, progress: float | None = None, load: float | None = None
    ) -> None:
        """Say what the driver is doing; lists show it. It travels with the heartbeats.

        `progress` is 0 to 1, of that text; `load`, of at least 0, stays until another is said.
        Without any argument all is taken back. It is for what was registered last.
        """
        self._own().status(text, progress=progress, load=load)

    def busy(self, text: str, max: float) -> Busy:
        """`with client.busy("homing", max=300): …`: this takes up to so many seconds.

        Its text is shown meanwhile, and for so long the watchdog need not be fed.
        """
        return self._own().busy(text, max)

    def feed(self) -> None:
        """The main loop is alive: feed the `watchdog` of `registered`."""
        self._own().feed()

    # -- asking

    def get_service(self, service_id: str | None = None) -> ServiceRecord | None:
        """The record of one service, this client's own by default, or None."""
        target = self._own_id(service_id)
        if target is None:
            return None
        return self._known(ServiceCache.get_service, target) or self._run(calls.get(target))

    def list_services(
        self, service_type: str | None = None, **filters: Unpack[Listed]
    ) -> ServiceList:
        """The records of all services, or of those found under a type, passing or not.

        `filters` are those of rsreg.protocol.query.Listed: tags, where, mode, health.
        """
        asked = listed(filters, self.settings.mode)
        known = self._known(ServiceCache.list_services, service_type, asked)
        return self._run(calls.list_services(service_type, asked)) if known is None else known

    def discover_service(self, service_type: str, **choice: Unpack[Choice]) -> ServiceRecord | None:
        """The record of one passing service of a type, or None.

        A service is found under its type, each of its tags, and `metadata["type"]`. `choice` is
        that of rsreg.protocol.query.Choice: tags, where, mode, strategy, wait. A registry that
        can't be reached is waited for too; if it did not answer at the end, RequestTimeout.
        """
        asked, seconds = chosen(service_type, choice, self.settings.mode)
        known = self._known(discovered, service_type, asked)
        if known is not None:
            return known
        call = calls.discover(service_type, owner.asking(asked))
        if not seconds:
            return self._run(call)
        return (self._wait({service_type: call}, seconds))[service_type]

    def get_endpoint(
        self, service_type: str, endpoint: str | None = None, **choice: Unpack[Choice]
    ) -> str | None:
        """The ZeroMQ endpoint of one passing service of a type, or None.

        `endpoint` is the name of one of several (`endpoints`, or CGSE's `<name>_port` in the
        metadata); raises ConfigurationError if the service has none of that name.
        """
        service = self.discover_service(service_type, **choice)
        return None if service is None else records.endpoint_of(service, endpoint)

    def connect_to(
        self,
        service_type: str,
        kind: int = zmq.REQ,
        endpoint: str | None = None,
        *,
        timeout: float = 5.0,
        **choice: Unpack[Choice],
    ) -> Any:
        """A socket of this kind, connected to one passing service of a type.

        It returns when the service has answered the handshake, so what is sent next arrives. Where
        the one that the strategy chooses does not, others of the type are tried. To connect, to
        send and to receive take `timeout` seconds each at most, then zmq.Again is raised (a green
        socket does not know that: use gevent.Timeout). Nothing is queued for a service that is
        gone; a REQ socket may send again after a timeout, and drops late replies. `endpoint` and
        `choice` are as in `get_endpoint`; a service without that endpoint is passed over. The
        socket is the caller's, to close too. Raises NoService, Unreachable.
        """
        connect.check(kind, timeout)
        first = connect.found(self.discover_service(service_type, **choice), service_type)
        asked = pooled(choice, self.settings.mode)

        def others(seconds: float) -> list[ServiceRecord]:
            with contextlib.suppress(RegistryError):
                known = self._run(calls.list_services(service_type, asked), seconds)
                return connect.others(first, known, asked.get("mode"))
            return []

        context = self._given_context or sockets.own_context()
        return connect.connect(connect.racing(context, kind, first, endpoint, timeout), others)

    def find_service(self, name: str) -> ServiceRecord | None:
        """The record that an id, a name, or the start of either means, or None.

        Raises AmbiguousName where several fit.
        """
        asked = narrowed({}, self.settings.mode)
        known = self._known(ServiceCache.list_services, None, asked)
        found = self._run(calls.find(name, asked)) if known is None else known
        return records.pick_by_name(found, name)

    def wait_for(
        self, *service_types: str, timeout: float = 60.0
    ) -> dict[str, ServiceRecord | None]:
        """Wait until there is a passing service of each type, `timeout` seconds in all.

        Maps each type to one, or to None if the time ran out. It follows the registry's events,
        and asks only after one. A registry that can't be reached is waited for too; if it did not
        answer at the end, RequestTimeout.
        """
        checked_wait(timeout, "timeout")
        for kind in service_types:
            check_type(kind)
        asked = narrowed({}, self.settings.mode)
        return self._wait({kind: calls.discover(kind, asked) for kind in service_types}, timeout)

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
        """Take a service, a type or a host out of discovery, or back in; all entries there are now.

        Give just one of `service` (id or name), `service_type` and `host`. It ends after `for_`
        seconds, 8 hours by default, or never by itself with `forever`. An entry is
        `{"service" | "service_type" | "host", "reason", "by", "says", "since", "until"}`, in unix
        seconds: `by` is the address of who began it, `says` what that one said as `by`, user@host
        by default. Raises UnknownService where there is none to end, and OwnedByOther for that of
        somebody else, unless it is to be done by `force`.
        """
        asked = checked_maintenance(
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
        return self._change(calls.maintenance(owner.signed(asked)))

    def health_check(self) -> bool:
        """Whether the registry answers and is well. Never raises for a registry that isn't."""
        with contextlib.suppress(RegistryError, zmq.ZMQError, OSError, MemoryError):
            return self._run(calls.health())
        return False

    def server_status(self, *, services: bool = True) -> Record:
        """What the server says about itself (docs/protocol.md, "info"); with all `services`."""
        return self._run(calls.info(services=services))

    def backup(self, path: str | os.PathLike[str], *, replace: bool = False) -> Record:
        """Have the registry of this machine write a copy of its store to a new file.

        Returns its `path`, `size` in bytes, and how many `services` and which last event (`seq`)
        it holds. With `replace` it may take the place of an older copy. Raises BackupFailed, and
        Forbidden from another machine. After a RequestTimeout the registry goes on with it.
        """
        return self._run(calls.backup(os.path.abspath(path), replace=replace))

    def terminate_registry_server(self) -> bool:
        """Stop the server; True once it said it will. Raises Forbidden from another machine."""
        return self._run(calls.terminate())

    # -- events

    def on_event(self, event_type: str, handler: Handler) -> None:
        """Call `handler` with the `data` of each event of a type.

        They are register, update, replace, deregister, expire, critical, recovered, maintenance;
        `data` is `{"service_id": …, "service_info": {…}}`. "reset", with `{}`, says that events
        were missed for good. Handlers run one after the other on the listener's thread and may call
        this client. Needs `start_event_listener`.
        """
        self._handlers.add(event_type, handler)

    def on_any_event(self, handler: Handler) -> None:
        """Call `handler` with each whole event: `type`, `timestamp`, `data`, `seq`, `epoch`."""
        self._handlers.add_any(handler)

    @overload
    def on(self, event_type: str, handler: H) -> H: ...

    @overload
    def on(self, event_type: str) -> Callable[[H], H]: ...

    def on(self, event_type: str, handler: Any = None) -> Any:
        """As `on_event`, and listen from now on; returns the handler, so it is a decorator too.

        "*" is any event, and gives the whole of it. Raises RequestTimeout if the listener has to be
        started and the registry can't be reached.
        """
        if handler is None:
            return lambda decorated: self.on(event_type, decorated)
        if not self._current_process() or self._listener is None:
            self.start_event_listener()
        self._handlers.add(event_type, handler)
        return handler

    def start_event_listener(self) -> None:
        """Listen to events from now on; raises RequestTimeout if the registry can't be reached."""
        self.stop_event_listener()
        listener = EventListener(
            self._handlers, Follower(timing.steady), self.settings, self._given_context
        )
        listener.start()
        self._listener = listener

    def stop_event_listener(self) -> None:
        """Stop listening, if it runs."""
        if self._current_process() and self._listener is not None:
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
        """A generator of whole events from now on, or after `since`: in order, without gaps.

        With `type` only those of services found under it. `since`, `epoch` and `mark` are the
        `seq`, `epoch` and `mark` of the last event that is known. Where events are missed for good
        comes one of the type "reset", without data. It ends when the client is closed; a registry
        that goes away is waited for. Raises RequestTimeout if it can't be reached at first.
        """
        check_watch(type, since, epoch, mark)
        return self._stream(Follower(timing.steady, since, epoch, mark)).events(type)

    def events_since(
        self, seq: int | None = None, epoch: str | None = None, mark: str | None = None
    ) -> Record:
        """The journal after `seq` (docs/protocol.md, "events"), at most 1000 events of it.

        `{"events": […], "seq": …, "epoch": …, "mark": …, "reset": …}`: `reset` says that it does
        not reach back to `seq`, or that its event `seq` is not the one with `epoch` and `mark`.
        Without `seq` it just says where it stands.
        """
        return self._run(calls.events(seq, epoch, mark))

    # -- what they share

    def _here(self) -> tuple[Heartbeats, zmq.Context[Any] | None]:
        self._current_process()
        return self._heartbeats, self._given_context

    def _own(self) -> Presence:
        return self._here()[0].of_last()

    def _wait(
        self, wanted: Mapping[str, Call[ServiceRecord | None]], seconds: float
    ) -> dict[str, ServiceRecord | None]:
        """What the calls find within so many seconds; most often at once, before a stream opens."""
        waiting = Waiting(wanted, seconds, timing.steady)
        try:
            for _ in wanted:
                waiting.answered(self._run(waiting.question(), waiting.patience))
        except RegistryError as error:
            waiting.unanswered(error)
        with contextlib.closing(self._stream(waiting)) as stream:
            while waiting.left:
                stream.next(waiting.left)
        return waiting.result()

    def _register(self, wanted: Registration, *, judges: bool = False) -> str:
        until = timing.steady() + self.settings.timeout
        report = self._heartbeats.report(wanted.service_id)
        with self._heartbeats.registering(wanted):
            entry = carried(
                registration.registering(wanted, report, judges=judges),
                lambda call: self._change(call, max(0.0, until - timing.steady())),
            )
            self._heartbeats.registered(wanted, entry)
        return entry.service_id

    def _stream(self, listening: Listening) -> EventStream:
        self._current_process()
        return EventStream(listening, self.settings, self._given_context, self._over)

    def _own_id(self, service_id: str | None) -> str | None:
        last = self._heartbeats.last if self._current_process() else None
        return service_id if service_id is not None or last is None else last.service_id

    def _start_afresh(self) -> None:
        super()._start_afresh()
        self._heartbeats = Heartbeats(self.settings)
        self._listener = None
