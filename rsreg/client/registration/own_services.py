"""What one client has registered, and the heartbeats of what it keeps alive."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rsreg import config
from rsreg.client.registration import heartbeat_thread
from rsreg.client.registration.heartbeat import HeartbeatRules
from rsreg.client.registration.local_service import LocalService, declared_fields
from rsreg.client.registration.registration import Registration
from rsreg.errors import ConfigurationError, RegistryError
from rsreg.protocol.calls import Entry, Record
from rsreg.protocol.limits import MAX_TTL


class Heartbeat(HeartbeatRules):
    """Keeps one service registered from a real OS thread, until told to stop.

    A driver that blocks in its own code does not stop it, also not in a monkey-patched process; C
    code that keeps the GIL does. All heartbeats of this process to one endpoint share a thread and
    a connection.
    """

    def start(self, why: RegistryError | None = None) -> None:
        """Send heartbeats from now on; `why` is the error of a first try to register.

        Raises Disconnected if no thread can be started.
        """
        heartbeat_thread.begin(self, why)

    def stop(self) -> None:
        """Stop; returns within a second, and nothing is sent afterwards."""
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
        """Return what the client registered last; raises ConfigurationError if it is nothing."""
        if self.last is None:
            raise ConfigurationError("nothing is registered", hint="call register() first")
        return self.last

    def report(self, service_id: str | None) -> Record | None:
        """Return what a heartbeat of a service reports; None for one of another client."""
        service = self._service(service_id)
        return None if service is None else service.report()

    def registering(self, registration: Registration) -> AbstractContextManager[None]:
        """Mark a registration as sent, if it is of a service that is kept alive."""
        service = self._service(registration.service_id)
        return nullcontext() if service is None else service.changing(declared_fields(registration))

    def on_registered(self, registration: Registration, entry: Entry) -> None:
        """The registry took a registration; it is the last one of the client now."""
        registration = registration.with_id(entry.service_id)
        self.last = self._service(entry.service_id) or LocalService(registration)
        self.last.follow(registration, entry.fingerprint)

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
        """Start a heartbeat, whose service is the last one now; see Heartbeat.start."""
        self.last = heartbeat.service
        self._beating.append(heartbeat)
        heartbeat.start(why)

    def stop(self, service_id: str | None = None) -> None:
        """Stop the heartbeat of a service, or all; returns within a second for each."""
        for heartbeat in list(self._beating):
            if service_id in (None, heartbeat.service.service_id):
                self.remove(heartbeat)

    def remove(self, heartbeat: Heartbeat) -> None:
        """Stop a heartbeat, and forget it."""
        if heartbeat in self._beating:
            self._beating.remove(heartbeat)
        heartbeat.stop()

    def _service(self, service_id: str | None) -> LocalService | None:
        known = [heartbeat.service for heartbeat in self._beating]
        for service in [*known, self.last] if self.last is not None else known:
            if service_id is not None and service.service_id == service_id:
                return service
        return None

    def forget(self, service_id: str) -> None:
        """Stop the heartbeat of a service that ends: it would bring the service back."""
        self.stop(service_id)
        if self.last is not None and self.last.service_id == service_id:
            self.last = None
