"""Request -> reply: what each action takes and answers. Never raises.

docs/protocol.md describes each action; the handlers stand in its order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import msgspec

from rsreg import display
from rsreg.config import DEFAULT_MAINTENANCE, DEFAULT_TTL
from rsreg.errors import (
    BackupFailed,
    Forbidden,
    InvalidRequest,
    ServerError,
    StoreError,
    StoreLost,
    UnknownAction,
)
from rsreg.protocol import messages, records, requests, wire
from rsreg.protocol.limits import MAX_EVENTS, MAX_LIST
from rsreg.protocol.messages import Asker, CheckedMaintenance
from rsreg.server.backends.base import EVENTS_SIZE
from rsreg.server.backends.stored import Event, Maintenance
from rsreg.server.deferred import Body, Deferred, failed
from rsreg.server.rules.journal import unavailable
from rsreg.server.rules.ownership import Requester
from rsreg.server.rules.registry import LEASES_WITHIN, Registry, Sender
from rsreg.server.rules.selection import NOBODY, read_filter
from rsreg.timing import Clock

log = logging.getLogger(__name__)


class Peer(Sender, Protocol):
    """Who sent a request. Few actions need to know, so each is found out only when it is asked."""

    def is_this_machine(self) -> bool:
        """Return whether that surely is the machine that the registry runs on."""

    def check_replies(self) -> None:
        """Raise SlowDown if it can get no long reply now."""


#: Answers the requests of one action; each names the fields that it reads by the type of `request`.
Handler = Callable[[Any, Peer], Body | Deferred]

#: The actions that need the store.
WRITES = frozenset({"register", "update", "deregister", "maintenance"})
#: Those whose replies may be long, but for an `info` without services: who has to end the registry,
#: or to see what is wrong, needs that one also where somebody at the same address reads nothing.
_LONG = frozenset({"get", "list", "discover", "info", "events", "maintenance"})


class Dispatcher:
    """Answers requests from a registry.

    `about` says what the server knows of itself, for `info`; `terminate` is called for the action.
    """

    def __init__(
        self,
        registry: Registry,
        wall: Clock,
        about: Callable[[], Body],
        terminate: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._wall = wall
        self._about = about
        self._terminate = terminate
        self._handlers: dict[str, Handler] = {
            "register": self._register,
            "update": self._update,
            "deregister": self._deregister,
            "renew": self._renew,
            "get": self._get,
            "list": self._list,
            "discover": self._discover,
            "health": self._health,
            "info": self._info,
            "events": self._events,
            "maintenance": self._maintain,
            "backup": self._backup,
            "terminate": self._stop,
        }
        self._last_backup: Deferred | None = None

    def answer(
        self, payload: bytes, peer: Peer, failure: StoreError | None = None
    ) -> Body | Deferred:
        """Return the reply to a request from `peer`; after a `failure` of the store, no write.

        A Deferred is to be started once all changes so far are committed.
        """
        request_id = None
        try:
            request = wire.read_request(payload)
            request_id = wire.request_id_of(request)
            wire.check_limits(payload)
            body = self._handle(request, peer, failure)
        except ServerError as error:
            body = error.body()
        except Exception:
            log.exception("a request failed: %.500r", payload)
            body = failed()
        echo = {} if request_id is None else {"request_id": request_id}
        if isinstance(body, Deferred):
            body.more = echo
            return body
        body.update(echo)
        return body

    def refuse(self, payload: bytes, error: ServerError) -> Body:
        """Return the reply that refuses a request before it is looked at."""
        try:
            request_id = wire.request_id_of(wire.read_request(payload))
        except ServerError as worse:
            return worse.body()
        return {**error.body(), **({} if request_id is None else {"request_id": request_id})}

    def _handle(self, request: Body, peer: Peer, failure: StoreError | None) -> Body | Deferred:
        action = _text(request, "action")
        handler = self._handlers.get(action)
        if handler is None:
            raise UnknownAction(
                f"Unknown action: {action}",
                hint="the actions are " + ", ".join(self._handlers),
            )
        if action in WRITES:
            if failure is not None:
                raise unavailable(failure)
            self._registry.rates.change(peer.address)
        if action in _LONG and not (action == "info" and request.get("services") is False):
            peer.check_replies()
        return handler(request, peer)

    def _register(self, request: requests.RegisterRequest, peer: Peer) -> Body:
        if "service_info" not in request:
            raise InvalidRequest("Missing required field: service_info")
        info, extra = messages.read_service_info(request["service_info"])
        requested_ttl = request.get("ttl")
        if requested_ttl is None and request["service_info"].get("ttl") is not None:
            raise InvalidRequest(
                "Invalid service_info.ttl: it means nothing here",
                hint="put the ttl beside the service_info, not into it",
            )
        ttl = DEFAULT_TTL if requested_ttl is None else messages.read_ttl(requested_ttl)
        judges = request.get("judges") is True
        if judges:
            # All entries of the name may be the answer.
            peer.check_replies()
        service_id = self._registry.register(
            info,
            extra,
            ttl,
            wire.fingerprint(request),
            request_number=wire.request_number_of(request),
            report=messages.read_report(request.get("report"), self._wall()),
            replaces=_replaced(request),
            judges=judges,
            who=_requester(request, peer, extra.get("owner")),
        )
        return {
            "success": True,
            "service_id": service_id,
            "message": "Service registered successfully",
            "entry": self._registry.entry(service_id),
        }

    def _update(self, request: requests.UpdateRequest, peer: Peer) -> Body:
        service_id = _text(request, "service_id")
        if "service_info" not in request:
            raise InvalidRequest("Missing required field: service_info")
        change, extra = messages.read_change(request["service_info"])
        token, request_number = wire.fingerprint(request), wire.request_number_of(request)
        who = _requester(request, peer)
        self._registry.update(service_id, change, extra, token, request_number, who)
        entry = self._registry.entry(service_id)
        return {"success": True, "message": "Service updated successfully", "entry": entry}

    def _deregister(self, request: requests.DeregisterRequest, peer: Peer) -> Body:
        service_id = _text(request, "service_id")
        token, request_number = wire.fingerprint(request), wire.request_number_of(request)
        self._registry.deregister(service_id, token, request_number, _requester(request, peer))
        return {"success": True, "message": "Service deregistered successfully"}

    def _renew(self, request: requests.RenewRequest, peer: Peer) -> Body:
        report = messages.read_report(request.get("report"), self._wall())
        entry = self._registry.renew(_text(request, "service_id"), report, peer)
        return {"success": True, "message": "Service renewed successfully", "entry": entry}

    def _get(self, request: requests.GetRequest, _peer: Peer) -> Body:
        service_id = _text(request, "service_id")
        body = {"success": True, "service": self._registry.get(service_id), **self._time()}
        if request.get("last_change") is True:
            body["last_change"] = self._registry.last_change(service_id)
        return body

    def _list(self, request: requests.ListRequest, _peer: Peer) -> Body:
        everything = request.get("service_type") in (None, "")
        service_type = None if everything else _text(request, "service_type")
        services = self._registry.list_services(service_type, read_filter(request))
        _check_size(services)
        return {
            "success": True,
            "services": services,
            **self._position(),
            **self._time(),
            **self._leases(request),
        }

    def _discover(self, request: requests.DiscoverRequest, _peer: Peer) -> Body:
        asker = request.get("asker")
        service = self._registry.discover(
            _text(request, "service_type"),
            read_filter(request),
            _text_or_none(request, "strategy"),
            NOBODY if asker is None else messages.checked(asker, Asker, "asker."),
        )
        return {"success": True, "service": service, **self._time()}

    def _health(self, _request: requests.NoFields, _peer: Peer) -> Body:
        return {"success": True, **self._state(), **self._time()}

    def _info(self, request: requests.InfoRequest, _peer: Peer) -> Body:
        body = {
            "success": True,
            **self._state(),
            **self._about(),
            **self._position(),
            **self._time(),
        }
        if maintenance := self._maintenance():
            body["maintenance"] = maintenance
        body["counts"] = self._registry.counts()
        if request.get("services") is not False:
            body["services"] = services = self._registry.list_services()
            _check_size(services)
        return body

    def _events(self, request: requests.EventsRequest, _peer: Peer) -> Body:
        limit = min(MAX_EVENTS, _count(request, "limit", MAX_EVENTS))
        since = _count(request, "since", self._registry.seq)
        epoch, mark = _text_or_none(request, "epoch"), _text_or_none(request, "mark")
        events, reset = self._registry.events_since(since, epoch, limit, mark)
        return {
            "success": True,
            "events": [msgspec.Raw(event.body) for event in _fitting(events)],
            "reset": reset,
            **self._position(),
            **self._time(),
            **self._leases(request),
        }

    def _maintain(self, request: requests.MaintenanceRequest, peer: Peer) -> Body:
        maintenance: CheckedMaintenance = messages.checked(request, CheckedMaintenance, "")
        since = int(self._wall())
        length = DEFAULT_MAINTENANCE if maintenance.seconds is None else maintenance.seconds
        entry = Maintenance(
            service=maintenance.service,
            service_type=maintenance.service_type,
            host=maintenance.host,
            reason=maintenance.reason,
            by=peer.address,
            says=maintenance.by,
            since=since,
            until=None if maintenance.forever else since + length,
        )
        if sum(each is not None for each in entry.target) != 1:
            raise InvalidRequest(
                "A maintenance needs exactly one target",
                hint="give exactly one of service, service_type, host",
            )
        if maintenance.forever and maintenance.seconds is not None:
            raise InvalidRequest("A maintenance has either seconds or forever, not both")
        self._registry.rates.flap(peer.address, self._registry.maintenance.covered(entry))
        change = (
            self._registry.maintenance.start if maintenance.on else self._registry.maintenance.end
        )
        change(entry, force=maintenance.force is True)
        return {"success": True, "maintenance": self._maintenance(), **self._time()}

    def _maintenance(self) -> list[Body]:
        return [each.body() for each in self._registry.maintenance.entries]

    def _backup(self, request: requests.BackupRequest, peer: Peer) -> Deferred:
        _check_peer(peer, "backup", "rs_cs backup")
        target = Path(messages.checked(request.get("path"), messages.Path, "path"))
        replace = request.get("replace") is not None and messages.checked(
            request["replace"], bool, "replace"
        )
        if not target.is_absolute():
            raise InvalidRequest("Invalid path: it has to start with /")
        token, last = wire.fingerprint(request), self._last_backup
        if last is not None and token is not None and last.token == token:
            return last
        if last is not None and last.started and last.body is None:
            raise BackupFailed("Another backup is being made", hint="try again when it is done")
        self._registry.tend_store()
        if isinstance(self._registry.trouble, StoreLost):
            raise unavailable(self._registry.trouble)
        self._last_backup = Deferred(lambda: self._copied(target, replace=replace), token)
        return self._last_backup

    def _copied(self, target: Path, *, replace: bool) -> Body:
        try:
            copied = self._registry.copy_store(target, replace=replace)
        except StoreError as error:
            raise BackupFailed(f"The backup failed: {error}", hint=error.hint) from error
        log.info("a copy of the store is in %s", display.printable(target))
        return {"success": True, "path": str(target), **asdict(copied)}

    def _stop(self, _request: requests.NoFields, peer: Peer) -> Body:
        _check_peer(peer, "terminate", "rs_cs stop")
        self._terminate()
        return {"success": True, "status": "terminating", **self._time()}

    def _state(self) -> Body:
        trouble = self._registry.trouble
        if trouble is None:
            return {"status": "ok"}
        state = {"status": "degraded", "reason": str(trouble)}
        return state if trouble.hint is None else {**state, "hint": trouble.hint}

    def _time(self) -> Body:
        """Return the registry's time, for ages: the clocks of clients may be wrong."""
        return {"timestamp": int(self._wall())}

    def _position(self) -> Body:
        position = self._registry.position
        return {"seq": position.seq, "epoch": position.epoch, "mark": position.mark}

    def _leases(self, request: Mapping[str, Any]) -> Body:
        leases = request.get("leases")
        if leases is None or not messages.checked(leases, bool, "leases"):
            return {}
        ends = self._registry.ending_leases()
        return {"leases": {"within": LEASES_WITHIN, "ends": ends}}


