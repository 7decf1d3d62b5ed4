"""A reply that takes its time: the work for it is done in a thread, beside all other requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from rsreg.errors import InternalError, ServerError

log = logging.getLogger(__name__)

Body = dict[str, Any]


class Deferred:
    """The reply to a request whose work has yet to be done.

    `work` gives it, or raises a ServerError. `token` tells the same request if it comes again, None
    if nobody can tell.
    """

    def __init__(self, work: Callable[[], Body], token: str | None) -> None:
        self.token = token
        self.started = False
        #: The reply, once there is one.
        self.body: Body | None = None
        #: What else the reply says.
        self.more: Mapping[str, Any] = {}
        self._work = work

    def run(self) -> None:
        """Do the work, in a thread of its own; never raises."""
        try:
            body = self._work()
        except ServerError as error:
            body = error.body()
        except Exception:
            log.exception("a request failed")
            body = failed()
        self.body = {**body, **self.more}


def failed() -> Body:
    """Return the reply to a request that failed by a fault of the registry itself."""
    return InternalError("The registry failed; its log says why").body()
