"""Workers that share a job: each law holds for all of them together, as it does for one process."""

import asyncio
import contextlib
import pickle
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import TASK, parity, texts
from workers import PRICE, Cluster, gather, make_terms, parts

from packer.borrowing import Borrowed
from packer.errors import (
    CallError,
    Failure,
    InputError,
    LeaseLost,
    LedgerError,
    LedgerFull,
    PackerError,
    PriceError,
    StoppedError,
    TaskError,
    TransportError,
)
from packer.events import Statistics
from packer.exchange import Bucket, Buckets, Charge, ChargeSource, Prompt, Reply
from packer.items import Item, Result, Status
from packer.leases import Joined, Lease, Report, Terms
from packer.ledger import AttemptState, Closed, Ledger, Opened
from packer.lender import Lender
from packer.options import Doubt
from packer.packs import PackLimits
from packer.runner import Runner
from packer.testing import FakeClock, FakeTransport, JumpingLoop


def states(results: list[Result]) -> Counter[str]:
    return Counter(result.status.value for result in results)


def check_labels(results: list[Result], given: list[str]) -> None:
    assert [result.item.text for result in results] == given
    assert all(result.label == parity(result.item.text) for result in results if result.status is Status.LABELLED)


def check_ledger(path: Path) -> Ledger:
    ledger = Ledger(path, read_only=True)
    assert ledger.verify() == []
    return ledger


# Law 1 to 4, by many


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_every_item_is_labelled_in_its_order_and_no_text_is_asked_twice(workers: int, tmp_path: Path) -> None:
    cluster = Cluster(ledger=tmp_path / "l.db")
    given = texts(1500)
    results = cluster.run(lambda cluster: gather(cluster, given, workers))
    check_labels(results, given)
    assert states(results) == {"labelled": 1500}
    assert set(cluster.asked().values()) == {1}
    with check_ledger(tmp_path / "l.db") as ledger:
        found = ledger.statistics()
        assert (found.jobs, found.answers) == (1, 1500)
        assert found.attempts[AttemptState.SETTLED] == sum(found.attempts.values()) == len(cluster.transport.prompts)
        assert found.spending.settled == cluster.charge * len(cluster.transport.prompts)
        (job,) = ledger.jobs()
        assert (job.outcome, job.statistics and job.statistics["labelled"]) == ("finished", 1500)


def test_a_text_that_several_workers_have_is_asked_by_one_of_them_and_known_to_the_others() -> None:
    given = texts(300)
    cluster = Cluster()

    async def work(cluster: Cluster) -> list[list[Result]]:
        return list(await asyncio.gather(*(cluster.label(given) for _ in range(4))))

    found = cluster.run(work)
    for results in found:
        check_labels(results, given)
    assert set(cluster.asked().values()) == {1}
    assert sum(result.known for results in found for result in results) == 900


def test_a_text_that_one_worker_could_not_get_labelled_is_asked_by_the_next_which_waits_for_no_longer() -> None:
    def fault(prompt: Prompt, number: int) -> TransportError | None:
        return TransportError(Failure.BAD_REQUEST, "400: no") if "poison" in prompt.user else None

    cluster = Cluster(charge=Decimal("0.00001"), fault=fault, limits=PackLimits(1))
    given = [*texts(20), "poison"]

    async def work(cluster: Cluster) -> list[list[Result]]:
        return list(await asyncio.gather(*(cluster.label(some) for some in (given, given[::-1]))))

    first, second = cluster.run(work)
    assert states(first) == states(second) == {"labelled": 20, "failed": 1}
    assert cluster.asked()["poison"] == 2
    assert {count for text, count in cluster.asked().items() if text != "poison"} == {1}


def test_two_workers_that_wait_for_a_text_that_the_other_could_not_get_labelled_do_not_wait_for_ever() -> None:
    def fault(prompt: Prompt, number: int) -> TransportError | None:
        return TransportError(Failure.BAD_REQUEST, "400: no") if "poison" in prompt.user else None

    cluster = Cluster(charge=Decimal("0.00001"), fault=fault, limits=PackLimits(1))

    async def feed(*texts: str) -> AsyncIterator[str]:
        for text in texts:
            yield text
            await asyncio.sleep(1.5)

    async def label(*texts: str) -> list[Result]:
        async with cluster.worker() as runner:
            return [result async for result in runner.stream(feed(*texts))]

    async def work(cluster: Cluster) -> list[list[Result]]:
        async with asyncio.timeout(60):
            first, second = label("fine", "poison a", "poison b"), label("good", "poison b", "poison a")
            return list(await asyncio.gather(first, second))

    first, second = cluster.run(work)
    assert states(first) == states(second) == {"labelled": 1, "failed": 2}


