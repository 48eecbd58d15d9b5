"""A doubtful item ends only when its votes are in: it is asked again by siblings, and no row is shown before.

Which answers are doubted, and when enough is known, is `votes.py`'s to say. Votes wait for company, so that packs are
full and of other items than before; where nothing else is to come they go at once. Each way of asking has ledger keys
of its own, so a second run finds every vote, and decides the same from them without a request. Where no more can be
asked, because the job stops, an item ends with what leads so far, and counts as doubtful.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Protocol

from packer.cascade import EVERYTHING, Threshold, Trial, choose_threshold
from packer.crew import Crew
from packer.desk import Desk, Spent
from packer.errors import CallError, LedgerFull
from packer.items import Decision, Item, Result, Status, normalise_text
from packer.job import Job
from packer.options import Doubt
from packer.slots import Answer, Board
from packer.votes import DoubtResult, Rule, Standing, Vote, lead, weigh

ESCALATED = "escalated"  # how it is asked, in the ledger's keys
_PACKS = 5  # that votes wait to fill, so that they are mixed
_MOST_TOGETHER = 500
_PATIENCE = 30.0  # seconds that a vote waits for company, where the job goes on without any


class Asks(Protocol):
    """A runner: the main one, or a sibling."""

    def stream(self, items: Any) -> AsyncGenerator[Result, None]:
        """As `Runner.stream`."""

    async def __aenter__(self) -> Any:
        """Open it; it is left when the desk closes."""


def vote_ask(number: int) -> str:
    """How vote `number` (from 2) is asked, in the ledger's keys."""
    return f"vote {number}"


class Round:
    """One further way of asking. `least` items are sent together where there are so many."""

    def __init__(self, runner: Asks, *, least: int) -> None:
        self.runner = runner
        self.least = least
        self.waiting: dict[str, Case] = {}
        self.batches: dict[asyncio.Task[None], dict[str, Case]] = {}

    def is_empty(self) -> bool:
        """Whether nothing waits here or is asked."""
        return not self.waiting and not self.batches


@dataclass(slots=True, eq=False)
class Case:
    """An item whose answer is doubted."""

    key: str
    text: str
    votes: list[Vote]
    known: bool
    around: Round | None = field(default=None)


