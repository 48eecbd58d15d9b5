"""Doubtful items are asked again until a majority is safe, and no further; every item ends once, after its votes."""

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from gateway.annotators import Annotator, chance, erring
from gateway.probabilities import log_probabilities
from parity import TASK, parity, right, texts

from packer.errors import CallError, Failure, LedgerFull, PriceError, TransportError
from packer.events import AttemptEnded, Event
from packer.exchange import Charge, ChargeSource, Prompt, Reply, StopReason, Token
from packer.items import Decision, Result, Status
from packer.ledger import Ledger, Opened
from packer.options import Doubt
from packer.packs import PackLimits
from packer.prompts import read_user, write_answer
from packer.runner import Runner
from packer.testing import FakeClock, FakeTransport
from packer.usage import Price, Usage
from packer.votes import DoubtResult, Rule, Standing, Vote, lead, weigh

PRICE = Price(Decimal("0.5"), Decimal(2))
CHARGE = Charge(Decimal("0.0001"), ChargeSource.HEADER)


# The rule


def votes_of(*answers: str | None, first: float | None = None) -> list[Vote]:
    return [Vote(answer, first if place == 0 else None) for place, answer in enumerate(answers)]


@pytest.mark.parametrize("most", [3, 5, 7, 9])
@pytest.mark.parametrize("first", [None, 0.2])
def test_the_rest_of_the_votes_can_change_nothing_once_it_stops_and_could_until_then(
    most: int, first: float | None
) -> None:
    rule = Rule(most)
    for answers in itertools.product("ab", repeat=most):
        votes = votes_of(*answers, first=first)
        asked = next(n for n in range(1, most + 1) if rule.judge(votes[:n]) is not Standing.OPEN)
        pair_agrees = first is None and asked == 2 and answers[0] == answers[1]
        assert rule.judge(votes[:asked]) is Standing.SAFE, "of two labels one has most of an odd number"
        if not pair_agrees:
            assert lead(votes[:asked]) == lead(votes), "whatever the rest is"
            assert max(Counter(answers[:asked]).values()) == most // 2 + 1, "no vote too many"


def test_votes_that_can_reach_no_majority_any_more_are_not_asked_for() -> None:
    rule = Rule(5)
    assert rule.judge(votes_of("a", "b", "c")) is Standing.OPEN
    assert rule.judge(votes_of("a", "b", "c", "d")) is Standing.DOUBTFUL
    assert rule.judge(votes_of("a", None, None)) is Standing.OPEN
    assert rule.judge(votes_of("a", None, None, None)) is Standing.DOUBTFUL
    assert lead(votes_of("b", "a", None, "a", "b")) == "b", "of equals the first"


def test_confidence_decides_where_it_is_known_and_two_votes_where_it_is_not() -> None:
    rule = Rule(3, 0.9)
    assert rule.judge(votes_of("a", first=0.9)) is Standing.SAFE
    assert rule.judge(votes_of("a", first=0.89)) is Standing.OPEN
    assert rule.judge(votes_of("a")) is Standing.OPEN
    assert rule.judge(votes_of("a", "a")) is Standing.SAFE
    assert rule.judge(votes_of("a", "b")) is Standing.OPEN
    assert Rule(5, 0.9).judge(votes_of("a", "a")) is Standing.SAFE
    assert Rule(5, 0.9).judge([Vote("a"), Vote("a", 0.3)]) is Standing.OPEN, "they agree, and the second is unsure"
    alone = Rule(1, 0.9)
    assert alone.judge(votes_of("a", first=0.89)) is Standing.DOUBTFUL
    assert alone.judge(votes_of("a")) is Standing.OPEN
    assert alone.judge(votes_of("a", "a")) is Standing.SAFE
    assert alone.judge(votes_of("a", "b")) is Standing.DOUBTFUL
    assert Rule(1, 2.0).judge(votes_of("a")) is Standing.DOUBTFUL, "nothing that a vote says would be enough"


def test_the_weight_of_votes_is_the_mean_of_what_they_gave_the_leading_answer() -> None:
    assert weigh([Vote("a", 0.7)]) == 0.7
    assert weigh(votes_of("a", "b", "a")) == pytest.approx(2 / 3)
    assert weigh([Vote("a", 0.5), Vote("a", 0.9), Vote("b", 0.6), Vote("a", 0.8)]) == pytest.approx(0.55)
    assert weigh([Vote("a"), Vote(None)]) == 0.5