def test_a_lender_forgets_what_has_ended() -> None:
    cluster = Cluster()

    async def work(cluster: Cluster) -> None:
        for some in parts(texts(400), 4):
            await cluster.label(some)
            lender = cluster.lender
            assert (lender._askers, lender._sent, lender._told, len(lender._left)) == ({}, {}, {}, 1)
            assert list(lender._leases) == []
        async with cluster.worker() as runner:
            stream = runner.stream(texts(800)[400:])
            for _ in range(300):
                await anext(stream)
            await asyncio.sleep(2)
            assert len(cluster.lender._askers) <= 100
            await stream.aclose()

    cluster.run(work)


@pytest.mark.parametrize("concurrency", [1, 2, 5, 20])
def test_no_more_is_in_flight_than_may_be_whoever_sends_it(concurrency: int) -> None:
    cluster = Cluster(make_terms(concurrency=concurrency), seconds=lambda number: 0.3 + number % 3)
    results = cluster.run(lambda cluster: gather(cluster, texts(600), 4))
    assert states(results) == {"labelled": 600}
    assert cluster.transport.most_in_flight == concurrency


@pytest.mark.parametrize("cap", ["0.0004", "0.002", "0.0051", "1"])
def test_the_cap_is_passed_by_nobody_and_a_higher_one_goes_on_without_buying_twice(cap: str, tmp_path: Path) -> None:
    path, given, charge = tmp_path / "l.db", texts(600), Decimal("0.00004")
    first = Cluster(make_terms(cap=Decimal(cap)), path, charge)
    results = first.run(lambda cluster: gather(cluster, given, 4))
    with check_ledger(path) as ledger:
        spent = ledger.statistics().spending
    assert spent.settled <= Decimal(cap)
    assert spent.doubt == spent.open == 0
    affordable = min(60, int(Decimal(cap) / charge))
    labelled = states(results)["labelled"]
    assert labelled == 10 * affordable or labelled >= 10 * affordable - 45, "what a worst case costs may be left over"
    for result in results:
        if result.status is Status.PENDING:
            assert result.error == f"stopped: budget: the next request could pass the cap of {cap} USD"
    second = Cluster(make_terms(cap=Decimal(1)), path, charge)
    check_labels(again := second.run(lambda cluster: gather(cluster, given, 3)), given)
    assert states(again) == {"labelled": 600}
    assert set((first.asked() + second.asked()).values()) == {1}


def test_a_job_of_one_process_and_one_of_many_are_the_same_job(tmp_path: Path) -> None:
    path, given = tmp_path / "l.db", texts(200)

    async def alone(texts: list[str]) -> tuple[list[Result], Decimal]:
        transport = FakeTransport(TASK, parity, charge=cluster.transport._charge)
        async with Runner(TASK, model="m", transport=transport, ledger=path, price=PRICE, budget_usd=1) as runner:
            found = [result async for result in runner.stream(texts)]
            return found, runner.statistics().settled

    cluster = Cluster(make_terms(cap=Decimal(1)), path)
    _, before = FakeClock().run(alone(given[:100]))

    async def work(cluster: Cluster) -> tuple[list[Result], Decimal]:
        found = await gather(cluster, given, 3)
        return found, (await cluster.lender.statistics()).settled

    results, spent = cluster.run(work)
    assert sum(result.known for result in results) == 100
    assert spent == before + cluster.charge * len(cluster.transport.prompts)
    results, after = FakeClock().run(alone(given))
    assert sum(result.known for result in results) == 200
    assert after == spent


def test_the_last_of_the_money_and_the_only_slot_come_to_the_same_worker() -> None:
    rng = random.Random(0)

    def fault(prompt: Prompt, number: int) -> TransportError | None:
        return TransportError(Failure.LOST, "reset") if rng.random() < 0.1 else None

    terms, charge = make_terms(concurrency=1, cap=Decimal("0.001")), Decimal("0.00004")
    cluster = Cluster(terms, None, charge, lambda number: rng.random() * 3, fault, PackLimits(4))

    async def work(cluster: Cluster) -> list[Result]:
        async with asyncio.timeout(400):
            return await gather(cluster, texts(200), 3)

    results = cluster.run(work)
    assert set(states(results)) == {"labelled", "pending"}
    assert {result.error for result in results if result.error} == {
        "stopped: budget: the next request could pass the cap of 0.001 USD"
    }


