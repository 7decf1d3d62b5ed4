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
#: Most events, and most bytes of events, that the journal of the server keeps.
DEFAULT_JOURNAL_EVENTS = 10_000
DEFAULT_JOURNAL_BYTES = 16 * 1024 * 1024
#: Bytes that the log of a server in the background may have; one older file is kept beside it.
DEFAULT_LOG_SIZE = 16 * 1024 * 1024
#: Seconds that a call of a client may take in total, by default and at most.
DEFAULT_TIMEOUT = 2.0
MAX_TIMEOUT = 86_400
#: Seconds that completion may keep a shell waiting.
COMPLETION_TIMEOUT = 0.3
#: Seconds without a heartbeat after which a registration ends.
DEFAULT_TTL = 30
#: Seconds that a maintenance lasts by default.
DEFAULT_MAINTENANCE = 8 * 3600
#: What a service drives; without a mode it is hardware. A client may also look for "any".
MODES = HARDWARE, SIMULATOR = "hardware", "simulator"
ANY_MODE = "any"

#: Set in processes that we started: a program that finds it set was taken for a Python.
_STARTED = "RSREG_STARTED"
#: Where a process of ours looks for modules.
_PATH = "RSREG_PATH"
#: Runs a module as "-m" does. But "-m" looks into the working folder first, and modules in
#: PYTHONPATH replace those of the standard library.
_RUN = f"""\
import os, sys
sys.path[:] = os.environ.pop("{_PATH}").split(os.pathsep)
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
#: Names of Python interpreters, "mayapy" and "hython" among them.
_PYTHON = re.compile(r"(?i)[a-z]*(?:py|ython)w?[0-9.]*[dt]?(?:-dbg)?(?:\.exe)?")

_HOST_AND_PORT = re.compile(r"(\[[^]\s]+\]|[^][:/\s]+)(?::([0-9]{1,5}))?")


def default_endpoint() -> str:
    """Return the endpoint in `RSREG_ENDPOINT`, else the default port of this machine."""
    return normal_endpoint(os.environ.get("RSREG_ENDPOINT") or "localhost")


def default_mode() -> str | None:
    """Return the mode in `RSREG_MODE`, or None."""
    return os.environ.get("RSREG_MODE") or None


def environment() -> dict[str, str]:
    """Return the environment for a `python_command`: the same variables and the same modules.

    The standard library comes first in the path, so that a json.py in some folder does not replace
    Python's own.
    """
    entries = sorted(map(os.path.abspath, sys.path), key=lambda entry: not _is_standard(entry))
    return {**os.environ, _PATH: os.pathsep.join(entries), _STARTED: "1"}


def python_command(what: str, module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module in a process of ours; see `python_program`."""
    return [python_program(what), "-c", _RUN, module, *arguments]


def python_program(what: str) -> str:
    """Return the Python interpreter for a process of ours; raises ConfigurationError without one.

    `what` is what needs it, for the error. `sys.executable` can be another program: a packed one,
    or one that has Python inside. To start that would run the program a second time.
    """
    program = sys.executable or ""
    main = sys.modules.get("__main__")
    packed = getattr(sys, "frozen", False) or hasattr(main, "__compiled__")
    if packed or _STARTED in os.environ or not _PYTHON.fullmatch(os.path.basename(program)):
        why = "this program is packed" if packed else f"sys.executable is {program!r}"
        raise ConfigurationError(
            f"{what} needs a Python interpreter to start, and none is known: {why}",
            hint="use a heartbeat thread and a registry in the foreground, or set sys.executable "
            "to a Python interpreter",
        )
    return program


def _is_standard(entry: str) -> bool:
    """Return whether a folder or archive of the path belongs to Python's standard library."""
    library = os.path.dirname(os.path.abspath(os.__file__))
    archive = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    folders = (library, os.path.join(library, "lib-dynload"), os.path.join(sys.base_prefix, "DLLs"))
    return entry in folders or os.path.basename(entry) == archive


def no_server_here() -> ConfigurationError:
    """Return the error for a system where only clients run."""
    return ConfigurationError(
        "the server of the registry runs on Linux and macOS; on Windows only clients do",
        hint="run it on another machine, in WSL or in a container, and set RSREG_ENDPOINT to it",
    )


def default_database() -> Path:
    """Return the database file: `RSREG_DB`, else `service_registry.db` in `state_directory()`."""
    path = os.environ.get("RSREG_DB")
    return Path(path) if path else state_directory() / DATABASE


def state_directory() -> Path:
    """Return the folder for the server's files; raises ConfigurationError if there is no home.

    It is `RSREG_STATE`, else `rsreg` in `XDG_STATE_HOME`, else `~/.local/state/rsreg`.
    """
    if path := os.environ.get("RSREG_STATE"):
        return Path(path)
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else _home() / ".local" / "state") / "rsreg"


def advertised() -> tuple[str | None, str | None]:
    """Return the host to register, or the network that it is in, from `RSREG_ADVERTISE`."""
    host = os.environ.get("RSREG_ADVERTISE") or None
    return (None, host) if host and "/" in host and "://" not in host else (host, None)


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
    """Return whether `NO_COLOR` is set (https://no-color.org), or `TERM` is "dumb"."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def normal_endpoint(text: str, default_port: int = DEFAULT_RS_REQ_PORT) -> str:
    """Return `tcp://host:port` for that, `host:port` or `host`; other transports unchanged."""
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
    """Return `endpoint` with another port."""
    return f"{endpoint.rpartition(':')[0]}:{port}"


def checked_mode(mode: str | None, default: str | None = None) -> str | None:
    """Return the mode to ask for, None for "any"; raises ConfigurationError."""
    if mode is None:
        return default
    if mode not in (ANY_MODE, *MODES):
        raise ConfigurationError(
            f"unknown mode {mode!r}", hint='a mode is "hardware", "simulator" or "any"'
        )
    return None if mode == ANY_MODE else mode


def check_timeout(timeout: float) -> None:
    """Raise ConfigurationError unless a timeout is allowed."""
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ConfigurationError(
            f"timeout must be more than 0 and at most {MAX_TIMEOUT} seconds, not {timeout}"
        )


class ClientSettings:
    """The arguments of a client, checked; raises ConfigurationError."""

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
        #: "hardware" or "simulator"; None without a mode, and for "any".
        self.mode = checked_mode(mode if mode is not None else default_mode())
