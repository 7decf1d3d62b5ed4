"""A service that is registered for as long as a block, a function or the interpreter runs."""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import ipaddress
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rsreg import timing
from rsreg.client.registration import owner
from rsreg.client.registration.address import Finder, bound_to
from rsreg.client.registration.driver_status import check_watchdog
from rsreg.client.registration.heartbeat_process import HeartbeatProcess
from rsreg.client.registration.local_service import LocalService
from rsreg.client.registration.own_services import Heartbeat, OwnServices
from rsreg.client.registration.registration import (
    Registration,
    RegistrationFields,
    UpdateFields,
    fields_of_update,
)
from rsreg.client.registration.reports import Reports
from rsreg.config import DEFAULT_TTL, ClientSettings, advertised
from rsreg.errors import (
    ConfigurationError,
    InvalidRequest,
    OwnedByOther,
    RegistryError,
    TransportError,
    Unavailable,
)
from rsreg.protocol import calls, messages
from rsreg.protocol.calls import Call
from rsreg.system.background import say
from rsreg.transport.channel import Channel
from rsreg.transport.driver import drive

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: Seconds that the end of the interpreter waits for the registry.
_AT_EXIT = 1.0
#: What keeps a service alive: a thread of this process, or a process beside it.
_HEARTBEATS: dict[str, type[Heartbeat]] = {"thread": Heartbeat, "process": HeartbeatProcess}


@dataclass(frozen=True)
class Plan:
    """The checked arguments of `RegistryClient.registered`."""

    registration: Registration
    socket: Any
    finder: Finder | None
    required: bool
    heartbeat_class: type[Heartbeat]
    watchdog: float | None
    reclaim: bool


def make_plan(
    settings: ClientSettings,
    name: str,
    host: str | None = None,
    port: int | None = None,
    service_type: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    ttl: float = DEFAULT_TTL,
    *,
    socket: Any = None,
    advertise: str | None = None,
    required: bool = False,
    heartbeat: str = "thread",
    watchdog: float | None = None,
    reclaim: bool = True,
    **fields: Unpack[RegistrationFields],
) -> Plan:
    """Check the arguments of `RegistryClient.registered`; raises ConfigurationError."""
    if host is not None and advertise is not None:
        raise ConfigurationError(
            "host= and advertise= both say where the service is", hint="leave one of them out"
        )
    if host is None and advertise is None:
        host, advertise = advertised()
    if heartbeat not in _HEARTBEATS:
        raise ConfigurationError(
            f"unknown heartbeat {heartbeat!r}", hint='a heartbeat is a "thread" or a "process"'
        )
    registration = Registration.of(
        name,
        host,
        port,
        service_type,
        metadata,
        ttl,
        default_mode=settings.mode,
        **fields,
    )
    if "port" not in registration.info and socket is None:
        raise ConfigurationError(
            f"{name}: no port given",
            hint="give port=, endpoints=, or socket= with a bound socket",
        )
    try:
        # What the registry would refuse again and again, in the background.
        messages.read_service_info({"host": "to-be-found", "port": 1, **registration.info})
        messages.read_ttl(ttl)
    except InvalidRequest as error:
        raise ConfigurationError(str(error), hint=error.hint) from error
    check_watchdog(watchdog)
    finder = Finder(settings.req_endpoint, advertise) if host is None else None
    return Plan(registration, socket, finder, required, _HEARTBEATS[heartbeat], watchdog, reclaim)


