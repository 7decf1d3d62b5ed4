"""When one service beats, what it says, and what is said of its troubles. No I/O."""

from __future__ import annotations

import logging
import math
from typing import Any

from rsreg import config, timing
from rsreg.client.registration import registration
from rsreg.client.registration.local_service import LocalService
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
#: Seconds between two beats at least, however much there is to tell.
_GAP = 0.2
#: Seconds for which a change by somebody else that is made again and again is told once, at most,
#: and how many of them are kept in mind.
_QUIET, _KEPT = 600.0, 100
#: Characters of a value in a line of the log.
_SHOWN = 200


class Outage:
    """Which of the services of one connection got no answer: it is said once for all of them."""

    def __init__(self) -> None:
        self._away: set[HeartbeatRules] = set()
        self._most = 0

    def begins(self, heartbeat: HeartbeatRules) -> bool:
        """One more got no answer; whether it is the first."""
        first = not self._away
        self._away.add(heartbeat)
        self._most = len(self._away) if first else max(self._most, len(self._away))
        return first

    def ends(self, heartbeat: HeartbeatRules) -> int:
        """One was answered, or has left; how many there were if nobody is left, else 0."""
        if heartbeat not in self._away:
            return 0
        self._away.discard(heartbeat)
        return 0 if self._away else self._most


