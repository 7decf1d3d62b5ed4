"""What `where` asks of one value: to be equal to another, or how it compares. No I/O.

docs/protocol.md ("Conditions") has the rule. What is asked and what there is may each be JSON, or a
text from a command line: a text stands for itself, and for the number, true, false, null, array or
object that it is when it is read as JSON.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from rsreg.errors import InvalidRequest
from rsreg.protocol.limits import MAX_COMPARISONS, MAX_TEXT, MAX_VERSION

Number = int | float

#: A number from here on has too many digits for a version.
_MOST = 10**MAX_VERSION
#: Versions that are kept as read: that takes longer than to compare them.
_READ = 4_000
#: What begins a condition, instead of a text to be equal to.
_COMPARES = ("<", ">", "=", "!", "~")
_COMPARISON = re.compile(r"\s*(===|==|<=|>=|!=|~=|=|<|>)\s*(.*?)\s*", re.DOTALL)
#: A number as JSON writes it: "007", "+5", "1_000", ".5" and digits of other scripts are texts.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_ORDERS: dict[str, Callable[[Number, Number], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}


class Condition:
    """What `where` asks of the value of a key; raises InvalidRequest for what is no condition."""

    def __init__(self, key: str, wanted: Any) -> None:
        self._key = key
        self._wanted = wanted
        self._comparisons: list[_Comparison] = []
        if isinstance(wanted, str) and wanted.startswith(_COMPARES):
            self._comparisons = [_read(key, wanted, part) for part in _parts(key, wanted)]

    def __call__(self, value: Any) -> bool:
        """Return whether it holds of a value; nothing but null holds of what is not there."""
        if not self._comparisons:
            return same(value, self._wanted)
        return all(one.holds(value) for one in self._comparisons)

    def against(self, value: Any) -> str | None:
        """Return why it does not hold of a value, in words after "which"; None if it holds."""
        if self(value):
            return None
        for one in self._comparisons:
            if not one.holds(value) and not one.compares(value):
                return f"is no {one.kind}"
        return f"is not {self._wanted if self._comparisons else repr(self._wanted)}"


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same: 8, 8.0 and "8", true and "true", not true and 1."""
    if isinstance(one, str) != isinstance(other, str):
        text, value = (one, other) if isinstance(one, str) else (other, one)
        return _alike(_decoded(text), value)
    return _alike(one, other)


class _Comparison:
    """One comparison: with a number, with a version, or for being equal with any text."""

    def __init__(self, sign: str, operand: str) -> None:
        self._sign = "==" if sign == "=" else sign
        self._operand = operand
        self._number = number(operand) if self._sign in _ORDERS else None
        self._versions = _versions(self._sign, operand)
        #: What a value has to be so that it can be compared.
        self.kind = "version" if self._number is None else "number"

    @property
    def makes_sense(self) -> bool:
        """Whether there is anything to compare with."""
        return bool(self._operand) and (self.is_equality or bool(self._number_or_versions))

    @property
    def is_equality(self) -> bool:
        """Whether it asks for being equal, or not: then any two values can be compared."""
        return self._sign in ("==", "!=")

    @property
    def _number_or_versions(self) -> bool:
        return self._number is not None or self._versions is not None

    def compares(self, value: Any) -> bool:
        """Return whether it can be compared with a value."""
        return value is None or self.is_equality or self._ordered(value) is not None

    def holds(self, value: Any) -> bool:
        """Return whether it holds of a value; never of none, or of one that can't be compared."""
        if value is None:
            return False
        ordered = self._ordered(value)
        if ordered is None and self.is_equality:
            return same(value, self._operand) == (self._sign == "==")
        return bool(ordered)

    def _ordered(self, value: Any) -> bool | None:
        """Return how two numbers compare, or else two versions; None if they are neither."""
        if self._number is not None and _is_number(value):
            return _ORDERS[self._sign](value, self._number)
        version = None if self._versions is None else _version(value)
        if self._versions is not None and version is not None:
            return self._versions.contains(version, prereleases=True)
        spelled = number(value) if self._number is not None and isinstance(value, str) else None
        if self._number is not None and spelled is not None:
            return _ORDERS[self._sign](spelled, self._number)
        return None


def number(text: str) -> Number | None:
    """Return the number that a text is in JSON, or None."""
    parts = _NUMBER.fullmatch(text) if len(text) <= MAX_TEXT else None
    if parts is None:
        return None
    if parts[1] is None and parts[2] is None:
        return int(text)
    value = float(text)
    return None if value in (float("inf"), float("-inf")) else value


def _parts(key: str, wanted: str) -> list[str]:
    parts = wanted.split(",")
    if len(parts) > MAX_COMPARISONS:
        raise _refusal(key, wanted)
    return parts


def _read(key: str, wanted: str, part: str) -> _Comparison:
    match = _COMPARISON.fullmatch(part)
    comparison = _Comparison(match[1], match[2]) if match else None
    if comparison is None or not comparison.makes_sense:
        raise _refusal(key, wanted)
    return comparison


def _refusal(key: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid where.{key}: {wanted!r} is no condition on a number or a version",
        hint='write ">=1.4", "<-200", "==2.1", "!=spare", "~=1.4" or several, as ">=1.4,<2", at '
        f"most {MAX_COMPARISONS}; any other text is compared as it is",
    )


def _versions(sign: str, operand: str) -> SpecifierSet | None:
    if len(operand) > MAX_VERSION:
        return None
    try:
        wanted = SpecifierSet(sign + operand)
        # Only now it is seen that a number in it has too many digits.
        wanted.contains(Version("1"))
    except (InvalidSpecifier, ValueError):
        return None
    return wanted


def _version(value: Any) -> Version | None:
    """Return the version that a text is, or a number is when it is written."""
    # A number of thousands of digits is not even written: Python may refuse to.
    if _is_number(value) and abs(value) < _MOST:
        value = str(value)
    if not isinstance(value, str) or len(value) > MAX_VERSION:
        return None
    return _read_version(value)


@lru_cache(_READ)
def _read_version(text: str) -> Version | None:
    try:
        return Version(text)
    except ValueError:
        return None


def _decoded(text: str) -> Any:
    """Return what a text is in JSON, or the text."""
    value = number(text)
    if value is not None:
        return value
    if len(text) > MAX_TEXT or not text.startswith(("true", "false", "null", "[", "{")):
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _alike(one: Any, other: Any) -> bool:
    """Return whether two JSON values are the same; to Python true is 1."""
    if one != other:
        return False
    if isinstance(one, list) and isinstance(other, list):
        return all(map(_alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_alike(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool)
