"""Which services a question is about, and which of them it gets. No I/O."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta, Struct
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from rsreg import records
from rsreg.errors import ConfigurationError, InvalidRequest
from rsreg.lease import Lease
from rsreg.records import Mode, Service, Tags

#: What begins a condition on a version, instead of a text to be equal to.
_COMPARES = ("<", ">", "=", "!", "~")
#: Keys in a `where`, and versions in one condition: each is looked at for each service, while
#: everybody waits.
_MAX_KEYS, _MAX_VERSIONS = 8, 8

#: A discovery strategy of one's own: chooses one of some services; never called with none.
Strategy = Callable[[Sequence[Service]], Service]


class Asker(Struct, frozen=True, kw_only=True):
    """Who asks, as it says itself: the name of its host, and the id of that host's last boot."""

    host: str | None = None
    boot: str | None = None

    def shares_host_with(self, service: Service) -> bool:
        """Whether a service runs where the asker does."""
        boot = (service.owner or {}).get("boot")
        if boot is not None and self.boot is not None:
            return bool(boot == self.boot)
        return self.host is not None and self.host.lower() == service.host.lower()


NOBODY = Asker()
#: Chooses one of some leases for who asks; never called with none.
Choose = Callable[[Sequence[Lease], Asker], Lease]


class _Asked(Struct, frozen=True, kw_only=True):
    name: str | None = None
    tags: Tags | None = None
    where: Annotated[dict[str, Any], Meta(max_length=_MAX_KEYS)] | None = None
    mode: Mode | None = None


_CONDITIONS = frozenset(_Asked.__struct_fields__)


@dataclass(frozen=True)
class Filter:
    """The conditions of a question on services; all have to hold.

    `tags` that begin with "!" must not be there. `where` maps a key of the metadata, or else of the
    record, to what its value has to be; see `condition`.
    """

    name: str | None = None
    mode: str | None = None
    wanted: frozenset[str] = frozenset()
    unwanted: frozenset[str] = frozenset()
    where: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)

    @property
    def narrows(self) -> bool:
        """Whether there is more to it than a mode."""
        return bool(self.name or self.wanted or self.unwanted or self.where)

    def fits(self, service: Service) -> bool:
        """Whether a service is one of those asked for, but for its mode."""
        return (
            self.name in (None, service.name)
            and self.wanted.issubset(service.tags)
            and self.unwanted.isdisjoint(service.tags)
            and all(holds(_fact(service, key)) for key, holds in self.where.items())
        )


EVERYTHING = Filter()


def read_filter(request: Mapping[str, Any]) -> Filter:
    """The conditions in a `list` or `discover` request; raises InvalidRequest."""
    if _CONDITIONS.isdisjoint(request):
        return EVERYTHING
    asked: _Asked = records.checked(request, _Asked, "")
    tags = asked.tags or []
    return Filter(
        name=asked.name,
        mode=asked.mode,
        wanted=frozenset(tag for tag in tags if not tag.startswith("!")),
        unwanted=frozenset(tag[1:] for tag in tags if tag.startswith("!")),
        where={key: condition(key, value) for key, value in (asked.where or {}).items()},
    )


def condition(key: str, wanted: Any) -> Callable[[Any], bool]:
    """What `where` asks of the value of a key: to be equal, or a version such as ">=1.4,<2"."""
    if not isinstance(wanted, str) or not wanted.startswith(_COMPARES):
        return lambda value: bool(
            value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
        )
    try:
        versions = SpecifierSet(wanted) if wanted.count(",") < _MAX_VERSIONS else None
    except InvalidSpecifier:
        versions = None
    if versions is None:
        raise InvalidRequest(
            f"Invalid where.{key}: {wanted!r} is no condition on a version",
            hint='write ">=1.4", "==2.1", "~=1.4" or several, as ">=1.4,<2", at most '
            f"{_MAX_VERSIONS}; any other text is compared as it is",
        )
    return _Versions(versions)


class _Versions:
    """Whether values are versions of a set; each is looked at once."""

    def __init__(self, wanted: SpecifierSet) -> None:
        self._wanted = wanted
        self._known: dict[str, bool] = {}

    def __call__(self, value: Any) -> bool:
        text = str(value)
        if text not in self._known:
            self._known[text] = self._look(text)
        return self._known[text]

    def _look(self, text: str) -> bool:
        try:
            return self._wanted.contains(Version(text), prereleases=True)
        except InvalidVersion:
            return False


def _fact(service: Service, key: str) -> Any:
    if key in service.metadata:
        return service.metadata[key]
    return service.body().get(key)


class Chooser:
    """Chooses one of several services, by a strategy that the question names.

    `default` is the strategy of questions that name none; `others` are strategies of one's own.
    """

    def __init__(self, default: Strategy | str, others: Mapping[str, Strategy]) -> None:
        #: The turn that round-robin gave last; who comes anew has to wait for all others.
        self.last_turn = 0
        self._known: dict[str, Choose] = {
            "random": _random,
            "round-robin": self._round_robin,
            "least-loaded": _least_loaded,
            "same-host": _same_host,
        }
        for name, strategy in others.items():
            if name in self._known:
                raise ConfigurationError(f"there is a strategy {name!r} already")
            self._known[name] = _own(strategy)
        if isinstance(default, str) and default not in self._known:
            raise ConfigurationError(f"no strategy {default!r}", hint=self._hint())
        self._default = self._known[default] if isinstance(default, str) else _own(default)

    def by(self, strategy: str | None) -> Choose:
        """How to choose by a strategy, None for the default; raises InvalidRequest."""
        if strategy is None:
            return self._default
        if strategy not in self._known:
            raise InvalidRequest(f"Invalid strategy: no {strategy!r} here", hint=self._hint())
        return self._known[strategy]

    def _hint(self) -> str:
        return "the strategies are " + ", ".join(self._known)

    def _round_robin(self, leases: Sequence[Lease], _asker: Asker) -> Lease:
        """The one that was not chosen for longest, whatever the questions in between were."""
        chosen = min(leases, key=lambda lease: lease.turn)
        self.last_turn += 1
        chosen.turn = self.last_turn
        return chosen


def _random(leases: Sequence[Lease], _asker: Asker) -> Lease:
    return random.choice(leases)


def _least_loaded(leases: Sequence[Lease], _asker: Asker) -> Lease:
    """One that says nothing of its load has none."""
    least = min(lease.report.load or 0 for lease in leases)
    return random.choice([lease for lease in leases if (lease.report.load or 0) == least])


def _same_host(leases: Sequence[Lease], asker: Asker) -> Lease:
    """Another, if there is none."""
    near = [lease for lease in leases if asker.shares_host_with(lease.service)]
    return random.choice(near or leases)


def _own(strategy: Strategy) -> Choose:
    def chooses(leases: Sequence[Lease], _asker: Asker) -> Lease:
        chosen = strategy([lease.service for lease in leases])
        return next(lease for lease in leases if lease.service.id == chosen.id)

    return chooses
