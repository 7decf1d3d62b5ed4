"""The heartbeats of a client: what it has registered, and what of that it keeps alive."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rsreg import config
from rsreg.client.registration import heartbeat_thread
from rsreg.client.registration.heartbeat import HeartbeatRules
from rsreg.client.registration.local_service import LocalService, said_by
from rsreg.client.registration.registration import Registration
from rsreg.errors import ConfigurationError, RegistryError
from rsreg.protocol.calls import Entry, Record
from rsreg.protocol.limits import MAX_TTL


class Heartbeat(HeartbeatRules):
    """Keeps one service registered from a real OS thread, until told to stop.

    A driver that blocks in its own code does not stop it, in a monkey-patched process neither; C
    code that keeps the GIL does. The thread and its connection are those of all heartbeats of this
    process at one endpoint.
    """

    def start(self, why: RegistryError | None = None) -> None:
        """Beat from now on; `why` is what kept it from being registered just now.

        Raises Disconnected if no thread can be started.
        """
        heartbeat_thread.begin(self, why)

    def stop(self) -> None:
        """Stop beating; returns within a second, and nothing is sent afterwards."""
        heartbeat_thread.end(self)


class OwnServices:
    """What one client has registered in this process, and the heartbeats of what it keeps alive.

    `context` is the ZeroMQ context of its blocking sockets, or None for rsreg's own.
    """

    def __init__(self, settings: config.ClientSettings, context: Any = None) -> None:
        self.settings = settings
        self.endpoint = settings.hb_endpoint or settings.req_endpoint
        self._begin(context)

    def _begin(self, context: Any) -> None:
        self._pid = os.getpid()
        self.context = context
        #: What the client registered last.
        self.last: LocalService | None = None
        self._beating: list[Heartbeat] = []

    def after_fork(self) -> None:
        """Forget, in a forked child, what the parent registered: that is the parent's to end."""
        if self._pid != os.getpid():
            self._begin(None)

    def of_last(self) -> LocalService:
        """What the client registered last; raises ConfigurationError without anything."""
        if self.last is None:
            raise ConfigurationError("nothing is registered", hint="call register() first")
        return self.last

    def report(self, service_id: str | None) -> Record | None:
        """What a service of the client says of itself, if it is one that it can speak for."""
        service = self._service(service_id)
        return None if service is None else service.report()

    def registering(self, wanted: Registration) -> AbstractContextManager[None]:
        """The client registers this; it may be something that is kept alive."""
        service = self._service(wanted.service_id)
        return nullcontext() if service is None else service.changing(said_by(wanted))

    def registered(self, wanted: Registration, entry: Entry) -> None:
        """The client registered this; it may be something that it has registered before."""
        wanted = wanted.with_id(entry.service_id)
        self.last = self._service(entry.service_id) or LocalService(wanted)
        self.last.follow(wanted, entry.fingerprint)

    def start(self, interval: float | None, *, reclaim: bool = True) -> None:
        """Keep the last registration alive; raises ConfigurationError without one."""
        if self.last is None:
            raise ConfigurationError(
                "there is nothing to keep alive", hint="call register() before start_heartbeat()"
            )
        if interval is not None and not 0 < interval <= MAX_TTL:
            raise ConfigurationError(
                f"a heartbeat interval is more than 0 and at most {MAX_TTL} seconds, not {interval}"
            )
        self.stop(self.last.service_id)
        self.add(Heartbeat(self.last, self.endpoint, interval, reclaim=reclaim))

    def add(self, heartbeat: Heartbeat, why: RegistryError | None = None) -> None:
        """Start one, whose service is now the last of the client; see Heartbeat.start."""
        self.last = heartbeat.service
        self._beating.append(heartbeat)
        heartbeat.start(why)

    def stop(self, service_id: str | None = None) -> None:
        """Stop the one of a service, or all; returns within a second for each."""
        for heartbeat in list(self._beating):
            if service_id in (None, heartbeat.service.service_id):
                self.remove(heartbeat)

    def remove(self, heartbeat: Heartbeat) -> None:
        """Stop one, and forget it."""
        if heartbeat in self._beating:
            self._beating.remove(heartbeat)
        heartbeat.stop()

    def _service(self, service_id: str | None) -> LocalService | None:
        known = [heartbeat.service for heartbeat in self._beating]
        for service in [*known, self.last] if self.last is not None else known:
            if service_id is not None and service.service_id == service_id:
                return service
        return None

    def left(self, service_id: str) -> None:
        """The service is to leave: nothing may bring it back."""
        self.stop(service_id)
        if self.last is not None and self.last.service_id == service_id:
            self.last = None
