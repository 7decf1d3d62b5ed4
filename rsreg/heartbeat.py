"""Keeps one service registered from a real OS thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from rsreg import calls, config, timing
from rsreg.calls import Record, Registration
from rsreg.channel import Channel
from rsreg.errors import (
    ConfigurationError,
    Disconnected,
    RegistryError,
    ServerError,
    Unavailable,
)
from rsreg.exchange import Call
from rsreg.native import Stop, Thread
from rsreg.presence import Presence
from rsreg.timing import Backoff, jitter

log = logging.getLogger(__name__)

T = TypeVar("T")
#: Carries a call to the registry and returns its answer.
Ask = Callable[[Call[Any]], Any]

#: Seconds before the first and at most between two tries while the registry is away.
_RETRY_FIRST, _RETRY_MOST = 0.25, 5.0
#: Seconds between two beats at least, however much there is to tell.
_GAP = 0.2
#: Seconds that `stop` waits for the thread.
_JOIN = 1.0
#: Seconds between two beats at most.
MAX_INTERVAL = 86_400


class Heartbeat:
    """Renews a lease every third of its ttl, with its own socket, until told to stop.

    It beats at once when its presence has something to tell. A service without an id it registers
    first, as soon as the registry takes it. A driver that blocks in its own code does not stop it,
    in a monkey-patched process neither; C code that keeps the GIL does. A registry that no longer
    knows the service gets it again in full, under the same id. A host that was found is looked
    after. An outage is two log lines: when it begins, and when it is over. A refusal is one more.
    """

    def __init__(self, presence: Presence, endpoint: str, interval: float | None = None) -> None:
        ttl = presence.registration.ttl
        self.presence = presence
        self.endpoint = endpoint
        self.interval = interval if interval is not None else ttl / 3
        self._timeout = min(config.DEFAULT_TIMEOUT, max(self.interval, 0.5))
        self._backoff = Backoff(_RETRY_FIRST, min(_RETRY_MOST, max(self.interval, _RETRY_FIRST)))
        self._stop = Stop()
        self._channel = Channel(endpoint, stop=self._stop)
        self._trouble_since: float | None = None
        #: What was said of it: that the registry is away, and that it refuses.
        self._said: set[bool] = set()
        self._thread: Thread | None = None
        #: Whether it tried to register.
        self._tried = False
        #: How silent the main loop was at the last beat.
        self._alarm = 0

    def start(self) -> None:
        """Beat from now on, in a thread of its own.

        It connects at once: when the server is short of connections, this one is there already.
        """
        self._channel.open()
        self._thread = Thread(self.run)

    def stop(self) -> None:
        """Stop beating; returns within a second, and nothing is sent afterwards."""
        self._stop.set()
        self.presence.bell.ring()
        if self._thread is not None:
            self._thread.join(_JOIN)

    def run(self) -> None:
        """Beat until `stop`."""
        known = self.presence.service_id is not None
        delay = jitter(self.interval) if known else self._backoff.next()
        try:
            while self._wait(delay):
                delay = self.step()
        finally:
            self._channel.close()

    def step(self) -> float:
        """One beat; the seconds until the next."""
        try:
            how = self._beat()
        except RegistryError as error:
            if self._stop.is_set():
                return 0.0
            self.lost(error)
            return self._backoff.next()
        self._found(how)
        return jitter(self.interval)

    def register(self, ask: Ask) -> None:
        """Register the service for the first time, in place of what died on this host.

        Raises what `ask` does, and what the finder of its host does.
        """
        presence = self.presence
        if presence.finder is not None:
            presence.moved(presence.finder.find(ask))
        wanted = presence.registration
        own: str | None = None
        replaces: dict[str, Any] = {}
        if wanted.service_id is None:
            namesakes = ask(calls.namesakes(wanted.name))
            own = wanted.own_entry(namesakes) if self.unheard else None
            replaces = wanted.left_behind(namesakes)
        self._tried = True
        again = wanted if own is None else wanted.with_id(own)
        service_id = ask(calls.register(again, replaces, presence.report()))
        presence.registered(wanted, service_id)

    @property
    def unheard(self) -> bool:
        """Whether the service may be registered without an answer that says so."""
        return self._tried and self.presence.service_id is None

    def lost(self, error: RegistryError) -> None:
        """Say once that the registry can't be reached, or what it refuses; it is tried on."""
        if self._trouble_since is None:
            self._trouble_since = timing.steady()
        refused = isinstance(error, ServerError) and not isinstance(error, Unavailable)
        if refused not in self._said:
            self._said.add(refused)
            known = self.presence.service_id is not None
            what = "heartbeat failed" if known else "not registered yet"
            why = f"{error}: {error.hint}" if refused and error.hint else str(error)
            log.warning("%s: %s, trying on: %s", self.presence.registration.name, what, why)

    def _beat(self) -> str:
        """What it did that is worth saying, if anything."""
        presence = self.presence
        self._alarm = presence.vitals.alarm(timing.steady())
        service_id = presence.service_id
        if service_id is None:
            self.register(self._ask)
            return "; it is registered now"
        self._look_after_host()
        report = presence.report()
        if not self._ask(calls.renew(service_id, report)):
            wanted = presence.registration
            self._ask(calls.register(wanted, report=report))
            presence.registered(wanted, service_id)
            return f"; it no longer knew {service_id}, which is registered again"
        # Whatever changes meanwhile is told by the next beat.
        if changes := presence.untold:
            self._ask(calls.update(service_id, changes))
            presence.told(changes)
        return ""

    def _look_after_host(self) -> None:
        finder = self.presence.finder
        if finder is None:
            return
        try:
            self.presence.moved(finder.find(self._ask))
        except (Disconnected, ConfigurationError):
            # Without a network there is nobody to tell.
            return

    def _ask(self, call: Call[T]) -> T:
        return self._channel.run(call, self._timeout)

    def _wait(self, seconds: float) -> bool:
        """Wait for the next beat, which may be sooner than that; False if there is none."""
        if self._trouble_since is not None:
            return not self._stop.wait(seconds)
        vitals, began = self.presence.vitals, timing.steady()
        while not self._stop.is_set():
            now = timing.steady()
            if now >= began + seconds or vitals.alarm(now) > self._alarm:
                return True
            due = vitals.due(now)
            left = began + seconds - now
            if self.presence.bell.wait(left if due is None else min(left, due)):
                return not self._stop.wait(began + _GAP - timing.steady())
        return False

    def _found(self, how: str) -> None:
        name = self.presence.registration.name
        if self._trouble_since is not None:
            away = timing.steady() - self._trouble_since
            log.info("%s: the registry answers again after %.1f s%s", name, away, how)
        elif how:
            log.warning("%s: the registry answers%s", name, how)
        self._trouble_since = None
        self._said.clear()
        self._backoff.reset()


