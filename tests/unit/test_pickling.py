"""Errors and records arrive as they were: through pickle and copy, from another process."""

from __future__ import annotations

import copy
import importlib
import inspect
import multiprocessing
import pickle
import pkgutil
import traceback
import typing
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

import rsreg
from rsreg import config
from rsreg.client.interactive import Services
from rsreg.client.registration.registration import Registration
from rsreg.errors import AmbiguousName, RegistryError, ServerError
from rsreg.protocol import records
from rsreg.protocol.records import ServiceList, ServiceRecord
from rsreg.server.settings import ServerSettings


def pickled(protocol: int, one: Any) -> Any:
    """Through pickle and back."""
    return pickle.loads(pickle.dumps(one, protocol))


#: Each way to another process, or to another object.
WAYS: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle {protocol}": partial(pickled, protocol)
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
#: A value for each argument that the errors are made with.
ARGUMENTS: dict[str, Any] = {
    "message": "'a' fits 2 services",
    "hint": "use one of the ids",
    "code": "from-the-future",
    "details": {"existing": ["a-1", {"b": 2}]},
    "candidates": ["a-1", "a-2"],
    "exit_code": 126,
    "lines": ["Traceback", "ImportError: no libev here"],
}


def all_errors() -> list[type[RegistryError]]:
    """Every class of errors, wherever it is defined."""
    for module in pkgutil.walk_packages(rsreg.__path__, "rsreg."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(cls: type[RegistryError]) -> Iterator[type[RegistryError]]:
        yield cls
        for child in cls.__subclasses__():
            yield from below(child)

    ours = [cls for cls in below(RegistryError) if cls.__module__.startswith("rsreg")]
    return sorted(set(ours), key=lambda cls: cls.__name__)


def made(cls: type[RegistryError]) -> RegistryError:
    """One of a class, with all that can be said to it."""
    error = cls(**{name: ARGUMENTS[name] for name in inspect.signature(cls).parameters})
    error.__dict__["__notes__"] = ["seen in the cleanroom"]
    return error


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cls", all_errors(), ids=lambda cls: cls.__name__)
def test_an_error_arrives_as_it_was(cls: type[RegistryError], way: str) -> None:
    error = made(cls)
    got = WAYS[way](error)
    assert type(got) is cls
    assert got is not error
    assert (got.args, str(got), repr(got)) == (error.args, str(error), repr(error))
    assert vars(got) == vars(error)
    assert traceback.format_exception_only(cls, got) == traceback.format_exception_only(cls, error)
    if isinstance(got, ServerError):
        assert got.body() == typing.cast(ServerError, error).body()


def test_what_the_classes_are_made_with_is_looked_at() -> None:
    """No class is left out, and none of the arguments is."""
    said = {name for cls in all_errors() for name in inspect.signature(cls).parameters}
    assert said == set(ARGUMENTS)
    assert {"AmbiguousName", "CantRun", "WaitOver"} <= {cls.__name__ for cls in all_errors()}


def refused(number: int) -> int:
    """What a worker does that finds too much."""
    raise AmbiguousName("'puna' fits 2 services", [f"puna-{number}", "puna-0"])


def test_an_error_of_a_worker_reaches_who_waits_for_it() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with pytest.raises(AmbiguousName, match="'puna' fits 2 services") as caught:
            pool.apply_async(refused, (7,)).get(60)
        assert caught.value.candidates == ["puna-7", "puna-0"]
        assert caught.value.hint == "use one of the ids: puna-7, puna-0"
        assert pool.apply_async(abs, (-1,)).get(60) == 1, "the worker goes on"


RECORD = ServiceRecord(
    id="puna-1",
    name="puna_cs",
    host="egse3",
    port=5000,
    type="PUNA",
    tags=["cryo"],
    metadata={"items": 3, "deep": {"a": [1]}},
    ttl=30,
    last_heartbeat=1_700_000_000,
    health="passing",
)
#: The structs of records that can't be made of nothing.
FULL = {
    "Service": {
        **{key: value for key, value in RECORD.items() if key != "health"},
        "extra": {"mode": "simulator", "owner": {"pid": 7}},
    },
    "ServiceInfo": {"name": "puna_cs", "host": "egse3", "port": 5000, "owner": {"pid": 7}},
    "Status": {"text": "homing", "progress": 0.5, "since": 1, "max": 60},
    "Event": {"seq": 7, "type": "register", "service_id": "puna-1", "body": b"{}"},
}


def everything() -> Iterator[Any]:
    """One of all that is said about services, and of all that is set."""
    for name, cls in vars(records).items():
        if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and cls is not msgspec.Struct:
            yield msgspec.convert(FULL.get(name, {}), cls)
    yield from (RECORD, ServiceList([RECORD]), Services("PUNA", [RECORD]))
    yield Registration({"name": "puna_cs", "port": 5000}, 30, "puna-1")
    yield ServerSettings(db="registry.db")
    yield config.ClientSettings("egse3", None, None, 2.0, "me", "simulator")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("one", list(everything()), ids=lambda one: type(one).__name__)
def test_a_record_arrives_as_it_was(one: Any, way: str) -> None:
    got = WAYS[way](one)
    assert type(got) is type(one)
    if isinstance(one, config.ClientSettings):
        assert vars(got) == vars(one)
    else:
        assert repr(got) == repr(one)
        assert str(got) == str(one)
    if isinstance(one, Services):
        assert [*got] == [*one]
        assert got.puna_cs.endpoint == "tcp://egse3:5000"
    elif not isinstance(one, config.ClientSettings):
        assert got == one
