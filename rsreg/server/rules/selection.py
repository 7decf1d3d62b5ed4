"""Which services a question is about, and which of them it gets. No I/O."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rsreg import display
from rsreg.errors import ConfigurationError, InvalidRequest
from rsreg.protocol import messages, records
from rsreg.protocol.messages import Asker, Question
from rsreg.server.backends.stored import Service
from rsreg.server.rules.conditions import Condition
from rsreg.server.view.lease import Lease

#: Characters of a value that a hint shows.
_MAX_SHOWN = 60

#: A discovery strategy of one's own: chooses one of some services; never called with none.
Strategy = Callable[[Sequence[Service]], Service]


NOBODY = Asker()
#: Chooses one of some leases for who asks; never called with none.
Choose = Callable[[Sequence[Lease], Asker], Lease]


_CONDITIONS = frozenset(Question.__struct_fields__)


@dataclass(frozen=True)
class Filter:
    """The conditions of a question on services; all have to hold.

    All `tags` have to be there, and none of the `excluded_tags`. `where` maps a key of the
    metadata, or else of the record, to what its value has to be. `prefix` is the start of the
    name or the id; `health` are those that will do, for a list.
    """

    name: str | None = None
    mode: str | None = None
    tags: frozenset[str] = frozenset()
    excluded_tags: frozenset[str] = frozenset()
    where: Mapping[str, Condition] = field(default_factory=dict)
    prefix: str | None = None
    health: frozenset[str] | None = None

    @property
    def narrows(self) -> bool:
        """Whether there is more to it than a mode."""
        return bool(self.name or self.prefix or self.tags or self.excluded_tags or self.where)

    def fits(self, service: Service) -> bool:
        """Return whether a service is one of those asked for, but for its mode and health."""
        return (
            self.name in (None, service.name)
            and (self.prefix is None or self._begins(service))
            and self.tags.issubset(service.tags)
            and self.excluded_tags.isdisjoint(service.tags)
            and all(holds(_fact(service, key)) for key, holds in self.where.items())
        )

    def _begins(self, service: Service) -> bool:
        prefix = self.prefix or ""
        return service.name.startswith(prefix) or service.id.startswith(prefix)

    def against(self, record: Mapping[str, Any]) -> str | None:
        """Return why the service of a record is not asked for, after its name; None if it is."""
        if self.mode not in (None, mode := records.mode_of(record)):
            return f"is a {mode}"
        for missing in sorted(self.tags.difference(record["tags"])):
            near = display.near(missing, record["tags"])
            return f"has no tag {missing!r}" + (f", but {near!r}" if near else "")
        for unwanted in sorted(self.excluded_tags.intersection(record["tags"])):
            return f"has the tag {unwanted!r}"
        for key, condition in self.where.items():
            value = record["metadata"].get(key, record.get(key))
            if (why := condition.against(value)) is not None and value is None:
                near = display.near(key, [*record["metadata"], *record])
                return f"has no {key}" + (f", but {near}" if near else "")
            if why is not None:
                return f"has {key} {_shown(value)}, which {why}"
        return None


EVERYTHING = Filter()


def read_filter(request: Mapping[str, Any]) -> Filter:
    """Return the conditions in a `list` or `discover` request; raises InvalidRequest."""
    if _CONDITIONS.isdisjoint(request):
        return EVERYTHING
    question: Question = messages.checked(request, Question, "")
    tags = question.tags or []
    return Filter(
        name=question.name,
        mode=question.mode,
        tags=frozenset(tag for tag in tags if not tag.startswith("!")),
        excluded_tags=frozenset(tag[1:] for tag in tags if tag.startswith("!")),
        where={key: Condition(key, value) for key, value in (question.where or {}).items()},
        prefix=question.prefix,
        health=None if question.health is None else frozenset(question.health),
    )


def _fact(service: Service, key: str) -> Any:
    if key in service.metadata:
        return service.metadata[key]
    return service.body().get(key)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


class Strategies:
    """Chooses one of several services, by a strategy that the question names.

    `default` is the strategy of questions that name none; `others` are strategies of one's own.
    """

    def __init__(self, default: Strategy | str, others: Mapping[str, Strategy]) -> None:
        #: How often round-robin has chosen; a new service has to wait for all others.
        self.choices = 0
        self._by_name: dict[str, Choose] = {
            "random": _random,
            "round-robin": self._round_robin,
            "least-loaded": _least_loaded,
            "same-host": _same_host,
        }
        for name, strategy in others.items():
            if name in self._by_name:
                raise ConfigurationError(f"there is a strategy {name!r} already")
            self._by_name[name] = _own(strategy)
        if isinstance(default, str) and default not in self._by_name:
            raise ConfigurationError(f"unknown strategy {default!r}", hint=self._hint())
        self._default = self._by_name[default] if isinstance(default, str) else _own(default)

    def by(self, strategy: str | None) -> Choose:
        """Return how to choose by a strategy, None for the default; raises InvalidRequest."""
        if strategy is None:
            return self._default
        if strategy not in self._by_name:
            near = display.near(strategy, self._by_name)
            raise InvalidRequest(
                f"Invalid strategy: {strategy!r} is unknown",
                hint=(f"{display.did_you_mean(near)}; " if near else "") + self._hint(),
            )
        return self._by_name[strategy]

    def _hint(self) -> str:
        return "the strategies are " + ", ".join(self._by_name)

    def _round_robin(self, leases: Sequence[Lease], _asker: Asker) -> Lease:
        """Choose the one that was not chosen for longest, whatever was asked in between."""
        chosen = min(leases, key=lambda lease: lease.last_chosen)
        self.choices += 1
        chosen.last_chosen = self.choices
        return chosen


def _random(leases: Sequence[Lease], _asker: Asker) -> Lease:
    return random.choice(leases)


def _least_loaded(leases: Sequence[Lease], _asker: Asker) -> Lease:
    """Choose one with the least load; a service without a load counts as 0."""
    least = min(lease.report.load or 0 for lease in leases)
    return random.choice([lease for lease in leases if (lease.report.load or 0) == least])


def _same_host(leases: Sequence[Lease], asker: Asker) -> Lease:
    """Choose one on the asker's host; any other, if there is none."""
    near = [lease for lease in leases if _shares_host(asker, lease.service)]
    return random.choice(near or leases)


def _shares_host(asker: Asker, service: Service) -> bool:
    """Return whether a service runs where the asker does."""
    boot = (service.owner or {}).get("boot")
    if boot is not None and asker.boot is not None:
        return bool(boot == asker.boot)
    return asker.host is not None and asker.host.lower() == service.host.lower()


def _own(strategy: Strategy) -> Choose:
    def chooses(leases: Sequence[Lease], _asker: Asker) -> Lease:
        chosen = strategy([lease.service for lease in leases])
        return next(lease for lease in leases if lease.service.id == chosen.id)

    return chooses
