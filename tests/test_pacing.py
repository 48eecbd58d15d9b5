"""A bucket that is told of is never overdrawn by what we send, and never waited for longer than it takes to fill."""

import asyncio
import heapq
import random
from dataclasses import replace
from typing import Any

import pytest
from gateway.server import KEY, Setup, running_gateway
from hypothesis import given
from hypothesis import strategies as st
from parity import TASK, parity, texts

from packer.errors import Failure, TransportError
from packer.exchange import NO_BUCKETS, Bucket, Buckets, Prompt, Reply
from packer.items import Result, Status
from packer.pacing import Mark, Pacer
from packer.packs import PackLimits
from packer.runner import Runner
from packer.sync import label
from packer.testing import FakeClock, FakeTransport
from packer.usage import Usage


def requests(left: float, *, size: float = 60, full_after: float | None = None) -> Buckets:
    return Buckets(requests=Bucket(size, left, full_after))


def test_without_a_word_of_buckets_nothing_waits() -> None:
    pacer = Pacer()
    for _ in range(1000):
        mark = pacer.sent(0.0, 10_000)
        pacer.told(0.0, mark, NO_BUCKETS)
        assert pacer.wait(0.0, 10_000) == 0


def test_what_is_left_goes_at_once_and_then_at_the_pace_at_which_the_bucket_fills() -> None:
    pacer = Pacer()
    pacer.told(0.0, pacer.sent(0.0, 0), requests(4))
    for _ in range(2):
        assert pacer.wait(0.0, 0) == 0
        pacer.sent(0.0, 0)
    pacer.sent(0.0, 0)
    # one is left, and a little more is wanted, for clocks differ: 60 a minute fill one a second
    assert pacer.wait(0.0, 0) == pytest.approx(0.05)
    pacer.sent(0.05, 0)
    assert pacer.wait(0.05, 0) == pytest.approx(1.0)
    assert pacer.wait(1.05, 0) == 0


def test_a_bucket_of_tokens_waits_for_as_many_as_a_request_may_take() -> None:
    pacer = Pacer()
    pacer.told(0.0, pacer.sent(0.0, 500), Buckets(tokens=Bucket(6000, 100)))
    assert pacer.wait(0.0, 500) == pytest.approx((1.05 * 500 - 100) / 100)
    assert pacer.wait(0.0, 90) == 0


def test_what_is_larger_than_the_bucket_passes_when_it_is_full() -> None:
    pacer = Pacer()
    pacer.told(0.0, pacer.sent(0.0, 500), Buckets(tokens=Bucket(6000, 3000)))
    assert pacer.wait(0.0, 100_000) == pytest.approx(30.0)
    assert pacer.wait(30.0, 100_000) == 0


def test_replies_that_overtake_each_other_say_nothing_new() -> None:
    pacer = Pacer()
    first, second = pacer.sent(0.0, 0), pacer.sent(0.0, 0)
    pacer.told(0.0, second, requests(0))
    pacer.told(0.0, first, requests(60))
    assert pacer.wait(0.0, 0) > 1


def test_a_bucket_of_a_day_is_not_taken_for_one_of_a_minute() -> None:
    pacer = Pacer()
    # 10,000 a day: one comes back every 8.64 s
    pacer.told(0.0, pacer.sent(0.0, 0), requests(0, size=10_000, full_after=86_400))
    assert pacer.wait(0.0, 0) == pytest.approx(1.05 * 8.64)


def test_a_gateway_that_says_nothing_is_ever_left_is_asked_once_a_minute() -> None:
    pacer = Pacer()
    pacer.told(0.0, pacer.sent(0.0, 0), requests(0, size=1, full_after=1e9))
    assert pacer.wait(0.0, 0) == 60


def test_what_others_take_is_learnt_and_forgotten_when_they_stop() -> None:
    pacer, left, now = Pacer(), 30.0, 0.0
    waits = []
    for second in range(120):
        # 60 a minute, of which somebody else takes half for a minute; we take one whenever it is there
        mark = pacer.sent(now, 0)
        refused = left < 1
        left -= not refused
        pacer.told(now, mark, requests(left), refused=refused)
        wait = max(0.01, pacer.wait(now, 0))
        waits.append(wait)
        now += wait
        left += wait * (0.5 if second < 60 else 1.0)
    assert waits[59] == pytest.approx(2.0, rel=0.15)
    assert waits[-1] == pytest.approx(1.0, rel=0.15)


def test_a_bucket_of_another_size_is_another_bucket() -> None:
    pacer = Pacer()
    pacer.told(0.0, pacer.sent(0.0, 0), requests(0))
    pacer.told(20.0, pacer.sent(20.0, 0), requests(0))
    assert pacer.wait(20.0, 0) > 2, "hardly anything has flowed in: somebody else takes it"
    pacer.told(40.0, pacer.sent(40.0, 0), requests(0, size=600))
    assert pacer.wait(40.0, 0) == pytest.approx(0.105)


