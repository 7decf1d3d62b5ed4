"""One request, driven by hand: no sockets, and a clock that the test moves."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Generator, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsreg.client.registration import owner, registration
from rsreg.client.registration.registration import Registration
from rsreg.errors import (
    ConfigurationError,
    DuplicateServiceType,
    RequestTimeout,
    ServerError,
    SlowDown,
    Unavailable,
    UnknownService,
)
from rsreg.protocol import calls, wire
from rsreg.protocol.calls import Call
from rsreg.transport.exchange import ATTEMPTS, Step, exchange
from tests.helpers import ManualClock

Flow = Generator[Step, "list[bytes] | None", Any]


class ExchangeDriver:
    """Drives one exchange of 3 seconds, and keeps what it sent."""

    def __init__(self, call: Call[Any], clock: ManualClock, timeout: float = 3.0) -> None:
        self.clock = clock
        self.flow: Flow = exchange(call, timeout=timeout, endpoint="tcp://lab:1", clock=clock)
        self.sent: list[list[bytes]] = []
        self.step = self._note(next(self.flow))

    def _note(self, step: Step) -> Step:
        if step.frames is not None:
            self.sent.append(step.frames)
        return step

    @property
    def request(self) -> dict[str, Any]:
        """The request as the registry reads it."""
        envelope = wire.open_request([b"peer", *self.sent[0]])
        assert envelope is not None
        return wire.read_request(envelope.payload)

    def silence(self) -> None:
        """Nothing comes for as long as it wants to wait."""
        self.clock.advance(self.step.wait)
        self.step = self._note(self.flow.send(None))

    def receive(self, *frames: bytes) -> None:
        """Something comes that is not the answer."""
        self.step = self._note(self.flow.send(list(frames)))

    def endure(self, happenings: Iterable[tuple[bool, float]]) -> None:
        """Each is whether something comes that is not the answer, and after how many seconds."""
        for comes, seconds in happenings:
            if comes:
                self.clock.advance(min(seconds, self.step.wait))
                self.receive(b"", b"{}")
            else:
                self.silence()

    def answer(self, **body: Any) -> Any:
        """The reply comes; what the call returns."""
        body = {"request_id": self.request["request_id"], **body}
        with pytest.raises(StopIteration) as done:
            self.flow.send([b"", json.dumps(body).encode()])
        return done.value.value


@pytest.fixture
def driver(clock: ManualClock) -> ExchangeDriver:
    """A `discover`, sent once."""
    return ExchangeDriver(calls.discover("PUNA"), clock)


def reply(**body: Any) -> list[bytes]:
    """The frames of a reply."""
    return [b"", json.dumps(body).encode()]


def test_a_request_and_its_answer(driver: ExchangeDriver) -> None:
    assert driver.request == {
        "action": "discover",
        "service_type": "PUNA",
        "request_id": driver.request["request_id"],
    }
    assert 16 <= len(driver.request["request_id"]) <= 64
    assert driver.step.wait == 1.0
    assert driver.answer(success=True, service={"name": "A"}) == {"name": "A"}


def test_no_two_requests_have_the_same_id(clock: ManualClock) -> None:
    ids = {ExchangeDriver(calls.health(), clock).request["request_id"] for _ in range(100)}
    assert len(ids) == 100


def test_a_late_reply_is_not_taken_for_the_answer(driver: ExchangeDriver) -> None:
    driver.receive(*reply(success=True, service={"name": "B"}, request_id="0" * 32))
    assert driver.step.frames is None
    assert driver.answer(success=True, service={"name": "A"}) == {"name": "A"}


@pytest.mark.parametrize(
    "frames",
    [
        reply(success=True, service={"name": "B"}),
        reply(success=True, service={"name": "B"}, request_id=None),
        reply(success=True, service={"name": "B"}, request_id=["x"]),
        reply(success=False, error="no", code="internal"),
        [],
        [b""],
        [b"", b""],
        [b"", b"{"],
        [b"", b"\xff"],
        [b"", b"[]"],
        [b"", b"null"],
        [b"x", b"{}"],
        [b"RESPONSE", b'{"success":true}'],
    ],
)
def test_what_is_not_the_answer_is_dropped(driver: ExchangeDriver, frames: list[bytes]) -> None:
    driver.clock.advance(0.25)
    driver.receive(*frames)
    assert driver.step[:2] == (None, 0.75)
    assert driver.answer(success=True, service={"name": "A"}) == {"name": "A"}


def test_a_resend_is_the_same_request(driver: ExchangeDriver) -> None:
    driver.silence()
    driver.silence()
    assert len(driver.sent) == ATTEMPTS == 3
    assert driver.sent[0] == driver.sent[1] == driver.sent[2]
    assert driver.answer(success=True, service={"name": "A"}) == {"name": "A"}


def test_an_answer_to_the_first_send_counts_after_a_resend(driver: ExchangeDriver) -> None:
    driver.silence()
    assert driver.answer(success=True, service={"name": "A"}) == {"name": "A"}


def test_a_reply_of_another_does_not_put_off_the_resend(driver: ExchangeDriver) -> None:
    driver.clock.advance(0.9)
    driver.receive(b"", b"{}")
    assert driver.step.wait == pytest.approx(0.1)
    driver.silence()
    assert len(driver.sent) == 2
    assert driver.step.wait == pytest.approx(1.0)


def test_it_gives_up_in_time(driver: ExchangeDriver) -> None:
    driver.silence()
    driver.silence()
    said = r"^no registry answers on tcp://lab:1 within 3 s$"
    with pytest.raises(RequestTimeout, match=said) as caught:
        driver.silence()
    assert str(caught.value.hint).startswith('start one with "rs_cs start"')
    assert driver.clock.now == pytest.approx(1_003.0)
    assert len(driver.sent) == 3


def test_a_flood_of_others_replies_does_not_keep_it(driver: ExchangeDriver) -> None:
    flood = itertools.repeat((True, 0.001), 100_000)
    with pytest.raises(RequestTimeout):
        driver.endure(flood)
    assert driver.clock.now == pytest.approx(1_003.0)


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 1.5)), max_size=40),
    st.floats(0.01, 100),
)
def test_it_never_waits_longer_than_its_timeout(
    happenings: list[tuple[bool, float]], timeout: float
) -> None:
    clock = ManualClock(0.0)
    driver = ExchangeDriver(calls.health(), clock, timeout)
    with pytest.raises(RequestTimeout):
        driver.endure(itertools.chain(happenings, itertools.repeat((False, 0.0))))
    assert clock.now == pytest.approx(timeout)
    assert len(driver.sent) <= ATTEMPTS


def test_an_answer_that_waited_while_this_process_stood_still_counts(
    driver: ExchangeDriver,
) -> None:
    driver.clock.advance(60)
    assert driver.answer(success=True, service={"name": "A"}) == {"name": "A"}


def test_a_process_that_stood_still_gives_up_at_once(driver: ExchangeDriver) -> None:
    driver.clock.advance(60)
    with pytest.raises(RequestTimeout):
        driver.endure(itertools.repeat((False, 0.0)))
    assert driver.clock.now == 1_061.0


# -- answers and refusals

RECORD = {"id": "a-1", "name": "a"}
REGISTER = registration.register(Registration.of("a", "h", 1, None, None, 30))


@pytest.mark.parametrize(
    ("call", "body", "answer"),
    [
        (REGISTER, {"service_id": "i"}, ("i", "")),
        (REGISTER, {"service_id": "i", "entry": "f"}, ("i", "f")),
        (calls.renew("i"), {}, ""),
        (calls.renew("i"), {"entry": "f"}, "f"),
        (calls.update("i", {}, {}), {"entry": "f"}, "f"),
        (calls.deregister("i", {}), {}, True),
        (calls.get("i"), {"service": RECORD}, RECORD),
        (calls.list_services(), {"services": [RECORD]}, [RECORD]),
        (calls.discover("X"), {"service": RECORD}, RECORD),
        (calls.health(), {"status": "ok"}, True),
        (calls.health(), {"status": "degraded"}, False),
        (calls.info(), {"status": "ok"}, {"success": True, "status": "ok"}),
        (calls.terminate(), {"status": "terminating"}, True),
        (calls.events(1, "e"), {"events": []}, {"success": True, "events": []}),
    ],
)
def test_how_each_answer_is_read(
    clock: ManualClock, call: Call[Any], body: dict[str, Any], answer: object
) -> None:
    assert ExchangeDriver(call, clock).answer(success=True, **body) == answer


@pytest.mark.parametrize(
    ("call", "code", "answer"),
    [
        (calls.renew("i"), "unknown-service", None),
        (calls.deregister("i", {}), "unknown-service", False),
        (calls.get("i"), "unknown-service", None),
        (calls.discover("X"), "no-service", None),
    ],
)
def test_not_found_is_an_answer(
    clock: ManualClock, call: Call[Any], code: str, answer: object
) -> None:
    assert ExchangeDriver(call, clock).answer(success=False, error="No", code=code) is answer


@pytest.mark.parametrize(
    ("call", "body", "error"),
    [
        (calls.renew("i"), {"code": "unavailable", "hint": "try again"}, Unavailable),
        (calls.renew("i"), {"code": "no-service"}, ServerError),
        (calls.discover("X"), {"code": "unknown-service"}, UnknownService),
        (calls.health(), {"code": "unknown-service"}, UnknownService),
        (calls.list_services(), {"code": "unavailable"}, Unavailable),
        (calls.get("i"), {"code": "from-the-future"}, ServerError),
        (calls.get("i"), {}, ServerError),
        (
            registration.register(Registration.of("a", "h", 1, None, None, 30)),
            {"code": "duplicate_service_type", "existing_service_id": "b"},
            DuplicateServiceType,
        ),
    ],
)
def test_any_other_refusal_raises(
    clock: ManualClock, call: Call[Any], body: dict[str, Any], error: type[ServerError]
) -> None:
    driver = ExchangeDriver(call, clock)
    refusal = reply(success=False, error="No.", request_id=driver.request["request_id"], **body)
    with pytest.raises(error, match=r"^No\.$") as caught:
        driver.flow.send(refusal)
    assert caught.value.code == body.get("code", "error")
    assert caught.value.hint == body.get("hint")
    assert caught.value.details.get("existing_service_id") == body.get("existing_service_id")


@pytest.mark.parametrize("success", [1, "true", None, [True]])
def test_only_true_is_success(driver: ExchangeDriver, success: object) -> None:
    body = {"success": success, "service": RECORD, "request_id": driver.request["request_id"]}
    with pytest.raises(ServerError, match=r"^the registry gave no reason$"):
        driver.flow.send(reply(**body))


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (registration.register(Registration.of("a", "h", 1, None, None, 30)), {}),
        (calls.get("i"), {}),
        (calls.get("i"), {"service": None}),
        (calls.discover("X"), {"service": "ab"}),
        (calls.list_services(), {"services": 5}),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_the_tree(
    clock: ManualClock, call: Call[Any], body: dict[str, Any]
) -> None:
    driver = ExchangeDriver(call, clock)
    answer = reply(success=True, request_id=driver.request["request_id"], **body)
    said = f"^the registry's answer to {call.action} can't be understood: "
    with pytest.raises(ServerError, match=said):
        driver.flow.send(answer)


# -- requests


@pytest.mark.parametrize("port", [float("nan"), {1}, "x" * 70_000])
def test_what_cannot_be_a_request_is_refused_before_anything_is_sent(
    clock: ManualClock, port: Any
) -> None:
    with pytest.raises(ConfigurationError):
        ExchangeDriver(
            registration.register(Registration.of("a", "h", port, None, None, 30)), clock
        )


def test_a_registration_says_only_what_was_said(clock: ManualClock) -> None:
    bare = Registration.of("a", "h", 1, None, {}, 30, tags=[])
    asked = ExchangeDriver(registration.register(bare), clock).request
    said = {"name": "a", "host": "h", "port": 1}
    assert asked["service_info"] == {**said, "owner": owner.this_process()}
    assert asked["ttl"] == 30
    of_nobody = Registration.of("a", "h", 1, None, {}, 30, owned=False)
    request = ExchangeDriver(registration.register(of_nobody), clock).request
    assert (request["service_info"], request["owner"]) == (said, owner.this_process())


def test_a_registration_says_all_that_was_said(clock: ManualClock) -> None:
    full = Registration.of(
        "a",
        "h",
        1,
        "X",
        {"v": 1},
        2.5,
        singleton=True,
        allow_duplicate_service_type=True,
        service_id="mine",
        tags=["t"],
        mode="simulator",
        endpoints={"command": 1},
        ready=False,
        exclusive=True,
    )
    asked = ExchangeDriver(registration.register(full), clock).request
    assert asked["ttl"] == 2.5
    assert asked["service_info"] == {
        "name": "a",
        "host": "h",
        "port": 1,
        "type": "X",
        "metadata": {"v": 1},
        "tags": ["t"],
        "singleton": True,
        "allow_duplicate_service_type": True,
        "id": "mine",
        "mode": "simulator",
        "endpoints": {"command": 1},
        "ready": False,
        "exclusive": True,
        "owner": owner.this_process(),
    }


def test_a_registration_is_made_again_under_the_id_that_it_got(clock: ManualClock) -> None:
    again = Registration.of("a", "h", 1, "X", None, 30).with_id("a-1")
    assert (
        ExchangeDriver(registration.register(again), clock).request["service_info"]["id"] == "a-1"
    )
    assert again.name == "a"


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (calls.list_services(), {"action": "list"}),
        (calls.list_services("X"), {"action": "list", "service_type": "X"}),
        (calls.info(services=False), {"action": "info", "services": False}),
        (calls.events(None, None), {"action": "events"}),
        (calls.events(0, "e", limit=5), {"action": "events", "since": 0, "epoch": "e", "limit": 5}),
        (calls.renew("i"), {"action": "renew", "service_id": "i"}),
    ],
)
def test_what_is_left_out_is_not_sent(
    clock: ManualClock, call: Call[Any], asked: dict[str, Any]
) -> None:
    request = ExchangeDriver(call, clock).request
    del request["request_id"]
    assert request == asked


def slow_down(driver: ExchangeDriver, seconds: object) -> None:
    """The registry says when it takes the request."""
    body = {"success": False, "error": "too much", "code": "slow-down", "retry_after": seconds}
    driver.receive(*reply(**body, request_id=driver.request["request_id"]))


def test_who_is_to_slow_down_sends_the_same_request_later(driver: ExchangeDriver) -> None:
    slow_down(driver, 0.4)
    assert len(driver.sent) == 1
    assert 0.4 <= driver.step.wait <= 0.6, "at random, so that not all come at once"
    slow_down(driver, 0.4)
    assert len(driver.sent) == 1, "the answer to another copy of it"
    driver.silence()
    assert driver.sent == [driver.sent[0]] * 2
    assert driver.answer(success=True, service={"name": "A"}) == {"name": "A"}


@pytest.mark.parametrize("seconds", [3.0, 1e9])
def test_who_has_no_time_to_wait_is_told_why(driver: ExchangeDriver, seconds: float) -> None:
    with pytest.raises(SlowDown, match="too much") as told:
        slow_down(driver, seconds)
    assert told.value.details["retry_after"] == seconds


@pytest.mark.parametrize("seconds", [None, "1", True, 0, -1, []])
def test_a_pause_that_is_none_is_not_kept(driver: ExchangeDriver, seconds: object) -> None:
    with pytest.raises(SlowDown):
        slow_down(driver, seconds)


@given(st.lists(st.one_of(st.none(), st.floats(0.001, 5.0)), max_size=30))
def test_a_call_ends_in_time_however_often_it_is_to_slow_down(answers: list[float | None]) -> None:
    clock = ManualClock()
    driver = ExchangeDriver(calls.discover("PUNA"), clock)
    begin = clock.now
    with contextlib.suppress(SlowDown, RequestTimeout):
        for seconds in answers:
            if seconds is not None:
                slow_down(driver, seconds)
            driver.silence()
        while True:
            driver.silence()
    assert clock.now - begin <= 3.0 + 1e-6
    assert len(driver.sent) <= ATTEMPTS + len(answers)
