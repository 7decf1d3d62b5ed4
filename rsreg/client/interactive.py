"""The client for shells and notebooks, in which services are attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rsreg import config, display
from rsreg.client.sync import RegistryClient
from rsreg.errors import RegistryError
from rsreg.protocol import calls, messages, records
from rsreg.protocol.records import ServiceList, ServiceRecord

#: Services that an error names.
_MENTIONED = 3


class InteractiveClient(RegistryClient):
    """A RegistryClient for shells and notebooks: its `repr` is the table of services.

    `reg.PUNA` are the Services of a type, `reg.puna_cs` is the record of the service of that name.
    `reg["ls-336"]` is for what is no identifier, and for ids. Methods go before both. A word that
    means different services, such as the type of one and the name of another, is refused: else
    whoever registers a service could take the place of yours.

    Args:
        registry_req_endpoint: The registry; this and all other arguments are as in RegistryClient.

    Raises:
        AttributeError: Of `reg.name`: there is no such service, or not one service alone.
        KeyError: Of `reg["name"]`, likewise.
    """

    #: Else Python would ask for `reg[0]`, `reg[1]`, ...
    __iter__: None = None

    def __getattr__(self, name: str) -> Services | ServiceRecord:
        # Python and notebooks look for such names on their own; no service is meant.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        try:
            return self._named_by(name, ("type", "name"))
        except KeyError as error:
            raise AttributeError(*error.args) from None

    def __getitem__(self, name: str) -> Services | ServiceRecord:
        return self._named_by(name, ("type", "name", "id"))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *filter(records.is_attribute, self._names())]

    def __repr__(self) -> str:
        services = self._listed_or_error()
        if isinstance(services, str):
            return services
        return "\n".join([self._title(services), *_table(services)])

    def _repr_html_(self) -> str:
        services = self._listed_or_error()
        if isinstance(services, str):
            return f"<pre>{display.as_html(services)}</pre>"
        shown = services._repr_html_() if services else ""
        return f"<div>{display.as_html(self._title(services))}</div>{shown}"

    def _ipython_key_completions_(self) -> list[str]:
        return [name for name in self._names() if name.isprintable()]

    def _listed_or_error(self) -> ServiceList | str:
        """Return all services, or the error as text: to show the client must never fail."""
        try:
            return self.list_services()
        # A RuntimeError: it is shown, by a debugger perhaps, in the middle of a call.
        except (RegistryError, RuntimeError) as error:
            where = self.settings.req_endpoint
            return f"registry {where} can't be reached: {display.printable(error)}"

    def _names(self) -> list[str]:
        """Return the types and names of all services; none without an answer at once."""
        try:
            services = self._ask(calls.list_services(), config.COMPLETION_TIMEOUT)
        except (RegistryError, RuntimeError):
            return []
        return sorted({name for one in services for name in (*_types(one), one["name"])})

    def _named_by(self, word: str, meanings: Sequence[str]) -> Services | ServiceRecord:
        """Return what a word means; raises KeyError for nothing, or several things."""
        services = self.list_services()
        meant = {meaning: _matches(services, meaning, word) for meaning in meanings}
        of_type = meant["type"]
        others = {one["id"]: one for meaning in meanings[1:] for one in meant[meaning]}
        if not of_type and not others:
            raise KeyError(self._not_found(word))
        if of_type and others.keys() <= {one["id"] for one in of_type}:
            return Services(word, of_type)
        if not of_type and len(others) == 1:
            return next(iter(others.values()))
        raise KeyError(_ambiguity(word, meant))

    def _title(self, services: ServiceList) -> str:
        plural = "" if len(services) == 1 else "s"
        return f"registry {self.settings.req_endpoint}, {len(services) or 'no'} service{plural}"

    def _not_found(self, name: str) -> str:
        return (
            f"neither a type nor a service {display.printable(name)!r} is registered on "
            f"{self.settings.req_endpoint}"
        )


class Services:
    """The services of a type, as they were when the registry was asked.

    Their names are attributes and keys; their ids are keys too. If there is only one service, its
    fields and its `endpoint` are attributes too, and go before names. A loop over it, and `len`,
    are about all of them.
    """

    __slots__ = ("_service_type", "_services")

    def __init__(self, service_type: str, services: Iterable[ServiceRecord]) -> None:
        self._service_type = service_type
        self._services = ServiceList(services)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        named = [one for one in self._services if one["name"] == name]
        is_field = _is_field(self._services, name)
        if len(self._services) == 1 and (is_field or not named):
            return getattr(self._services[0], name)
        # With one service less the field would be meant: no other one takes its place.
        if len(named) == 1 and not is_field:
            return named[0]
        names = ", ".join(sorted(display.printable(one["name"]) for one in self._services))
        raise AttributeError(
            f"{display.printable(self._service_type)!r} are {len(self._services)} services: "
            f"{names}; say which of them"
        )

    def __getitem__(self, name: str) -> ServiceRecord:
        matches = [one for one in self._services if name in (one["name"], one["id"])]
        if len(matches) != 1:
            raise KeyError(f"{len(matches) or 'no'} services {display.printable(name)!r} are here")
        return matches[0]

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


def _matches(services: ServiceList, meaning: str, word: str) -> list[ServiceRecord]:
    """Return the services that a word means, as a type, as a name or as an id."""
    if meaning == "type":
        return [one for one in services if word in _types(one)]
    return [one for one in services if one[meaning] == word]


def _ambiguity(word: str, services: Mapping[str, Sequence[ServiceRecord]]) -> str:
    """Describe a word that means different services, and how to name each of them."""
    meanings = [
        f"the {meaning} of {', '.join(map(_describe, meant[:_MENTIONED]))}"
        + (f" and {len(meant) - _MENTIONED} more" if len(meant) > _MENTIONED else "")
        for meaning, meant in services.items()
        if meant
    ]
    how = "reg.get_service(ID)" if services.get("id") else "reg[ID]"
    kept = display.printable(word)
    return f"{kept!r} is {', and '.join(meanings)}: say which one with {how}, or change a name"


def _describe(service: ServiceRecord) -> str:
    return display.printable(f"{service['name']} at {service.endpoint} (id {service['id']!r})")


def _is_field(services: ServiceList, name: str) -> bool:
    """True if a name is a field, or an attribute, of a record."""
    return (
        name in messages.FIELDS
        or hasattr(ServiceRecord, name)
        or any(name in one for one in services)
    )


def _types(service: ServiceRecord) -> set[str]:
    return records.service_types_of(service["type"], (), service["metadata"])


def _table(services: ServiceList) -> list[str]:
    return [display.table(services.HEADER, services.rows())] if services else []