def test_workers_that_wait_for_money_of_others_do_not_ask_for_it_all_the_time() -> None:
    cluster = Cluster(make_terms(cap=Decimal("0.0004")), seconds=6.0, charge=Decimal("0.00001"))

    async def work(cluster: Cluster) -> tuple[list[Result], float]:
        lend, began, reports = cluster.lender.report, asyncio.get_running_loop().time(), 0

        async def count(worker: int, report: Report) -> Lease:
            nonlocal reports
            reports += 1
            return await lend(worker, report)

        cluster.lender.report = count  # type: ignore[method-assign]
        results = await gather(cluster, texts(160), 8)
        return results, reports / (asyncio.get_running_loop().time() - began)

    results, reports_a_second = cluster.run(work)
    assert states(results) == {"labelled": 160}
    assert reports_a_second < 200


# Law 6, by many


def test_a_refused_key_is_told_by_one_request_and_stops_all() -> None:
    cluster = Cluster(fault=lambda prompt, number: TransportError(Failure.KEY_REFUSED, "401: no such key"))
    results = cluster.run(lambda cluster: gather(cluster, texts(400), 5))
    assert states(results) == {"pending": 400}
    assert len(cluster.transport.prompts) == 1
    assert {result.error for result in results} == {"stopped: key refused: 401: no such key"}


@pytest.mark.parametrize(
    ("failure", "most"), [(Failure.BAD_REQUEST, 3), (Failure.MALFORMED, 2), (Failure.OVERLOADED, 8), (Failure.LOST, 5)]
)
def test_what_stops_one_worker_stops_all_and_those_who_come_later(failure: Failure, most: int) -> None:
    cluster = Cluster(fault=lambda prompt, number: TransportError(failure, "no"))

    async def work(cluster: Cluster) -> list[Result]:
        together = await gather(cluster, texts(400), 4)
        return [*together, *await cluster.label(texts(500)[400:])]

    results = cluster.run(work)
    assert states(results) == {"pending": 500}
    assert len(cluster.transport.prompts) == most, "as many as one process asks"


def test_a_key_that_is_refused_in_mid_job_stops_all_and_what_was_bought_is_kept(tmp_path: Path) -> None:
    def fault(prompt: Prompt, number: int) -> TransportError | None:
        return TransportError(Failure.QUOTA, "402: the account is empty") if number > 30 else None

    cluster = Cluster(ledger=tmp_path / "l.db", fault=fault)

    async def work(cluster: Cluster) -> tuple[list[Result], str | None]:
        return await gather(cluster, texts(2000), 4), (await cluster.lender.statistics()).stopped

    results, stopped = cluster.run(work)
    assert states(results)["labelled"] == 300
    assert "402: the account is empty" in str(stopped)
    assert len(cluster.transport.prompts) < 30 + 80
    with check_ledger(tmp_path / "l.db") as ledger:
        assert ledger.statistics().answers == 300


def test_nothing_leaves_once_a_refusal_is_known_but_what_was_in_flight() -> None:
    sent_by_then: list[int] = []

    def fault(prompt: Prompt, number: int) -> TransportError | None:
        if number <= 500:
            return None
        sent_by_then.append(len(cluster.transport.prompts))
        return TransportError(Failure.QUOTA, "402: the account is empty")

    cluster = Cluster(make_terms(concurrency=40), fault=fault, seconds=0.05)
    results = cluster.run(lambda cluster: gather(cluster, texts(20_000), 8))
    assert states(results) == {"labelled": 5000, "pending": 15_000}
    assert len(cluster.transport.prompts) == sent_by_then[0]


def test_a_stop_reaches_every_worker() -> None:
    cluster = Cluster(make_terms(concurrency=3))

    async def work(cluster: Cluster) -> list[Result]:
        asyncio.get_running_loop().call_later(2.5, lambda: asyncio.ensure_future(cluster.lender.stop("interrupted")))
        return await gather(cluster, texts(400), 3)

    results = cluster.run(work)
    assert set(states(results)) == {"labelled", "pending"}
    assert len(cluster.transport.prompts) <= 12
    assert {result.error for result in results if result.error} == {"stopped: interrupted"}


# The gateway


class Capped(FakeTransport):
    """A gateway that refuses what is more than `room` in flight, or more than its bucket holds."""

    room = 20
    rate: float | None = None
    refused = 0
    _left, _at = 60.0, 0.0

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
        now = asyncio.get_running_loop().time()
        if self.rate is not None:
            self._left, self._at = min(60.0, self._left + (now - self._at) * self.rate), now
        if self._in_flight >= self.room or (self.rate is not None and self._left < 1):
            self.refused += 1
            await asyncio.sleep(0.05)
            raise TransportError(Failure.RATE_LIMITED, "429", status=429)
        self._left -= self.rate is not None
        buckets = Buckets(requests=Bucket(60.0, int(self._left))) if self.rate is not None else Buckets()
        return replace(await super().send(prompt, deadline=deadline), buckets=buckets)


