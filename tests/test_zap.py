"""Who may connect: the frames of ZeroMQ's questions, and when each is answered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rsreg.limits import BURST, Limits
from rsreg.zap import Gate, read, refused

#: Longer than an answer may wait.
LONG = 100

frames = st.lists(st.binary(max_size=20), max_size=12)


def asked(address: str, asker: bytes = b"p", mechanism: bytes = b"NULL") -> list[bytes]:
    """A question as libzmq asks it."""
    return [asker, b"", b"1.0", b"1", b"rsreg", address.encode(), b"me", mechanism]


def test_a_question_and_its_answer() -> None:
    question = read(asked("10.0.0.1"))
    assert question is not None
    assert (question.address, question.mechanism) == ("10.0.0.1", "NULL")
    # The last but one is the name that it has here: the empty one, whatever it calls itself.
    assert Gate(Limits()).asked(asked("10.0.0.1"), 0) == [
        *(b"p", b"", b"1.0", b"1", b"200", b"OK", b"", b""),
    ]


@given(frames)
def test_rubbish_is_refused(rubbish: list[bytes]) -> None:
    answer = Gate(Limits()).asked(rubbish, 0.0)
    if read(rubbish) is None or rubbish[7] != b"NULL":
        assert answer == refused(rubbish)
        assert (answer[2], answer[4]) == (b"1.0", b"400")
    assert answer is not None
    assert len(answer) == 8


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_what_is_no_address_or_mechanism_raises_nothing(address: bytes, mechanism: bytes) -> None:
    question = [b"p", b"", b"1.0", b"1", b"rsreg", address, b"", mechanism, b"more"]
    answer = Gate(Limits()).asked(question, 0.0)
    assert answer is not None
    assert (answer[4] == b"200") is (mechanism == b"NULL")


def test_other_mechanisms_are_refused() -> None:
    for mechanism in (b"PLAIN", b"CURVE", b""):
        question = asked("10.0.0.1", mechanism=mechanism)
        assert Gate(Limits()).asked(question, 0) == refused(question)


def test_who_comes_too_soon_waits_and_nobody_else() -> None:
    gate = Gate(Limits(handshakes_per_second=10))
    at_once = [gate.asked(asked("10.0.0.1", b"%d" % number), 100.0) for number in range(60)]
    assert [answer is not None for answer in at_once] == [True] * 50 + [False] * 10
    assert gate.asked(asked("10.0.0.2"), 100.0) is not None
    assert gate.busy
    given = []
    for step in range(20):
        given += [answer[0] for answer in gate.due(100.0 + step / 10)]
    assert given == [b"%d" % number for number in range(50, 60)]
    assert not gate.busy
    assert gate.delayed == 10


def test_who_would_wait_longer_than_the_handshake_lasts_gets_no_answer() -> None:
    gate = Gate(Limits(handshakes_per_second=10))
    for number in range(200):
        gate.asked(asked("10.0.0.1", b"%d" % number), 100.0)
    waited = [
        (round(moment / 10, 1), answer[0])
        for moment in range(LONG)
        for answer in gate.due(100.0 + moment / 10)
    ]
    assert len(waited) == 30
    assert waited[-1][0] < 4


def test_loopback_and_gateways_never_wait() -> None:
    gate = Gate(Limits(handshakes_per_second=1, gateways=("10.3.0.0/24",)))
    for address in ("127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1", "10.3.0.7"):
        for _ in range(int(BURST) + 50):
            assert gate.asked(asked(address), 0.0) is not None


@given(
    st.lists(st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.2"]), st.floats(0, 3)), max_size=60),
    st.integers(1, 5),
)
def test_never_more_than_the_rate_and_each_at_most_once(
    comes: list[tuple[str, float]], rate: int
) -> None:
    gate = Gate(Limits(handshakes_per_second=rate))
    now, answers = 0.0, []
    for number, (address, pause) in enumerate(comes):
        now += pause
        found = gate.due(now)
        answer = gate.asked(asked(address, b"%s %d" % (address.encode(), number)), now)
        answers += [(now, each[0]) for each in [*found, *([answer] if answer else [])]]
    assert len({who for _, who in answers}) == len(answers)
    for address in (b"10.0.0.1", b"10.0.0.2"):
        count = sum(who.startswith(address) for _, who in answers)
        assert count <= rate * (BURST + now) + 1