# The votes of a job


class Gateway(FakeTransport):
    """Answers as `annotator` does, who sees the whole pack, and as sure of a text as `sure` says (None: tells nothing).

    `before` may answer in its place.
    """

    def __init__(
        self, annotator: Annotator, *, sure: Callable[[str], float] | None = None, before: Any = None, **options: Any
    ) -> None:
        super().__init__(TASK, parity, fault=self._answer, **options)
        self._before = before
        self._annotator = annotator
        self._sure = sure

    def _answer(self, prompt: Prompt, number: int) -> Any:
        if self._before is not None and (ended := self._before(prompt, number)) is not None:
            return ended
        nonce, asked = read_user(prompt.user)
        labels = self._annotator(asked, TASK.labels)
        text = write_answer(TASK, nonce, dict(enumerate(labels, 1)))
        tokens = None
        if self._sure is not None and prompt.logprobs:
            told = log_probabilities(text, labels, [self._sure(one) for one in asked], seed=number)
            tokens = [Token(bytes(entry["bytes"]), entry["logprob"]) for entry in told["content"]]
        return Reply(text, StopReason.STOP, 1.0, Usage(100, 20), CHARGE, tokens=tokens)

    def packs(self) -> list[list[str]]:
        """The texts of every request."""
        return [read_user(prompt.user)[1] for prompt in self.prompts]

    def asked(self) -> Counter[str]:
        """How often each text was asked."""
        return Counter(text for pack in self.packs() for text in pack)


def run(
    given: Sequence[str], transport: FakeTransport, doubt: Doubt | None, **options: Any
) -> tuple[list[Result], DoubtResult, Runner, list[Event]]:
    events: list[Event] = []
    options = {"model": "m", "ledger": None, "on_event": events.append} | options

    async def work() -> tuple[list[Result], DoubtResult, Runner, list[Event]]:
        async with Runner(TASK, transport=transport, doubt=doubt, **options) as runner:
            results = [result async for result in runner.stream(given)]
            found = runner.doubts()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert found is not None
        return results, found, runner, events

    return FakeClock().run(work())


def unsure(text: str) -> float:
    """One text in five is doubtful."""
    return 0.6 if chance("doubtful", text) < 0.2 else 0.99


def test_only_doubtful_items_are_asked_again_in_other_packs_and_orders_and_every_item_ends_once() -> None:
    given = texts(1_000)
    transport = Gateway(right, sure=unsure)
    results, found, runner, events = run(given, transport, Doubt(vote=3))
    assert [result.item.text for result in results] == given
    assert all(result.label == parity(result.item.text) for result in results)
    doubtful = {text for text in given if unsure(text) < 0.9}
    assert transport.asked() == {text: 2 if text in doubtful else 1 for text in given}, "two of three agree"
    for result in results:
        asked_again = result.item.text in doubtful
        assert (result.decision, result.votes) == ((Decision.VOTE, 2) if asked_again else (Decision.FIRST, 1))
        assert result.confidence == pytest.approx(unsure(result.item.text)), "the mean of both"
        assert not result.known
    assert (found.asked_again, found.votes, found.changed, found.doubtful) == (len(doubtful), len(doubtful), 0, 0)
    again = [event for event in events if isinstance(event, AttemptEnded) and event.ask == "vote 2"]
    assert found.vote_requests == len(again)
    assert found.vote_usd == len(again) * CHARGE.usd
    assert sum(event.items for event in again) == len(doubtful)
    assert len(again) <= len(doubtful) / 20 + 3, "votes wait until packs are full"
    assert (runner.statistics().items, runner.statistics().labelled) == (1_000, 1_000)
    first_packs = {text: set(pack) for pack in transport.packs()[:50] for text in pack}
    mates = [len(first_packs[text] & set(pack)) for pack in transport.packs()[50:] for text in pack]
    assert sum(mates) / len(mates) < 10, "others than before"


