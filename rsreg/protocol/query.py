"""The options of questions: their types, their checks, and the parameters they become. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from rsreg.config import checked_mode
from rsreg.errors import ConfigurationError
from rsreg.protocol.health import HEALTHS
from rsreg.protocol.limits import MAX_MAINTENANCE, MAX_TAGS, MAX_TEXT, MAX_TTL

#: The strategy for which the registry has to know on which host the client runs.
SAME_HOST = "same-host"


class Filters(TypedDict, total=False):
    """Conditions that a service has to meet, all of them.

    `tags`: the service has each of them, and none that is written "!tag". `where`: values by
    field, of the metadata or else of the record, or a version condition like ">=1.4". `mode`:
    "hardware" or "simulator", "any" for what the registry has; the client's own by default.
    """

    tags: Sequence[str] | None
    where: Mapping[str, Any] | None
    mode: str | None


class ListFilters(Filters, total=False):
    """Conditions on the services in a list.

    `health`: the states of health to show, such as ["critical", "warning"].
    """

    health: Sequence[str] | None


class Choice(Filters, total=False):
    """Conditions on the service to discover, and how one of several is chosen.

    `strategy`: "random", "round-robin", "least-loaded", "same-host", or one of the server's own;
    its default is the server's. `wait`: seconds to wait for one, 0 to 86400, none by default.
    """

    strategy: str | None
    wait: float


class MaintenanceFields(TypedDict, total=False):
    """What is in maintenance, for how long and why (see `RegistryClient.maintenance`)."""

    service: str | None
    service_type: str | None
    host: str | None
    for_: float | None
    forever: bool
    reason: str | None
    by: str | None
    force: bool


def filter_params(filters: Filters, mode: str | None) -> dict[str, Any]:
    """Return the parameters of a question; `mode` is the default. Raises ConfigurationError."""
    if not filters:
        return {} if mode is None else {"mode": mode}
    _check_names(filters, Filters.__annotations__)
    return _params(filters, mode)


def list_params(filters: ListFilters, mode: str | None) -> dict[str, Any]:
    """Return the parameters of a list; `mode` is the default. Raises ConfigurationError."""
    if not filters:
        return filter_params({}, mode)
    _check_names(filters, ListFilters.__annotations__)
    params = _params(filters, mode)
    health = filters.get("health")
    if health is None:
        return params
    if isinstance(health, str) or not set(health) <= set(HEALTHS):
        raise ConfigurationError(
            f"health is a list, not {health!r}", hint="of these: " + ", ".join(HEALTHS)
        )
    return {**params, "health": list(health)}


def discover_params(
    service_type: str, choice: Choice, mode: str | None
) -> tuple[dict[str, Any], float]:
    """Return the parameters of a discovery, and the seconds to wait; `mode` is the default.

    Raises ConfigurationError.
    """
    check_type(service_type)
    if not choice:
        return filter_params({}, mode), 0.0
    _check_names(choice, Choice.__annotations__)
    wait = wait_seconds(choice.get("wait", 0.0), "wait")
    strategy = choice.get("strategy")
    if strategy is not None and not _is_text(strategy):
        raise ConfigurationError(f"a strategy is a text, not {strategy!r}")
    params = _params(choice, mode)
    return (params | {"strategy": strategy} if strategy else params), wait


def candidate_params(choice: Choice, mode: str | None) -> dict[str, Any]:
    """Return the parameters of a list of all services that a choice allows."""
    return _params(choice, mode)


def wait_seconds(seconds: float, name: str) -> float:
    """Return the seconds to wait, once checked; raises ConfigurationError."""
    if not _is_number(seconds) or not 0 <= seconds <= MAX_TTL:
        raise ConfigurationError(f"{name} is 0 to {MAX_TTL} seconds, not {seconds!r}")
    return seconds


def maintenance_params(on: bool, fields: MaintenanceFields) -> dict[str, Any]:
    """Return the parameters that begin or end a maintenance; raises ConfigurationError."""
    for_, forever, reason = fields.get("for_"), fields.get("forever"), fields.get("reason")
    targets = {name: fields.get(name) for name in ("service", "service_type", "host")}
    given = [name for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise ConfigurationError(
            "give exactly one of service, service_type, host, "
            f"not {' and '.join(given) or 'none of them'}"
        )
    if for_ is not None and forever:
        raise ConfigurationError("a maintenance is forever, or for some seconds, not both")
    if not on and (for_ is not None or forever or reason is not None):
        raise ConfigurationError("for_, forever and reason can't be used when ending a maintenance")
    if for_ is not None and (not _is_number(for_) or not 1 <= for_ <= MAX_MAINTENANCE):
        raise ConfigurationError(
            f"a maintenance is for 1 to {MAX_MAINTENANCE} seconds, not {for_!r}"
        )
    texts = {**targets, "reason": reason, "by": fields.get("by")}
    for name, value in texts.items():
        if value is not None and not _is_text(value):
            raise ConfigurationError(
                f"{name} is a text of 1 to {MAX_TEXT} characters, not {value!r}"
            )
    params = {
        **texts,
        "on": bool(on),
        "for": None if for_ is None else round(for_),
        "forever": forever or None,
        "force": fields.get("force") or None,
    }
    return {name: value for name, value in params.items() if value is not None}


def check_type(service_type: str) -> None:
    """Check a service type; raises ConfigurationError."""
    if not _is_text(service_type):
        raise ConfigurationError(
            f"a type is a text of 1 to {MAX_TEXT} characters, not {service_type!r}"
        )


def check_watch(
    service_type: str | None, since: int | None, epoch: str | None, mark: str | None
) -> None:
    """Check the arguments of a watch; raises ConfigurationError."""
    if service_type is not None:
        check_type(service_type)
    for name, value in (("epoch", epoch), ("mark", mark)):
        if since is None and value is not None:
            raise ConfigurationError(
                f"{name} needs since", hint="give the seq of the last event too"
            )
    if since is not None and (isinstance(since, bool) or not isinstance(since, int) or since < 0):
        raise ConfigurationError(f"since is the seq of an event, 0 or more, not {since!r}")


def _params(filters: Filters, mode: str | None) -> dict[str, Any]:
    params = {
        "tags": _read_tags(filters.get("tags")),
        "where": _read_where(filters.get("where")),
        "mode": checked_mode(filters.get("mode"), mode),
    }
    return {name: value for name, value in params.items() if value}


def _check_names(given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigurationError(
                f"there is no option {name!r} here", hint="the options are " + ", ".join(known)
            )


def _read_tags(tags: Sequence[str] | None) -> list[str] | None:
    if tags is None:
        return None
    if not isinstance(tags, (list, tuple)) or not all(map(_is_text, tags)):
        raise ConfigurationError(
            f"tags are a list of texts of 1 to {MAX_TEXT} characters, not {tags!r}",
            hint='write tags=["optics"], also for one',
        )
    if len(tags) > MAX_TAGS:
        raise ConfigurationError(f"at most {MAX_TAGS} tags, not {len(tags)}")
    for tag in tags:
        if f"!{tag}" in tags:
            raise ConfigurationError(f"no service has the tag {tag!r} and does not have it")
    return list(tags)


def _read_where(where: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if where is None:
        return None
    if not isinstance(where, Mapping) or not all(map(_is_text, where)):
        raise ConfigurationError(
            f"where is a mapping of fields to values, not {where!r}",
            hint='write where={"version": ">=1.4", "site": "leuven"}',
        )
    return dict(where)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