def test_workers_find_the_limit_together() -> None:
    cluster = Cluster()
    cluster.transport = Capped(TASK, parity)

    async def work(cluster: Cluster) -> tuple[list[Result], float]:
        began = asyncio.get_running_loop().time()
        return await gather(cluster, texts(8000), 4), asyncio.get_running_loop().time() - began

    results, seconds = cluster.run(work)
    assert states(results) == {"labelled": 8000}
    assert cluster.transport.refused <= 16
    assert seconds < 1.35 * 800 / 20


def test_workers_share_what_a_bucket_gives() -> None:
    cluster = Cluster(limits=PackLimits(1), charge=Decimal("0.00001"))
    cluster.transport = Capped(TASK, parity)
    cluster.transport.room, cluster.transport.rate = 1000, 1.0

    async def work(cluster: Cluster) -> tuple[list[Result], float]:
        began = asyncio.get_running_loop().time()
        return await gather(cluster, texts(200), 4), asyncio.get_running_loop().time() - began

    results, seconds = cluster.run(work)
    assert states(results) == {"labelled": 200}
    assert cluster.transport.refused == 0
    assert seconds < 1.3 * (200 - 60)


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_find_back_to_the_limit_after_the_gateway_had_less_room(workers: int) -> None:
    class Sinking(Capped):
        async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
            self.room = 1 if 60 < asyncio.get_running_loop().time() < 200 else 5
            return await super().send(prompt, deadline=deadline)

    cluster = Cluster()
    rng = random.Random(1)
    cluster.transport = Sinking(TASK, parity, seconds=lambda number: rng.lognormvariate(0, 0.3))

    async def work(cluster: Cluster) -> float:
        began = asyncio.get_running_loop().time()
        assert states(await gather(cluster, texts(15_000), workers)) == {"labelled": 15_000}
        return asyncio.get_running_loop().time() - began

    assert cluster.run(work) < 1.35 * (140 + (1500 - 140) / 5)


def test_a_gateway_that_fails_now_and_then_is_asked_by_many_at_once() -> None:
    rng = random.Random(1)

    def fault(prompt: Prompt, number: int) -> TransportError | None:
        return TransportError(Failure.OVERLOADED, "503", status=503) if rng.random() < 0.1 else None

    cluster = Cluster(fault=fault, seconds=lambda number: rng.lognormvariate(0, 0.3))

    async def work(cluster: Cluster) -> float:
        began = asyncio.get_running_loop().time()
        assert states(await gather(cluster, texts(10_000), 4)) == {"labelled": 10_000}
        return asyncio.get_running_loop().time() - began

    assert cluster.run(work) < 60


class Tokens(FakeTransport):
    """A gateway with a bucket of tokens, from which it takes input and `max_tokens`."""

    size = left = 60_000.0
    at = 0.0
    refused = 0

    async def send(self, prompt: Prompt, *, deadline: float) -> Reply:
        now = asyncio.get_running_loop().time()
        self.left, self.at = min(self.size, self.left + (now - self.at) * self.size / 60), now
        need = len(prompt.system + prompt.user) // 4 + prompt.max_tokens
        if self.left < need:
            self.refused += 1
            raise TransportError(Failure.RATE_LIMITED, "429", status=429)
        self.left -= need
        buckets = Buckets(tokens=Bucket(self.size, int(self.left)))
        return replace(await super().send(prompt, deadline=deadline), buckets=buckets)


@pytest.mark.parametrize("workers", [1, 4])
def test_what_a_small_request_leaves_of_the_tokens_that_were_lent_is_lent_again(workers: int) -> None:
    cluster = Cluster(charge=Decimal("0.00001"))
    cluster.transport = Tokens(TASK, parity)
    given_texts = [text + " word" * 400 * (number % 40 == 0) for number, text in enumerate(texts(3000))]

    async def work(cluster: Cluster) -> list[Result]:
        async with asyncio.timeout(1.3 * 60):  # one process takes a minute
            return await gather(cluster, given_texts, workers)

    assert states(cluster.run(work)) == {"labelled": 3000}
    assert cluster.transport.refused == 0


# Workers that are lost


class Killed(Exception):
    """The process of a worker is gone: nothing that it would have done is done."""


