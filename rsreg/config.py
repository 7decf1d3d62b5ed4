"""Defaults and settings. The only module that reads the environment."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path

from rsreg.errors import ConfigurationError

DEFAULT_RS_REQ_PORT = 4242
DEFAULT_RS_PUB_PORT = 4243
#: Heartbeats of CGSE's clients; ours use the request port.
DEFAULT_RS_HB_PORT = 4244

#: The name of the server's file in its folder.
DATABASE = "service_registry.db"
#: Seconds between two passes of the reaper.
DEFAULT_CLEANUP_INTERVAL = 10.0
#: What the journal of the server keeps: so many events, and so many bytes of them.
DEFAULT_JOURNAL_EVENTS = 10_000
DEFAULT_JOURNAL_BYTES = 16 * 1024 * 1024
#: Bytes that the log of a server in the background may have; one older file is kept beside it.
DEFAULT_LOG_SIZE = 16 * 1024 * 1024
#: Seconds a client's call may take, in all.
DEFAULT_TIMEOUT = 2.0
#: Seconds that it may be given.
MAX_TIMEOUT = 86_400
#: Seconds of silence after which a registration ends.
DEFAULT_TTL = 30
#: Seconds that a maintenance lasts if nothing is said.
DEFAULT_MAINTENANCE = 8 * 3600
#: What a service drives; none said means hardware. And what a client may be told to look for.
MODES = HARDWARE, SIMULATOR = "hardware", "simulator"
ANY_MODE = "any"

#: Set in processes that we started: a program that is started that way is no Python.
_STARTED = "RSREG_STARTED"
#: Where a process of ours looks for modules.
_PATH = "RSREG_PATH"
#: Runs a module as "-m" does; but that looks into the working folder first, and what is in
#: PYTHONPATH goes before Python's own, when it starts already.
_RUN = f"""\
import os, sys
sys.path[:] = os.environ.pop("{_PATH}").split(os.pathsep)
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
#: What a Python is called; "mayapy" and "hython" are some, too.
_PYTHON = re.compile(r"(?i)[a-z]*(?:py|ython)w?[0-9.]*[dt]?(?:-dbg)?(?:\.exe)?")

_HOST_AND_PORT = re.compile(r"(\[[^]\s]+\]|[^][:/\s]+)(?::([0-9]{1,5}))?")


def default_endpoint() -> str:
    """Where the registry is: `RSREG_ENDPOINT`, or the default port of this machine."""
    return normal_endpoint(os.environ.get("RSREG_ENDPOINT") or "localhost")


def default_mode() -> str | None:
    """Whether simulators or hardware are meant: `RSREG_MODE`, or nothing said."""
    return os.environ.get("RSREG_MODE") or None


def environment() -> dict[str, str]:
    """What a process of ours is started with, that is to know the same and to load the same.

    It is for a `python_command`. The standard library comes first: a folder with a json.py in it
    takes no module from Python.
    """
    entries = sorted(map(os.path.abspath, sys.path), key=lambda entry: not _is_standard(entry))
    return {**os.environ, _PATH: os.pathsep.join(entries), _STARTED: "1"}


def python_command(what: str, module: str, *arguments: str) -> list[str]:
    """The command of a process of ours, which runs a module; see `python_program`."""
    return [python_program(what), "-c", _RUN, module, *arguments]


def python_program(what: str) -> str:
    """The Python that runs a process of ours; raises ConfigurationError if none is known.

    `what` needs it, as the error says. In a packed program `sys.executable` is the program itself,
    elsewhere it may be the program that has Python inside: to start that would do it all again.
    """
    program = sys.executable or ""
    main = sys.modules.get("__main__")
    packed = getattr(sys, "frozen", False) or hasattr(main, "__compiled__")
    if packed or _STARTED in os.environ or not _PYTHON.fullmatch(os.path.basename(program)):
        why = "this program is packed" if packed else f"sys.executable is {program!r}"
        raise ConfigurationError(
            f"{what} needs a Python interpreter to start, and none is known: {why}",
            hint="use a heartbeat thread and a registry in the foreground, or set sys.executable to "
            "a Python interpreter",
        )
    return program


