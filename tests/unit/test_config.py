"""Settings: arguments and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsreg import config
from rsreg.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RSREG_ENDPOINT", "RSREG_DB", "XDG_STATE_HOME", "NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_ports_of_the_specification() -> None:
    assert config.DEFAULT_RS_REQ_PORT == 4242
    assert config.DEFAULT_RS_PUB_PORT == 4243
    assert config.DEFAULT_RS_HB_PORT == 4244


def test_the_defaults_that_the_documentation_names() -> None:
    assert config.DEFAULT_CLEANUP_INTERVAL == 10
    assert config.DEFAULT_TIMEOUT == 2
    assert config.DEFAULT_TTL == 30


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("labhost", "tcp://labhost:4242"),
        ("labhost:1", "tcp://labhost:1"),
        ("labhost:65535", "tcp://labhost:65535"),
        ("tcp://labhost", "tcp://labhost:4242"),
        ("tcp://10.0.0.5:5000", "tcp://10.0.0.5:5000"),
        ("  labhost:5000\n", "tcp://labhost:5000"),
        ("[::1]", "tcp://[::1]:4242"),
        ("tcp://[fe80::1%eth0]:5000", "tcp://[fe80::1%eth0]:5000"),
        ("inproc://registry", "inproc://registry"),
        (" ipc:///tmp/registry ", "ipc:///tmp/registry"),
    ],
)
def test_an_endpoint_may_be_written_short(text: str, endpoint: str) -> None:
    assert config.normal_endpoint(text) == endpoint


def test_each_endpoint_has_its_own_default_port() -> None:
    settings = config.ClientSettings("labhost", "labhost", "labhost", 2, "me")
    ports = [settings.req_endpoint, settings.sub_endpoint, settings.hb_endpoint]
    assert ports == [f"tcp://labhost:{port}" for port in (4242, 4243, 4244)]


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ":4242", "tcp://", "lab host", "labhost:4242/x"),
        *("labhost:", "labhost:0", "labhost:65536", "labhost:-1", "labhost:x", "labhost:²"),
        *("labhost:1:2", "::1", "fe80::1", "[::1"),
    ],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^not an endpoint: ") as caught:
        config.normal_endpoint(text)
    assert caught.value.hint


def test_the_default_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.default_endpoint() == "tcp://localhost:4242"
    monkeypatch.setenv("RSREG_ENDPOINT", "labhost:5000")
    assert config.default_endpoint() == "tcp://labhost:5000"
    monkeypatch.setenv("RSREG_ENDPOINT", "")
    assert config.default_endpoint() == "tcp://localhost:4242"


def test_another_port_of_the_same_host() -> None:
    assert config.on_port("tcp://labhost:4242", 4243) == "tcp://labhost:4243"
    assert config.on_port("tcp://[::1]:4242", 4243) == "tcp://[::1]:4243"


def test_the_default_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert config.default_database() == tmp_path / ".local/state/rsreg/service_registry.db"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert config.default_database() == tmp_path / "state/rsreg/service_registry.db"
    monkeypatch.setenv("RSREG_DB", str(tmp_path / "lab.db"))
    assert config.default_database() == tmp_path / "lab.db"


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not config.no_color()
    monkeypatch.setenv("NO_COLOR", "")
    assert not config.no_color()
    monkeypatch.setenv("TERM", "dumb")
    assert config.no_color()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert config.no_color()


def test_client_settings() -> None:
    settings = config.ClientSettings("labhost", "labhost:1", "labhost:2", 1.5, "me")
    assert settings.req_endpoint == "tcp://labhost:4242"
    assert settings.sub_endpoint == "tcp://labhost:1"
    assert settings.hb_endpoint == "tcp://labhost:2"
    assert (settings.timeout, settings.client_id) == (1.5, "me")


def test_client_settings_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSREG_ENDPOINT", "labhost:5000")
    settings = config.ClientSettings(None, None, None, 2.0, "me")
    assert settings.req_endpoint == "tcp://labhost:5000"
    assert settings.sub_endpoint is None
    assert settings.hb_endpoint is None


@pytest.mark.parametrize("timeout", [0.01, 86400])
def test_any_other_timeout_is_taken(timeout: float) -> None:
    assert config.ClientSettings(None, None, None, timeout, "me").timeout == timeout


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf"), 86400.5])
def test_a_timeout_is_more_than_nothing_and_ends(timeout: float) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^timeout must be more than 0 and at most 86400 s"
    ):
        config.ClientSettings(None, None, None, timeout, "me")