class Registered(Reports):
    """Keeps one service registered in a `with` block, or while the function that it decorates runs.

    It is made by `RegistryClient.registered`, and may be used again after its end. The end of the
    interpreter ends it too; the end of a forked child does not. `close` of its client stops its
    heartbeat.

    Args:
        plan: The checked arguments of `registered`.
        own: The services of the client.
        on_change: Called when the registry may have been changed.
    """

    def __init__(self, plan: Plan, own: OwnServices, on_change: Callable[[], None]) -> None:
        self._plan = plan
        self._own = own
        self._settings = own.settings
        self._on_change = on_change
        self._heartbeat: Heartbeat | None = None
        self._pid = 0

    def __repr__(self) -> str:
        return f"<Registered {self._plan.registration.name} {self.service_id or 'not yet'}>"

    def __enter__(self) -> Registered:
        self.enter()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.leave()

    def __call__(self, function: F) -> F:
        """Make a function that registers the service while `function` runs.

        Raises:
            ConfigurationError: It is a coroutine function.
        """
        if inspect.iscoroutinefunction(function):
            raise ConfigurationError(
                f"{function.__name__} is a coroutine function",
                hint="use AsyncRegistryClient.registered",
            )

        @functools.wraps(function)
        def registered(*args: Any, **named: Any) -> Any:
            with self:
                return function(*args, **named)

        return cast(F, registered)

    @property
    def service_id(self) -> str | None:
        """The id of the service; None until it is registered."""
        return None if self._heartbeat is None else self._heartbeat.service.service_id

    # -- what the driver says

    def ready(self) -> bool:
        """Let a service that was registered with `ready=False` be discovered.

        Returns:
            False if the registry does not know it now; then it is told later.
        """
        return self.update(ready=True)

    def update(self, **changes: Unpack[UpdateFields]) -> bool:
        """Change the registration; fields that are not given stay as they are.

        Args:
            **changes: `host`, `port`, `metadata`, `tags`, `endpoints` and `ready`, each as in
                `RegistryClient.register`; each replaces the whole field.

        Returns:
            False if the registry does not know the service now, or can't be reached: then the
            heartbeat sends the change later.

        Raises:
            ConfigurationError: Nothing is to change, or a value is not valid.
            OwnedByOther: Another process has the entry, and `reclaim` is off.
            RuntimeError: It is used outside of its block.
        """
        service, fields = self._reporting(), fields_of_update(**changes)
        # Before anything is sent: it has to fit into a registration, too.
        service.registration.changed(fields)
        fingerprint = None
        if service.service_id is not None:
            call = calls.update(service.service_id, fields, service.registration.asker)
            try:
                with service.changing(fields):
                    fingerprint = self._ask(call)
                    service.change(fields, fingerprint)
                return fingerprint is not None
            except (TransportError, Unavailable, OwnedByOther) as error:
                # The heartbeat soon takes the entry back, and sends all of it.
                if isinstance(error, OwnedByOther) and not self._plan.reclaim:
                    raise
                text = "%s: the update will be sent later: %s"
                say(log, logging.INFO, text, self._name, error)
        service.change(fields)
        return False

    # -- beginning and end

    def enter(self) -> None:
        """Register the service, and keep it registered.

        While the registry can't be reached, that is done in the background. Raises RuntimeError if
        it is entered already.
        """
        if self._heartbeat is not None and self._pid == os.getpid():
            raise RuntimeError(f"{self._name} is registered already by this very object")
        self._own.after_fork()
        heartbeat = self._plan.heartbeat_class(
            self._new_service(), self._own.endpoint, reclaim=self._plan.reclaim
        )
        refused = True
        try:
            why = self._register(heartbeat)
            refused = False
            self._own.add(heartbeat, why)
            self._heartbeat, self._pid = heartbeat, os.getpid()
            atexit.register(self._at_exit)
        except BaseException as error:
            # A signal, most likely: what may be registered by now is taken back.
            if not (refused and isinstance(error, RegistryError)):
                self._heartbeat = None
                self._end(heartbeat, self._settings.timeout)
            raise

    def _register(self, heartbeat: Heartbeat) -> RegistryError | None:
        """Register within the timeout; returns the error if it has to be done later."""
        until = timing.steady() + self._settings.timeout
        channel = Channel(self._settings.req_endpoint, self._own.context)
        try:
            drive(
                heartbeat.register(self._settings.timeout, self._own.context),
                lambda call: channel.run(call, max(0.0, until - timing.steady())),
            )
        except (TransportError, Unavailable) as error:
            if self._plan.required:
                raise
            return error
        finally:
            channel.close()
            self._on_change()
        return None

    def leave(self) -> None:
        """Stop the heartbeat, and deregister; without a registry the ttl ends the registration."""
        self._leave(self._settings.timeout)

    def _at_exit(self) -> None:
        self._leave(min(_AT_EXIT, self._settings.timeout))

    def _leave(self, timeout: float) -> None:
        heartbeat = self._heartbeat
        try:
            if heartbeat is not None and self._pid == os.getpid():
                self._end(heartbeat, timeout)
        finally:
            self._heartbeat = None
            atexit.unregister(self._at_exit)

    def _end(self, heartbeat: Heartbeat, timeout: float) -> None:
        """Stop its heartbeat and deregister it; a signal meanwhile does not leave the entry."""
        try:
            self._deregister(heartbeat, timeout)
        except RegistryError as error:
            say(
                log,
                logging.WARNING,
                "%s: could not be deregistered, ends after its ttl: %s",
                self._name,
                error,
            )
        except BaseException:
            with contextlib.suppress(RegistryError):
                self._deregister(heartbeat, timeout)
            raise

    def _deregister(self, heartbeat: Heartbeat, timeout: float) -> None:
        self._own.remove(heartbeat)
        registration, service_id = heartbeat.service.registration, heartbeat.service.service_id
        if heartbeat.may_be_registered:
            service_id = registration.own_entry(self._ask(calls.namesakes(self._name), timeout))
        if service_id is not None:
            self._ask(calls.deregister(service_id, registration.asker), timeout)

    def _new_service(self) -> LocalService:
        """Make the service to register now; raises ConfigurationError for an unfit socket."""
        registration, finder = self._plan.registration, self._plan.finder
        changes: dict[str, Any] = {}
        if "owner" in registration.info:
            # It may be another process than the one that made this object.
            changes["owner"] = owner.this_process()
        if self._plan.socket is not None:
            host, port = bound_to(self._plan.socket)
            if registration.info.get("port", port) != port:
                raise ConfigurationError(
                    f"port= says {registration.info['port']}, but socket= is bound to {port}",
                    hint="leave port= out: the socket says it",
                )
            changes["port"] = port
            if host is not None and finder is not None:
                network = finder.network
                if network is not None and ipaddress.ip_address(host) not in network:
                    raise ConfigurationError(
                        f"advertise= says {network}, but socket= is bound to {host}",
                        hint='bind it to any address: socket.bind("tcp://*:0")',
                    )
                changes["host"], finder = host, None
        return LocalService(registration.changed(changes), finder, self._plan.watchdog)

    def _reporting(self) -> LocalService:
        if self._heartbeat is None or self._pid != os.getpid():
            raise RuntimeError(f"{self._name} is not registered: use it inside its with block")
        return self._heartbeat.service

    def _ask(self, call: Call[T], timeout: float | None = None) -> T:
        channel = Channel(self._settings.req_endpoint, self._own.context)
        try:
            return channel.run(call, self._settings.timeout if timeout is None else timeout)
        finally:
            channel.close()
            self._on_change()

    @property
    def _name(self) -> str:
        return self._plan.registration.name
