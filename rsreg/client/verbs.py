"""What a client can be asked to do, written once for the blocking client and for asyncio.

A verb is a generator: it yields what has to be done, and is sent the result. `RegistryClient` and
`AsyncRegistryClient` drive it (see `rsreg.transport.driver`). What each verb is for stands in the
docstrings of RegistryClient.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import zmq

from rsreg import config, timing
from rsreg.client.registration import owner
from rsreg.client.registration.registration import (
    Details,
    Registration,
    UpdateFields,
    fields_of_update,
    registering,
)
from rsreg.client.session import Session
from rsreg.client.waiting import WaitForServices
from rsreg.errors import RegistryError
from rsreg.protocol import calls, query, records
from rsreg.protocol.calls import Call, Record
from rsreg.protocol.query import Choice, ListFilters, MaintenanceFields
from rsreg.protocol.records import ServiceList, ServiceRecord
from rsreg.transport import connect, sockets
from rsreg.transport.driver import Ask, Receive

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class RunBlocking(NamedTuple):
    """Call a function that may block; asyncio does it on a thread."""

    function: Callable[[], Any]


class Follow(NamedTuple):
    """Wait with an event stream until no time is left."""

    waiting: WaitForServices


#: What a verb yields; a call alone is to be carried within the client's timeout.
Instruction = Call[Any] | Ask | RunBlocking | Follow | Receive
Verb = Generator[Instruction, Any, T]


# -- registering


def register(
    session: Session,
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
) -> Verb[str]:
    """Register a service; its id."""
    registration = Registration.of(
        name,
        host,
        port,
        service_type,
        metadata,
        ttl,
        singleton=singleton,
        allow_duplicate_service_type=allow_duplicate_service_type,
        service_id=service_id,
        default_mode=session.settings.mode,
        **details,
    )
    return (yield from _register(session, registration, judges=service_id is None))


def reregister(session: Session) -> Verb[str | None]:
    """Register the last registration again; its id."""
    last = session.own.last
    return None if last is None else (yield from _register(session, last.registration))


def _register(session: Session, registration: Registration, *, judges: bool = False) -> Verb[str]:
    report = session.own.report(registration.service_id)
    steps = registering(registration, report, judges=judges)
    with session.own.registering(registration):
        entry = yield from _changing(steps, session.settings.timeout)
        session.own.on_registered(registration, entry)
    return entry.service_id


def _changing(steps: calls.CallSequence[T], seconds: float) -> Verb[T]:
    """Have calls carried that may change the registry, within so many seconds in all."""
    until = timing.steady() + seconds
    answer = None
    try:
        while True:
            answer = yield Ask(steps.send(answer), timing.left(until), changes=True)
    except StopIteration as done:
        result: T = done.value
        return result


def deregister(
    session: Session, service_id: str | None = None, *, force: bool = False
) -> Verb[bool]:
    """End a registration, after its heartbeat; False if there is none."""
    target = session.own_id(service_id)
    if target is None:
        return False
    yield RunBlocking(lambda: session.own.forget(target))
    call = calls.deregister(target, owner.this_process(), force=force)
    return bool((yield Ask(call, changes=True)))


def renew(session: Session, service_id: str | None = None) -> Verb[bool]:
    """Send one heartbeat; False if there is no such service."""
    target = session.own_id(service_id)
    if target is None:
        return False
    return (yield calls.renew(target, session.own.report(target))) is not None


def start_heartbeat(
    session: Session, interval: float | None = None, *, reclaim: bool = True
) -> Verb[None]:
    """Keep the last registration alive."""
    yield RunBlocking(lambda: session.own.start(interval, reclaim=reclaim))


def stop_heartbeat(session: Session) -> Verb[None]:
    """Stop all heartbeats of the client."""
    yield RunBlocking(session.own.stop)


def update(session: Session, *, force: bool = False, **changes: Unpack[UpdateFields]) -> Verb[bool]:
    """Change fields of the last registration; False if the registry does not know it now."""
    service, fields = session.own.of_last(), fields_of_update(**changes)
    # Before anything is sent: it has to fit into a registration, too.
    service.registration.changed(fields)
    service_id = service.service_id
    fingerprint = None
    with service.changing(fields):
        if service_id is not None:
            call = calls.update(service_id, fields, service.registration.asker, force=force)
            fingerprint = yield Ask(call, changes=True)
        service.change(fields, fingerprint)
    return fingerprint is not None


def ready(session: Session) -> Verb[bool]:
    """Let the last registration be discovered."""
    return (yield from update(session, ready=True))


# -- asking


def get_service(session: Session, service_id: str | None = None) -> Verb[ServiceRecord | None]:
    """Get one service by id, or None."""
    target = session.own_id(service_id)
    if target is None:
        return None
    cached = None if session.cache is None else session.cache.get(target)
    return cached or (yield calls.get(target))


def list_services(
    session: Session, service_type: str | None = None, **filters: Unpack[ListFilters]
) -> Verb[ServiceList]:
    """List services that meet the filters."""
    params = query.list_params(filters, session.settings.mode)
    cached = None if session.cache is None else session.cache.list(service_type, params)
    return (yield calls.list_services(service_type, params)) if cached is None else cached


def discover_service(
    session: Session, service_type: str, **choice: Unpack[Choice]
) -> Verb[ServiceRecord | None]:
    """Discover one passing service of a type, or None."""
    params, wait = query.discover_params(service_type, choice, session.settings.mode)
    if session.cache is not None:
        cached = session.cache.discover(service_type, params)
        if cached is not None:
            return cached
    call = calls.discover(service_type, owner.asking(params))
    if not wait:
        found: ServiceRecord | None = yield call
        return found
    return (yield from _wait({service_type: call}, wait))[service_type]


def get_endpoint(
    session: Session, service_type: str, endpoint: str | None = None, **choice: Unpack[Choice]
) -> Verb[str | None]:
    """Discover the endpoint of one passing service of a type, or None."""
    service = yield from discover_service(session, service_type, **choice)
    return None if service is None else records.endpoint_of(service, endpoint)


def connect_to(
    session: Session,
    service_type: str,
    kind: int = zmq.REQ,
    endpoint: str | None = None,
    *,
    timeout: float = 5.0,
    **choice: Unpack[Choice],
) -> Verb[Any]:
    """Connect a socket to one passing service of a type."""
    connect.check(kind, timeout)
    discovered = yield from discover_service(session, service_type, **choice)
    first = connect.require(discovered, service_type)
    params = query.candidate_params(choice, session.settings.mode)

    def others(seconds: float) -> connect.Steps[list[ServiceRecord]]:
        try:
            services = yield Ask(calls.list_services(service_type, params), seconds)
        except RegistryError:
            return []
        return connect.others(first, services, params.get("mode"))

    context = session.context or sockets.own_context()
    return (yield from connect.racing(context, kind, first, endpoint, timeout, others))


def find_service(session: Session, name: str) -> Verb[ServiceRecord | None]:
    """Find the one service that an id, a name, or the start of either means."""
    params = query.filter_params({}, session.settings.mode)
    cached = None if session.cache is None else session.cache.list(None, params)
    services = (yield calls.find(name, params)) if cached is None else cached
    return records.pick_by_name(services, name)


def wait_for(
    session: Session, *service_types: str, timeout: float = 60.0
) -> Verb[dict[str, ServiceRecord | None]]:
    """Wait until there is a passing service of each type."""
    query.wait_seconds(timeout, "timeout")
    for service_type in service_types:
        query.check_type(service_type)
    params = query.filter_params({}, session.settings.mode)
    requests = {each: calls.discover(each, params) for each in service_types}
    return (yield from _wait(requests, timeout))


def _wait(
    requests: Mapping[str, Call[ServiceRecord | None]], seconds: float
) -> Verb[dict[str, ServiceRecord | None]]:
    """Wait until each call finds a service; most often all do at once, without a stream."""
    waiting = WaitForServices(requests, seconds, timing.steady)
    try:
        for _ in requests:
            waiting.on_reply((yield Ask(waiting.next_request(), waiting.timeout)))
    except RegistryError as error:
        waiting.on_failure(error)
    if waiting.seconds_left:
        yield Follow(waiting)
    return waiting.result()


def maintenance(
    session: Session, on: bool, **fields: Unpack[MaintenanceFields]
) -> Verb[list[Record]]:
    """Begin or end a maintenance; all entries there are then."""
    params = query.maintenance_params(on, fields)
    entries: list[Record] = yield Ask(calls.maintenance(owner.signed(params)), changes=True)
    return entries


def health_check(session: Session) -> Verb[bool]:
    """Ask the registry whether it is well; False if it can't be asked."""
    try:
        return bool((yield calls.health()))
    except (RegistryError, zmq.ZMQError, OSError, MemoryError):
        return False


def server_status(session: Session, *, services: bool = True) -> Verb[Record]:
    """Ask the server about itself."""
    status: Record = yield calls.info(services=services)
    return status


def backup(
    session: Session, path: str | os.PathLike[str], *, replace: bool = False
) -> Verb[Record]:
    """Have the registry copy its store."""
    copy: Record = yield calls.backup(os.path.abspath(path), replace=replace)
    return copy


def terminate_registry_server(session: Session) -> Verb[bool]:
    """Stop the server."""
    return bool((yield calls.terminate()))


def events_since(
    session: Session, seq: int | None = None, epoch: str | None = None, mark: str | None = None
) -> Verb[Record]:
    """Get the journal after an event."""
    journal: Record = yield calls.events(seq, epoch, mark)
    return journal
