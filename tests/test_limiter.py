"""The limiter alone: a list of events and times, and what the limit is afterwards. No test sleeps."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.limiter import START, Limiter
from packer.steady import SteadyLimiter


class Client:
    """Feeds a limiter with rounds of requests that all take the same time, one after the other."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.now = 0.0

    def succeed(self, rounds: int, *, seconds: float = 1.0, tokens: int = 0, busy: bool = True) -> None:
        for _ in range(rounds):
            count = max(self.limiter.limit, START)
            for _ in range(count):
                in_flight = self.limiter.limit if busy else 1
                self.limiter.may_send(self.now, in_flight)
                self.now += seconds / in_flight
                self.limiter.succeeded(self.now, seconds=seconds, output_tokens=tokens)

    def refuse(self, *, in_flight: int, retry_after: float | None = None, jitter: float = 0.0) -> None:
        self.limiter.refused(self.now, seconds=0.01, in_flight=in_flight, retry_after=retry_after, jitter=jitter)

    def wait(self, seconds: float) -> None:
        """With nothing in flight."""
        self.limiter.may_send(self.now, 0)
        self.now += seconds

    def fail(self, count: int = 1, *, seconds: float = 0.01) -> None:
        for _ in range(count):
            self.limiter.failed(self.now, seconds=seconds, jitter=0.5)


def refused_twice(**options: float | None) -> Limiter:
    """At 32 in flight, of which two are refused while 20 others are held."""
    client = Client(Limiter())
    client.succeed(3)
    for _ in range(2):
        client.refuse(in_flight=20, **options)  # type: ignore[arg-type]
    return client.limiter


def test_it_starts_small_and_doubles_each_round() -> None:
    client = Client(Limiter(cap=100))
    assert client.limiter.limit == START
    client.succeed(3)
    assert client.limiter.limit == 4 * START
    client.succeed(10)
    assert client.limiter.limit == 100


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    client = Client(Limiter())
    client.succeed(5, busy=False)
    assert client.limiter.limit == START


def test_refusals_cut_to_what_the_gateway_held_and_freeze_everybody() -> None:
    limiter = refused_twice()
    now = limiter.frozen_until - 0.01
    assert 15 <= limiter.limit <= 19
    assert not limiter.may_send(now, 0)
    assert limiter.may_send(now + 0.02, 0)


def test_one_refusal_freezes_and_cuts_nothing() -> None:
    client = Client(Limiter())
    client.succeed(3)
    before = client.limiter.limit
    client.refuse(in_flight=20)
    assert client.limiter.limit == before
    assert client.limiter.frozen_for(client.now) > 0


def test_a_refusal_that_says_how_long_cuts_at_once() -> None:
    client = Client(Limiter())
    client.succeed(3)
    client.refuse(in_flight=20, retry_after=2.0)
    assert client.limiter.limit < 20


def test_refusals_of_one_episode_cut_once() -> None:
    client = Client(Limiter())
    client.succeed(3)
    for _ in range(20):
        client.refuse(in_flight=20, retry_after=1.0)
    assert client.limiter.limit == 17


def test_retry_after_is_kept_by_everybody_and_never_shortened() -> None:
    client = Client(Limiter())
    client.refuse(in_flight=8, retry_after=60.0, jitter=0.5)
    client.now = 1.0
    client.refuse(in_flight=8, retry_after=1.0)
    assert client.limiter.frozen_for(0.0) == pytest.approx(60 * 1.125)


def test_after_a_cut_it_returns_to_just_under_the_knee_and_probes_slowly() -> None:
    client, limits = Client(Limiter()), []
    client.succeed(4)
    for _ in range(2):
        client.refuse(in_flight=60)
    client.now += 10.0
    for _ in range(12):
        limits.append(client.limiter.limit)
        client.succeed(1)
    assert limits[0] == 51
    assert 4 <= limits.count(59) <= 6
    assert limits[-1] > 59
    assert all(later - earlier in {0, 1, 2, 4, 8} for earlier, later in pairwise(limits))


def at_rest(slots: int) -> Client:
    """Where there is room for so many, which two refusals have told."""
    client = Client(Limiter())
    client.succeed(4)
    for _ in range(2):
        client.refuse(in_flight=slots)
    client.wait(10.0)
    client.succeed(4)
    return client


def test_a_probe_that_is_refused_once_is_over_and_the_limit_where_it_was() -> None:
    client = at_rest(60)
    rest = client.limiter.limit
    while client.limiter.limit == rest:
        client.succeed(1)
    client.refuse(in_flight=60)
    assert client.limiter.limit == rest == 59