class Cut(Lender):
    """A lender that some workers cannot reach: their calls wait until that is `mended`; and some are `killed`."""

    def __init__(self, ledger: Path | None, terms: Terms) -> None:
        super().__init__(ledger, terms)
        self.cut: set[int] = set()
        self.killed: set[int] = set()
        self.mended = asyncio.Event()
        self.worker_of: dict[Any, int] = {}

    async def join(self, terms: Terms) -> Joined:
        joined = await super().join(terms)
        self.worker_of[asyncio.current_task()] = joined.worker
        return joined

    async def _pass(self, worker: int) -> None:
        if worker in self.killed:
            raise Killed
        if worker in self.cut:
            await self.mended.wait()

    async def report(self, worker: int, report: Any) -> Any:
        await self._pass(worker)
        return await super().report(worker, report)

    async def commit(self, worker: int, changes: Any) -> Any:
        await self._pass(worker)
        return await super().commit(worker, changes)

    async def tell(self, worker: int, statistics: Any, ended: Any) -> None:
        await self._pass(worker)
        await super().tell(worker, statistics, ended)

    async def leave(self, worker: int, statistics: Any, closed: Any) -> None:
        if worker not in self.killed:
            await super().leave(worker, statistics, closed)


async def lose_one(cluster: Cluster, given: list[str], *, mend: bool) -> tuple[list[Result], Statistics]:
    """Label by three workers, of which the second is cut off in mid-job; its part is labelled again by a fourth."""
    lender, some = cluster.lender, parts(given, 3)
    assert isinstance(lender, Cut)
    tasks = [asyncio.create_task(cluster.label(part)) for part in some]
    await asyncio.sleep(2.5)
    (lender.cut if mend else lender.killed).add(2)
    await asyncio.sleep(1.0)
    tasks.append(asyncio.create_task(cluster.label(some[1])))
    first, third, fourth = await asyncio.gather(tasks[0], tasks[2], tasks[3])
    lender.mended.set()
    with pytest.raises(LeaseLost if mend else Killed):
        await tasks[1]
    return [*first, *fourth, *third], await lender.statistics()


@pytest.mark.parametrize("cap", [None, Decimal("0.02")])
@pytest.mark.parametrize("on_doubt", ["retry", "hold"])
def test_what_a_lost_worker_has_labelled_is_not_bought_again_and_what_it_had_sent_is_in_doubt(
    on_doubt: str, cap: Decimal | None, tmp_path: Path
) -> None:
    path, given = tmp_path / "l.db", texts(900)
    cluster = Cluster(make_terms(hold=on_doubt == "hold", cap=cap, concurrency=6), path, kind=Cut)

    results, statistics = cluster.run(lambda cluster: lose_one(cluster, given, mend=False))
    check_labels(results, given)
    with check_ledger(path) as ledger:
        doubts = list(ledger.attempts_in_doubt())
    held = [key for attempt in doubts for key in attempt.keys]
    assert 10 <= len(held) <= 60
    assert {attempt.outcome for attempt in doubts} == {"its worker was lost"}
    assert statistics.doubt_texts == len(held)
    assert statistics.in_doubt == sum(attempt.reserve or 0 for attempt in doubts)
    if on_doubt == "hold":
        assert states(results) == {"labelled": 900 - len(held), "doubt": len(held)}
        assert set(cluster.asked().values()) == {1}
    else:
        assert states(results) == {"labelled": 900}
        assert sum(count - 1 for count in cluster.asked().values()) == len(held)
    assert (statistics.items, statistics.labelled) == (900, states(results)["labelled"])


def test_what_a_lost_worker_tells_after_all_is_booked_and_kept(tmp_path: Path) -> None:
    path, given = tmp_path / "l.db", texts(900)
    cluster = Cluster(make_terms(cap=Decimal("0.02"), concurrency=6), path, kind=Cut)

    results, statistics = cluster.run(lambda cluster: lose_one(cluster, given, mend=True))
    check_labels(results, given)
    assert states(results) == {"labelled": 900}
    with check_ledger(path) as ledger:
        found = ledger.statistics()
    assert found.spending.doubt == statistics.in_doubt == statistics.doubt_texts == statistics.doubt_requests == 0
    assert found.spending.settled == statistics.settled == cluster.charge * len(cluster.transport.prompts)
    assert found.answers == 900


