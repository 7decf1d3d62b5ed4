"""Takes from a Python what it does not have on Windows, so far as that can be done elsewhere.

What is not ours is loaded before, since it decides by itself what there is. The rest of the process
and each Python that it starts then run as `sys.platform == "win32"`.
"""

import importlib
import importlib.abc
import os
import signal
import subprocess
import sys
import time
import uuid

import psutil

OTHERS = """asyncio click.shell_completion concurrent.futures.thread email.message msgspec
    multiprocessing rich.console shutil tempfile
    rich.table rich.text subprocess zmq.asyncio"""
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios"}
FUNCTIONS = {
    os: """chown chroot ctermid fchown fork forkpty getegid geteuid getgid getgrouplist getgroups
        getloadavg getpgid getpgrp getpriority getresuid getsid getuid initgroups killpg lchown
        mkfifo mknod nice openpty posix_spawn posix_spawnp pread pwrite register_at_fork sync
        sched_yield sendfile setegid seteuid setgid setpgid setsid setuid statvfs
        sysconf sysconf_names tcgetpgrp tcsetpgrp ttyname uname wait wait3 wait4 waitid P_ALL P_PID
        POSIX_SPAWN_DUP2 WEXITED WNOWAIT O_CLOEXEC O_NOFOLLOW O_DIRECTORY O_NONBLOCK""",
    signal: """SIGALRM SIGCHLD SIGCONT SIGHUP SIGIO SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGTTIN SIGTTOU
        SIGUSR1 SIGUSR2 SIGWINCH alarm getitimer pause pthread_kill pthread_sigmask setitimer
        sigpending siginterrupt sigtimedwait sigwait sigwaitinfo""",
    time: "clock_gettime clock_getres clock_settime pthread_getcpuclockid tzset",
}


class _Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


_os_kill = os.kill


def _kill(pid: int, number: int) -> None:
    """What signal 0 does there: it ends the process, as every other number does."""
    if number not in (signal.SIGTERM, signal.SIGKILL):
        sys.stderr.write(f"os.kill({pid}, {number}) would have ended it\n")
        sys.stderr.flush()
        os._exit(99)
    _os_kill(pid, number)


for name in OTHERS.split():
    importlib.import_module(name)
uuid.getnode()
# Else Python's own start of a program would need it.
vars(subprocess)["_USE_POSIX_SPAWN"] = False
for name in MODULES & set(sys.modules):
    del sys.modules[name]
sys.meta_path.insert(0, _Missing())
for module, names in FUNCTIONS.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
os.kill = _kill
# Elsewhere psutil asks with a signal 0 itself.
psutil.pid_exists = lambda pid: os.path.exists(f"/proc/{pid}")
sys.platform = "win32"
