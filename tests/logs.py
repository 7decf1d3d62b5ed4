"""A log that is filled as that of a server in the background is."""

from __future__ import annotations

import os
from pathlib import Path

from rsreg.system.line_writer import Writer
from rsreg.system.log_file import LogFile

LIMIT = 4096


class Log:
    """A log that a writer fills, as a server in the background does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.older = Path(f"{path}.1")
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
        self.other = os.dup(self.fd)
        self.file = LogFile(path, LIMIT, (self.fd, self.other))
        self.warnings: list[str] = []
        self.writer = Writer(self.fd, lambda count: f"{count} missing", before=self._before)
        self.written = 0

    def _before(self, size: int) -> None:
        if (why := self.file.make_room(size)) is not None:
            self.warnings.append(why)

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            self.writer.write(f"line {self.written:06} {'.' * 50}")
            self.written += 1
        assert self.writer.flush(20)

    def numbers(self, path: Path) -> list[int]:
        return [int(line.split()[1]) for line in path.read_text().splitlines()]

    def is_of(self, path: Path) -> bool:
        """Whether both descriptors are of a file."""
        file = path.stat()
        return all(os.path.samestat(os.fstat(fd), file) for fd in (self.fd, self.other))
