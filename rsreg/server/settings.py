"""ServerSettings: what a server is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from rsreg import config
from rsreg.errors import ConfigurationError
from rsreg.protocol import wire
from rsreg.server.limits import Limits


@dataclass(frozen=True)
class ServerSettings:
    """What a server is started with, as plain values; the same for each way to start one.

    `db` to `log_size` are for a server that has a process of its own, see
    `rsreg.admin.server_process`; for the others see RegistryServer.

    Args:
        db: The file of the store, `:memory:` for none, or None for the default file.
        state_dir: The folder of the default file and of the log of a server in the background;
            None for the default folder.
        journal_events: The journal keeps about this many of the last events.
        journal_bytes: It keeps fewer, if those have more bytes than this.
        log_level: "debug", "info", "warning" or "error".
        log_size: The log of a server in the background is renamed to `<file>.1` when it has that
            many bytes.

    Raises:
        ConfigurationError: `cleanup_interval` is not above 0.
    """

    req_port: int = config.DEFAULT_RS_REQ_PORT
    pub_port: int = config.DEFAULT_RS_PUB_PORT
    hb_port: int | None = None
    bind: str = "*"
    db: str | None = None
    state_dir: str | None = None
    cleanup_interval: float = config.DEFAULT_CLEANUP_INTERVAL
    journal_events: int = config.DEFAULT_JOURNAL_EVENTS
    journal_bytes: int = config.DEFAULT_JOURNAL_BYTES
    unique_service_types: bool = False
    cgse_reply: str = wire.CGSE_REPLY.decode()
    log_level: str = "info"
    log_size: int = config.DEFAULT_LOG_SIZE
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.cleanup_interval > 0:
            raise ConfigurationError(
                f"a cleanup interval is more than 0 seconds, not {self.cleanup_interval}"
            )

    @property
    def heartbeat_port(self) -> int | None:
        """The port for CGSE's heartbeats: 4244 beside the default request port, else none."""
        if self.hb_port is None and self.req_port == config.DEFAULT_RS_REQ_PORT:
            return config.DEFAULT_RS_HB_PORT
        return self.hb_port

    def keywords(self) -> dict[str, Any]:
        """Return the keywords with which a RegistryServer is made."""
        return {
            "req_port": self.req_port,
            "pub_port": self.pub_port,
            "hb_port": self.hb_port,
            "bind": self.bind,
            "cleanup_interval": self.cleanup_interval,
            "unique_service_types": self.unique_service_types,
            "cgse_reply": self.cgse_reply,
            "limits": self.limits,
        }

    def to_json(self) -> str:
        """Return the settings as JSON, see `from_json`."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> ServerSettings:
        """Return the settings that were written by `to_json`."""
        return msgspec.json.decode(text, type=cls)
