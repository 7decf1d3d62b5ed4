"""The exceptions of rsreg, and the codes they have on the wire.

    RegistryError                    everything rsreg raises on purpose
    ├── ConfigurationError           an argument or setting is wrong          (also ValueError)
    ├── TransportError               question or answer got lost
    │   ├── RequestTimeout           no answer within the timeout             (also TimeoutError)
    │   ├── UnknownHost              no name server knows the registry's host
    │   ├── Disconnected             the client is closed, or nothing can be sent
    │   ├── Stale                    a cache got no answer for too long
    │   └── Unreachable              a service is not where it says       (also TimeoutError)
    ├── ServerError                  the registry answered "no": .code, .hint, .details
    │   ├── InvalidRequest           invalid-request
    │   │   ├── InvalidJSON          invalid-json
    │   │   └── UnknownAction        unknown-action
    │   ├── UnknownService           unknown-service
    │   ├── NoService                no-service
    │   ├── DuplicateServiceType     duplicate_service_type
    │   ├── DuplicateName            duplicate-name
    │   ├── JudgeFirst               judge-first                 (our clients deal with it)
    │   ├── OwnedByOther             owned-by-other
    │   ├── Forbidden                forbidden
    │   ├── LimitReached             limit
    │   ├── SlowDown                 slow-down        (our clients wait, and ask again)
    │   ├── Unavailable              unavailable
    │   ├── BackupFailed             backup-failed
    │   └── InternalError            internal
    ├── AmbiguousName                a name or prefix fits several services
    ├── StoreError                   server side: the store failed or was refused
    │   ├── StoreInUse               another server has it
    │   └── StoreLost                its files are no longer where, or what, they were
    └── PortInUse                    server side: a port is taken

An unknown code decodes to plain `ServerError`, so older clients survive newer servers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rsreg.display import printable


class RegistryError(Exception):
    """Everything rsreg raises on purpose; `hint` says what to do, where that helps.

    Both are one line: much of what they say was told by others, who are to write no lines of their
    own into the log of whoever gets the error, nor to talk to the terminal.
    """

    hint: str | None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(printable(message))
        self.hint = None if hint is None else printable(hint)

    def __reduce__(self) -> tuple[Any, ...]:
        # Python would call the class with `args` alone, and most of ours are made with more.
        return _without_init, (type(self), self.args), self.__dict__


class ConfigurationError(RegistryError, ValueError):
    """An argument or a setting is wrong; nothing was sent or opened."""


class TransportError(RegistryError):
    """The question or the answer got lost; whether the change happened is unknown."""


class RequestTimeout(TransportError, TimeoutError):
    """The registry gave no answer within the timeout."""


class UnknownHost(TransportError):
    """The name of the registry's host is known to no name server, now at least."""


class Disconnected(TransportError):
    """The client is closed, or nothing more can be sent."""


class Stale(TransportError):
    """A cache got no answer for too long; it goes on asking, and answers again after one."""


class Unreachable(TransportError, TimeoutError):
    """A service that the registry knows takes no connection where it says it is."""


class ServerError(RegistryError):
    """The registry answered "no": `code` is for programs, the text for people."""

    code: str = "error"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code or type(self).code
        self.details = dict(details or {})

    def body(self) -> dict[str, Any]:
        """The error object of the protocol (docs/protocol.md, "Errors")."""
        body: dict[str, Any] = {"success": False, "error": str(self), "code": self.code}
        if self.hint:
            body["hint"] = self.hint
        return body | self.details


class InvalidRequest(ServerError):
    """The request breaks a rule of the protocol; the text names the field."""

    code = "invalid-request"


class InvalidJSON(InvalidRequest):
    """The request is not JSON as the protocol has it."""

    code = "invalid-json"


class UnknownAction(InvalidRequest):
    """No action has this name."""

    code = "unknown-action"


class UnknownService(ServerError):
    """No service has this id: it expired, left, or never was; register again."""

    code = "unknown-service"


class NoService(ServerError):
    """No passing service of the type asked for."""

    code = "no-service"


class DuplicateServiceType(ServerError):
    """The policy allows one service of this type, and there is one."""

    code = "duplicate_service_type"


class DuplicateName(ServerError):
    """The name is exclusive, and a live service has it."""

    code = "duplicate-name"


class JudgeFirst(ServerError):
    """Entries of the same name and boot are to be judged first: `details["namesakes"]`."""

    code = "judge-first"


class OwnedByOther(ServerError):
    """It is another process's, or another person's, and `force` was not said; nothing changed."""

    code = "owned-by-other"


class Forbidden(ServerError):
    """This peer may not do that."""

    code = "forbidden"


class LimitReached(ServerError):
    """A bound of the registry is reached: `details` names it, `limit`, and its number, `bound`."""

    code = "limit"


class SlowDown(ServerError):
    """Too much in too short a time: `details["retry_after"]` are the seconds until it is taken."""

    code = "slow-down"


class Unavailable(ServerError):
    """The store can't do it now; nothing was changed, try again."""

    code = "unavailable"


class BackupFailed(ServerError):
    """The registry could not write the copy that was asked for; there is none."""

    code = "backup-failed"


class InternalError(ServerError):
    """A fault of the registry; the details are in its log."""

    code = "internal"


class AmbiguousName(RegistryError):
    """A name or a prefix fits several services; `candidates` holds their ids."""

    def __init__(self, message: str, candidates: list[str]) -> None:
        more = f" and {len(candidates) - 5} more" if len(candidates) > 5 else ""
        super().__init__(message, hint="use one of the ids: " + ", ".join(candidates[:5]) + more)
        self.candidates = candidates


class StoreError(RegistryError):
    """The store failed, or may not be used; chained to what the database said."""


class StoreInUse(StoreError):
    """Another server has the store; the text says which."""


class StoreLost(StoreError):
    """The files of an open store were taken away, replaced or changed: only people mend that."""


class PortInUse(RegistryError):
    """A port of the server is taken by another program."""


def retry_after(told: Mapping[str, Any]) -> float | None:
    """The seconds to wait that a SlowDown, or its reply, tells of; None if it tells none."""
    seconds = told.get("retry_after")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0:
        return float(seconds)
    return None


def _without_init(cls: type[RegistryError], args: tuple[Any, ...]) -> RegistryError:
    """An error whose attributes are still to come, for `pickle` and `copy`."""
    error = cls.__new__(cls)
    error.args = args
    return error


def _subclasses(cls: type[ServerError]) -> Iterator[type[ServerError]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


#: Wire code -> class. Codes are part of the protocol; a test keeps them unique.
BY_CODE: dict[str, type[ServerError]] = {cls.code: cls for cls in _subclasses(ServerError)}

#: What an error object holds beside `details`.
_KNOWN_FIELDS = {"success", "error", "code", "hint", "message", "request_id"}


def from_body(body: Mapping[str, Any]) -> ServerError:
    """The exception that an error object stands for.

    CGSE puts a code into `error` and the sentence into `message`; then the sentence is shown.
    """
    code = body.get("code")
    if not isinstance(code, str):
        code = ServerError.code
    text = str(body.get("message") or body.get("error") or "the registry gave no reason")
    hint = body.get("hint")
    return BY_CODE.get(code, ServerError)(
        text,
        hint=str(hint) if hint else None,
        code=printable(code),
        details={key: value for key, value in body.items() if key not in _KNOWN_FIELDS},
    )
