"""When a heartbeat is due, what it sends, and what is logged of its troubles. No I/O."""

from __future__ import annotations

import logging
import math
from typing import Any

from rsreg import config, timing
from rsreg.client.registration.local_service import LocalService
from rsreg.client.registration.registration import register, registering
from rsreg.display import printable
from rsreg.errors import (
    ConfigurationError,
    Disconnected,
    RegistryError,
    SlowDown,
    TransportError,
    Unavailable,
    retry_after,
)
from rsreg.protocol import calls, records
from rsreg.protocol.calls import CallSequence, Record
from rsreg.system.background import say
from rsreg.system.threads import Stop
from rsreg.timing import Backoff, jitter

log = logging.getLogger(__name__)

#: Seconds before the first and at most between two tries while the registry is away.
_RETRY_FIRST, _RETRY_MOST = 0.25, 5.0
#: Seconds between two heartbeats at least, however much there is to send.
_GAP = 0.2
#: Seconds for which a change that somebody else makes again and again is logged once, at most, and
#: how many of them are remembered.
_QUIET, _KEPT = 600.0, 100
#: Characters of a value in a line of the log.
_SHOWN = 200


class Outage:
    """The services of one connection that get no answer: that is logged once for all of them."""

    def __init__(self) -> None:
        self._away: set[HeartbeatRules] = set()
        self._most = 0

    def begins(self, heartbeat: HeartbeatRules) -> bool:
        """One more gets no answer; True if it is the first."""
        first = not self._away
        self._away.add(heartbeat)
        self._most = len(self._away) if first else max(self._most, len(self._away))
        return first

    def ends(self, heartbeat: HeartbeatRules) -> int:
        """One got an answer, or ended; how many there were if it was the last one, else 0."""
        if heartbeat not in self._away:
            return 0
        self._away.discard(heartbeat)
        return 0 if self._away else self._most