class Heartbeats:
    """What one client has registered, and the heartbeats of what it keeps alive."""

    def __init__(self, settings: config.ClientSettings) -> None:
        self.endpoint = settings.hb_endpoint or settings.req_endpoint
        #: What the client registered last.
        self.last: Presence | None = None
        self._beating: list[Heartbeat] = []

    def of_last(self) -> Presence:
        """What the client registered last; raises ConfigurationError without anything."""
        if self.last is None:
            raise ConfigurationError("nothing is registered", hint="call register() first")
        return self.last

    def report(self, service_id: str | None) -> Record | None:
        """What a service of the client says of itself, if it is one that it can speak for."""
        presence = self._presence(service_id)
        return None if presence is None else presence.report()

    def registered(self, wanted: Registration, service_id: str) -> None:
        """The client registered this; it may be something that it has registered before."""
        wanted = wanted.with_id(service_id)
        self.last = self._presence(service_id) or Presence(wanted)
        self.last.follow(wanted)

    def start(self, interval: float | None) -> None:
        """Keep the last registration alive; raises ConfigurationError without one."""
        if self.last is None:
            raise ConfigurationError(
                "there is nothing to keep alive", hint="call register() before start_heartbeat()"
            )
        if interval is not None and not 0 < interval <= MAX_INTERVAL:
            raise ConfigurationError(
                f"a heartbeat interval is more than 0 and at most {MAX_INTERVAL} seconds, "
                f"not {interval}"
            )
        self.stop(self.last.service_id)
        self.add(Heartbeat(self.last, self.endpoint, interval))

    def add(self, heartbeat: Heartbeat) -> None:
        """Start one, whose service is now the last of the client."""
        self.last = heartbeat.presence
        self._beating.append(heartbeat)
        heartbeat.start()

    def stop(self, service_id: str | None = None) -> None:
        """Stop the one of a service, or all; returns within a second for each."""
        for heartbeat in list(self._beating):
            if service_id in (None, heartbeat.presence.service_id):
                self.remove(heartbeat)

    def remove(self, heartbeat: Heartbeat) -> None:
        """Stop one, and forget it."""
        if heartbeat in self._beating:
            self._beating.remove(heartbeat)
        heartbeat.stop()

    def _presence(self, service_id: str | None) -> Presence | None:
        known = [heartbeat.presence for heartbeat in self._beating]
        for presence in [*known, self.last] if self.last is not None else known:
            if service_id is not None and presence.service_id == service_id:
                return presence
        return None

    def left(self, service_id: str) -> None:
        """The service is to leave: nothing may bring it back."""
        self.stop(service_id)
        if self.last is not None and self.last.service_id == service_id:
            self.last = None