def test_what_is_known_not_to_have_left_after_all_is_asked_again() -> None:
    async def work(cluster: Cluster) -> list[frozenset[str]]:
        lender, found = cluster.lender, []
        lost = (await lender.join(cluster.terms)).worker
        await lender.find(lost, ["b2:01"], confidences=False)
        await lender.commit(lost, [Opened(1, 1, ("b2:01",), 1, Decimal("0.1"))])
        await asyncio.sleep(6)
        other = (await lender.join(cluster.terms)).worker
        found.append((await lender.find(other, ["b2:01"], confidences=False)).doubtful)
        assert await lender.commit(lost, [Closed(1, AttemptState.FREED, "not sent", None, None, 1.0, {})]) == [None]
        found.append((await lender.find(other, ["b2:01"], confidences=False)).doubtful)
        return found

    assert Cluster(make_terms(hold=True)).run(work) == [{"b2:01"}, set()]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_whatever_workers_are_killed_money_and_answers_are_right(seed: int) -> None:
    rng = random.Random(seed)
    cap = rng.choice([None, Decimal("0.01"), Decimal("0.004")])
    hold = rng.random() < 0.5
    given = texts(rng.randrange(50, 400))
    terms = make_terms(cap=cap, hold=hold, concurrency=rng.choice([None, 2, 9]), patience=1.0)
    cluster = Cluster(terms, None, Decimal("0.00004"), limits=PackLimits(rng.choice([1, 4, 10])), kind=Cut)

    async def work(cluster: Cluster) -> Any:
        lender = cluster.lender
        assert isinstance(lender, Cut)

        async def label(part: Any) -> list[Result]:
            while True:
                task = asyncio.create_task(cluster.label(part))
                await asyncio.wait([task], timeout=rng.choice([1000, 1000, rng.random() * 6]))
                if not task.done():
                    lender.killed.add(lender.worker_of[task])
                with contextlib.suppress(Killed):
                    return await task

        found = await asyncio.gather(*(label(part) for part in parts(given, 3)))
        await asyncio.sleep(3)  # whoever was silent is found
        ledger = await lender._journal.ask(lambda ledger: (ledger.verify(), ledger.statistics()))
        return [result for some in found for result in some], await lender.statistics(), *ledger

    results, statistics, problems, found = cluster.run(work)
    assert problems == []
    check_labels(results, given)
    spending = found.spending
    assert (spending.settled, spending.doubt, spending.open) == (statistics.settled, statistics.in_doubt, 0)
    assert cap is None or spending.settled + spending.doubt <= cap
    charged = cluster.charge * found.attempts[AttemptState.SETTLED]
    assert spending.settled == charged
    assert len(cluster.transport.prompts) == found.attempts[AttemptState.SETTLED] + found.attempts[AttemptState.DOUBT]
    if hold:
        assert max(cluster.asked().values(), default=1) == 1
    if cap is None:
        assert "pending" not in states(results)


def test_a_worker_that_leaves_early_frees_what_it_asked_for_and_doubts_what_it_abandons() -> None:
    cluster = Cluster()
    given = texts(100)

    async def work(cluster: Cluster) -> tuple[list[Result], Any]:
        task = asyncio.create_task(cluster.label(given))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        return await cluster.label(given), await cluster.lender.statistics()

    results, statistics = cluster.run(work)
    assert states(results) == {"labelled": 100}
    assert statistics.doubt_requests == 0, "what was in flight was waited for"
    assert set(cluster.asked().values()) == {1}


def test_a_worker_that_is_left_does_not_wait_for_what_others_ask() -> None:
    cluster = Cluster(make_terms(concurrency=1), seconds=60.0)

    async def work(cluster: Cluster) -> tuple[float, list[Result]]:
        loop = asyncio.get_running_loop()
        asks = asyncio.create_task(cluster.label(texts(100)))
        await asyncio.sleep(1)
        waits = asyncio.create_task(cluster.label(texts(100)))
        await asyncio.sleep(1)
        waits.cancel()
        began = loop.time()
        await asyncio.wait([waits])
        return loop.time() - began, await asks

    seconds, results = cluster.run(work)
    assert seconds < 1
    assert states(results) == {"labelled": 100}


def test_a_lender_is_deserted_once_a_worker_that_died_is_found_and_not_while_one_is_at_work() -> None:
    cluster = Cluster(make_terms(patience=3.0, concurrency=1))

    async def work(cluster: Cluster) -> list[tuple[bool, float]]:
        loop = asyncio.get_running_loop()
        lender, found = cluster.lender, []
        task = asyncio.create_task(cluster.label(texts(100)))
        await asyncio.sleep(1)
        for _ in range(2):
            began = loop.time()
            found.append((await lender.is_deserted(), loop.time() - began))
        await task
        await lender.join(cluster.terms)  # and is never heard of again
        began = loop.time()
        found.append((await lender.is_deserted(), loop.time() - began))
        found.append((await lender.is_deserted(), loop.time() - began))
        return found

    (first, waited), (second, _), (third, died), (fourth, later) = cluster.run(work)
    assert (first, second, third, fourth) == (False, False, True, True)
    assert 3 <= waited <= 4
    assert 3 <= died == later <= 4