class HeartbeatRules:
    """Renews a lease every third of its ttl, or each `interval` seconds.

    It beats at once when its service has something to tell. A service without an id is registered
    first, as soon as the registry takes it. A registry that no longer knows the service gets it
    again in full, under the same id. A host that was found is looked after. An outage is two log
    lines, for all services of one connection: when it begins, and when it is over. A refusal is one
    more, and so is a fault, and what somebody else made of the entry. With `reclaim` that is put
    right at once.
    """

    #: Whether what somebody else seems to have changed is looked at twice: in a process beside the
    #: driver, which may be about to tell that it was the driver itself.
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
        #: Seconds for each of its questions.
        self.timeout = min(config.DEFAULT_TIMEOUT, max(self.interval, 0.5))
        self.outage = Outage()
        self._backoff = Backoff(_RETRY_FIRST, min(_RETRY_MOST, max(self.interval, _RETRY_FIRST)))
        self._trouble_since: float | None = None
        #: What was said of it: that the registry is away, that it refuses, that something broke.
        self._said: set[str] = set()
        #: Fingerprints that somebody else made of the entry -> until when they are no news.
        self._foreign: dict[str, float] = {}
        self._seen_once = ""
        #: Whether it tried to register.
        self._tried = False
        #: How silent the main loop was at the last beat.
        self._alarm = 0
        self._last = self._next = timing.steady()
        #: Set by who wants no more beats, and by the thread once there are none.
        self.over, self.gone = Stop(), Stop()
        #: When the thread looks at it.
        self.planned = -math.inf

    @property
    def unheard(self) -> bool:
        """Whether the service may be registered without an answer that says so."""
        return self._tried and self.service.service_id is None

    def begin(self) -> None:
        """Reckon from now when the first beat is due."""
        known = self.service.service_id is not None
        self._last = timing.steady()
        self._next = self._last + (jitter(self.interval) if known else self._backoff.next())

    def due(self, now: float) -> float:
        """The moment of `timing.steady` at which the next beat is due, as far as is known."""
        driver_status = self.service.driver_status
        if self._trouble_since is not None:
            return self._next
        if driver_status.alarm(now) > self._alarm:
            return now
        if self.service.news:
            return min(self._next, self._last + _GAP)
        due = driver_status.due(now)
        return self._next if due is None else min(self._next, now + due)

    def beat(self) -> CallSequence[str]:
        """One beat; what it did that is worth saying, if anything."""
        service = self.service
        # Before anything is read: whatever changes meanwhile is told by the next beat.
        service.news = False
        self._alarm = service.driver_status.alarm(timing.steady())
        service_id = service.service_id
        if service_id is None:
            yield from self.register()
            return "; it is registered now"
        yield from self._look_after_host()
        report = service.report()
        fingerprint = yield calls.renew(service_id, report)
        if fingerprint is None:
            wanted = service.registration
            service.registered(wanted, (yield registration.register(wanted, report)))
            return f"; it no longer knew {service_id}, which is registered again"
        if fingerprint and fingerprint != service.fingerprint:
            yield from self._compare(service_id, fingerprint)
        if changes := service.untold:
            told = yield calls.update(service_id, changes, service.registration.asker)
            service.told(changes, told)
        return ""

    def _compare(self, service_id: str, fingerprint: str) -> CallSequence[None]:
        """The entry is another than before: if it is not what the driver says, put it right."""
        service = self.service
        version, wanted = service.version, service.registration
        found = yield calls.get_with_last_change(service_id)
        foreign = None if found is None else service.foreign(found[0], version)
        if found is None or foreign is None:
            return
        if foreign and self.looks_twice and self._seen_once != fingerprint:
            self._seen_once, service.news = fingerprint, True
            return
        self._seen_once = ""
        if foreign:
            self._tell_of(fingerprint, foreign, *found)
            if self.reclaim:
                report = service.report()
                entry = yield registration.register(wanted, report, force=True)
                service.registered(wanted, entry)
                return
        service.fingerprint = fingerprint

    def _tell_of(self, fingerprint: str, mine: Record, record: Record, change: Record) -> None:
        """Say once what somebody else made of the entry, and who."""
        now = timing.steady()
        news = self._foreign.pop(fingerprint, now) <= now
        # Another driver of the same id makes the same of it, at each of its beats.
        longest = max(self.service.registration.ttl, record["ttl"])
        self._foreign[fingerprint] = now + min(_QUIET, longest)
        while len(self._foreign) > _KEPT:
            del self._foreign[next(iter(self._foreign))]
        if news:
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
            service.moved((yield from service.finder.find(timeout, context)))
        wanted = again = service.registration
        judges = wanted.service_id is None
        if judges and self.unheard:
            own = wanted.own_entry((yield calls.namesakes(wanted.name)))
            again = wanted if own is None else wanted.with_id(own)
        self._tried = True
        entry = yield from registration.registering(again, service.report(), judges=judges)
        service.registered(wanted, entry)

    def beaten(self, how: str) -> None:
        """The beat did this."""
        self._last = timing.steady()
        self._next = self._last + jitter(self.interval)
        self._backoff.reset()
        self._said.clear()
        since, self._trouble_since = self._trouble_since, None
        name, were_away = self.service.registration.name, self.outage.ends(self)
        if since is not None and (how or were_away):
            who = f"{name} and {were_away - 1} more" if were_away > 1 else name
            text = "%s: the registry answers again after %.1f s%s"
            say(log, logging.INFO, text, who, self._last - since, how)
        elif how:
            say(log, logging.WARNING, "%s: the registry answers%s", name, how)

    def failed(self, error: BaseException) -> float:
        """The beat failed; say it once. When the next is due."""
        self._last = timing.steady()
        wait = self._backoff.next()
        if isinstance(error, SlowDown):
            wait = max(wait, jitter(min(retry_after(error.details) or 0.0, self.interval)))
        self._next = self._last + wait
        self.lost(error)
        return self._next

    def lost(self, error: BaseException) -> None:
        """Say once that the registry can't be reached, what it refuses, or what broke."""
        if self._trouble_since is None:
            self._trouble_since = timing.steady()
        kind, why, fault = _about(error)
        first = self.outage.begins(self) if kind == _AWAY else True
        if kind in self._said:
            return
        self._said.add(kind)
        if first:
            known = self.service.service_id is not None
            what = "heartbeat failed" if known else "not registered yet"
            name = self.service.registration.name
            say(log, logging.WARNING, "%s: %s, trying on: %s", name, what, why, exc_info=fault)

    def _look_after_host(self) -> CallSequence[None]:
        finder = self.service.finder
        if finder is None:
            return
        try:
            # Whoever beats waits for no name: that is looked up until the next beat.
            self.service.moved((yield from finder.find(0.0)))
        except (Disconnected, ConfigurationError):
            # Without a network there is nobody to tell.
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
    said = f"registered from {by or 'an unknown address'} by {who or 'nobody who said so'}"
    if not change.get("by"):
        return said
    says = f" by {change['says']}" if change.get("says") else ""
    return f"changed from {change['by']}{says}, {said}"


_AWAY, _REFUSED, _BROKEN = "away", "refused", "broken"


def _about(error: BaseException) -> tuple[str, str, BaseException | None]:
    """The kind of an error, what to say of it, and the error itself if its origin matters."""
    if isinstance(error, TransportError | Unavailable | SlowDown):
        return _AWAY, str(error), None
    if isinstance(error, RegistryError):
        return _REFUSED, f"{error}: {error.hint}" if error.hint else str(error), None
    return _BROKEN, repr(error), error
