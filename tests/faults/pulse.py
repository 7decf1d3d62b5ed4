"""Somebody who asks all the while, and notices when the answers take long."""

from __future__ import annotations

import threading
import time

from rsreg import RegistryClient


class Pulse:
    """Asks for health all the while it is entered, and keeps how many seconds each answer took."""

    def __init__(self, endpoint: str) -> None:
        self.seconds: list[float] = []
        self._endpoint = endpoint
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with RegistryClient(self._endpoint, timeout=20) as client:
            while not self._over.is_set():
                started = time.monotonic()
                well = client.health_check()
                self.seconds.append(time.monotonic() - started if well else 20.0)
                self._over.wait(0.02)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join()
