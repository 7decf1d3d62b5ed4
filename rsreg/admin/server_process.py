"""Runs the server in this process, starts it in the background, stops it, restores its store.

Loads gevent and the database only in the process that serves.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rsreg import config, errors, timing
from rsreg.client.sync import RegistryClient
from rsreg.display import printable
from rsreg.errors import ConfigurationError, RegistryError
from rsreg.protocol.calls import Record
from rsreg.system.line_writer import Writer

if TYPE_CHECKING:
    from rsreg.server.backends.base import RegistryBackend
    from rsreg.server.server import RegistryServer
    from rsreg.server.settings import ServerSettings
    from rsreg.system.log_file import LogFile

#: By its name: where this runs as a program, `__name__` is another.
log = logging.getLogger("rsreg.admin.server_process")

#: The `db` that is no file.
IN_MEMORY = ":memory:"
#: Seconds that a start in the background, and a stop, may take.
DEFAULT_PATIENCE = 10.0
#: What needs a Python to be started.
_WHAT = "a server in the background"
_STDOUT, _STDERR = 1, 2
#: Seconds that the end of the process waits until its log is written.
_FLUSH = 1.0
#: Lines of the log that are shown of a server that ended without a word.
_LAST_LINES = 10


class EndedAtOnce(RegistryError):
    """A server in the background did not come to serve; `lines` are the last ones of its log."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("the server ended at once:")
        self.lines = list(map(printable, lines))

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *self.lines])


def run(
    settings: ServerSettings, ready: Callable[[Record], None], log_file: LogFile | None = None
) -> None:
    """Serve in this process until SIGTERM, SIGINT or SIGHUP, and log to stderr.

    A second SIGINT ends the process at once. Under `nohup` SIGHUP is ignored.

    Args:
        settings: What to start the server with.
        ready: Called once the server serves, with the reply to `info` and the `endpoint`.
        log_file: The file that stderr is, if its size is to be limited.

    Raises:
        PortInUse: Another program has a port.
        StoreError: The store can't be opened.
        ConfigurationError: A setting is wrong, or this system can run no server.
        RegistryError: A fault ended the server.
    """
    if sys.platform == "win32":
        raise config.no_server_here()
    import gevent

    from rsreg.server.server import RegistryServer
    from rsreg.system import private_files

    log_to_stderr(settings.log_level, log_file)
    if log_file is not None and (problem := private_files.open_to_others(log_file.path)):
        log.warning("other users can access the log: %s", problem)
    server = RegistryServer(backend=backend_of(settings), **settings.keywords())

    def interrupted() -> None:
        # From here on the kernel ends the process, whatever a stop is waiting for.
        on_interrupt.cancel()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        server.request_stop()

    if os.getpid() == 1:
        # In a container what others leave behind becomes ours: the kernel is to reap it.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    on_interrupt = gevent.signal_handler(signal.SIGINT, interrupted)
    gevent.signal_handler(signal.SIGTERM, server.request_stop)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        gevent.signal_handler(signal.SIGHUP, server.request_stop)
    _allow_many_connections()
    start(server)
    ready({**server.about(), "endpoint": server.endpoint})
    try:
        server.serve_forever()
    except Exception as error:
        raise RegistryError(
            f"the server failed: {type(error).__name__}: {error}", hint="its log says where"
        ) from error


def start(server: RegistryServer) -> None:
    """Start a server to which the whole process belongs.

    What it loads stays for long: the garbage collector need not go through it again and again, for
    100 ms each time with 100,000 services.
    """
    gc.disable()
    try:
        server.start()
    finally:
        gc.enable()
    gc.freeze()


