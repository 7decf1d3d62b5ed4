"""Tests of the driver beside it; the fixture `registry` comes with rsreg."""

import threading

import driver
import zmq

from rsreg import RegistryClient
from rsreg.testing import LocalRegistry


def test_the_driver_is_found_does_its_work_and_leaves(registry: LocalRegistry) -> None:
    thread = threading.Thread(target=driver.main, args=(1,))
    thread.start()

    client = registry.client()
    puna = client.wait_for("PUNA", timeout=20)["PUNA"]
    assert puna is not None
    with zmq.Context.instance().socket(zmq.REQ) as socket:
        socket.connect(puna.endpoint)
        socket.send_string("home")
        assert socket.recv_string() == "done: home"

    thread.join()
    assert client.list_services() == []


def test_a_driver_that_says_nothing_for_30_seconds_is_gone(registry: LocalRegistry) -> None:
    with RegistryClient() as client:
        client.register("puna_cs", "egse3", 5000, "PUNA", ttl=30)
        registry.advance(29)
        assert client.get_endpoint("PUNA") == "tcp://egse3:5000"
        registry.advance(1)
        assert client.get_endpoint("PUNA") is None