def test_a_probe_that_freezes_everybody_for_a_second_is_seldom() -> None:
    client, rounds = at_rest(60), []
    for _ in range(3):
        rounds.append(0)
        while client.limiter.limit <= 59:
            client.succeed(1)
            rounds[-1] += 1
        client.refuse(in_flight=60, retry_after=1.0)
        client.wait(10.0)
    assert rounds[0] <= 5
    assert min(rounds[1:]) >= 32, "a fortieth of the time"


def test_where_there_is_less_room_than_there_was_a_few_leave_and_tell() -> None:
    client = at_rest(60)
    for held in (30, 29):
        client.refuse(in_flight=held)
    client.now = client.limiter.frozen_until
    left = []
    for in_flight in (10, 11, 13, 17):
        sent = 0
        while client.limiter.may_send(client.now, in_flight + sent):
            sent += 1
        left.append(sent)
        client.now = client.limiter.frozen_until
    assert left == [1, 2, 4, 8]


def test_room_that_came_back_is_taken_at_once() -> None:
    client = at_rest(60)
    for _ in range(8):
        client.refuse(in_flight=20)
    client.wait(10.0)
    limits = []
    for _ in range(20):
        client.succeed(1)
        limits.append(client.limiter.limit)
    rest = limits.index(20)
    there = next(place for place, limit in enumerate(limits) if limit >= 58)
    assert there - rest <= 7


def test_room_that_does_not_come_back_is_tried_for_less_and_less_often() -> None:
    client, rounds = at_rest(60), []
    for _ in range(8):
        client.refuse(in_flight=20)
    client.wait(10.0)
    for _ in range(22):
        rounds.append(0)
        while client.limiter.limit <= 20:
            client.succeed(1)
            rounds[-1] += 1
        client.refuse(in_flight=20)
        client.wait(10.0)
    assert max(rounds[:10]) <= 6
    assert rounds[-1] >= 16


def test_a_lag_of_our_own_asks_for_less_and_one_of_others_does_not() -> None:
    def work(lag: Callable[[int], float]) -> int:
        client = Client(Limiter(cap=128))
        for _ in range(60):
            client.limiter.waited(client.now, lag(client.limiter.limit))
            client.succeed(1, seconds=0.1)
        return client.limiter.limit

    assert work(lambda limit: 0.0) == 128
    assert 30 <= work(lambda limit: max(0, limit - 40) * 0.001) <= 60
    assert work(lambda limit: 0.02) == 128


def test_a_loop_of_ours_that_is_behind_probes_for_no_more() -> None:
    limits = []
    for lag in (0.0, 0.04):
        client = at_rest(60)
        for _ in range(20):
            client.limiter.waited(client.now, lag)
            client.succeed(1)
        limits.append(client.limiter.limit)
    assert limits[0] > 60
    assert 50 <= limits[1] <= 60


def test_a_probe_that_ends_where_the_one_before_did_waits_longer_for_the_next() -> None:
    client = Client(Limiter())
    client.succeed(4)
    waits = []
    for _ in range(4):
        for _ in range(2):
            client.refuse(in_flight=60)
        client.now += 10.0
        client.succeed(3)
        rounds = 0
        while client.limiter.limit <= 57:
            client.succeed(1)
            rounds += 1
        waits.append(rounds)
        client.succeed(1)
    assert min(waits[1:]) >= 2 * waits[0]
    assert max(waits) <= 20, "a refusal costs little"


def test_latency_that_grows_with_the_limit_cuts_it() -> None:
    client = Client(Limiter(cap=64))
    for _ in range(40):
        client.succeed(1, seconds=4.0 if client.limiter.limit > 32 else 1.0)
    assert 24 <= client.limiter.limit <= 34


def test_latency_that_is_no_lower_with_less_in_flight_was_not_the_limits_fault() -> None:
    client = Client(Limiter(cap=64))
    client.succeed(8)
    assert client.limiter.limit == 64
    client.succeed(2, seconds=5.0)
    assert client.limiter.limit < 32
    client.succeed(20, seconds=5.0)
    assert client.limiter.limit == 64


def test_a_long_answer_is_no_slow_gateway() -> None:
    client = Client(Limiter(cap=64))
    client.succeed(6)
    client.succeed(20, seconds=5.0, tokens=200)
    assert client.limiter.limit == 64


def test_a_few_failures_are_chance_and_many_of_them_cut() -> None:
    client = Client(Limiter())
    client.fail(2)
    assert client.limiter._limit == START
    client.fail()
    assert client.limiter._limit < START


def test_a_failure_of_a_request_that_left_before_the_cut_cuts_no_more() -> None:
    client = Client(Limiter())
    client.succeed(3)
    client.fail(20)
    cut = client.limiter._limit
    client.now += 0.5
    client.fail(20, seconds=1.0)
    assert client.limiter._limit == cut