def test_whoever_opens_a_job_that_has_stopped_goes_on(tmp_path: Path) -> None:
    cluster, given_texts = Cluster(make_terms(concurrency=3), tmp_path / "l.db"), texts(300)

    async def work(cluster: Cluster) -> tuple[list[Result], Any]:
        task = asyncio.create_task(cluster.label(given_texts))
        await asyncio.sleep(2.5)
        await cluster.lender.stop("the stream was left")  # and its driver was killed
        await asyncio.gather(*(cluster.lender.open(cluster.terms) for _ in range(2)))
        assert "pending" in states(await task)
        return await cluster.label(given_texts), await cluster.lender.statistics()

    results, statistics = cluster.run(work)
    assert states(results) == {"labelled": 300}
    assert (statistics.items, statistics.stopped) == (300, None)
    assert set(cluster.asked().values()) == {1}
    with check_ledger(tmp_path / "l.db") as ledger:
        assert [job.outcome for job in ledger.jobs()] == ["finished", "the stream was left"]


def test_a_lender_that_closes_leaves_nothing_open(tmp_path: Path) -> None:
    cluster = Cluster(make_terms(concurrency=2), tmp_path / "l.db")

    async def work(cluster: Cluster) -> None:
        task = asyncio.create_task(cluster.label(texts(100)))
        await asyncio.sleep(2.5)
        await cluster.lender.close()
        with pytest.raises(LeaseLost):
            await task
        await cluster.lender.close()

    cluster.run(work)
    with check_ledger(tmp_path / "l.db") as ledger:
        found = ledger.statistics()
        assert (found.attempts[AttemptState.OPEN], found.attempts[AttemptState.DOUBT]) == (0, 2)
        assert ledger.jobs()[0].outcome == "finished"


# What does not go


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audit": 0.1}, "expected a job that asks in one way"),
        ({"doubt": Doubt(vote=3)}, "expected a job that asks in one way"),
        ({"abandon_batches": True}, "abandon_batches: expected a job of one process"),
    ],
)
def test_what_needs_one_process_says_so_before_anything_is_sent(options: dict[str, Any], message: str) -> None:
    cluster = Cluster()

    async def work(cluster: Cluster) -> Any:
        with pytest.raises(CallError, match=message):
            await cluster.label(texts(10), **options)
        return list(cluster.lender._leases)

    assert cluster.run(work) == []
    assert not cluster.transport.prompts


def test_other_terms_are_refused_while_somebody_is_at_work_and_taken_when_nobody_is() -> None:
    async def work(cluster: Cluster) -> None:
        await cluster.lender.open(cluster.terms)
        task = asyncio.create_task(cluster.label(texts(200)))
        await asyncio.sleep(1)
        others = replace(cluster.terms, cap=Decimal(3), concurrency=2)
        with pytest.raises(CallError, match=r"with other terms: cap None, not 3, concurrency 1, not 2"):
            await cluster.lender.open(others)
        assert states(await task) == {"labelled": 200}
        await cluster.lender.open(others)
        with pytest.raises(CallError, match="another job has taken this ledger's lender: cap 3, not None"):
            await cluster.label(texts(10))
        assert states(await cluster.label(texts(10), ledger=Borrowed(cluster.lender, others), budget_usd=3)) == {
            "labelled": 10
        }

    Cluster(make_terms(concurrency=1)).run(work)


def test_nobody_is_lost_because_the_lender_stood_still() -> None:
    async def work(cluster: Cluster) -> list[bool]:
        lender, loop = cluster.lender, asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        worker = (await lender.join(cluster.terms)).worker
        here = []
        for deaf, seconds in ((0, 4), (60, 0.5), (0, 4), (0, 2)):
            loop.now += deaf
            await asyncio.sleep(seconds)
            here.append(worker in lender._leases)
            if deaf:
                await lender.report(worker, Report(0, 0))
        return here

    assert Cluster(make_terms(patience=5.0)).run(work) == [True, True, True, False]


def test_an_account_that_runs_low_stops_all_workers() -> None:
    def spend(prompt: Prompt, number: int) -> None:
        cluster.transport._balance = Decimal("0.00005") - number * cluster.charge

    cluster = Cluster(make_terms(concurrency=2), charge=Decimal("0.000001"), fault=spend)
    results = cluster.run(lambda cluster: gather(cluster, texts(1600), 16))
    assert {result.error.partition(":")[0] for result in results if result.error} == {"stopped"}
    assert all("are left on the account" in result.error for result in results if result.error)
    assert len(cluster.transport.prompts) <= 4


