"""Keeps one registration alive from a real OS thread."""

from __future__ import annotations

import logging
import time

from rsreg import calls, config
from rsreg.calls import Registration
from rsreg.channel import Channel
from rsreg.errors import ConfigurationError, Disconnected, RegistryError
from rsreg.native import Stop, Thread
from rsreg.timing import Backoff, jitter

log = logging.getLogger(__name__)

#: Seconds before the first and at most between two tries while the registry is away.
_RETRY_FIRST, _RETRY_MOST = 0.25, 5.0
#: Seconds that `stop` waits for the thread.
_JOIN = 1.0


class Heartbeat:
    """Renews a lease every third of its ttl, with its own socket, until told to stop.

    A driver that blocks in its own code does not stop it, in a monkey-patched process neither; C
    code that keeps the GIL does. A registry that no longer knows the service gets it again in full,
    under the same id. An outage is two log lines: one when it begins, one when it is over.
    """

    def __init__(
        self, registration: Registration, endpoint: str, interval: float | None = None
    ) -> None:
        if registration.service_id is None:
            raise ValueError("a heartbeat needs a registration with its id")
        self._registration = registration
        self._id = registration.service_id
        self._interval = interval if interval is not None else registration.ttl / 3
        self._timeout = min(config.DEFAULT_TIMEOUT, max(self._interval, 0.5))
        self._backoff = Backoff(_RETRY_FIRST, min(_RETRY_MOST, max(self._interval, _RETRY_FIRST)))
        self._stop = Stop()
        self._channel = Channel(endpoint, stop=self._stop)
        self._trouble_since: float | None = None
        self._thread: Thread | None = None

    def follow(self, registration: Registration) -> None:
        """Its service was registered anew: that is now what would be registered again."""
        self._registration = registration

    def start(self) -> None:
        """Beat from now on, in a thread of its own.

        It connects at once: when the server is short of connections, this one is there already.
        """
        self._channel.open()
        self._thread = Thread(lambda: self.run(self._stop))

    def stop(self) -> None:
        """Stop beating; returns within a second, and nothing is sent afterwards."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_JOIN)

    def run(self, stop: Stop) -> None:
        """Beat until `stop` is set."""
        delay = jitter(self._interval)
        try:
            while not stop.wait(delay):
                delay = self.step()
        finally:
            self._channel.close()

    def step(self) -> float:
        """One beat; the seconds until the next."""
        try:
            known = self._channel.run(calls.renew(self._id), self._timeout)
            if not known:
                self._channel.run(calls.register(self._registration), self._timeout)
        except Disconnected as error:
            return 0.0 if self._stop.is_set() else self._lost(error)
        except RegistryError as error:
            return self._lost(error)
        self._found(known)
        return jitter(self._interval)

    def _lost(self, error: RegistryError) -> float:
        if self._trouble_since is None:
            self._trouble_since = time.monotonic()
            log.warning("%s: heartbeat failed, trying on: %s", self._registration.name, error)
        return self._backoff.next()

    def _found(self, known: bool) -> None:
        how = "" if known else f"; it no longer knew {self._id}, which is registered again"
        if self._trouble_since is not None:
            away = time.monotonic() - self._trouble_since
            log.info(
                "%s: the registry answers again after %.1f s%s", self._registration.name, away, how
            )
        elif not known:
            log.warning("%s: the registry answers%s", self._registration.name, how)
        self._trouble_since = None
        self._backoff.reset()


class Heartbeats:
    """Those of one client: one for each service that it keeps alive."""

    def __init__(self, settings: config.ClientSettings) -> None:
        self._endpoint = settings.hb_endpoint or settings.req_endpoint
        self._by_id: dict[str, Heartbeat] = {}

    def start(self, registration: Registration | None, interval: float | None) -> None:
        """Keep a registration alive; raises ConfigurationError without one."""
        if registration is None or registration.service_id is None:
            raise ConfigurationError(
                "there is nothing to keep alive", hint="call register() before start_heartbeat()"
            )
        if interval is not None and not interval > 0:
            raise ConfigurationError(f"a heartbeat interval is more than 0 seconds, not {interval}")
        self.stop(registration.service_id)
        heartbeat = Heartbeat(registration, self._endpoint, interval)
        self._by_id[registration.service_id] = heartbeat
        heartbeat.start()

    def follow(self, registration: Registration) -> None:
        """A service was registered anew; it may be one that is kept alive."""
        if registration.service_id in self._by_id:
            self._by_id[registration.service_id].follow(registration)

    def stop(self, service_id: str | None = None) -> None:
        """Stop the one of a service, or all; returns within a second for each."""
        for key in [service_id] if service_id is not None else list(self._by_id):
            if (heartbeat := self._by_id.pop(key, None)) is not None:
                heartbeat.stop()