def test_a_fixed_limit_stays_and_still_freezes() -> None:
    client = Client(Limiter(fixed=20))
    client.succeed(5)
    client.succeed(20, seconds=9.0)
    for _ in range(10):
        client.refuse(in_flight=19, jitter=0.5)
    assert client.limiter.limit == 20
    client.now += 50.0
    client.refuse(in_flight=5, retry_after=2.0)
    assert not client.limiter.may_send(client.now + 1, 0)


def test_a_fixed_limit_survives_a_refusal() -> None:
    limiter = Limiter(fixed=16)
    limiter.refused(0.0, seconds=0.1, in_flight=0, retry_after=1.0, jitter=0.0)
    assert limiter.limit == 16


def test_an_outage_pauses_everybody_longer_each_time_until_a_success() -> None:
    client, pauses = Client(Limiter()), []
    for _ in range(4):
        client.fail(4)
        pauses.append(client.limiter.frozen_for(client.now))
        client.now += 100.0
    assert pauses == pytest.approx([0.5, 1.0, 2.0, 4.0])
    assert client.limiter.frozen_for(client.now) == 0
    client.limiter.succeeded(client.now, seconds=1.0, output_tokens=0)
    client.fail()
    assert client.limiter.may_send(client.now, 0)


def test_refusals_in_a_row_double_the_pause_and_a_success_ends_that() -> None:
    client = Client(Limiter(fixed=8))
    pauses = []
    for _ in range(12):
        client.refuse(in_flight=7)
        pauses.append(client.limiter.frozen_for(client.now))
        client.now += 100.0
    ratios = [later / earlier for earlier, later in pairwise(pauses)]
    assert 0.1 <= pauses[0] <= 0.3
    assert min(ratios[:5]) >= 2
    assert pauses[-1] == pytest.approx(60.0)
    client.limiter.succeeded(client.now, seconds=1.0, output_tokens=0)
    client.now += 100.0
    client.refuse(in_flight=7)
    assert client.limiter.frozen_for(client.now) <= 0.3


def test_refusals_of_requests_that_left_together_are_one_pause() -> None:
    client = Client(Limiter())
    client.succeed(3)
    for _ in range(10):
        client.refuse(in_flight=20)
    assert client.limiter.frozen_for(client.now) <= 0.3


EVENTS = st.lists(
    st.one_of(
        st.builds(
            lambda s, t: lambda x, now: x.succeeded(now, seconds=s, output_tokens=t),
            st.floats(0, 60),
            st.integers(0, 500),
        ),
        st.builds(
            lambda s, n, after, j: lambda x, now: x.refused(now, seconds=s, in_flight=n, retry_after=after, jitter=j),
            st.floats(0, 60),
            st.integers(0, 300),
            st.none() | st.floats(0, 1000),
            st.floats(0, 0.99),
        ),
        st.builds(lambda s: lambda x, now: x.waited(now, s), st.floats(0, 10)),
        st.builds(lambda s: lambda x, now: x.failed(now, seconds=s, jitter=0.5), st.floats(0, 120)),
        st.builds(lambda n: lambda x, now: x.may_send(now, n), st.integers(0, 300)),
    ),
    max_size=300,
)


@given(EVENTS, st.integers(1, 300), st.sampled_from([0.0, 0.01, 1.0, 1000.0]))
def test_whatever_happens_the_limit_stays_between_one_and_the_cap(
    events: list[Callable[[Limiter, float], object]], cap: int, step: float
) -> None:
    limiter = Limiter(cap=cap)
    for number, event in enumerate(events):
        now = number * step
        event(limiter, now)
        assert 1 <= limiter.limit <= cap
        assert not limiter.may_send(now, limiter.limit)


@pytest.mark.parametrize("fixed", [None, 20])
def test_failures_take_from_a_quota_that_answers_fill(fixed: int | None) -> None:
    client = Client(Limiter(cap=20, fixed=fixed))
    before = client.limiter.limit
    client.now = 1.0
    client.fail(25)
    assert client.limiter.limit <= before // 2 + 1
    client.fail(100)
    assert client.limiter.limit == 1, "one may always try"
    limit = client.limiter._limit
    for _ in range(50):
        client.limiter.succeeded(client.now, seconds=1.0, output_tokens=10)
    assert client.limiter._limit == limit
    assert client.limiter.limit == int(limit + 0.5), "the quota is full again"


def test_a_steady_limit_is_not_lowered_by_what_fails() -> None:
    limiter = SteadyLimiter(fixed=50)
    for number in range(200):
        limiter.failed(float(number), seconds=1.0, jitter=0.5)
    assert limiter.limit == 50