def test_a_cap_needs_to_know_what_was_spent_before(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        job = ledger.start_job(make_terms().name, {"task": "", "model": "m", "parameters": {}})
        ledger.commit([Opened(1, job, ("b2:01",), 1, None)])
    terms = make_terms(cap=Decimal(1))

    async def open_it() -> None:
        lender = Lender(tmp_path / "l.db", terms)
        try:
            with pytest.raises(PriceError, match="what 1 earlier requests of this job cost is unknown"):
                await lender.open(terms)
        finally:
            await lender.close()

    FakeClock().run(open_it())


def test_a_ledger_that_is_in_use_is_told_to_whoever_opens_the_lender(tmp_path: Path) -> None:
    terms = make_terms()

    async def open_it() -> None:
        lender = Lender(tmp_path / "l.db", terms)
        with pytest.raises(LedgerError, match="in use by process"):
            await lender.open(terms)
        await lender.close()

    with Ledger(tmp_path / "l.db"):
        FakeClock().run(open_it())


@pytest.mark.parametrize(
    "error",
    [
        LedgerFull("/data/l.db", "the disk is full"),
        TaskError("labels[2]", "expected a label"),
        InputError("expected a column", line=3),
        LeaseLost("worker 3 was silent for too long"),
        StoppedError("402", [Result(Item("a"), Status.PENDING)]),
        TransportError(Failure.RATE_LIMITED, "429", status=429, retry_after=3.0),
    ],
)
def test_an_error_crosses_to_another_process_as_it_is(error: PackerError) -> None:
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))


def test_a_full_disk_ends_the_part_and_what_is_in_flight_is_kept(tmp_path: Path) -> None:
    cluster = Cluster(make_terms(concurrency=2), tmp_path / "l.db")

    async def work(cluster: Cluster) -> int:
        commit = cluster.lender._journal.commit

        async def full(change: Opened | Closed) -> None:
            if isinstance(change, Opened) and len(cluster.transport.prompts) >= 6:
                raise LedgerFull("l.db", "the disk is full")
            await commit(change)

        cluster.lender._journal.commit = full  # type: ignore[method-assign]
        with pytest.raises(LedgerFull):
            await cluster.label(texts(200))
        return len(cluster.transport.prompts)

    sent = cluster.run(work)
    with check_ledger(tmp_path / "l.db") as ledger:
        assert ledger.statistics().answers == 10 * sent == 60
        assert ledger.statistics().attempts[AttemptState.OPEN] == 0


def test_a_worker_cannot_spend_what_it_was_not_lent_nor_close_what_it_did_not_open() -> None:
    async def work(cluster: Cluster) -> None:
        lender = cluster.lender
        joined = await lender.join(cluster.terms)
        greedy = Opened(1, joined.job, ("b2:01",), 1, Decimal("0.5"))
        (error,) = await lender.commit(joined.worker, [greedy])
        assert isinstance(error, LeaseLost)
        assert "was lent no money" in str(error)
        foreign = Closed(7, AttemptState.SETTLED, "", None, None, 1.0, {})
        (error,) = await lender.commit(joined.worker, [foreign])
        assert isinstance(error, LeaseLost)
        (error,) = await lender.commit(99, [greedy])
        assert isinstance(error, LeaseLost)
        with pytest.raises(LeaseLost, match="worker 99 was silent for too long"):
            await lender.find(99, ["b2:01"], confidences=False)
        await lender.leave(99, None, None)

    Cluster(make_terms(cap=Decimal(1))).run(work)


def test_money_that_a_charge_over_its_reserve_has_taken_is_lent_to_nobody() -> None:
    async def work(cluster: Cluster) -> tuple[list[Any], Decimal]:
        lender, reserve = cluster.lender, Decimal("0.1")
        workers = [(await lender.join(cluster.terms)).worker for _ in range(2)]
        for worker in workers:
            await lender.report(worker, Report(0, 1, cap=Decimal(0), short=reserve))
        first = Opened(1, 1, ("b2:01",), 1, reserve)
        charge = Charge(Decimal("0.95"), ChargeSource.HEADER)
        over = Closed(1, AttemptState.SETTLED, "", charge, None, 1.0, {})
        ends = [await lender.commit(workers[0], [change]) for change in (first, over)]
        ends.append(await lender.commit(workers[1], [first]))
        statistics = await lender.statistics()
        return [end for some in ends for end in some], statistics.settled + statistics.reserved

    ends, spent = Cluster(make_terms(cap=Decimal(1))).run(work)
    assert ends[:2] == [None, None]
    assert isinstance(ends[2], LeaseLost)
    assert spent == Decimal("0.95")


def test_a_batch_is_for_one_process() -> None:
    cluster = Cluster()

    async def work(cluster: Cluster) -> None:
        runner = Runner(
            TASK,
            model="m",
            base_url="http://127.0.0.1:9",
            batch=True,
            ledger=Borrowed(cluster.lender, cluster.terms),
            price=PRICE,
        )
        with pytest.raises(CallError, match="batch: expected a job of one process"):
            await runner.__aenter__()

    cluster.run(work)
