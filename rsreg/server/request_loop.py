"""RequestLoop: takes requests in batches, commits what they change, and answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import gevent
import zmq
from gevent.event import Event as Flag

from rsreg.errors import StoreError
from rsreg.protocol import wire
from rsreg.protocol.limits import MAX_REQUEST
from rsreg.server.backends.stored import Event
from rsreg.server.deferred import Deferred
from rsreg.server.dispatch import Dispatcher
from rsreg.server.guard.connections import number_of
from rsreg.server.guard.endless_messages import EndlessMessages
from rsreg.server.guard.fair_queue import FairQueue
from rsreg.server.guard.log_limiter import LogLimiter
from rsreg.server.guard.readiness import Readiness, readable
from rsreg.server.guard.unread_replies import LONG, UnreadReplies
from rsreg.server.publisher import Publish
from rsreg.server.request import Request
from rsreg.server.rules.registry import Registry
from rsreg.timing import Clock

log = logging.getLogger(__name__)

#: Requests taken from one socket before the others, and the other greenlets, have their turn; and
#: seconds: a request that is refused may have taken as long as ten that are not.
MAX_BATCH, MAX_TIME = 64, 0.01
#: Bytes of one reply, and seconds to make it, after which they have theirs.
MAX_REPLY_SIZE, SLOW = 64 * 1024, 0.005
#: Seconds between two looks at idle sockets: how old the health of a lease can be.
TICK = 0.25
#: Seconds beyond its tick after which the loop counts as having stood still.
STALL = 1.0

#: Requests with their replies.
_Batch = list[tuple[Request, "bytes | Deferred"]]


class RequestLoop:
    """Takes requests in batches, commits what they change at once, and only then answers.

    `sockets` are plain ROUTERs that nobody else reads, polls or writes. An acknowledged change is
    durable; one that the store refused left no trace.
    """

    def __init__(
        self,
        sockets: Sequence[zmq.Socket[bytes]],
        registry: Registry,
        dispatcher: Dispatcher,
        publish: Publish,
        clock: Clock,
        cgse_reply: bytes = wire.CGSE_REPLY,
        *,
        replies: UnreadReplies,
        unfinished: EndlessMessages,
    ) -> None:
        #: Replies that could not be delivered: the client was gone, or does not read.
        self.dropped = 0
        self._sockets = sockets
        self._registry = registry
        self._dispatcher = dispatcher
        self._publish = publish
        self._clock = clock
        self._cgse_reply = cgse_reply
        self._replies = replies
        self._unfinished = unfinished
        self._ready = Readiness(sockets, TICK)
        self._awake = clock()
        #: All that had come by then was read.
        self._served = self._awake
        self._queue: FairQueue[Request] = FairQueue()
        self._put_off = False
        #: When the last answer was made.
        self._answered = self._awake
        #: Requests whose replies are being worked on.
        self._waiting: list[tuple[Request, Deferred]] = []
        self._threads: list[Any] = []
        self._log_limiter = LogLimiter()

    def run(self, stop: Flag) -> None:
        """Serve until `stop` is set."""
        busy = True
        while not stop.is_set():
            self._ready.wait(busy=busy)
            busy = self.step()

    def close(self) -> None:
        """Stop watching the sockets."""
        self._ready.close()

    def wait_for_threads(self, timeout: float) -> None:
        """Wait for the threads that still work on replies, which nobody gets any more."""
        gevent.wait(self._threads, timeout=timeout)

    def step(self) -> bool:
        """Serve what has arrived: take a batch, change and commit, publish, reply.

        True if there is more to do at once.
        """
        # Read before the sockets are: all that came before `now` is in this batch, even if the
        # process is stopped at any of the next lines.
        now = self._clock()
        self._notice_stall(now)
        self._unfinished.may_look(now)
        # Changes of health are announced twice: here those found at the end of the last step,
        # before anything is answered; below those that this batch caused.
        self._registry.announce_health()
        batch, emptied = self._serve()
        unannounced = self._registry.announce_health()
        events: list[Event] = []
        try:
            events = self._registry.commit()
        except StoreError as error:
            batch = [(request, self._answer(request, error)) for request, _ in batch]
        self._publish(events)
        used = set()
        for request, reply in [*batch, *self._worked_on()]:
            if isinstance(reply, Deferred):
                self._work_on(request, reply)
            elif request.envelope.reply_to is not None:
                self._send(request, wire.close_reply(request.envelope.reply_to, reply))
                used.add(request.socket)
        if emptied:
            self._served = now
        if unannounced or not emptied:
            return True
        if not self._registry.evaluate_leases(self._queue.served(now)) or self._queue:
            return True
        return any(readable(socket) for socket in used)

    def _notice_stall(self, now: float) -> None:
        if now - self._awake > TICK + STALL:
            log.warning(
                "the server was blocked for %.1f s; all leases were extended by their ttl",
                now - self._awake,
            )
            self._registry.grant_grace()
        self._awake = now

    def _work_on(self, request: Request, reply: Deferred) -> None:
        """Have a thread work on a reply, unless it does already."""
        if not reply.started:
            reply.started = True
            self._threads = [thread for thread in self._threads if not thread.ready()]
            self._threads.append(gevent.get_hub().threadpool.spawn(reply.run))
        self._waiting.append((request, reply))

    def _worked_on(self) -> list[tuple[Request, bytes]]:
        """Return the requests whose replies are ready by now, with these."""
        done = [(one, wire.encode(reply.body)) for one, reply in self._waiting if reply.body]
        if done:
            self._waiting = [one for one in self._waiting if not one[1].body]
        return done

    def _serve(self) -> tuple[_Batch, bool]:
        """Answer a batch in order of arrival; return it, and whether all sockets are empty.

        One answer that takes long ends it, for a socket; those that take long again, or seem to,
        are given after the others, one at a time.
        """
        batch: _Batch = []
        emptied = True
        self._answered = self._clock()
        until = self._answered + MAX_TIME
        for socket in self._sockets:
            taken = 0
            while readable(socket):
                if taken == MAX_BATCH or (taken and self._answered > until):
                    emptied = False
                    break
                taken += 1
                request = self._read(socket)
                if request is None or (
                    self._queue.remembered and self._has_to_wait(request, batch)
                ):
                    continue
                if self._reply(request, batch):
                    taken = MAX_BATCH
        # The others get their answers first, every other time: they are sent at the end.
        self._put_off = bool(batch) and not self._put_off
        for _ in range(0 if self._put_off else MAX_BATCH):
            waiting = self._queue.take()
            if waiting is None or self._reply(waiting, batch):
                break
        return batch, emptied

    def _read(self, socket: zmq.Socket[bytes]) -> Request | None:
        # A Frame, not bytes: only it knows the peer's address.
        identity = socket.recv(zmq.DONTWAIT, copy=False)
        frames = socket.recv_multipart(zmq.DONTWAIT)
        if self._unfinished.watched:
            self._unfinished.heard(number_of(identity))
        envelope = wire.open_request([identity.bytes, *frames], self._cgse_reply)
        return envelope and Request(socket, envelope, identity, self._replies)

    def _has_to_wait(self, request: Request, batch: _Batch) -> bool:
        """Return whether a request was put into the queue, or was refused since that is full."""
        payload, connection = request.envelope.payload, request.connection
        if len(payload) > MAX_REQUEST or not (
            wire.looks_long(payload) or self._queue.are_due(connection)
        ):
            return False
        if not self._queue.add(connection, request, self._served):
            error = self._replies.too_many(request.address)
            batch.append((request, wire.encode(self._dispatcher.refuse(payload, error))))
        return True

    def _reply(self, request: Request, batch: _Batch) -> bool:
        """Answer a request; return whether that took long."""
        reply = self._answer(request, None)
        batch.append((request, reply))
        before, self._answered = self._answered, self._clock()
        slow = self._answered - before > SLOW or (
            not isinstance(reply, Deferred) and len(reply) > MAX_REPLY_SIZE
        )
        if slow or self._queue.remembered:
            self._queue.answered(request.connection, slow=slow)
        return slow

    def _answer(self, request: Request, failure: StoreError | None) -> bytes | Deferred:
        payload = request.envelope.payload
        too_long = len(payload) > MAX_REQUEST
        if too_long and self._log_limiter.may_log(request.address, self._clock()):
            log.warning(
                "refused a request of %d bytes from %s: at most %d are taken",
                len(payload),
                request.address,
                MAX_REQUEST,
            )
        answer = self._dispatcher.answer(payload, request, failure)
        return answer if isinstance(answer, Deferred) else wire.encode(answer)

    def _send(self, request: Request, frames: list[bytes]) -> None:
        # A name and two frames are the rule; what a peer put before its request is sent back.
        size = len(frames[-1]) if len(frames) <= 3 else sum(map(len, frames))
        address = request.address if size > LONG else None
        if address is not None and not self._replies.may_send(address):
            self.dropped += 1
            return
        try:
            request.socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.ZMQError:
            self.dropped += 1
        else:
            if address is not None:
                self._replies.sent(request.number, address, size)
