"""Restores a copy, and is killed after so many steps: `... COPY STORE STEPS`."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from rsreg.server.backends import restore

P = ParamSpec("P")
T = TypeVar("T")
copy, store = map(Path, sys.argv[1:3])
left = int(sys.argv[3])


def counted(do: Callable[P, T]) -> Callable[P, T]:
    """A function that is one of the steps."""

    def step(*args: P.args, **kwargs: P.kwargs) -> T:
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return do(*args, **kwargs)

    return step


with pytest.MonkeyPatch.context() as patch:
    patch.setattr(os, "rename", counted(os.rename))
    patch.setattr(os, "link", counted(os.link))
    patch.setattr(Path, "replace", counted(Path.replace))
    restore.restore(copy, store)
print("done")