def start_in_background(
    settings: ServerSettings, log_file: Path | None = None, timeout: float = DEFAULT_PATIENCE
) -> Record:
    """Start a server that outlives this process, and wait until it answers.

    Args:
        settings: What to start the server with.
        log_file: Where it logs; None for a file in the folder of the settings. An existing file is
            continued.
        timeout: Seconds that the start may take.

    Returns:
        The reply of the server to `info`, with its `endpoint` and its `log_file`.

    Raises:
        EndedAtOnce: The server ended without an answer.
        RegistryError: The server did not start in time, or what `run` raises.
    """
    if sys.platform == "win32":
        raise config.no_server_here()
    from rsreg.system import private_files

    config.python_program(_WHAT)  # Before a file is made.
    if log_file is None:
        log_file = _state(settings) / f"registry-{settings.req_port}.log"
    log_file = log_file.absolute()
    db = settings.db
    if db != IN_MEMORY:
        db = str(_database(db, settings.state_dir).absolute())
    try:
        private_files.make_folder(log_file.parent)
        file = os.fdopen(private_files.open_file(log_file, os.O_APPEND), "rb")
    except OSError as error:
        raise ConfigurationError(
            f"can't write {log_file}: {error}",
            hint="name another file with --log-file, or another folder with --state-dir",
        ) from error
    with file:
        return _launch(replace(settings, db=db), log_file, file, timeout)


def _launch(settings: ServerSettings, log_file: Path, file: BinaryIO, timeout: float) -> Record:
    """Start the server with the log that was opened; see `start_in_background`."""
    if sys.platform == "win32":
        raise config.no_server_here()
    words = [__name__, settings.to_json(), str(log_file)]
    before = os.fstat(file.fileno()).st_size
    command = config.python_command(_WHAT, *words)
    try:
        launcher = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            env=config.environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigurationError(f"can't start {command[0]}: {error.strerror}") from error
    with launcher:
        answer = _first_answer(launcher, timeout)
    if answer is None:
        os.killpg(launcher.pid, signal.SIGTERM)
        raise RegistryError(
            f"the server did not start within {timeout:g} s", hint=f"its log is {log_file}"
        )
    if not answer:
        file.seek(before)
        lines = file.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        raise EndedAtOnce(lines)
    if "failure" in answer:
        failure: type[RegistryError] = getattr(errors, answer["failure"])
        raise failure(answer["error"], hint=answer["hint"])
    with RegistryClient(answer["endpoint"], timeout=timeout) as client:
        client.server_status()
    return {**answer, "log_file": str(log_file)}


def stop(client: RegistryClient, timeout: float = DEFAULT_PATIENCE) -> None:
    """Stop a server on this machine, and wait until its port is free.

    Args:
        client: A client of the server.
        timeout: Seconds until the port has to be free.

    Raises:
        RegistryError: The port is not free in time, or what
            `RegistryClient.terminate_registry_server` raises.
    """
    client.terminate_registry_server()
    host, _, port = client.settings.req_endpoint.removeprefix("tcp://").rpartition(":")
    until = timing.steady() + timeout
    while timing.steady() < until:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout).close()
        except OSError:
            return
        time.sleep(0.02)
    raise RegistryError(f"a server still listens on port {port} after {timeout:g} s")


def restore(copy: Path, db: str | None = None, state_dir: str | None = None) -> Record:
    """Replace the store of a server that is stopped by a copy.

    Args:
        copy: The copy; it stays as it is.
        db: The file of the store, as in ServerSettings.
        state_dir: The folder of the default file, as in ServerSettings.

    Returns:
        `store`, the file; `kept`, the name that the old file has now, None if there was none;
        `services` and `seq`, the number of services and the last event of the copy.

    Raises:
        StoreInUse: A server runs on the store.
        StoreError: The copy is not a copy of a registry's store, or can't be read.
        ConfigurationError: `db` is not a file.
    """
    from rsreg.server.backends import restore

    if db == IN_MEMORY:
        raise ConfigurationError(f"{db} is no file", hint="name the file of the store with --db")
    done = restore.restore(copy, _database(db, state_dir))
    return {
        "store": str(done.store),
        "services": done.services,
        "seq": done.seq,
        "kept": None if done.kept is None else str(done.kept),
    }