def _is_standard(entry: str) -> bool:
    """Whether a folder, or archive, of the path is one of Python's own, without what was added."""
    library = os.path.dirname(os.path.abspath(os.__file__))
    archive = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    folders = (library, os.path.join(library, "lib-dynload"), os.path.join(sys.base_prefix, "DLLs"))
    return entry in folders or os.path.basename(entry) == archive


def no_server_here() -> ConfigurationError:
    """What is raised on a system that has only clients."""
    return ConfigurationError(
        "the server of the registry runs on Linux and macOS; on Windows only clients do",
        hint="run it on another machine, in WSL or in a container, and set RSREG_ENDPOINT to it",
    )


def default_database() -> Path:
    """The file of the server: `RSREG_DB`, or `service_registry.db` in `state_directory()`."""
    path = os.environ.get("RSREG_DB")
    return Path(path) if path else state_directory() / DATABASE


def state_directory() -> Path:
    """Where the server keeps what must survive it; raises ConfigurationError without a home.

    `RSREG_STATE`, else `rsreg` in `XDG_STATE_HOME`, else `~/.local/state/rsreg`.
    """
    if said := os.environ.get("RSREG_STATE"):
        return Path(said)
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else _home() / ".local" / "state") / "rsreg"


def advertised() -> tuple[str | None, str | None]:
    """The host, or the network of the host, that `RSREG_ADVERTISE` says is to be registered."""
    said = os.environ.get("RSREG_ADVERTISE") or None
    return (None, said) if said and "/" in said and "://" not in said else (said, None)


def _home() -> Path:
    # An empty HOME would be the root of the file system.
    if os.environ.get("HOME") != "":
        with contextlib.suppress(RuntimeError, KeyError):
            return Path.home()
    raise ConfigurationError(
        "there is no folder for the registry's files: HOME is not set, and this user has no home",
        hint="set --state-dir or RSREG_STATE, or the files with --db and --log-file",
    )


def no_color() -> bool:
    """Whether `NO_COLOR` asks for plain text (https://no-color.org), or `TERM` is "dumb"."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def normal_endpoint(text: str, default_port: int = DEFAULT_RS_REQ_PORT) -> str:
    """`tcp://host:port` from that, `host:port` or `host`; other transports as they are."""
    scheme, separator, rest = text.strip().rpartition("://")
    if separator and scheme != "tcp":
        return text.strip()
    parts = _HOST_AND_PORT.fullmatch(rest)
    port = int(parts[2] or default_port) if parts else 0
    if not parts or not 0 < port < 65536:
        raise ConfigurationError(
            f"not an endpoint: {text!r}",
            hint="write host, host:port or tcp://host:port; an IPv6 address in brackets",
        )
    return f"tcp://{parts[1]}:{port}"


def on_port(endpoint: str, port: int) -> str:
    """The same host as `endpoint`, another port."""
    return f"{endpoint.rpartition(':')[0]}:{port}"


def checked_mode(mode: str | None, default: str | None = None) -> str | None:
    """The mode to ask for, None for "any"; raises ConfigurationError."""
    if mode is None:
        return default
    if mode not in (ANY_MODE, *MODES):
        raise ConfigurationError(
            f"unknown mode {mode!r}", hint='use "hardware", "simulator" or "any"'
        )
    return None if mode == ANY_MODE else mode


def check_timeout(timeout: float) -> None:
    """Raises ConfigurationError for what no call and no connection may take."""
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ConfigurationError(
            f"timeout must be more than 0 and at most {MAX_TIMEOUT} seconds, not {timeout}"
        )


class ClientSettings:
    """The checked arguments of a client, sync or async; raises ConfigurationError."""

    def __init__(
        self,
        req_endpoint: str | None,
        sub_endpoint: str | None,
        hb_endpoint: str | None,
        timeout: float,
        client_id: str,
        mode: str | None = None,
    ) -> None:
        check_timeout(timeout)
        self.req_endpoint = normal_endpoint(req_endpoint) if req_endpoint else default_endpoint()
        self.sub_endpoint = (
            normal_endpoint(sub_endpoint, DEFAULT_RS_PUB_PORT) if sub_endpoint else None
        )
        self.hb_endpoint = normal_endpoint(hb_endpoint, DEFAULT_RS_HB_PORT) if hb_endpoint else None
        self.timeout = timeout
        self.client_id = client_id
        #: "hardware" or "simulator"; None where nothing is said, or "any".
        self.mode = checked_mode(mode if mode is not None else default_mode())
