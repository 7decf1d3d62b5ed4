"""The fixture `registry`, which pytest has wherever rsreg is installed.

Every run of pytest loads this module, so it loads nothing until the fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rsreg.testing import LocalRegistry


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalRegistry]:
    """A registry of this test's own, an rsreg.testing.LocalRegistry.

    Clients that are made without an endpoint find it.
    """
    from rsreg.testing import LocalRegistry

    with LocalRegistry() as local:
        monkeypatch.setenv("RSREG_ENDPOINT", local.endpoint)
        monkeypatch.delenv("RSREG_MODE", raising=False)
        yield local
