"""The exceptions, and what they are on the wire."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from rsreg import errors
from rsreg.errors import BY_CODE, RegistryError, ServerError, from_body


def family(cls: type[RegistryError]) -> Iterator[type[RegistryError]]:
    """A class and all below it."""
    yield cls
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"^[ │├└─]*([A-Z]\w+)  ", errors.__doc__ or "", re.MULTILINE)
    assert drawn == [cls.__name__ for cls in family(RegistryError)]


def test_each_refusal_has_a_code_of_its_own() -> None:
    below = list(family(ServerError))[1:]
    assert sorted(cls.__name__ for cls in BY_CODE.values()) == sorted(c.__name__ for c in below)
    assert all(re.fullmatch(r"[a-z]+([-_][a-z]+)*", code) for code in BY_CODE)


def test_the_codes_of_the_protocol() -> None:
    """They are part of the protocol: a change here breaks programs elsewhere."""
    assert {code: cls.__name__ for code, cls in BY_CODE.items()} == {
        "invalid-request": "InvalidRequest",
        "invalid-json": "InvalidJSON",
        "unknown-action": "UnknownAction",
        "unknown-service": "UnknownService",
        "no-service": "NoService",
        "duplicate_service_type": "DuplicateServiceType",
        "duplicate-name": "DuplicateName",
        "judge-first": "JudgeFirst",
        "owned-by-other": "OwnedByOther",
        "forbidden": "Forbidden",
        "limit": "LimitReached",
        "slow-down": "SlowDown",
        "unavailable": "Unavailable",
        "backup-failed": "BackupFailed",
        "internal": "InternalError",
    }


@pytest.mark.parametrize(
    ("raised", "builtin"),
    [
        (errors.RequestTimeout("late"), TimeoutError),
        (errors.ConfigurationError("wrong"), ValueError),
    ],
)
def test_callers_may_catch_the_builtin(raised: RegistryError, builtin: type[Exception]) -> None:
    assert isinstance(raised, builtin)


@pytest.mark.parametrize("cls", BY_CODE.values())
def test_a_refusal_comes_over_the_wire_as_it_was(cls: type[ServerError]) -> None:
    sent = cls("No.", hint="try this", details={"service_type": "PUNA", "existing": ["a", 1]})
    got = from_body(sent.body())
    assert type(got) is cls
    assert (str(got), got.hint, got.code, got.details) == (
        "No.",
        "try this",
        cls.code,
        {"service_type": "PUNA", "existing": ["a", 1]},
    )


def test_the_error_object_of_the_protocol() -> None:
    assert errors.UnknownService("Service not found").body() == {
        "success": False,
        "error": "Service not found",
        "code": "unknown-service",
    }
    assert errors.Unavailable("Full", hint="wait").body()["hint"] == "wait"


@pytest.mark.parametrize(
    ("body", "text", "code", "hint", "details"),
    [
        ({}, "the registry gave no reason", "error", None, {}),
        ({"error": "Odd", "code": "from-the-future"}, "Odd", "from-the-future", None, {}),
        ({"error": "Odd", "code": 7, "hint": 8}, "Odd", "error", "8", {}),
        ({"error": None, "hint": ""}, "the registry gave no reason", "error", None, {}),
        # CGSE: the code is in "error", the sentence in "message".
        (
            {"error": "taken", "message": "Type 'X' is taken.", "existing_service_id": "x-1"},
            "Type 'X' is taken.",
            "error",
            None,
            {"existing_service_id": "x-1"},
        ),
        (
            {"success": False, "error": "No", "request_id": "r"},
            "No",
            "error",
            None,
            {},
        ),
    ],
)
def test_error_objects_of_others_can_be_read(
    body: dict[str, object],
    text: str,
    code: str,
    hint: str | None,
    details: dict[str, object],
) -> None:
    got = from_body(body)
    assert type(got) is ServerError
    assert (str(got), got.code, got.hint, got.details) == (text, code, hint, details)


def test_an_ambiguous_name_says_what_it_may_mean() -> None:
    error = errors.AmbiguousName("'a' fits 2 services", ["a-1", "a-2"])
    assert str(error) == "'a' fits 2 services"
    assert error.candidates == ["a-1", "a-2"]
    assert error.hint == "use one of the ids: a-1, a-2"


@pytest.mark.parametrize(
    ("number", "said"),
    [(5, "a1, a2, a3, a4, a5"), (6, "a1, a2, a3, a4, a5 and 1 more")],
)
def test_a_name_that_may_mean_many_says_the_first_few(number: int, said: str) -> None:
    ids = [f"a{n}" for n in range(1, number + 1)]
    error = errors.AmbiguousName("'a' fits many services", ids)
    assert error.candidates == ids
    assert error.hint == f"use one of the ids: {said}"
