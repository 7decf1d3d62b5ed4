"""A registry whose disk is full for a while: `registry_on_full_disk.py PATH`."""

import sys
from collections.abc import Callable

from rsreg import SQLiteBackend
from rsreg.errors import StoreError
from tests.harness import RegistryHarness
from tests.helpers import limit_files

harness = RegistryHarness(lambda: SQLiteBackend(sys.argv[1]))
acknowledged: list[str] = []


def refused(change: Callable[[], object]) -> bool:
    """Whether a change is refused; it then leaves no trace."""
    before = harness.picture()
    try:
        change()
        harness.commit()
    except StoreError as error:
        assert harness.picture() == before, "a refused change left a trace"
        print(error)
        return True
    return False


def register() -> None:
    """Register one more."""
    acknowledged.append(harness.stage("a", ttl=10, type="A"))


limit_files(100_000)
while not refused(register):
    pass
acknowledged.pop()
assert list(harness.list()) == acknowledged
harness.pass_time(10)
assert refused(lambda: harness.registry.expire(200)), "the disk was not full"
assert {harness.health(one) for one in acknowledged} == {"critical"}
limit_files(-1)
assert sorted(harness.expire(1_000)) == sorted(acknowledged)
harness.register("later", id="later")
harness.restart(killed=True)
assert list(harness.list()) == ["later"]
assert harness.registry.seq == 3 * len(acknowledged) + 1
print(len(acknowledged))
