"""Disks that fail on demand: system calls that fail or wait, file systems that are full or cut."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import need, wait_until


@contextmanager
def injected(pid: int, rule: str) -> Iterator[None]:
    """Meanwhile system calls of a process go by a rule of strace: `fdatasync:error=EIO:when=3`."""
    need("strace", root=True)
    call = rule.partition(":")[0]
    words = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={rule}"]
    tracer = subprocess.Popen([*words, "-p", str(pid)])
    try:
        wait_until(lambda: _tracer_of(pid) == tracer.pid)
        yield
    finally:
        # It lets go of the process, and then ends by the same signal.
        tracer.send_signal(signal.SIGTERM)
        tracer.wait()


def _tracer_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("TracerPid:")[2].split()[0])


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A file system of its own on a new folder: the arguments of `mount` but for the last."""
    need("mount", root=True)
    folder.mkdir()
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs mounts: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def remount(folder: Path, options: str) -> None:
    """Mount a file system again with other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A new disk, on a new folder: a file with a file system on it, which writes when it has to."""
    need("mkfs.ext4", "mount", root=True)
    image = _image(folder)
    with image.open("wb") as file:
        os.truncate(file.fileno(), 32 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    with mounted(folder, "-o", "loop,commit=300", str(image)):
        yield folder


@contextmanager
def after_power_cut(folder: Path, new: Path) -> Iterator[Path]:
    """What a disk holds if the power goes now, on a new folder."""
    shutil.copyfile(_image(folder), _image(new))
    with mounted(new, "-o", "loop,commit=300", str(_image(new))):
        yield new


def _image(folder: Path) -> Path:
    return folder.with_suffix(".img")