class Jury:
    """Carries out what `doubt` asks for, on the items of `board`.

    `rounds` ask for votes 2, 3, ...; `expert` asks the stronger model, None where there is none. `wake` has the runner
    call `look` again. `spent` tells what a way of asking has cost.
    """

    def __init__(
        self,
        doubt: Doubt,
        board: Board,
        crew: Crew,
        *,
        rounds: Sequence[Round],
        expert: Round | None,
        wake: Callable[[], None],
        spent: Callable[[str], Spent],
    ) -> None:
        self._doubt = doubt
        self._rule = Rule(doubt.vote or 1, doubt.below if doubt.target is None else EVERYTHING)
        self._board = board
        self._crew = crew
        self._rounds = rounds
        self._expert = expert
        self._wake = wake
        self._spent = spent
        self._cases: dict[str, Case] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._counts: Counter[str] = Counter()
        self._threshold: Threshold | None = None
        self._stopped: str | None = None
        self._pilot: dict[str, tuple[list[Vote], Any]] | None = None  # text -> cheap votes, strong answer

    # What the board asks

    def doubts(self, key: str, text: str, answer: Answer) -> bool:
        """As `slots.Jury`."""
        votes = [Vote((answer.label, answer.record), answer.confidence)]
        standing = self._rule.judge(votes)
        if standing is Standing.SAFE and self._pilot is None:
            return False
        self._cases[key] = case = Case(key, text, votes, answer.known)
        self._follow(case, standing)
        return True

    def leave(self, keys: set[str]) -> set[str]:
        """As `slots.Jury`."""
        left = keys & self._cases.keys()
        around = {case.around for key in left if (case := self._cases.pop(key)).around is not None}
        for one in around:
            for key in left & one.waiting.keys():
                del one.waiting[key]
            for task, batch in list(one.batches.items()):
                if not left.isdisjoint(batch):
                    # what is in flight is kept; what others wait for is asked for anew
                    task.cancel()
                    del one.batches[task]
                    one.waiting |= {key: case for key, case in batch.items() if key in self._cases}
                    if one.waiting:
                        self._send(one)
        self._wake()
        return left

    # What the runner asks

    def look(self, *, stopped: bool) -> None:
        """Send what waits, where nothing is to come any more that it could wait for."""
        if not self._cases or (not stopped and self._board.count_waiting() > len(self._cases)):
            return
        for around in self._rounds:
            if around.waiting:
                self._send(around)
            if not around.is_empty() and not stopped:
                return  # its votes may lead to further ones

    def result(self) -> DoubtResult:
        """What has come of it so far."""
        votes = [self._spent(vote_ask(number)) for number in range(2, len(self._rounds) + 2)]
        strong = self._spent(ESCALATED)
        return DoubtResult(
            **self._counts,
            stopped=self._stopped,
            vote_requests=sum(spent.requests for spent in votes),
            vote_usd=None if any(spent.untold for spent in votes) else sum((one.usd for one in votes), Decimal(0)),
            escalate_requests=strong.requests,
            escalate_usd=None if strong.untold else strong.usd,
            threshold=self._threshold,
        )

    async def certify(self, runner: Asks, texts: Iterable[str], gold: Mapping[str, str] | None) -> Threshold:
        """As `Runner.certify`; `runner` is the one of the board."""
        if self._doubt.target is None:
            raise CallError("certify: expected a Doubt with a target")
        rule, self._rule, self._pilot = self._rule, Rule(1, 1.0), {}
        before = self._board.tally()
        try:
            async with aclosing(runner.stream(texts)) as results:
                labelled = [result.item.text async for result in results if result.status is Status.LABELLED]
            trials = [self._try(normalise_text(text), gold) for text in labelled]
        finally:
            self._rule, self._pilot = rule, None
            self._board.reset(before)  # these items come again, with those that count
        threshold = choose_threshold(trials, target=self._doubt.target, delta=self._doubt.delta)
        self._rule, self._threshold = Rule(1, threshold.below), threshold
        self._counts.clear()
        return threshold

    async def close(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [task for around in (*self._rounds, self._expert) if around is not None for task in around.batches]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What follows a vote

    def _follow(self, case: Case, standing: Standing) -> None:
        if standing is Standing.OPEN:
            self._counts["asked_again"] += len(case.votes) == 1
            self._put(case, self._rounds[len(case.votes) - 1])
        elif standing is Standing.SAFE and self._pilot is None:
            self._end(case, Decision.VOTE)
        else:
            self._escalate(case)

    def _escalate(self, case: Case) -> None:
        if self._expert is None:
            self._end(case, Decision.DOUBTFUL)
        else:
            self._put(case, self._expert)

    def _told(self, case: Case, around: Round, result: Result) -> None:
        is_labelled = result.status is Status.LABELLED
        answer = (result.label, result.record) if is_labelled else None
        if result.status is Status.PENDING:
            self._counts["cut"] += 1
            self._stopped = self._stopped or result.error.removeprefix("stopped: ")
        case.known = case.known and result.known
        if around is self._expert:
            if self._pilot is not None:
                self._pilot[case.text] = (case.votes, answer)
            self._end(case, Decision.ESCALATED if is_labelled else Decision.DOUBTFUL, result)
        elif result.status is Status.PENDING:  # nobody asks for votes any more
            self._escalate(case)
        else:
            case.votes.append(Vote(answer, result.confidence))
            self._counts["votes"] += 1
            self._follow(case, self._rule.judge(case.votes))

    def _end(self, case: Case, decision: Decision, strong: Result | None = None) -> None:
        del self._cases[case.key]
        votes = case.votes
        label, record = leading = lead(votes)
        confidence = weigh(votes) if len(votes) > 1 else votes[0].confidence
        if decision is Decision.ESCALATED:
            assert strong is not None, "it is what decided"
            label, record, confidence = strong.label, strong.record, strong.confidence
            self._counts["escalated"] += 1
            self._counts["overruled"] += (label, record) != leading
        self._counts["doubtful"] += decision is Decision.DOUBTFUL
        self._counts["changed"] += (label, record) != votes[0].answer
        self._board.decide(
            case.key, label, record, known=case.known, confidence=confidence, decision=decision, votes=len(votes)
        )

    def _try(self, text: str, gold: Mapping[str, str] | None) -> Trial:
        assert self._pilot is not None, "it is the pilot's"
        votes, strong = self._pilot[text]
        cheap = lead(votes)
        if gold is None:
            return Trial(weigh(votes), cheap == strong, strong is not None)
        right = gold[text]
        return Trial(weigh(votes), cheap[0] == right, strong is not None and strong[0] == right)

    # What asks

    def _put(self, case: Case, around: Round) -> None:
        case.around = around
        around.waiting[case.key] = case
        if len(around.waiting) >= around.least:
            self._send(around)
        else:
            self._wake()
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._lose_patience)

    def _lose_patience(self) -> None:
        self._timer = None
        for around in self._rounds:
            if around.waiting:
                self._send(around)

    def _send(self, around: Round) -> None:
        batch, around.waiting = around.waiting, {}
        around.batches[self._crew.start(self._ask(around, batch))] = batch

    async def _ask(self, around: Round, batch: dict[str, Case]) -> None:
        items = [Item(case.text, key) for key, case in batch.items()]
        try:
            async with aclosing(around.runner.stream(_each(items))) as results:
                async for result in results:
                    self._told(batch.pop(str(result.item.id)), around, result)
        except LedgerFull as error:
            self._crew.keep(error)  # all of the batch have ended; what else is in flight is still kept
        task = asyncio.current_task()
        assert task is not None, "it runs in one"
        around.batches.pop(task, None)
        self._wake()


async def _each(items: Sequence[Item]) -> AsyncIterator[Item]:
    # a list would be read in a thread of its own
    for item in items:
        yield item


async def convene(doubt: Doubt, sibling: Callable[..., Asks], job: Job, crew: Crew, desk: Desk, *, seed: int) -> Jury:
    """A jury for `job`, whose siblings are open; the desk ends it before them. Raises as `Runner.sibling`."""
    limits = job.requests.limits
    if doubt.vote is not None and limits.max_items == 1:
        raise CallError("vote: expected packs of more than one item, for a single asked again is the same question")
    if doubt.escalate == job.route.model:
        raise CallError(f"escalate: expected another model than {doubt.escalate}")
    rounds = []
    for number in range(2, 1 + (doubt.vote or 2)):
        runner = sibling(vote_ask(number), seed=seed + number - 1)
        await runner.__aenter__()
        rounds.append(Round(runner, least=min(_PACKS * limits.max_items, _MOST_TOGETHER)))
    expert = None
    if doubt.escalate is not None:
        alone = replace(limits, max_items=1)
        about = {"model": doubt.escalate, "transport": doubt.transport, "price": doubt.price}
        strong = sibling(ESCALATED, limits=alone, **about)
        await strong.__aenter__()
        expert = Round(strong, least=1)
    jury = Jury(doubt, job.board, crew, rounds=rounds, expert=expert, wake=job.wake, spent=desk.spent)
    desk.undo.push_async_callback(jury.close)
    job.board.jury = jury
    return jury