def test_where_there_is_one_pack_only_each_vote_has_another_order() -> None:
    transport = Gateway(right, sure=lambda _: 0.5)
    _, found, _, _ = run(texts(15), transport, Doubt(5))
    packs = transport.packs()
    assert (found.votes, len(packs)) == (30, 3), "three of five agree"
    assert all(sorted(pack) == sorted(texts(15)) for pack in packs)
    assert packs[0] != packs[1] != packs[2] != packs[0]


def test_without_log_probabilities_every_item_gets_a_second_vote_and_only_those_that_differ_a_third() -> None:
    given = texts(400)
    transport = Gateway(erring(right, base=0.2, anew=True), seconds=lambda number: 1.0 + number % 7)
    results, found, _, events = run(given, transport, Doubt(vote=3))
    asked = transport.asked()
    assert set(asked.values()) == {2, 3}
    third = [event.items for event in events if isinstance(event, AttemptEnded) and event.ask == "vote 3"]
    assert len(third) <= sum(third) / 20 + 2, "third votes wait for the second ones, which lead to more of them"
    assert found.asked_again == 400
    assert found.votes == sum(asked.values()) - 400
    for result in results:
        assert result.votes == asked[result.item.text]
        assert result.confidence == pytest.approx(1.0 if result.votes == 2 else 2 / 3)
        assert result.decision is Decision.VOTE
    assert 0 < found.changed < 80
    assert (found.doubtful, found.escalated) == (0, 0)


def accuracy(results: Sequence[Result]) -> float:
    return sum(result.label == parity(result.item.text) for result in results) / len(results)


