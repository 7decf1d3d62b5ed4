"""Handlers of events, as both clients take them."""

from __future__ import annotations

from rsreg.transport.listener import Handler, Handlers


class EventHandlers:
    """The handlers of a client, which its listener calls."""

    def __init__(self) -> None:
        self._handlers = Handlers()

    def on_event(self, event_type: str, handler: Handler) -> None:
        """Call `handler` with the `data` of each event of a type; see `start_event_listener`.

        Handlers run one after the other, and may call this client: on the thread of the listener,
        in asyncio in a task of the event loop.

        Args:
            event_type: register, update, replace, deregister, expire, critical, recovered or
                maintenance; "reset" says that events were missed for good.
            handler: Called with `{"service_id": …, "service_info": {…}}`; with `{}` for "reset". In
                asyncio it may be a coroutine function.
        """
        self._handlers.add(event_type, handler)

    def on_any_event(self, handler: Handler) -> None:
        """Call `handler` with each whole event; see `start_event_listener`.

        Args:
            handler: Called with `{"type", "timestamp", "data", "seq", "epoch", …}`. In asyncio it
                may be a coroutine function.
        """
        self._handlers.add_any(handler)
