"""The command that runs a program as a service: run."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import click

from rsreg.admin import server_process
from rsreg.cli.options import (
    SIGNAL_LATENCY,
    CantRun,
    Settings,
    common_options,
    examples,
    pass_settings,
    registry_option,
    service_options,
)
from rsreg.cli.output import note
from rsreg.errors import PortInUse, RegistryError, TransportError
from rsreg.transport import channel

#: Signals that are passed on to the program, as far as the system has them. From the keyboard
#: SIGINT reaches the program directly.
_PASSED_ON = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]
#: Signals that the keyboard sends to all programs in the foreground.
_FROM_KEYBOARD = (signal.SIGINT, getattr(signal, "SIGQUIT", None))
#: Seconds between two attempts to connect to the port, and for one attempt.
_PAUSE, _CONNECT_TIMEOUT = 0.1, 1.0
#: Seconds that a program may take to end when its registration is refused.
_END = 10.0
#: Exit codes of shells for a program that can't be run, and for one that does not exist.
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
#: Shells add this to the number of the signal that ended a program.
_BY_SIGNAL = 128


@click.command(
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
    epilog=examples(
        "rs_cs run --name ls336 --type TEMP --port 6000 -- ./labview_server --slot 3",
        "rs_cs run --name cam --type CAM --port 6100 --mode simulator -- python cam.py",
    ),
)
@service_options
@click.argument("command", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@registry_option()
@common_options()
@pass_settings
def run(settings: Settings, /, command: tuple[str, ...], mode: str | None, **service: Any) -> int:
    """Run any program as a service, without changing the program.

    The service is registered when its port answers, kept registered while the program runs, and
    deregistered when it ends. The registry can be started later. Signals are passed on to the
    program.

    The exit code is that of the program; 126 or 127 if it can't be run, as in a shell; 5 if
    something else answers on the port already.

    Programs that COMMAND leaves in the background are not watched: a start script has to end with
    "exec PROGRAM".
    """
    server_process.log_to_stderr("warning")
    with settings.client(mode=mode) as registry:
        registered = registry.registered(**service)
        _check_free(service["host"], service["port"])
        with _Program(command) as program:
            if not _answers(program, service["host"], service["port"]):
                code, before = program.exit_code(), f"before port {service['port']} answered"
                note(f"{command[0]} ended {before}" if code else _left_behind(command[0], before))
                return code
            try:
                registered.enter()
            except RegistryError:
                program.end()
                raise
            try:
                return program.exit_code()
            finally:
                registered.leave()
                if _listens(service["host"], service["port"]):
                    note(_left_behind(command[0], f"but port {service['port']} still answers"))


class _Program:
    """A running program, which gets the signals that this process gets."""

    def __init__(self, command: tuple[str, ...]) -> None:
        early: list[int] = []
        _on_signals(lambda number, _frame: early.append(number))
        try:
            self._child = subprocess.Popen(command)
        except OSError as error:
            raise CantRun(
                f"can't run {command[0]}: {error.strerror}",
                _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE,
            ) from error
        if sys.platform == "linux" and os.getpid() == 1:
            signal.signal(signal.SIGCHLD, lambda *_: self._reap_others())
            self._reap_others()
        _on_signals(self._pass_on)
        for number in early:
            self._pass_on(number, None)

    def __enter__(self) -> _Program:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.exit_code()

    def runs_on(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end of the program; return whether it still runs."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def exit_code(self) -> int:
        """Wait for the end of the program; return the exit code that a shell would report."""
        # Not one endless wait: a signal that comes just before it would not be passed on.
        while self.runs_on(SIGNAL_LATENCY):
            pass
        code = self._child.wait()
        return code if code >= 0 else _BY_SIGNAL - code

    def end(self) -> None:
        """End the program, by force if necessary."""
        self._child.terminate()
        if self.runs_on(_END):
            self._child.kill()

    def _reap_others(self) -> None:
        """Reap orphaned processes, which belong to this one if it is the first of a container."""
        if sys.platform != "linux":
            return
        with contextlib.suppress(ChildProcessError):
            # The program itself is reaped by `exit_code`; then the others behind it can be reaped.
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid == self._child.pid:
                    break
                os.waitpid(ended.si_pid, 0)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if number not in _FROM_KEYBOARD or not _in_foreground():
            self._child.send_signal(number)


def _on_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in _PASSED_ON:
        # A signal that is ignored, as by `nohup`, stays ignored for the program, too.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Return whether keys of a terminal interrupt this process, and the program with it."""
    if sys.platform == "win32":
        return True  # On Windows only the keyboard sends these signals.
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _left_behind(program: str, when: str) -> str:
    return (
        f"{program} ended {when}: a program that it left in the background is not watched, and so "
        'not registered; start it in the foreground, or with "exec"'
    )


def _check_free(host: str | None, port: int) -> None:
    """Raise PortInUse if something answers already, which would be taken for the program."""
    if _listens(host, port):
        raise PortInUse(
            f"something answers on port {port} before the program is started",
            hint="is it running already? rs_cs list shows what is registered",
        )


def _answers(program: _Program, host: str | None, port: int) -> bool:
    """Wait until the port answers; return False if the program ends first."""
    while program.runs_on(_PAUSE):
        if _listens(host, port):
            return True
    return False


def _listens(host: str | None, port: int) -> bool:
    """Return whether a port accepts connections; without a host, on any address of this machine."""
    hosts = [host] if host else ["127.0.0.1", "::1", socket.gethostname()]
    return any(map(_connector(port), hosts))


def _connector(port: int) -> Callable[[str], bool]:
    def connects(host: str) -> bool:
        endpoint = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        try:
            # This resolves the name within a timeout, also if the name server does not answer.
            resolved = channel.find(endpoint, _CONNECT_TIMEOUT, None)
            address = resolved.removeprefix("tcp://").rpartition(":")[0].strip("[]")
            socket.create_connection((address, port), _CONNECT_TIMEOUT).close()
        except (OSError, TransportError):
            return False
        return True

    return connects
