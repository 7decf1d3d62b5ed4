"""For programs that have no file descriptors left; importing it lets a process have few."""

import errno
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


@contextmanager
def none_left(spare: int = 0) -> Iterator[None]:
    """Take all the file descriptors that this process may have but `spare`; give them back."""
    taken: list[int] = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    for _ in range(spare):
        os.close(taken.pop())
    try:
        yield
    finally:
        for each in taken:
            os.close(each)


def wait_for_test() -> None:
    """Wait until the test lets this process go on."""
    assert sys.stdin.readline(), "the test has ended"
