"""InMemoryBackend: a store that is gone with its server."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import peewee

from rsreg.config import DEFAULT_JOURNAL_BYTES, DEFAULT_JOURNAL_EVENTS
from rsreg.errors import StoreError
from rsreg.server.backends import vacuum
from rsreg.server.backends.base import Copied
from rsreg.server.backends.sqlite_file import MEMORY, database_at
from rsreg.server.backends.table_backend import TableBackend, create_tables


class InMemoryBackend(TableBackend):
    """Keeps everything in memory: nothing is on disk, and all is gone with the server.

    Args:
        journal_events: The journal keeps about this many of the last events; 1 or more.
        journal_bytes: It keeps fewer, if those have more bytes than this; 1 or more.

    Raises:
        ConfigurationError: A limit of the journal is below 1.
    """

    def __init__(
        self,
        *,
        journal_events: int = DEFAULT_JOURNAL_EVENTS,
        journal_bytes: int = DEFAULT_JOURNAL_BYTES,
    ) -> None:
        super().__init__(
            database_at(MEMORY),
            "memory",
            journal_events=journal_events,
            journal_bytes=journal_bytes,
        )

    def initialize(self) -> object:
        """See RegistryBackend."""
        if self._database.is_closed():
            self._database.connect()
            self._database.execute_sql(vacuum.PREPARE)
            create_tables(self._database)
            for setting in vacuum.SETTINGS:
                self._execute(setting)
            self._count_events()
        return None

    def tend(self) -> None:
        """See Tended."""
        with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
            vacuum.shrink(self._database.connection())

    def copy(self, target: Path, *, replace: bool) -> Copied:
        """Raise StoreError: there is nothing to copy that a server could start from."""
        raise StoreError(
            "a registry in memory can't be copied",
            hint="start it with a file (--db)",
        )