@pytest.mark.parametrize("most", [3, 5])
def test_votes_whose_errors_are_independent_are_right_as_the_binomial_law_says(most: int) -> None:
    wrong, count = 0.2, 1_500
    expected = sum(math.comb(most, k) * (1 - wrong) ** k * wrong ** (most - k) for k in range(most // 2 + 1, most + 1))
    results, found, _, _ = run(
        texts(count), Gateway(erring(right, base=wrong, anew=True), sure=lambda _: 0.8), Doubt(most)
    )
    assert abs(accuracy(results) - expected) < 4 * math.sqrt(expected * (1 - expected) / count)
    assert accuracy(results) > 1 - wrong + 0.05
    assert found.doubtful == 0


def test_votes_do_not_mend_what_is_hard_about_the_text_itself() -> None:
    given = texts(1_500)
    annotator = erring(right, base=0.2)
    once, _, _, _ = run(given, Gateway(annotator, sure=lambda _: 0.99), Doubt(5))
    voted, found, _, _ = run(given, Gateway(annotator, sure=lambda _: 0.8), Doubt(5))
    assert found.votes == 3_000, "two more for each"
    assert [result.label for result in voted] == [result.label for result in once]
    assert found.changed == 0


def test_a_second_run_buys_nothing_and_decides_the_same(tmp_path: Path) -> None:
    given = texts(300) + texts(100)
    for number, sure in enumerate([None, unsure]):
        ledger = tmp_path / f"{number}.db"
        first, second = (Gateway(erring(right, base=0.25, anew=True), sure=sure) for _ in range(2))
        results, found, _, _ = run(given, first, Doubt(vote=5), ledger=ledger)
        again, same, runner, _ = run(given, second, Doubt(vote=5), ledger=ledger)
        assert not second.prompts
        assert found.changed > 0
        assert [(r.label, r.decision, r.votes, r.confidence) for r in again] == [
            (r.label, r.decision, r.votes, r.confidence) for r in results
        ]
        assert all(result.known for result in again)
        assert (runner.statistics().known, same.vote_requests) == (400, 0)
        assert max(first.asked().values()) <= 5


# Escalation


def strong_and_weak(annotator: Annotator, **options: Any) -> tuple[Gateway, Gateway, Doubt]:
    weak, strong = Gateway(annotator, **options), Gateway(right)
    return weak, strong, Doubt(escalate="strong", transport=strong)


def test_what_is_doubtful_is_asked_of_the_stronger_model_alone_and_its_label_wins() -> None:
    given = texts(500)
    weak, strong, doubt = strong_and_weak(lambda texts, _: ["odd"] * len(texts), sure=unsure)
    results, found, runner, events = run(given, weak, doubt)
    doubtful = {text for text in given if unsure(text) < 0.9}
    assert strong.asked() == dict.fromkeys(doubtful, 1)
    assert {len(pack) for pack in strong.packs()} == {1}
    for result in results:
        escalated = result.item.text in doubtful
        assert result.label == (parity(result.item.text) if escalated else "odd")
        assert result.decision is (Decision.ESCALATED if escalated else Decision.FIRST)
    overruled = sum(parity(text) == "even" for text in doubtful)
    assert (found.escalated, found.overruled, found.changed) == (len(doubtful), overruled, overruled)
    assert (found.escalate_requests, found.escalate_usd) == (len(doubtful), len(doubtful) * CHARGE.usd)
    assert (found.asked_again, found.vote_requests) == (0, 0)
    assert {event.ask for event in events if isinstance(event, AttemptEnded)} == {"", "escalated"}
    assert runner.statistics().settled == (len(weak.prompts) + len(strong.prompts)) * CHARGE.usd


def test_without_log_probabilities_what_two_votes_differ_in_is_escalated() -> None:
    weak, strong, doubt = strong_and_weak(erring(right, base=0.2, anew=True))
    results, found, _, _ = run(texts(400), weak, doubt)
    assert set(weak.asked().values()) == {2}
    assert 80 < found.escalated < 180, "0.2 x 0.8 x 2 of 400 are 128"
    assert set(strong.asked()) == {r.item.text for r in results if r.decision is Decision.ESCALATED}
    assert accuracy(results) > 0.92, "wrong only where both votes were: 0.04"


def test_what_votes_leave_in_doubt_is_escalated() -> None:
    def before(_: Prompt, number: int) -> TransportError | None:
        return TransportError(Failure.BAD_REQUEST, "no") if number > 1 else None

    weak, strong, _ = strong_and_weak(right, sure=lambda _: 0.5, before=before)
    results, found, _, _ = run(["one text"], weak, Doubt(3, escalate="strong", transport=strong))
    assert (results[0].decision, results[0].label) == (Decision.ESCALATED, parity("one text"))
    assert (found.votes, found.escalated, found.doubtful) == (2, 1, 0), "two votes without an answer"
    results, found, _, _ = run(["one text"], Gateway(right, sure=lambda _: 0.5, before=before), Doubt(3))
    assert (results[0].decision, results[0].label, results[0].votes) == (Decision.DOUBTFUL, parity("one text"), 3)
    assert (found.votes, found.doubtful) == (2, 1)


def test_a_stronger_model_that_cannot_answer_leaves_the_item_in_doubt_with_the_label_that_leads() -> None:
    weak = Gateway(right, sure=lambda _: 0.5)
    strong = Gateway(right, before=lambda *_: TransportError(Failure.BAD_REQUEST, "no"))
    results, found, _, _ = run(texts(2), weak, Doubt(escalate="strong", transport=strong))
    assert [(r.label, r.decision) for r in results] == [(parity(text), Decision.DOUBTFUL) for text in texts(2)]
    assert (found.escalated, found.doubtful, found.cut) == (0, 2, 0)


# Stops


@pytest.mark.parametrize("budget", ["0.01", "0.005"])
def test_a_budget_that_ends_among_the_votes_leaves_every_item_with_what_leads_so_far(
    tmp_path: Path, budget: str
) -> None:
    given = texts(600)
    options: dict[str, Any] = {"price": PRICE, "ledger": tmp_path / "l.db"}
    transport = Gateway(erring(right, base=0.3, anew=True), sure=lambda _: 0.5)
    results, found, runner, _ = run(given, transport, Doubt(5), budget_usd=budget, **options)
    assert [result.item.text for result in results] == given
    assert runner.statistics().settled <= Decimal(budget)
    assert found.stopped is not None
    assert found.stopped.startswith("budget: ")
    assert {result.status for result in results} <= {Status.LABELLED, Status.PENDING}
    decisions = Counter(result.decision for result in results if result.status is Status.LABELLED)
    assert decisions[Decision.DOUBTFUL] == found.doubtful == found.cut > 0
    bought = transport.asked()
    again = Gateway(erring(right, base=0.3, anew=True), sure=lambda _: 0.5)
    results, found, _, _ = run(given, again, Doubt(5), **options)
    assert {(r.status, r.decision) for r in results} == {(Status.LABELLED, Decision.VOTE)}
    total = bought + again.asked()
    assert all(result.votes == total[result.item.text] for result in results), "no vote is bought twice"


def test_a_stop_in_the_middle_ends_every_item_once() -> None:
    given = texts(800)
    for seconds in (0.5, 1.5, 2.5, 3.5, 4.5):
        weak, strong = Gateway(erring(right, base=0.3, anew=True), sure=lambda _: 0.5), Gateway(right)

        async def work(weak: Gateway = weak, strong: Gateway = strong, seconds: float = seconds) -> list[Result]:
            doubt = Doubt(3, escalate="strong", transport=strong)
            async with Runner(TASK, model="m", transport=weak, ledger=None, doubt=doubt, concurrency=8) as runner:
                asyncio.get_running_loop().call_later(seconds, runner.stop, "enough")
                results = [result async for result in runner.stream(given)]
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return results

        clock = FakeClock()
        results = clock.run(work())
        assert [result.item.text for result in results] == given
        assert {result.status for result in results} == {Status.LABELLED, Status.PENDING}
        assert clock.now < seconds + 1.5, "what is in flight is waited for, and nothing else"


def test_a_stream_that_is_left_buys_no_more_votes_and_others_still_get_theirs() -> None:
    given = texts(200)
    transport = Gateway(right, sure=lambda _: 0.5)

    async def work() -> tuple[int, list[Result]]:
        async with Runner(TASK, model="m", transport=transport, ledger=None, doubt=Doubt(3), concurrency=1) as runner:
            stream = runner.stream(given)
            kept = [asyncio.create_task(runner.submit(text)) for text in given[:5]]
            assert (await anext(stream)).decision is Decision.VOTE
            await stream.aclose()
            at = sum(transport.asked().values())
            results = await asyncio.gather(*kept)
            await asyncio.sleep(500)
            assert not runner._job.is_waiting(), "nothing may stay on the board"
            return at, results

    at, results = FakeClock().run(work())
    assert [(r.label, r.votes) for r in results] == [(parity(text), 2) for text in given[:5]]
    assert sum(transport.asked().values()) <= at + 5
    assert max(transport.asked().values()) <= 2


def test_a_stream_that_is_left_takes_its_items_out_of_the_votes_of_others() -> None:
    given = texts(60)
    transport = Gateway(right, sure=lambda _: 0.5)

    async def work() -> list[Result]:
        async with Runner(TASK, model="m", transport=transport, ledger=None, doubt=Doubt(3), concurrency=1) as runner:
            leaving = runner.stream(given[:30])
            first = asyncio.create_task(anext(leaving))
            staying = [asyncio.create_task(runner.submit(text)) for text in given[30:]]
            await asyncio.sleep(3.5)
            packs = transport.packs()
            assert sum(map(len, packs[:-1])) == len({text for pack in packs[:-1] for text in pack}) == 60
            assert set(packs[-1]) & set(given[:30]), "votes for both are in flight"
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await leaving.aclose()
            return await asyncio.gather(*staying)

    results = FakeClock().run(work())
    assert [(result.label, result.votes) for result in results] == [(parity(text), 2) for text in given[30:]]
    asked = transport.asked()
    assert {text for text in given[:30] if asked[text] > 1} <= set(transport.packs()[3]), "what was in flight"
    assert {asked[text] for text in given[30:]} == {2}


def test_a_stream_that_is_left_while_its_votes_wait_for_company_buys_none() -> None:
    transport = Gateway(right, sure=lambda _: 0.5, seconds=lambda number: 20.0 if number == 2 else 1.0)

    async def work() -> None:
        async with Runner(TASK, model="m", transport=transport, ledger=None, doubt=Doubt(3)) as runner:
            leaving = runner.stream(texts(20))
            first = asyncio.create_task(anext(leaving))
            await asyncio.sleep(0.1)
            slow = asyncio.create_task(runner.submit("slow"))
            await asyncio.sleep(3)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await leaving.aclose()
            assert (await slow).votes == 2
            assert transport.asked() == dict.fromkeys(texts(20), 1) | {"slow": 2}
            back = await runner.submit(texts(20)[0])
            assert (back.votes, transport.asked()[texts(20)[0]]) == (2, 2), "and who comes back gets the votes"

    FakeClock().run(work())


def test_a_job_that_breaks_in_the_middle_of_votes_leaves_nothing_behind() -> None:
    def before(prompt: Prompt, number: int) -> None:
        if "breaks" in read_user(prompt.user)[1]:
            raise ZeroDivisionError

    transport = Gateway(right, sure=lambda _: 0.5, before=before, seconds=lambda n: 9.0 if n == 2 else 1.0)

    async def work() -> list[BaseException | Result]:
        async with Runner(TASK, model="m", transport=transport, ledger=None, doubt=Doubt(3)) as runner:
            asking = [asyncio.create_task(runner.submit("voted on"))]
            await asyncio.sleep(2.5)
            asking.append(asyncio.create_task(runner.submit("breaks")))
            found = await asyncio.gather(*asking, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return found

    found = FakeClock().run(work())
    assert [type(one) for one in found] == [ZeroDivisionError] * 2
    assert len(transport.prompts) == 3


def test_a_vote_does_not_wait_longer_than_half_a_minute_for_company() -> None:
    transport = Gateway(right, sure=lambda text: 0.5 if text == "first" else 1.0)

    async def slowly() -> Any:
        yield "first"
        for number in range(100):
            await asyncio.sleep(0.9)
            yield f"text {number}"

    async def work() -> float:
        async with Runner(TASK, model="m", transport=transport, ledger=None, doubt=Doubt(3)) as runner:
            async for result in runner.stream(slowly()):
                assert result.votes == 2
                return asyncio.get_running_loop().time()
        raise AssertionError

    assert FakeClock().run(work()) < 35


def test_what_breaks_while_votes_are_asked_is_told_to_whoever_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def before(prompt: Prompt, number: int) -> None:
        if number > 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(["one"], Gateway(right, sure=lambda _: 0.5, before=before), Doubt(3))


def test_a_disk_that_is_full_among_the_votes_is_told_after_every_item_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit, opened = Ledger.commit, 0

    def filling(self: Ledger, changes: Any) -> None:
        nonlocal opened
        opened += sum(isinstance(change, Opened) for change in changes)
        if opened > 2 and any(isinstance(change, Opened) for change in changes):
            raise LedgerFull("l.db", "no room")
        commit(self, changes)

    monkeypatch.setattr(Ledger, "commit", filling)
    seen: list[Result] = []

    async def work() -> None:
        weak = Gateway(right, sure=lambda _: 0.5, seconds=lambda number: 20.0 if number == 2 else 1.0)
        doubt = Doubt(escalate="strong", transport=Gateway(right))
        async with Runner(TASK, model="m", transport=weak, ledger=None, doubt=doubt) as runner:
            async for result in runner.stream(texts(40)):
                seen.append(result)  # noqa: PERF401  a comprehension would be lost with the error

    with pytest.raises(LedgerFull, match="no room"):
        FakeClock().run(work())
    assert [(result.label, result.decision) for result in seen] == [
        (parity(text), Decision.DOUBTFUL) for text in texts(40)
    ]


# Refusals


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "expected votes, a stronger model, or both"),
        ({"vote": 4}, "vote: expected 3, 5, 7 or 9"),
        ({"vote": 3, "below": 0}, "below: expected a share"),
        ({"vote": 3, "target": 0.9}, "expected a stronger model to escalate to, and no votes"),
        ({"escalate": "strong", "target": 1.0}, "target: expected a share between 0 and 1"),
        ({"escalate": "strong", "target": 0.9, "delta": 0}, "delta: expected a share between 0 and 1"),
    ],
)
def test_a_doubt_that_makes_no_sense_is_refused(given: dict[str, Any], wanted: str) -> None:
    with pytest.raises(CallError, match=wanted):
        Doubt(**given)


