"""`Bench`: the client for shells and notebooks, in which services are attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rsreg import calls, records, text
from rsreg.client import RegistryClient
from rsreg.errors import RegistryError
from rsreg.records import ServiceList, ServiceRecord

#: Seconds that completion may keep a shell waiting.
_COMPLETION_TIMEOUT = 0.3


class Bench(RegistryClient):
    """A RegistryClient that shows what is there: its `repr` is the table of services.

    `reg.PUNA` are the Services of a type, `reg.puna_cs` is the record of the one with a name;
    `reg["ls-336"]` is for what is no identifier, and for ids. A type goes before a name, a method
    before both. Raises AttributeError or KeyError where there is none.
    """

    #: Else Python would ask for `reg[0]`, `reg[1]`, ...
    __iter__: None = None

    def __getattr__(self, name: str) -> Services | ServiceRecord:
        # Python and notebooks look for such names on their own; no service is meant.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        found = _named(self.list_services(), name)
        if found is None:
            raise AttributeError(self._nothing(name))
        return found

    def __getitem__(self, name: str) -> Services | ServiceRecord:
        services = self.list_services()
        found = _named(services, name) or _by_id(services, name)
        if found is None:
            raise KeyError(self._nothing(name))
        return found

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *filter(records.is_attribute, self._names())]

    def __repr__(self) -> str:
        services = self._there()
        if isinstance(services, str):
            return services
        return "\n".join([self._title(services), *_table(services)])

    def _repr_html_(self) -> str:
        services = self._there()
        if isinstance(services, str):
            return f"<pre>{text.as_html(services)}</pre>"
        shown = services._repr_html_() if services else ""
        return f"<div>{text.as_html(self._title(services))}</div>{shown}"

    def _ipython_key_completions_(self) -> list[str]:
        return [name for name in self._names() if name.isprintable()]

    def _there(self) -> ServiceList | str:
        """All services, or why they can't be told: to show something must never fail."""
        try:
            return self.list_services()
        # A RuntimeError: it is shown, by a debugger perhaps, in the middle of a call.
        except (RegistryError, RuntimeError) as error:
            where = self.settings.req_endpoint
            return f"registry {where} can't be reached: {text.printable(error)}"

    def _names(self) -> list[str]:
        """The types and names of the services; none if the registry does not answer at once."""
        try:
            services = self._run(calls.list_services(), _COMPLETION_TIMEOUT)
        except (RegistryError, RuntimeError):
            return []
        return sorted({name for one in services for name in (*_types(one), one["name"])})

    def _title(self, services: ServiceList) -> str:
        plural = "" if len(services) == 1 else "s"
        return f"registry {self.settings.req_endpoint}, {len(services) or 'no'} service{plural}"

    def _nothing(self, name: str) -> str:
        return (
            f"neither a type nor a service {text.printable(name)!r} is registered on "
            f"{self.settings.req_endpoint}"
        )


class Services:
    """The services of a type, as they were when they were asked for.

    Their names are attributes, or keys, and ids are keys too. Where there is just one, so are its
    fields and its `endpoint`. To go through it, or `len()` it, gives all of them.
    """

    __slots__ = ("_kind", "_services")

    def __init__(self, kind: str, services: Iterable[ServiceRecord]) -> None:
        self._kind = kind
        self._services = ServiceList(services)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        named = [one for one in self._services if one["name"] == name]
        if len(named) == 1:
            return named[0]
        if len(self._services) == 1:
            return getattr(self._services[0], name)
        names = ", ".join(sorted(text.printable(one["name"]) for one in self._services))
        raise AttributeError(
            f"{text.printable(self._kind)!r} are {len(self._services)} services: {names}; "
            f"say which of them"
        )

    def __getitem__(self, name: str) -> ServiceRecord:
        found = [one for one in self._services if name in (one["name"], one["id"])]
        if len(found) != 1:
            raise KeyError(f"{len(found) or 'no'} services {text.printable(name)!r} are here")
        return found[0]

    def __iter__(self) -> Iterator[ServiceRecord]:
        return iter(self._services)

    def __len__(self) -> int:
        return len(self._services)

    def __dir__(self) -> list[str]:
        names = [one["name"] for one in self._services]
        fields = ["endpoint", *self._services[0]] if len(names) == 1 else []
        return [*super().__dir__(), *filter(records.is_attribute, [*names, *fields])]

    def __repr__(self) -> str:
        return "\n".join(_table(self._services))

    def _repr_html_(self) -> str:
        return self._services._repr_html_()

    def _ipython_key_completions_(self) -> list[str]:
        return [name for one in self for name in (one["name"], one["id"]) if name.isprintable()]


def _named(services: ServiceList, name: str) -> Services | ServiceRecord | None:
    """What a name means: the services of that type, else the one called so, or all of them."""
    of_type = [one for one in services if name in _types(one)]
    called = [one for one in services if one["name"] == name]
    if not of_type and len(called) == 1:
        return called[0]
    return Services(name, of_type or called) if of_type or called else None


def _by_id(services: ServiceList, service_id: str) -> ServiceRecord | None:
    return next((one for one in services if one["id"] == service_id), None)


def _types(service: ServiceRecord) -> set[str]:
    return records.kinds_of(service["type"], (), service["metadata"])


def _table(services: ServiceList) -> list[str]:
    return [text.table(services.HEADER, services.rows())] if services else []
