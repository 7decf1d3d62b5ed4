"""What the registry has yet to be told of one service."""

from __future__ import annotations

from rsreg.client.registration.local_service import LocalService
from rsreg.client.registration.registration import Registration
from rsreg.protocol.calls import Entry


def local_service() -> LocalService:
    """A service that is registered."""
    wanted = Registration.of("puna_cs", "egse3", 5000, None, None, 30)
    made = LocalService(wanted)
    made.on_registered(wanted, Entry("puna-1", "f1"))
    return made


def test_a_change_is_untold_until_it_was_told() -> None:
    puna = local_service()
    puna.change({"port": 5001})
    puna.change({"ready": True})
    assert puna.pending_update == {"port": 5001, "ready": True}
    puna.on_updated({"port": 5001}, "f2")
    assert puna.pending_update == {"ready": True}
    assert puna.registration.info["port"] == 5001


def test_a_change_that_is_known_takes_an_older_one_with_it() -> None:
    puna = local_service()
    puna.change({"port": 5001})
    puna.change({"port": 5002}, "f2")
    assert puna.pending_update == {}
    assert puna.registration.info["port"] == 5002


def test_what_changed_while_it_was_told_is_told_again() -> None:
    puna = local_service()
    puna.change({"port": 5001})
    told = puna.pending_update
    puna.change({"port": 5002}, "f2")
    puna.on_updated(told, "f3")
    assert puna.pending_update == {"port": 5002}


def test_what_changed_while_it_was_registered_is_still_to_be_told() -> None:
    wanted = Registration.of("puna_cs", "egse3", 5000, None, None, 30, ready=False)
    puna = LocalService(wanted)
    assert puna.service_id is None
    puna.change({"port": 5001})
    sent = puna.registration
    puna.change({"ready": True})
    puna.on_registered(sent, Entry("puna-1", "f1"))
    assert puna.service_id == "puna-1"
    assert puna.pending_update == {"ready": True}


def test_another_process_follows_but_for_the_host_that_it_found() -> None:
    puna = local_service()
    puna.set_host("10.0.0.5")
    assert puna.pending_update == {"host": "10.0.0.5"}
    driver_status = puna.driver_status.state()
    info = {**puna.registration.info, "host": "egse3", "port": 5001, "ready": True}
    puna.take_state(info, {"ready": True}, [], True, driver_status)
    assert puna.pending_update == {"host": "10.0.0.5", "ready": True}
    assert puna.registration.info["port"] == 5001
    puna.take_state(info, {}, [], False, driver_status)
    assert puna.registration.info["host"] == "egse3"