def test_what_cannot_be_asked_is_refused_before_anything_is_sent() -> None:
    transport = Gateway(right)
    with pytest.raises(CallError, match="a single asked again is the same question"):
        run(["one"], transport, Doubt(3), limits=PackLimits(max_items=1))
    with pytest.raises(CallError, match="another model than m"):
        run(["one"], transport, Doubt(escalate="m", transport=transport))
    with pytest.raises(PriceError, match="strong"):
        run(["one"], transport, Doubt(escalate="strong", transport=Gateway(right)), budget_usd=1, price=PRICE)
    assert not transport.prompts


# The cascade


def sure_as_right(wrong: Callable[[str], bool]) -> tuple[Annotator, Callable[[str], float]]:
    """A model that errs more often where it is less sure, and how sure it is."""

    def sure(text: str) -> float:
        return 1 - chance("surety", text) ** 2 / 2

    def annotate(texts: Sequence[str], _: Any) -> list[str]:
        flip = {"even": "odd", "odd": "even"}
        return [flip[parity(text)] if wrong(text) else parity(text) for text in texts]

    return annotate, sure


def is_wrong(text: str) -> bool:
    return chance("right", text) < chance("surety", text) ** 2 / 2


def test_a_cascade_escalates_no_more_than_its_target_needs_and_keeps_it() -> None:
    given = texts(3_000)
    annotator, sure = sure_as_right(is_wrong)
    assert sum(map(is_wrong, given)) / len(given) > 0.14
    weak, strong = Gateway(annotator, sure=sure), Gateway(right)
    doubt = Doubt(escalate="strong", transport=strong, target=0.9)

    async def work() -> tuple[list[Result], DoubtResult | None, Runner]:
        async with Runner(TASK, model="m", transport=weak, ledger=None, doubt=doubt) as runner:
            found = await runner.certify(given[::15])
            assert runner.statistics().items == 0, "a sample is no part of what was done"
            assert (found.items, found.certified) == (200, True)
            assert set(strong.asked()) == set(given[::15])
            results = [result async for result in runner.stream(given)]
        return results, runner.doubts(), runner

    results, found, runner = FakeClock().run(work())
    assert found is not None
    assert found.threshold is not None
    assert accuracy(results) > 0.9
    assert len(strong.prompts) < 0.45 * len(given), "the sample among them"
    for result in results:
        kept = sure(result.item.text) >= found.threshold.below
        assert result.decision is (Decision.FIRST if kept else Decision.ESCALATED)
    assert max(*weak.asked().values(), *strong.asked().values()) == 1, "the sample is not bought again"
    assert runner.statistics().items == runner.statistics().labelled == 3_000


