"""The limiter alone: a list of events and times, and what the limit is afterwards. No test sleeps."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.limiter import START, Limiter


def succeed(limiter: Limiter, rounds: int, *, now: float = 0.0, seconds: float = 1.0, busy: bool = True) -> None:
    for _ in range(rounds):
        for _ in range(max(limiter.limit, START)):
            limiter.may_send(now, limiter.limit if busy else 1)
            limiter.succeeded(now, seconds=seconds, output_tokens=0)


def test_it_starts_small_and_doubles_each_round() -> None:
    limiter = Limiter(cap=100)
    assert limiter.limit == START
    succeed(limiter, 1)
    assert limiter.limit == 2 * START
    succeed(limiter, 10)
    assert limiter.limit == 100


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    limiter = Limiter()
    succeed(limiter, 5, busy=False)
    assert limiter.limit == START


def test_a_refusal_cuts_to_what_the_gateway_held_and_freezes_everybody() -> None:
    limiter = Limiter()
    succeed(limiter, 3)
    limiter.refused(10.0, in_flight=40, retry_after=None, jitter=0.0)
    assert limiter.limit == int(40 * 0.85)
    assert not limiter.may_send(10.2, 0)
    assert limiter.may_send(10.31, 0)
    assert limiter.frozen_for(10.0) == pytest.approx(0.3)


def test_refusals_of_one_episode_cut_once() -> None:
    limiter = Limiter()
    succeed(limiter, 3)
    for _ in range(20):
        limiter.refused(10.0, in_flight=40, retry_after=1.0, jitter=0.0)
    assert limiter.limit == int(40 * 0.85)


def test_retry_after_is_kept_by_everybody_and_never_shortened() -> None:
    limiter = Limiter()
    limiter.refused(0.0, in_flight=8, retry_after=60.0, jitter=0.5)
    limiter.refused(1.0, in_flight=8, retry_after=1.0, jitter=0.0)
    assert limiter.frozen_for(0.0) == pytest.approx(60 * 1.125)


def test_after_a_cut_it_returns_to_just_under_the_knee_and_probes_slowly() -> None:
    limiter = Limiter()
    succeed(limiter, 3)
    limiter.refused(10.0, in_flight=60, retry_after=0.0, jitter=0.0)
    succeed(limiter, 3, now=100.0)
    assert limiter.limit == 57
    succeed(limiter, 4, now=100.0)
    assert limiter.limit == 57
    succeed(limiter, 4, now=100.0)
    assert 58 <= limiter.limit <= 65


def test_latency_that_grows_with_the_limit_cuts_it() -> None:
    limiter = Limiter(cap=64)
    succeed(limiter, 4, seconds=1.0)
    before = limiter.limit
    succeed(limiter, 12, seconds=3.0)
    assert limiter.limit < before


def test_a_long_answer_is_no_slow_gateway() -> None:
    limiter = Limiter(cap=64)
    succeed(limiter, 6, seconds=1.0)
    for _ in range(20 * 64):
        limiter.may_send(0.0, limiter.limit)
        limiter.succeeded(0.0, seconds=5.0, output_tokens=200)
    assert limiter.limit == 64


def test_failures_hold_growth_and_many_of_them_cut() -> None:
    limiter = Limiter()
    limiter.failed(0.0, jitter=0.5)
    succeed(limiter, 1)
    assert limiter.limit == START
    for _ in range(3):
        limiter.failed(1.0, jitter=0.5)
    assert limiter.limit == int(START * 0.85)


def test_a_fixed_limit_stays_and_still_freezes() -> None:
    limiter = Limiter(fixed=20)
    succeed(limiter, 5)
    for _ in range(10):
        limiter.refused(50.0, in_flight=19, retry_after=None, jitter=0.5)
    assert limiter.limit == 20
    limiter.refused(100.0, in_flight=5, retry_after=2.0, jitter=0.0)
    assert not limiter.may_send(101.0, 0)


def test_an_outage_pauses_everybody_longer_each_time_until_a_success() -> None:
    limiter, now, pauses = Limiter(), 0.0, []
    for _ in range(4):
        for _ in range(4):
            limiter.failed(now, jitter=0.5)
        pauses.append(limiter.frozen_for(now))
        now += 100.0
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0])
    assert limiter.frozen_for(now) == 0
    limiter.succeeded(now, seconds=1.0, output_tokens=0)
    limiter.failed(now, jitter=0.5)
    assert limiter.may_send(now, 0)


def test_a_fixed_limit_survives_a_refusal() -> None:
    limiter = Limiter(fixed=16)
    limiter.refused(0.0, in_flight=0, retry_after=1.0, jitter=0.0)
    assert limiter.limit == 16


def test_refusals_in_a_row_double_the_pause_and_a_success_ends_that() -> None:
    limiter, now = Limiter(), 0.0
    pauses = []
    for _ in range(10):
        limiter.refused(now, in_flight=8, retry_after=None, jitter=0.0)
        pauses.append(limiter.frozen_for(now))
        now += 100.0
    assert pauses[:3] == pytest.approx([0.3, 0.6, 1.2])
    assert pauses[-1] == pytest.approx(60.0)
    limiter.succeeded(now, seconds=1.0, output_tokens=0)
    limiter.refused(now + 100, in_flight=8, retry_after=0.0, jitter=0.0)
    assert limiter.frozen_for(now + 100) == pytest.approx(0.3)


EVENTS = st.lists(
    st.one_of(
        st.builds(
            lambda s, t: lambda x, now: x.succeeded(now, seconds=s, output_tokens=t),
            st.floats(0.01, 60),
            st.integers(0, 500),
        ),
        st.builds(
            lambda n, after, j: lambda x, now: x.refused(now, in_flight=n, retry_after=after, jitter=j),
            st.integers(0, 300),
            st.none() | st.floats(0, 1000),
            st.floats(0, 0.99),
        ),
        st.just(lambda x, now: x.failed(now, jitter=0.5)),
        st.builds(lambda n: lambda x, now: x.may_send(now, n), st.integers(0, 300)),
    ),
    max_size=300,
)


@given(EVENTS, st.integers(1, 300))
def test_whatever_happens_the_limit_stays_between_one_and_the_cap(
    events: list[Callable[[Limiter, float], object]], cap: int
) -> None:
    limiter = Limiter(cap=cap)
    for now, event in enumerate(events):
        event(limiter, float(now))
        assert 1 <= limiter.limit <= cap
        assert not limiter.may_send(float(now), limiter.limit)


@pytest.mark.parametrize("fixed", [None, 20])
def test_failures_take_from_a_quota_that_answers_fill(fixed: int | None) -> None:
    limiter = Limiter(cap=20, fixed=fixed)
    before = limiter.limit
    for _ in range(25):
        limiter.failed(1.0, jitter=0.5)
    assert limiter.limit <= before // 2
    for _ in range(100):
        limiter.failed(1.0, jitter=0.5)
    assert limiter.limit == 1, "one may always try"
    for number in range(50):
        limiter.succeeded(100.0 + number, seconds=1.0, output_tokens=10)
    assert limiter.limit == (fixed or 6), "the quota is full again; a limit that is searched for was cut as well"