def log_to_stderr(level: str, file: LogFile | None = None) -> None:
    """Log what rsreg says from `level` on; of others only warnings: peewee logs each query.

    Nobody waits until it is read: it is written on a thread of its own (see Writer). With a `file`
    behind stderr that one is kept small.
    """
    handler = _BesideHandler(file)
    handler.setFormatter(_SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("rsreg").setLevel(level.upper())


class _BesideHandler(logging.Handler):
    """Hands what is logged to the thread that writes it to stderr."""

    def __init__(self, file: LogFile | None) -> None:
        super().__init__()
        self._file = file
        before = None if file is None else self._make_room
        self._writer = Writer(_STDERR, self._left_out, before=before)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except (TypeError, ValueError):
            self.handleError(record)

    def flush(self) -> None:
        self._writer.flush(_FLUSH)

    def _left_out(self, count: int) -> str:
        return self._line(
            f"{count} lines are missing here: nobody read them, or they could not be written"
        )

    def _make_room(self, size: int) -> None:
        assert self._file is not None
        if (why := self._file.make_room(size)) is not None:
            os.write(_STDERR, f"{self._line(why)}\n".encode(errors="backslashreplace"))

    def _line(self, text: str) -> str:
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
        return self.format(record)


class _SafeFormatter(logging.Formatter):
    """No service's id can write a line of its own into the log, or talk to the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        # Indented: the text of an exception may look like a line of the log.
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  {printable(line)}" for line in lines)


def _allow_many_connections() -> None:
    """Raise the limit of open files: each client holds one, and 1024 are usual."""
    if sys.platform == "win32":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems have no hard limit, and refuse to go beyond one that they don't tell.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def backend_of(settings: ServerSettings) -> RegistryBackend:
    """Return the backend of a server with these settings; it is not open yet."""
    from rsreg.server.backends.memory import InMemoryBackend
    from rsreg.server.backends.sqlite import SQLiteBackend

    journal = {"journal_events": settings.journal_events, "journal_bytes": settings.journal_bytes}
    if settings.db == IN_MEMORY:
        return InMemoryBackend(**journal)
    return SQLiteBackend(_database(settings.db, settings.state_dir), **journal)


def _database(db: str | None, state_dir: str | None) -> Path:
    """Return the file of the store, and make its folder; raises ConfigurationError."""
    from rsreg.system import private_files

    if db is not None:
        return Path(db)
    file = config.default_database() if state_dir is None else Path(state_dir) / config.DATABASE
    try:
        private_files.make_folder(file.parent)
    except OSError as error:
        raise ConfigurationError(
            f"can't make {file.parent}: {error.strerror}",
            hint="name another folder with --state-dir or RSREG_STATE, or a file with --db",
        ) from error
    return file


def _state(settings: ServerSettings) -> Path:
    return config.state_directory() if settings.state_dir is None else Path(settings.state_dir)


def _first_answer(launcher: subprocess.Popen[bytes], timeout: float) -> Record | None:
    """Return a server's first answer: {} if it ended without one, None if it is late."""
    assert launcher.stdout is not None
    if not select.select([launcher.stdout], [], [], timeout)[0]:
        return None
    answer: Record = json.loads(launcher.stdout.read() or "{}")
    return answer


def _serve_detached(settings: ServerSettings, log_file: Path) -> None:
    """Serve in the background: answer on stdout how the start went, then only log."""
    if sys.platform == "win32":
        raise config.no_server_here()
    from rsreg.system.log_file import LogFile

    if os.fork():
        os._exit(0)
    os.chdir("/")

    def answer(body: dict[str, Any]) -> None:
        # Who started it may be gone by now.
        with contextlib.suppress(OSError):
            sys.stdout.write(json.dumps(body))
            sys.stdout.flush()
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    try:
        run(settings, answer, LogFile(log_file, settings.log_size, (_STDERR, _STDOUT)))
    except RegistryError as error:
        log.error("%s", error)
        answer({"failure": type(error).__name__, "error": str(error), "hint": error.hint})
        sys.exit(1)


if __name__ == "__main__":
    from rsreg.server.settings import ServerSettings

    _serve_detached(ServerSettings.from_json(sys.argv[1]), Path(sys.argv[2]))