class HeartbeatRules:
    """Renews a lease every third of its ttl, or each `interval` seconds.

    A heartbeat is sent at once when the service has changes. A service without an id is registered
    first, as soon as the registry takes it. A registry that no longer knows the service gets it
    again in full, under the same id. A host that was found is looked up again each time. An outage
    is two log lines for all services of one connection: when it begins, and when it is over. A
    refusal, a fault, and a change by somebody else are one log line each. With `reclaim` such a
    change is undone at once.
    """

    #: Whether a change by somebody else has to be seen twice: in a process beside the driver, to
    #: which the driver may be about to report that it made the change itself.
    looks_twice = False

    def __init__(
        self,
        service: LocalService,
        endpoint: str,
        interval: float | None = None,
        *,
        reclaim: bool = True,
    ) -> None:
        ttl = service.registration.ttl
        self.service = service
        self.endpoint = endpoint
        self.reclaim = reclaim
        self.interval = interval if interval is not None else ttl / 3
        #: Seconds for each request.
        self.timeout = min(config.DEFAULT_TIMEOUT, max(self.interval, 0.5))
        self.outage = Outage()
        self._backoff = Backoff(_RETRY_FIRST, min(_RETRY_MOST, max(self.interval, _RETRY_FIRST)))
        self._trouble_since: float | None = None
        #: The kinds of errors that were logged since the last heartbeat that succeeded.
        self._logged: set[str] = set()
        #: Fingerprints of entries that others changed -> until when they are not logged again.
        self._foreign: dict[str, float] = {}
        self._seen_once = ""
        #: Whether it tried to register.
        self._tried = False
        #: The alarm of the watchdog at the last heartbeat.
        self._alarm = 0
        self._last = self._next = timing.steady()
        #: Set when it has to stop, and by its thread once nothing more is sent.
        self.stop_requested, self.stopped = Stop(), Stop()
        #: When its thread looks at it.
        self.planned = -math.inf

    @property
    def may_be_registered(self) -> bool:
        """True if it may be registered although no answer said so."""
        return self._tried and self.service.service_id is None

    def begin(self) -> None:
        """Count the time to the first heartbeat from now."""
        known = self.service.service_id is not None
        self._last = timing.steady()
        self._next = self._last + (jitter(self.interval) if known else self._backoff.next())

    def due(self, now: float) -> float:
        """Return the moment of `timing.steady` at which the next heartbeat is due, as known now."""
        driver_status = self.service.driver_status
        if self._trouble_since is not None:
            return self._next
        if driver_status.alarm(now) > self._alarm:
            return now
        if self.service.has_changes:
            return min(self._next, self._last + _GAP)
        due = driver_status.due(now)
        return self._next if due is None else min(self._next, now + due)

    def beat(self) -> CallSequence[str]:
        """Send one heartbeat; returns what else it did, for the log, or an empty text."""
        service = self.service
        # Before anything is read: whatever changes meanwhile is sent with the next heartbeat.
        service.has_changes = False
        self._alarm = service.driver_status.alarm(timing.steady())
        service_id = service.service_id
        if service_id is None:
            yield from self.register()
            return "; it is registered now"
        yield from self._look_after_host()
        report = service.report()
        fingerprint = yield calls.renew(service_id, report)
        if fingerprint is None:
            registration = service.registration
            service.on_registered(registration, (yield register(registration, report)))
            return f"; it no longer knew {service_id}, which is registered again"
        if fingerprint and fingerprint != service.fingerprint:
            yield from self._compare(service_id, fingerprint)
        if changes := service.pending_update:
            fingerprint = yield calls.update(service_id, changes, service.registration.asker)
            service.on_updated(changes, fingerprint)
        return ""

    def _compare(self, service_id: str, fingerprint: str) -> CallSequence[None]:
        """Compare the entry, which has changed, with the registration, and undo what is foreign."""
        service = self.service
        version, registration = service.version, service.registration
        answer = yield calls.get_with_last_change(service_id)
        foreign = None if answer is None else service.foreign_changes(answer[0], version)
        if answer is None or foreign is None:
            return
        if foreign and self.looks_twice and self._seen_once != fingerprint:
            self._seen_once, service.has_changes = fingerprint, True
            return
        self._seen_once = ""
        if foreign:
            self._log_foreign(fingerprint, foreign, *answer)
            if self.reclaim:
                report = service.report()
                entry = yield register(registration, report, force=True)
                service.on_registered(registration, entry)
                return
        service.fingerprint = fingerprint

    def _log_foreign(self, fingerprint: str, mine: Record, record: Record, change: Record) -> None:
        """Log once what somebody else changed in the entry, and who."""
        now = timing.steady()
        is_new = self._foreign.pop(fingerprint, now) <= now
        # Another driver of the same id makes the same change with each of its heartbeats.
        longest = max(self.service.registration.ttl, record["ttl"])
        self._foreign[fingerprint] = now + min(_QUIET, longest)
        while len(self._foreign) > _KEPT:
            del self._foreign[next(iter(self._foreign))]
        if is_new:
            what = [
                f"{field} from {_shown(mine[field])} to {_shown(record.get(field))}"
                for field in mine
            ]
            text = "%s: somebody else changed its entry %s: %s; %s; %s"
            done = "it is registered again as it was" if self.reclaim else "it is left so"
            words = [record["id"], ", ".join(what), _who(record, change), done]
            name = self.service.registration.name
            say(log, logging.ERROR, text, *map(printable, [name, *words]))

    def register(self, timeout: float = 0.0, context: Any = None) -> CallSequence[None]:
        """Register the service for the first time, in place of what died on this host.

        The arguments are for the finder of its host, whose errors are raised too.
        """
        service = self.service
        if service.finder is not None:
            service.set_host((yield from service.finder.find(timeout, context)))
        registration = again = service.registration
        judges = registration.service_id is None
        if judges and self.may_be_registered:
            own = registration.own_entry((yield calls.namesakes(registration.name)))
            again = registration if own is None else registration.with_id(own)
        self._tried = True
        entry = yield from registering(again, service.report(), judges=judges)
        service.on_registered(registration, entry)

    def on_success(self, how: str) -> None:
        """The heartbeat got its answers, and did what `how` says beside that."""
        self._last = timing.steady()
        self._next = self._last + jitter(self.interval)
        self._backoff.reset()
        self._logged.clear()
        since, self._trouble_since = self._trouble_since, None
        name, were_away = self.service.registration.name, self.outage.ends(self)
        if since is not None and (how or were_away):
            who = f"{name} and {were_away - 1} more" if were_away > 1 else name
            text = "%s: the registry answers again after %.1f s%s"
            say(log, logging.INFO, text, who, self._last - since, how)
        elif how:
            say(log, logging.WARNING, "%s: the registry answers%s", name, how)

    def on_failure(self, error: BaseException) -> float:
        """The heartbeat failed: log it once; returns when the next is due."""
        self._last = timing.steady()
        wait = self._backoff.next()
        if isinstance(error, SlowDown):
            wait = max(wait, jitter(min(retry_after(error.details) or 0.0, self.interval)))
        self._next = self._last + wait
        self.log_failure(error)
        return self._next

    def log_failure(self, error: BaseException) -> None:
        """Log once that the registry can't be reached, what it refuses, or what broke."""
        if self._trouble_since is None:
            self._trouble_since = timing.steady()
        error_kind, why, fault = _about(error)
        first = self.outage.begins(self) if error_kind == _AWAY else True
        if error_kind in self._logged:
            return
        self._logged.add(error_kind)
        if first:
            known = self.service.service_id is not None
            what = "heartbeat failed" if known else "not registered yet"
            name = self.service.registration.name
            say(log, logging.WARNING, "%s: %s, retrying: %s", name, what, why, exc_info=fault)

    def _look_after_host(self) -> CallSequence[None]:
        finder = self.service.finder
        if finder is None:
            return
        try:
            # A heartbeat waits for no name: it is looked up until the next one.
            self.service.set_host((yield from finder.find(0.0)))
        except (Disconnected, ConfigurationError):
            # Without a network nobody can be reached anyway.
            return


def _shown(value: Any) -> str:
    """A value of a field in a line of the log."""
    if isinstance(value, dict) and (process := records.describe_process(value)):
        return process
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _who(record: Record, change: Record) -> str:
    """Who changed an entry, and who registered it, as far as the registry says."""
    by, owner = record.get("registered_by"), record.get("owner")
    who = records.describe_process(owner) if isinstance(owner, dict) else ""
    registered = f"registered from {by or 'an unknown address'} by {who or 'an unknown process'}"
    if not change.get("by"):
        return registered
    says = f" by {change['says']}" if change.get("says") else ""
    return f"changed from {change['by']}{says}, {registered}"


_AWAY, _REFUSED, _BROKEN = "away", "refused", "broken"


def _about(error: BaseException) -> tuple[str, str, BaseException | None]:
    """Return the kind of an error, its text for the log, and the error if its origin matters."""
    if isinstance(error, TransportError | Unavailable | SlowDown):
        return _AWAY, str(error), None
    if isinstance(error, RegistryError):
        return _REFUSED, f"{error}: {error.hint}" if error.hint else str(error), None
    return _BROKEN, repr(error), error