def _fitting(events: Sequence[Event]) -> Sequence[Event]:
    """Return as many of the first events as go into one reply: at least one.

    A client takes no message of any size, and a slow line none soon.
    """
    size = 0
    for count, event in enumerate(events):
        size += len(event.body)
        if count and size > EVENTS_SIZE:
            return events[:count]
    return events


def _check_size(services: msgspec.Raw) -> None:
    size = memoryview(services).nbytes
    if size > MAX_LIST:
        raise InvalidRequest(
            f"The list has {size} bytes, clients take {MAX_LIST}",
            hint='ask for the services of one type; "info" with "services": false has none',
        )


def _replaced(request: Mapping[str, Any]) -> dict[str, object] | None:
    """Return the owners of the entries that a `register` replaces, by id, as they came."""
    replaces: dict[str, object] | None = request.get("replaces")
    if replaces is not None:
        messages.checked(replaces, messages.Replaced, "replaces")
    return replaces


def _requester(
    request: Mapping[str, Any], peer: Peer, owner: Mapping[str, Any] | None = None
) -> Requester:
    """Return who sent a request for a change; `owner` is used if the request itself has none."""
    if (own := request.get("owner")) is not None:
        messages.checked(own, messages.Owner, "owner.")
        owner = own
    force = request.get("force")
    return Requester(
        peer.address,
        None if owner is None else records.describe_process(owner),
        owner,
        force is not None and messages.checked(force, bool, "force"),
    )


def _text(request: Mapping[str, Any], field: str) -> str:
    value = request.get(field)
    if value is None or value == "":
        raise InvalidRequest(f"Missing required field: {field}")
    if not isinstance(value, str):
        raise InvalidRequest(f"Invalid {field}: expected a string")
    return value


def _text_or_none(request: Mapping[str, Any], field: str) -> str | None:
    return None if request.get(field) is None else _text(request, field)


def _count(request: Mapping[str, Any], field: str, default: int) -> int:
    value = request.get(field)
    return default if value is None else int(messages.checked(value, messages.Count, field))


def _check_peer(peer: Peer, action: str, command: str) -> None:
    """Refuse what only users of the registry's own machine may ask for."""
    if not peer.is_this_machine():
        raise Forbidden(
            f"{action} is taken only from the machine that the registry runs on",
            hint=f'log in there and run "{command}"',
        )