def test_a_full_bucket_says_nothing_of_how_fast_it_fills() -> None:
    pacer = Pacer()
    pacer.told(0.0, pacer.sent(0.0, 0), requests(60))
    pacer.told(100.0, pacer.sent(100.0, 0), requests(0))
    assert pacer.wait(100.0, 0) == pytest.approx(1.05)


class Gateway:
    """A real bucket that somebody else empties too, `delay` seconds away in each direction."""

    def __init__(self, size: int, others: float, delay: float, seed: int) -> None:
        self.size, self.left, self.at = float(size), float(size), 0.0
        self.others, self.delay, self.rng = others, delay, random.Random(seed)

    def ask(self, sent: float) -> tuple[float, bool, Bucket]:
        """When the reply is back, whether it is a refusal, and what it says."""
        now = sent + self.delay * self.rng.random()
        if now > self.at:
            fills = self.size / 60 - self.others
            self.left = max(0.0, min(self.size, self.left + fills * (now - self.at)))
            self.at = now
        refused = self.left < 1
        self.left -= not refused
        told = Bucket(self.size, self.left, (self.size - self.left) * 60 / self.size)
        return now + self.delay * self.rng.random(), refused, told


@given(
    size=st.integers(60, 1200),
    others=st.sampled_from([0.0, 0.1, 0.5]),
    delay=st.sampled_from([0.0, 0.05, 0.25]),
    most=st.integers(1, 64),
    seed=st.integers(0, 1000),
)
def test_a_paced_job_uses_the_bucket_up_and_is_hardly_ever_refused(
    size: int, others: float, delay: float, most: int, seed: int
) -> None:
    gateway, pacer = Gateway(size, others * size / 60, delay, seed), Pacer()
    flying: list[tuple[float, int, Mark, Bucket, bool]] = []
    now, sent, refusals, is_told = 0.0, 0, 0, False  # the first request goes alone, as the job's does
    wanted = size + size // 10
    while sent < wanted:
        wait = pacer.wait(now, 0)
        if len(flying) < most and not wait and (is_told or not flying):
            mark = pacer.sent(now, 0)
            back, refused, told = gateway.ask(now)
            refusals += refused
            sent += 1
            heapq.heappush(flying, (back, sent, mark, told, refused))
        else:
            due = flying[0][0] if flying else float("inf")
            now = min(due, now + wait if wait else due)
            while flying and flying[0][0] <= now:
                _, _, mark, told, refused = heapq.heappop(flying)
                pacer.told(now, mark, Buckets(requests=told), refused=refused)
                is_told = True
    # what others take has to be learnt first; and requests overtake each other
    assert refusals <= (20 + size / 15 if others else 3 if delay else 0)
    slowest = wanted * 2 * delay / most
    assert now <= 1.1 * (wanted - size + 2) / (gateway.size / 60 - gateway.others) + slowest + 4 * delay + 1


@pytest.mark.no_cover
@pytest.mark.parametrize("setup", [Setup(rpm=120), Setup(tpm=26_200)], ids=["requests", "tokens"])
def test_a_job_is_not_refused_by_a_gateway_that_tells_of_its_buckets(setup: Setup) -> None:
    # a bucket that is full at the start, and is empty before the job is at its end
    with running_gateway(setup) as gateway:
        texts = [f"text {number}" for number in range(124)]
        limits = PackLimits(max_items=1)
        options: dict[str, Any] = {"base_url": gateway.url, "api_key": KEY, "ledger": None, "limits": limits}
        results = list(label(texts, labels=["spam", "ham"], model="m", **options))
    assert {result.status for result in results} == {Status.LABELLED}
    assert [record.status for record in gateway.log.records] == [200] * 124
    assert gateway.log.records[-1].at > 1, "it was paced"


class OtherTokens(FakeTransport):
    """A gateway whose tokens are single letters: a bucket of them, of which every reply tells."""

    size = left = 40_000.0
    at = 0.0
    refused = 0

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
        now = asyncio.get_running_loop().time()
        self.left, self.at = min(self.size, self.left + (now - self.at) * self.size / 60), now
        tokens = len(prompt.system + prompt.user)
        if self.left < tokens + prompt.max_tokens:
            self.refused += 1
            raise TransportError(Failure.RATE_LIMITED, "429", status=429, retry_after=1.0)
        self.left -= tokens + prompt.max_tokens
        buckets = Buckets(tokens=Bucket(self.size, int(self.left)))
        reply = await super().send(prompt, deadline=deadline)
        return replace(reply, buckets=buckets, usage=Usage(tokens, len(reply.text)))


def test_a_bucket_is_reckoned_in_the_models_tokens_and_not_in_ours() -> None:
    transport = OtherTokens(TASK, parity, seconds=0.5)

    async def work() -> list[Result]:
        limits = PackLimits(max_items=1)
        async with Runner(TASK, model="m", transport=transport, ledger=None, limits=limits, concurrency=40) as runner:
            return [result async for result in runner.stream(texts(150))]

    assert {result.status for result in FakeClock().run(work())} == {Status.LABELLED}
    assert transport.left < 1_000, "the bucket was empty for a while"
    assert transport.refused == 0
