"""What narrows a question and how one of several is chosen: the words, and what is wrong with them.

No I/O.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from rsreg.config import checked_mode
from rsreg.errors import ConfigurationError
from rsreg.protocol.health import HEALTHS
from rsreg.protocol.limits import MAX_MAINTENANCE, MAX_TAGS, MAX_TEXT, MAX_TTL

#: The strategy for which the registry has to know where who asks is.
SAME_HOST = "same-host"


class Filters(TypedDict, total=False):
    """Only services that have all of these.

    `tags`: each of them, or not it if it is written "!tag". `where`: a field of the metadata, or
    else of the record, and its value, or a version condition like ">=1.4". `mode`: "hardware" or
    "simulator", "any" for what the registry has; the client's own by default.
    """

    tags: Sequence[str] | None
    where: Mapping[str, Any] | None
    mode: str | None


class Listed(Filters, total=False):
    """Only services that have all of these, in a list.

    `health`: those that will do, such as ["critical", "warning"].
    """

    health: Sequence[str] | None


class Choice(Filters, total=False):
    """One of the services that have all of these.

    `strategy`: "random", "round-robin", "least-loaded", "same-host", or one of the server's own;
    its default is the server's. `wait`: seconds to wait for one, 0 to 86400, none by default.
    """

    strategy: str | None
    wait: float


def narrowed(filters: Filters, mode: str | None) -> dict[str, Any]:
    """The parameters of a question, with `mode` where they say none; raises ConfigurationError."""
    if not filters:
        return {} if mode is None else {"mode": mode}
    _check_known(filters, Filters.__annotations__)
    return _checked(filters, mode)


def listed(filters: Listed, mode: str | None) -> dict[str, Any]:
    """The parameters of a list, with `mode` where they say none; raises ConfigurationError."""
    if not filters:
        return narrowed({}, mode)
    _check_known(filters, Listed.__annotations__)
    asked = _checked(filters, mode)
    health = filters.get("health")
    if health is None:
        return asked
    if isinstance(health, str) or not set(health) <= set(HEALTHS):
        raise ConfigurationError(
            f"health is a list, not {health!r}", hint="of these: " + ", ".join(HEALTHS)
        )
    return {**asked, "health": list(health)}


def chosen(kind: str, choice: Choice, mode: str | None) -> tuple[dict[str, Any], float]:
    """The parameters of a discovery, and the seconds to wait; raises ConfigurationError."""
    check_type(kind)
    if not choice:
        return narrowed({}, mode), 0.0
    _check_known(choice, Choice.__annotations__)
    wait = checked_wait(choice.get("wait", 0.0), "wait")
    strategy = choice.get("strategy")
    if strategy is not None and not _is_text(strategy):
        raise ConfigurationError(f"a strategy is a text, not {strategy!r}")
    asked = _checked(choice, mode)
    return (asked | {"strategy": strategy} if strategy else asked), wait


def pooled(choice: Choice, mode: str | None) -> dict[str, Any]:
    """The parameters that ask for all services among which a choice is made."""
    return _checked(choice, mode)


def checked_wait(seconds: float, name: str) -> float:
    """A length of time to wait; raises ConfigurationError."""
    if not _is_number(seconds) or not 0 <= seconds <= MAX_TTL:
        raise ConfigurationError(f"{name} is 0 to {MAX_TTL} seconds, not {seconds!r}")
    return seconds


def checked_maintenance(
    on: bool,
    *,
    service: str | None,
    service_type: str | None,
    host: str | None,
    for_: float | None,
    forever: bool,
    reason: str | None,
    by: str | None,
    force: bool,
) -> dict[str, Any]:
    """The parameters of a maintenance that begins, or ends; raises ConfigurationError."""
    targets = {"service": service, "service_type": service_type, "host": host}
    said = [name for name, value in targets.items() if value is not None]
    if len(said) != 1:
        raise ConfigurationError(
            f"a maintenance is of one thing, not of {' and '.join(said) or 'nothing'}",
            hint="name the service, or the service_type, or the host",
        )
    if for_ is not None and forever:
        raise ConfigurationError("a maintenance is forever, or for some seconds, not both")
    if not on and (for_ is not None or forever or reason is not None):
        raise ConfigurationError("what ends has no length and no reason")
    if for_ is not None and (not _is_number(for_) or not 1 <= for_ <= MAX_MAINTENANCE):
        raise ConfigurationError(
            f"a maintenance is for 1 to {MAX_MAINTENANCE} seconds, not {for_!r}"
        )
    texts = {**targets, "reason": reason, "by": by}
    for name, value in texts.items():
        if value is not None and not _is_text(value):
            raise ConfigurationError(
                f"{name} is a text of 1 to {MAX_TEXT} characters, not {value!r}"
            )
    length = None if for_ is None else round(for_)
    asked = {**texts, "on": bool(on), "for": length, "forever": forever or None}
    asked["force"] = force or None
    return {name: value for name, value in asked.items() if value is not None}


def check_type(kind: str) -> None:
    """Raises ConfigurationError where nothing can be found under it."""
    if not _is_text(kind):
        raise ConfigurationError(f"a type is a text of 1 to {MAX_TEXT} characters, not {kind!r}")


def check_watch(kind: str | None, since: int | None, epoch: str | None, mark: str | None) -> None:
    """Raises ConfigurationError where these can't be watched from."""
    if kind is not None:
        check_type(kind)
    for name, said in (("epoch", epoch), ("mark", mark)):
        if since is None and said is not None:
            raise ConfigurationError(
                f"{name}= says nothing without since=", hint="give the seq of the last event too"
            )
    if since is not None and (isinstance(since, bool) or not isinstance(since, int) or since < 0):
        raise ConfigurationError(f"since is the seq of an event, 0 or more, not {since!r}")


def _checked(filters: Filters, mode: str | None) -> dict[str, Any]:
    asked = {
        "tags": _checked_tags(filters.get("tags")),
        "where": _checked_where(filters.get("where")),
        "mode": checked_mode(filters.get("mode"), mode),
    }
    return {name: value for name, value in asked.items() if value}


def _check_known(given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigurationError(
                f"there is no option {name!r} here", hint="the options are " + ", ".join(known)
            )


def _checked_tags(tags: Sequence[str] | None) -> list[str] | None:
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


def _checked_where(where: Mapping[str, Any] | None) -> dict[str, Any] | None:
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
