"""Tests of somebody who uses the fixture `registry`."""

import os

import pytest

from rsreg import RegistryClient
from rsreg.testing import LocalRegistry


@pytest.mark.parametrize("number", [1, 2])
def test_with(registry: LocalRegistry, number: int) -> None:
    assert os.environ["RSREG_ENDPOINT"] == registry.endpoint
    assert "RSREG_MODE" not in os.environ
    with RegistryClient() as client:
        assert client.list_services() == []
        client.register("puna_cs", "lab", number, "PUNA")
        assert [one.port for one in registry.client().list_services()] == [number]


def test_without() -> None:
    assert os.environ["RSREG_ENDPOINT"] == "nowhere:1"
    assert os.environ["RSREG_MODE"] == "simulator"
