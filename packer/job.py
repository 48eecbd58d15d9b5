"""The state of one job: which request goes next, and what follows its end.

No clock, no I/O, no asyncio: the runner carries out what is decided here, and commits a verdict before it is applied.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from packer import recovery
from packer.account import Account, Route, Witness
from packer.errors import Failure, TransportError
from packer.estimates import GROWTH
from packer.events import AttemptEnded, Statistics
from packer.exchange import Prompt, Reply
from packer.items import Status
from packer.lots import draw_canaries, draw_nonce
from packer.pacing import Mark
from packer.packs import Pack, Question, plan_packs, split_pack
from packer.prompts import write_user
from packer.recovery import Accept, Answered, Failed, GiveUp, JobRecord, Outcome, PackRecord, Resend, Split, Step
from packer.requests import Requests
from packer.sizing import PackSizer
from packer.slots import Board, Slot
from packer.verdicts import Request, Verdict, judge

# Until a gateway has answered this often, or has given one sound row, requests go one at a time
_PROBES = 3
# What tells of a gateway, or a network, that is not well; a refusal of one text does not
_TROUBLES = {Failure.OVERLOADED, Failure.LOST, Failure.CONFLICT, Failure.NOT_SENT, Failure.CUT}


@dataclass(slots=True, eq=False)
class Job:
    """One job, or one way of asking in it.

    `account` and `route` may be shared; where it `leads`, all of the account stop when it does. With `hold`, what is in
    doubt is not asked again. `wake` is called when something may leave that could not before. `confidence` asks for the
    tokens of answers.
    """

    account: Account
    route: Route
    board: Board
    requests: Requests
    sizer: PackSizer
    rng: random.Random
    hold: bool
    wake: Callable[[], None]
    leads: bool = True
    confidence: bool = False
    witnesses: list[Witness] = field(default_factory=list, init=False)
    stopped: str | None = field(default=None, init=False)
    in_flight: int = field(default=0, init=False)
    _record: JobRecord = field(default_factory=JobRecord, init=False)
    _heard: float | None = field(default=None, init=False)  # when a reply was read last, or the first request left
    _paced_until: float = field(default=0.0, init=False)
    _replies: int = field(default=0, init=False)
    _pool: deque[Question] = field(default_factory=deque, init=False)
    _again: deque[tuple[Pack, PackRecord]] = field(default_factory=deque, init=False)
    _later: list[tuple[float, int, Pack, PackRecord]] = field(default_factory=list, init=False)
    _packs: int = field(default=0, init=False)
    _requests: int = field(default=0, init=False)
    _canaries: int = field(default=0, init=False)
    _canary_hits: int = field(default=0, init=False)

    # Items in

    def recall(self, fresh: Mapping[str, str], known: Mapping[str, Any], sure: Mapping[str, float]) -> None:
        """Answer from the ledger what is `known`, as `sure` as it was then, and queue the rest of `fresh`."""
        for key, value in known.items():
            self.board.answer(key, value, known=True, confidence=sure.get(key))
        for witness in self.witnesses:
            witness.recalled((key, fresh[key], value) for key, value in known.items())
        asked = {key: text for key, text in fresh.items() if key not in known}
        for key in self.board.drop_unwanted(asked):  # whoever asked left while the ledger was looked at
            del asked[key]
        for key in asked.keys() & self.account.doubtful:
            self.board.give_up(
                key, Status.DOUBT, "in doubt: an earlier request for it was sent and its fate is unknown"
            )
            del asked[key]
        if self.stopped is not None:
            for key in asked:
                self.board.give_up(key, Status.PENDING, f"stopped: {self.stopped}")
            return
        self._enqueue(asked)

    def _enqueue(self, asked: Mapping[str, str]) -> None:
        questions = []
        for question, reason in self.requests.questions(asked):
            if reason is None:
                questions.append(question)
            else:
                self.board.fail(question.key, reason)
        # files are often sorted by class, and earlier rows pull later ones
        self.rng.shuffle(questions)
        self._pool.extend(questions)

    def leave(self, slots: Iterable[Slot]) -> None:
        """Take back items whose results nobody wants any more: what was not sent yet is not bought."""
        left = self.board.leave(slots)
        if not left:
            return
        queued = [q for q in self._pool if q.key in left]
        self._pool = deque(q for q in self._pool if q.key not in left)
        for work in self._again:
            queued += [q for q in work[0].questions if q.key in left]
        for _, _, pack, _ in self._later:
            queued += [q for q in pack.questions if q.key in left]
        self._again = deque((rest, record) for pack, record in self._again if (rest := pack.without(left)))
        self._later = [(at, n, rest, record) for at, n, pack, record in self._later if (rest := pack.without(left))]
        heapq.heapify(self._later)
        for question in queued:
            self.board.drop(question.key)

    # Requests out

    def next_request(self, now: float, *, flush: bool) -> Request | None:
        """The request that may leave now, its money reserved; None where there is none.

        `flush` allows a pack that is not full.
        """
        while (
            self.stopped is None and self.route.limiter.may_send(now, self.route.in_flight) and self._gate_is_open(now)
        ):
            work = self._next_work(now, flush=flush)
            if work is None:
                return None
            pack, record = work
            max_tokens = self.requests.max_tokens(pack, least=record.allowance)
            # a bucket holds the model's tokens; where those are fewer than ours, that is so on average, and not of each
            counted = self.requests.estimate(pack)
            tokens = max(counted, self.requests.scale.estimate(counted)) + max_tokens
            worst = self.requests.worst(pack, max_tokens)
            cap = self.requests.limits.max_request_usd
            if max_tokens < 1 or (cap is not None and worst is not None and worst > cap):
                self._shrink(pack, record, "asking it alone could cost more than the cap of one request")
            elif wait := self.route.pacer.wait(now, tokens):
                self._paced_until = now + wait
                self._again.appendleft(work)
                return None
            elif shortage := self._find_shortage(worst):
                # what those in flight do not take comes back
                if self.account.in_flight() or (worst is not None and self.account.budget.may_grow(worst)):
                    self._again.appendleft(work)
                    return None
                if len(pack) > 1:
                    self._shrink(pack, record, "")
                else:
                    self._again.appendleft(work)
                    self._stop_short(shortage, worst)
            else:
                is_idle = self.in_flight == 0 and record.attempts == 0 and not (self._again or self._later)
                if self._heard is None or is_idle:  # nobody was asked, so nobody was silent
                    self._heard = now
                mark = self.route.pacer.sent(now, tokens)
                return self._open_request(pack, record, max_tokens, worst, mark)
        return None

    def _find_shortage(self, worst: Decimal | None) -> str:
        """Why there is no money for a request that costs at most `worst`; empty where there is."""
        budget, books = self.account.budget, self.route.books
        if worst is not None and not budget.has_room(worst):
            return f"budget: the next request could pass the cap of {budget.cap} USD"
        if books.is_low(worst, reserved=budget.reserved, in_flight=self.route.in_flight):
            return f"balance: {books.balance} USD are left on the account, too few for the next request: top it up"
        return ""

    def _stop_short(self, shortage: str, worst: Decimal | None) -> None:
        if worst is None or self.account.budget.has_room(worst):
            self.account.close(self.route, shortage)  # it is the gateway's account that has too little, for anybody
        else:
            self.stop(shortage)

    def next_wake(self, now: float) -> float | None:
        """Seconds until something may leave that may not now; None where only an event can change that."""
        waits = [self._later[0][0] - now] if self._later else []
        if self._again or self._pool or self._later:
            waits += [self.route.limiter.frozen_for(now), self._paced_until - now]
        ahead = [wait for wait in waits if wait > 0]
        return min(ahead) if ahead else None

    def count_ready(self) -> int:
        """Requests that could be in flight now, were there room: those that are, and those that wait."""
        return self.in_flight + len(self._again) + len(self._later) + -(-len(self._pool) // self.sizer.size)

    @property
    def is_proven(self) -> bool:
        """Whether the gateway has shown that it answers, so that requests need not go one at a time."""
        return bool(self._record.accepted) or self._replies >= _PROBES

    def trust(self) -> None:
        """Somebody else has found out that the gateway answers."""
        self._replies = max(self._replies, _PROBES)

    def _gate_is_open(self, now: float) -> bool:
        if self.is_proven:
            return True
        is_waiting = bool(self._later) and self._later[0][0] > now
        return self.in_flight == 0 and not is_waiting

    def _next_work(self, now: float, *, flush: bool) -> tuple[Pack, PackRecord] | None:
        if self._later and self._later[0][0] <= now:
            _, _, pack, record = heapq.heappop(self._later)
            return pack, record
        if self._again:
            return self._again.popleft()
        if not self._pool:
            return None
        pack = next(plan_packs(self._pool, self.requests.envelope(self.sizer.size)))
        if len(pack) == len(self._pool) < self.sizer.size and not flush:
            return None
        for _ in range(len(pack)):
            self._pool.popleft()
        self._packs += 1
        return pack, PackRecord()

    def _shrink(self, pack: Pack, record: PackRecord, reason: str) -> None:
        if len(pack) == 1:
            self.board.fail(pack.keys[0], reason)
        else:
            self._again.extendleft((part, record) for part in reversed(split_pack(pack, 2)))

    def _open_request(
        self, pack: Pack, record: PackRecord, max_tokens: int, worst: Decimal | None, mark: Mark
    ) -> Request:
        reserve = None if worst is None else self.account.budget.reserve(worst)
        items, nonce = len(pack), draw_nonce(self.rng)
        canaries = draw_canaries(self.requests.canaries, self.requests.canaries_in(items), items=items, rng=self.rng)
        user = write_user(canaries.mix(pack.texts), nonce)
        attempt = self.account.next_attempt()
        prompt = Prompt(self.requests.system, user, self.requests.schema, max_tokens, self.confidence, attempt)
        self.in_flight += 1
        self.route.in_flight += 1
        request = Request(attempt, pack, record, prompt, nonce, reserve, self.route.in_flight, canaries, mark)
        self._requests += 1
        self._canaries += len(canaries)
        return request

    # Replies in

    def judge(self, request: Request, ended: Reply | TransportError, seconds: float, *, free: bool) -> Verdict:
        """What a request came to after `seconds`; nothing changes yet."""
        tells = self.route.books.tells_charges()
        return judge(request, ended, seconds, requests=self.requests, free=free, tells_charges=tells)

    def apply(self, verdict: Verdict, now: float) -> AttemptEnded:
        """Carry a committed verdict out: results for the sound rows, the next step for the rest."""
        request, outcome = verdict.request, verdict.outcome
        self.in_flight -= 1
        self.route.in_flight -= 1
        is_refused = isinstance(verdict.outcome, Failed) and verdict.outcome.failure is Failure.RATE_LIMITED
        self.route.pacer.told(now, request.mark, verdict.buckets, refused=is_refused)
        self.account.book(self.route, verdict)
        if isinstance(outcome, Answered):
            sound, flying = len(verdict.rows), request.in_flight
            self.route.books.answered(in_flight=flying, items=sound, seconds=verdict.seconds, charge=verdict.charge)
        keys = request.pack.keys
        for number, value in verdict.rows.items():
            self.board.answer(keys[number - 1], value, known=False, confidence=verdict.confidences.get(number))
        for witness in self.witnesses:
            witness.answered(request.pack, verdict.rows)
        rest = request.pack.without({keys[number - 1] for number in verdict.rows})
        outcome = self._learn(request, outcome, verdict, now)
        record = request.record.after(outcome)
        if isinstance(outcome, Answered) and outcome.truncated:
            record = replace(record, allowance=GROWTH * request.prompt.max_tokens)
        self._record = self._record.after(outcome)
        step = recovery.next_step(
            outcome,
            rest=len(rest),
            pack=record,
            job=self._record,
            jitter=self.rng.random(),
            hold=self.hold,
            silence=0.0 if self._heard is None or self.route.is_patient else now - self._heard,
        )
        self._canary_hits += bool(verdict.missed)
        # a hit says what stood in the pack, and nothing of its size
        if isinstance(outcome, Answered) and not outcome.hit and not isinstance(step, Resend):
            self.sizer.answered(outcome.asked, outcome.sound)
        self._follow(step, rest, record, attempt=request.attempt, now=now)
        return AttemptEnded(
            attempt=request.attempt,
            items=len(request.pack),
            number=record.attempts,
            sound=len(verdict.rows),
            outcome=verdict.words,
            step=type(step).__name__.lower(),
            seconds=verdict.seconds,
            usage=verdict.usage,
            charge=verdict.charge,
        )

    def withdraw(self, request: Request, reason: str) -> None:
        """Take back a request that could not be written down, and therefore did not leave; the job stops."""
        self.in_flight -= 1
        self.route.in_flight -= 1
        self._requests -= 1
        self._canaries -= len(request.canaries)
        self.account.budget.release(request.reserve or Decimal(0))
        self.stop(reason)
        for key in request.pack.keys:
            self.board.give_up(key, Status.PENDING, f"stopped: {reason}")

    def park(self, request: Request, reason: str) -> None:
        """Leave a request where it is, in a batch: its reserve stays set aside, and its items are for the next run."""
        self.in_flight -= 1
        self.route.in_flight -= 1
        if reason:
            self.stop(reason)
        for key in request.pack.keys:
            self.board.give_up(key, Status.PENDING, "waiting: its batch goes on at the gateway, to be collected")

    def abandon(self) -> None:
        """Nobody reads what is in flight any more: it takes no room from others, and its reserve stays set aside."""
        self.route.in_flight -= self.in_flight
        self.in_flight = 0

    def is_waiting(self) -> bool:
        """Whether somebody waits for a result."""
        return not self.board.is_empty()

    def stop(self, reason: str) -> None:
        """Send nothing more; what is not in flight becomes pending. A second reason changes nothing."""
        if self.stopped is not None:
            return
        self.stopped = reason
        if self.leads:
            self.account.stop(reason)
        waiting = [question.key for question in self._pool]
        waiting += [key for pack, _ in self._again for key in pack.keys]
        waiting += [key for _, _, pack, _ in self._later for key in pack.keys]
        self._pool.clear()
        self._again.clear()
        self._later.clear()
        for key in waiting:
            self.board.give_up(key, Status.PENDING, f"stopped: {reason}")

    def statistics(self, *, seconds: float, refused_settings: tuple[str, ...]) -> Statistics:
        """How the job stands; money is the account's, items are this job's own."""
        budget, books, total = self.account.budget, self.route.books, self.account.add_up()
        return Statistics(
            items=self.board.items,
            labelled=self.board.counts[Status.LABELLED],
            failed=self.board.counts[Status.FAILED],
            doubt=self.board.counts[Status.DOUBT],
            pending=self.board.counts[Status.PENDING],
            known=self.board.known,
            packs=self._packs,
            requests=self._requests,
            in_flight=self.route.in_flight,
            limit=self.route.limiter.limit,
            pack_size=self.sizer.size,
            usage=total.usage,
            settled=budget.settled,
            in_doubt=budget.in_doubt,
            assumed=total.assumed,
            reserved=budget.reserved,
            unpriced=total.unpriced,
            doubt_requests=total.doubt_requests,
            doubt_texts=total.doubt_texts,
            balance=books.balance,
            charge_sources=dict(total.sources),
            levels=books.levels(),
            seconds=seconds,
            stopped=self.stopped,
            refused_settings=refused_settings,
            canaries_asked=self._canaries,
            canary_hits=self._canary_hits,
        )

    def _learn(self, request: Request, outcome: Outcome, verdict: Verdict, now: float) -> Outcome:
        """Feed the limiter and the estimates; the outcome, told whether its allowance can still grow."""
        limiter = self.route.limiter
        if isinstance(outcome, Failed):
            if outcome.failure is Failure.RATE_LIMITED:
                jitter = self.rng.random()
                limiter.refused(
                    now,
                    seconds=verdict.seconds,
                    in_flight=self.route.in_flight,
                    retry_after=outcome.retry_after,
                    jitter=jitter,
                )
            elif outcome.failure in _TROUBLES:
                limiter.failed(now, seconds=verdict.seconds, jitter=self.rng.random())
            return outcome
        self._replies += 1
        self._heard = now
        usage = verdict.usage
        limiter.succeeded(now, seconds=verdict.seconds, output_tokens=usage.output_tokens if usage else 0)
        if usage is not None:
            self.requests.scale.observed(counted=self.requests.estimate(request.pack), reported=usage.input_tokens)
        # an answer with every row that ran on until it was cut (some models pad with blanks) needs no more room
        if outcome.truncated and outcome.sound < outcome.asked:
            self.requests.allowance.truncated(request.prompt.max_tokens, self.requests.rows(request.pack))
            allowed = request.prompt.max_tokens
            at_ceiling = self.requests.max_tokens(request.pack, least=GROWTH * allowed) <= allowed
            return replace(outcome, at_ceiling=at_ceiling)
        if outcome.sound == outcome.asked and not outcome.truncated:
            # the usage may be stale or missing, the text is there
            taken = max(verdict.written, usage.output_tokens if usage is not None else 0)
            self.requests.allowance.answered(self.requests.rows(request.pack), taken)
        return outcome

    def _follow(self, step: Step, rest: Pack, record: PackRecord, *, attempt: int, now: float) -> None:
        if isinstance(step, recovery.Stop):
            # where the one who leads gives up, others who ask this model by another process give up, too
            if step.everybody or self.leads:
                self.account.close(self.route, step.reason)
            else:
                self.stop(step.reason)
        if isinstance(step, GiveUp | recovery.Stop) and step.doubt:
            for key in rest.keys:
                self.account.doubtful.add(key)
                self.board.give_up(key, Status.DOUBT, step.reason)
        elif isinstance(step, GiveUp):
            for key in rest.keys:
                self.board.fail(key, step.reason)
        elif self.stopped is not None:
            for key in rest.keys:
                self.board.give_up(key, Status.PENDING, f"stopped: {self.stopped}")
        elif isinstance(step, Split | Resend):
            # what nobody waits for any more is not bought again
            rest = rest.without(self.board.drop_unwanted(rest.keys))
            if rest:
                self._ask_again(step, rest, record, attempt=attempt, now=now)
        else:
            assert isinstance(step, Accept), step

    def _ask_again(self, step: Split | Resend, rest: Pack, record: PackRecord, *, attempt: int, now: float) -> None:
        if isinstance(step, Split):
            self._again.extend((part, record.child()) for part in split_pack(rest, step.parts))
        elif step.after > 0:
            # the attempt's number breaks ties: no other entry has it
            heapq.heappush(self._later, (now + step.after, attempt, rest, record))
        else:
            self._again.append((rest, record))