def test_without_log_probabilities_a_cascade_keeps_what_two_votes_agree_in() -> None:
    given = texts(1_000)
    weak, strong = Gateway(erring(right, base=0.15, anew=True)), Gateway(right)

    async def work() -> list[Result]:
        doubt = Doubt(escalate="strong", transport=strong, target=0.9)
        async with Runner(TASK, model="m", transport=weak, ledger=None, doubt=doubt) as runner:
            found = await runner.certify(given[:300])
            assert found.certified
            assert 0.5 < found.below < 1
            return [result async for result in runner.stream(given)]

    results = FakeClock().run(work())
    assert accuracy(results) > 0.95
    assert {result.decision for result in results} == {Decision.VOTE, Decision.ESCALATED}
    assert len(strong.prompts) < 600, "the sample of 300, and a quarter of the others"


def test_gold_judges_both_models_and_a_target_that_neither_meets_is_not_promised() -> None:
    given = texts(400)
    wrong = erring(right, base=0.3)
    for strong, certified in ((Gateway(right), True), (Gateway(wrong), False)):

        async def work(strong: Gateway = strong) -> Any:
            doubt = Doubt(escalate="strong", transport=strong, target=0.9)
            weak = Gateway(wrong, sure=lambda _: 0.99)
            async with Runner(TASK, model="m", transport=weak, ledger=None, doubt=doubt) as runner:
                return await runner.certify(given[:200], gold={text: parity(text) for text in given[:200]})

        found = FakeClock().run(work())
        assert (found.certified, found.kept) == (certified, 0)


def test_a_sample_is_asked_only_where_a_target_was_given() -> None:
    async def work(doubt: Doubt | None) -> None:
        async with Runner(TASK, model="m", transport=Gateway(right), ledger=None, doubt=doubt) as runner:
            await runner.certify(["one"])

    for doubt in (None, Doubt(3)):
        with pytest.raises(CallError, match="expected a Doubt with a target"):
            FakeClock().run(work(doubt))
