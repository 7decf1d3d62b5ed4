"""The exceptions of rsreg, and the codes they have on the wire.

    RegistryError                    everything rsreg raises on purpose
    ├── ConfigurationError           an argument or setting is wrong          (also ValueError)
    ├── TransportError               a request or its reply got lost
    │   ├── RequestTimeout           no answer within the timeout             (also TimeoutError)
    │   ├── UnknownHost              no name server knows the registry's host
    │   ├── Disconnected             the client is closed, or nothing can be sent
    │   ├── Stale                    a cache got no reply for too long
    │   └── Unreachable              a service can't be connected to     (also TimeoutError)
    ├── ServerError                  the registry refused: .code, .hint, .details
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
    ├── StoreError                   server side: the store failed, or can't be used
    │   ├── StoreInUse               another server uses it
    │   └── StoreLost                its files were moved, replaced or changed
    └── PortInUse                    server side: a port is taken

An unknown code decodes to plain `ServerError`, so older clients survive newer servers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rsreg.display import printable


class RegistryError(Exception):
    """Base of all errors that rsreg raises on purpose; `hint` says what to do, if that helps.

    The message and the hint are one printable line each. Parts of them come from other programs,
    which must not write lines of their own into a log, nor control a terminal.
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
    """A request or its reply got lost; it is unknown whether a change was made."""


class RequestTimeout(TransportError, TimeoutError):
    """The registry did not reply within the timeout."""


class UnknownHost(TransportError):
    """No name server knows the host of the registry, at least not now."""


class Disconnected(TransportError):
    """The client is closed, or nothing more can be sent."""


class Stale(TransportError):
    """A cache got no reply for too long; it keeps asking, and can be used after the next reply."""


class Unreachable(TransportError, TimeoutError):
    """A registered service accepts no connection at its address."""


class ServerError(RegistryError):
    """The registry refused a request: `code` is for programs, the message for people.

    `details` holds all other fields of the reply.
    """

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
        """Return the error object of the protocol (docs/protocol.md, "Errors")."""
        body: dict[str, Any] = {"success": False, "error": str(self), "code": self.code}
        if self.hint:
            body["hint"] = self.hint
        return body | self.details


class InvalidRequest(ServerError):
    """The request breaks a rule of the protocol; the message names the field."""

    code = "invalid-request"


class InvalidJSON(InvalidRequest):
    """The request is not valid JSON, or not JSON that the protocol allows."""

    code = "invalid-json"


class UnknownAction(InvalidRequest):
    """No action has this name."""

    code = "unknown-action"


class UnknownService(ServerError):
    """No service has this id: it expired, was deregistered, or never existed; register it again."""

    code = "unknown-service"


class NoService(ServerError):
    """There is no passing service of the requested type."""

    code = "no-service"


class DuplicateServiceType(ServerError):
    """The policy allows only one service of this type, and there is one already."""

    code = "duplicate_service_type"


class DuplicateName(ServerError):
    """The name is exclusive, and another live service has it."""

    code = "duplicate-name"


class JudgeFirst(ServerError):
    """The client has to say first which entries of its name are dead: `details["namesakes"]`."""

    code = "judge-first"


class OwnedByOther(ServerError):
    """The entry belongs to another process or person, and `force` is not set; nothing changed."""

    code = "owned-by-other"


class Forbidden(ServerError):
    """The client has no right to do this."""

    code = "forbidden"


class LimitReached(ServerError):
    """A limit is reached: `details["limit"]` is its name, `details["bound"]` its value."""

    code = "limit"


class SlowDown(ServerError):
    """Too many requests in a short time: try again after `details["retry_after"]` seconds."""

    code = "slow-down"


class Unavailable(ServerError):
    """The store can't be used now; nothing was changed, try again."""

    code = "unavailable"


class BackupFailed(ServerError):
    """The registry could not write the requested copy of its store; no file was left."""

    code = "backup-failed"


class InternalError(ServerError):
    """The registry has a fault; its log has the details."""

    code = "internal"


class AmbiguousName(RegistryError):
    """A name or a prefix fits several services; `candidates` holds their ids."""

    def __init__(self, message: str, candidates: list[str]) -> None:
        more = f" and {len(candidates) - 5} more" if len(candidates) > 5 else ""
        super().__init__(message, hint="use one of the ids: " + ", ".join(candidates[:5]) + more)
        self.candidates = candidates


class StoreError(RegistryError):
    """The store failed, or can't be used; the error of the database is its cause."""


class StoreInUse(StoreError):
    """Another server uses the store; the message says which."""


class StoreLost(StoreError):
    """The files of an open store were removed, replaced or changed; a person has to repair it."""


class PortInUse(RegistryError):
    """Another program uses the port."""


def retry_after(fields: Mapping[str, Any]) -> float | None:
    """Return the seconds to wait from the details of a SlowDown, or from its reply; or None."""
    seconds = fields.get("retry_after")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds > 0:
        return float(seconds)
    return None


def _without_init(cls: type[RegistryError], args: tuple[Any, ...]) -> RegistryError:
    """Make an error without attributes, which `pickle` and `copy` set next."""
    error = cls.__new__(cls)
    error.args = args
    return error


def _subclasses(cls: type[ServerError]) -> Iterator[type[ServerError]]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


#: Wire code -> class. Codes are part of the protocol; a test keeps them unique.
BY_CODE: dict[str, type[ServerError]] = {cls.code: cls for cls in _subclasses(ServerError)}

#: Fields of an error object that do not belong to `details`.
_KNOWN_FIELDS = {"success", "error", "code", "hint", "message", "request_id"}


def from_body(body: Mapping[str, Any]) -> ServerError:
    """Return the exception for an error object.

    CGSE puts a code into `error` and the sentence into `message`; then the sentence is the message.
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
