"""A machine that slept: its clock goes on, its programs did not.

Instead of a real suspend a library that is loaded before others adds seconds to CLOCK_BOOTTIME.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rsreg import RegistryClient
from tests.helpers import ServerProcess, printed, start_program, wait_until

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="CLOCK_BOOTTIME is Linux's"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler"),
]

LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    char said[32] = {0};
    int result, file;

    if (!real)
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    result = real(id, now);
    if (id == CLOCK_BOOTTIME && result == 0) {
        file = open(getenv("SLEPT"), O_RDONLY);
        if (file >= 0) {
            if (read(file, said, sizeof said - 1) > 0)
                now->tv_sec += atol(said);
            close(file);
        }
    }
    return result;
}
"""


class Sleeper:
    """What a program is run under, so that its machine may sleep."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "slept"
        self._total = 0
        library = directory / "sleep.so"
        source = directory / "sleep.c"
        source.write_text(LIBRARY)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self.under = ["env", f"LD_PRELOAD={library}", f"SLEPT={self._file}"]

    def sleep(self, seconds: int) -> None:
        """The machine sleeps; who should not run meanwhile is to be stopped."""
        self._total += seconds
        written = self._file.with_suffix(".new")
        written.write_text(str(self._total))
        written.replace(self._file)


@pytest.fixture
def sleeper(tmp_path: Path) -> Sleeper:
    """One that has not slept yet."""
    return Sleeper(tmp_path)


def test_a_cache_does_not_call_passing_what_left_while_it_slept(sleeper: Sleeper) -> None:
    with ServerProcess() as server, RegistryClient(server.endpoint) as client:
        client.register("puna_cs", "lab1", 5000, "PUNA", ttl=300, owned=False)
        cache = start_program("ask_cache", server.endpoint, under=sleeper.under)

        def ask() -> str:
            assert cache.stdin is not None
            cache.stdin.write("?\n")
            cache.stdin.flush()
            return printed(cache).strip()

        try:
            assert ask() == "passing"
            cache.send_signal(signal.SIGSTOP)
            # Nothing that would tell it of the service waits for it.
            server.kill()
            sleeper.sleep(41)
            cache.send_signal(signal.SIGCONT)
            assert ask() == "stale"
        finally:
            cache.kill()
            cache.communicate()


def test_a_server_that_slept_gives_everybody_the_time_to_beat(sleeper: Sleeper) -> None:
    with (
        ServerProcess(under=sleeper.under) as server,
        RegistryClient(server.endpoint, timeout=10) as client,
        client.registered("lives", "lab1", 5000, "PUNA", ttl=6),
    ):
        dead = client.register("dead", "lab1", 5001, "PUNA", ttl=2, owned=False)
        position = client.events_since()
        for _ in range(2):
            server.signal(signal.SIGSTOP)
            sleeper.sleep(3600)
            server.signal(signal.SIGCONT)
            health = {one.name: one.health for one in client.list_services("PUNA")}
            assert health.keys() == {"lives", "dead"}
            assert health["lives"] == "passing"
        wait_until(lambda: client.get_service(dead) is None)
        told = client.events_since(position["seq"], position["epoch"])["events"]
        assert {one["data"]["service_id"] for one in told} == {dead}


def test_a_lease_goes_on_while_a_server_does_not_notice(sleeper: Sleeper) -> None:
    """A clock that leaps while the server runs is a stall too: no lease may end for it."""
    with (
        ServerProcess(under=sleeper.under) as server,
        RegistryClient(server.endpoint, timeout=10) as client,
        client.registered("lives", "lab1", 5000, "PUNA", ttl=6),
    ):
        for _ in range(3):
            sleeper.sleep(100)
            assert client.discover_service("PUNA") is not None
        assert [one["type"] for one in client.events_since(0)["events"]] == ["register"]
