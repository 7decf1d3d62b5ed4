"""A result that may be awaited or not."""

from __future__ import annotations

from collections.abc import Generator


class Done:
    """The result of a call that is over when it returns: to await it never waits."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield
