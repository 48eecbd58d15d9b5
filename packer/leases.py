"""No part is lent twice: of the limit, of the money, and of what the gateway's buckets hold, where many workers ask.

A worker is a process that labels a part of a job's items. Now and then it reports how it stands, and gets a lease: what
it may use until it reports again. What is lent counts as used until the worker has said that it is not, or its requests
are known to have ended. Only a worker gives back, since only it knows at once what it has just begun to use. Times are
seconds of the lender's clock, money inside is whole nano-USD.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

from packer.exchange import Buckets
from packer.limiter import Limiter
from packer.pacing import Mark, Pacer
from packer.usage import floor_nano, to_nano, to_usd

_EVERY = 0.1  # seconds between two reports of a worker
_SOON = 0.02  # of one that has nothing, and wants something
_MOST_REPORTS = 300  # a second, of all workers
_AHEAD = 16  # requests that may leave without a bucket's leave, besides two for each slot
_CHUNK = 8  # of the largest reserves: so much money is lent at once
_LOW = 4  # of them: with less, a worker gets more before it asks


@dataclass(frozen=True, slots=True)
class Terms:
    """What a lender is for, the same for all of its workers.

    `name` is the job's in the ledger, `task` a fingerprint. `cap` and `concurrency` None mean no cap, and a limit that
    is searched for. With `hold` what is in doubt is not asked again. `patience` is the seconds after which a silent
    worker is lost.
    """

    name: str
    task: str
    model: str
    cap: Decimal | None
    hold: bool
    concurrency: int | None
    patience: float


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker's number, and that of the job in the ledger."""

    worker: int
    job: int


@dataclass(frozen=True, slots=True)
class Success:
    """A reply came `age` seconds ago, after `seconds`."""

    age: float
    seconds: float
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 429 came `age` seconds ago; the rest as in `Limiter.refused`."""

    age: float
    seconds: float
    retry_after: float | None
    jitter: float


@dataclass(frozen=True, slots=True)
class Trouble:
    """A 5xx or a time-out came `age` seconds ago; the rest as in `Limiter.failed`."""

    age: float
    seconds: float
    jitter: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reply told of buckets, `age` seconds ago; its request has `mark`, and left `mark.at` seconds ago."""

    age: float
    mark: Mark
    buckets: Buckets
    refused: bool


Heard: TypeAlias = Success | Refusal | Trouble | Reading


@dataclass(frozen=True, slots=True)
class Report:
    """How a worker stands.

    `wanted` requests could be in flight, were there room. `heard` is what has ended since the last report, in that
    order. `cap` is the money that it holds in all, spent or not, None for a job without a cap; `short` is the worst
    case of a request for which that is too little, 0 where there is none. `requests` and `tokens` are what it may still
    send, and `size` is what the next request takes of the tokens, 0 before the first one. `is_proven`: the gateway has
    answered it. `closed` says why nothing more may be sent by anybody. `balance` is what the gateway has told of the
    account since the last report, None where it has not.
    """

    in_flight: int
    wanted: int
    heard: tuple[Heard, ...] = ()
    cap: Decimal | None = None
    short: Decimal = Decimal(0)
    requests: int = 0
    tokens: int = 0
    size: int = 0
    is_proven: bool = False
    closed: str | None = None
    balance: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker may use until it reports again, in `after` seconds at most.

    `slots` requests may be in flight, none for `frozen` seconds. `requests` and `tokens` more may leave; `mark` is what
    had left by then, of all workers. `cap` is what it may spend in all, None for no cap. `gives_back`: somebody is
    short of money, and what it does not use is wanted. `is_final`: no more money will come, for a request like the one
    for which it was short. `is_proven` and `closed` are as in a report, of all workers; `balance` is the last one that
    another worker was told, once.
    """

    slots: int
    frozen: float
    requests: int
    tokens: int
    mark: Mark
    cap: Decimal | None
    gives_back: bool
    is_final: bool
    is_proven: bool
    closed: str | None
    balance: Decimal | None
    after: float


@dataclass(slots=True)
class _Worker:
    seen: float
    slots: int = 0
    in_flight: int = 0
    wanted: int = 0
    requests: int = 0
    tokens: int = 0
    lent: int = 0
    booked: int = 0  # charges, doubts and reserves of its requests
    open: int = 0  # of its requests
    largest: int = 0  # of its reserves
    balances: int = 0  # of all that were told, those that it knows of
    short: int = 0

    @property
    def holds(self) -> int:
        """Requests that it has in flight, or may have."""
        return max(self.slots, self.in_flight)

    @property
    def money(self) -> int:
        """What is gone to it: a charge may be higher than what was lent."""
        return max(self.lent, self.booked)


@dataclass(slots=True)
class Leases:
    """What is lent to the workers of one job. `cap` None means no cap; `spent` is what earlier runs booked.

    A worker that has not reported for `patience` seconds is taken for lost by `find_silent`.
    """

    limiter: Limiter
    cap: Decimal | None
    spent: Decimal
    patience: float
    closed: str | None = field(default=None, init=False)
    _pacer: Pacer = field(default_factory=Pacer, init=False)
    _workers: dict[int, _Worker] = field(default_factory=dict, init=False)
    _spent: int = field(init=False)  # by earlier runs, and by workers that have left
    _mark: Mark = field(default=Mark(0.0, 0, 0, 0), init=False)  # of all that was lent
    _is_proven: bool = field(default=False, init=False)
    _clock: float = field(default=0.0, init=False)
    _balance: Decimal | None = field(default=None, init=False)
    _balances: int = field(default=0, init=False)  # that were told

    def __post_init__(self) -> None:
        self._spent = to_nano(self.spent)

    def __contains__(self, worker: int) -> bool:
        return worker in self._workers

    def __iter__(self) -> Iterator[int]:
        return iter(self._workers)

    @property
    def in_flight(self) -> int:
        """Requests under way, by what was last reported."""
        return sum(worker.in_flight for worker in self._workers.values())

    def join(self, worker: int, now: float) -> None:
        """A worker has come; it has nothing yet."""
        self._workers[worker] = _Worker(now)

    def report(self, worker: int, report: Report, now: float) -> Lease:
        """Take in how a worker stands, and lend to it."""
        me = self._workers[worker]
        me.seen = now
        me.in_flight, me.wanted = report.in_flight, report.wanted
        me.requests, me.tokens = report.requests, report.tokens
        me.short = to_nano(report.short)
        self._is_proven = self._is_proven or report.is_proven
        self.closed = self.closed or report.closed
        balance = self._share_balance(me, report.balance)
        for heard in report.heard:
            self._hear(heard, now)
        is_final = False
        if report.cap is not None:
            me.lent = to_nano(report.cap)
            is_final = self._lend_money(me)
        self._lend_slots(worker, me, now)
        # a slot whose request has ended is used again at once: one that the limiter takes for idle looks like a gateway
        # that needs less time, and what comes after it is too slow
        self.limiter.may_send(now, self._count_held())
        requests, tokens = self._lend_requests(me, report.size, now)
        # who has just got what it was short of is not asked to give it back
        got_enough = bool(report.short) and not me.short
        gives_back = not got_enough and any(other.short for other in self._others(me))
        return Lease(
            slots=me.slots,
            frozen=self.limiter.frozen_for(now),
            requests=requests,
            tokens=tokens,
            mark=self._find_mark(now),
            cap=None if report.cap is None else to_usd(me.lent),
            gives_back=gives_back,
            is_final=is_final,
            is_proven=self._is_proven,
            closed=self.closed,
            balance=balance,
            after=max(_SOON if me.wanted > me.slots == 0 or me.short else _EVERY, len(self._workers) / _MOST_REPORTS),
        )

    def opened(self, worker: int, reserve: Decimal | None) -> bool:
        """Book a request that is about to leave; False where its reserve was not lent."""
        me, nano = self._workers[worker], to_nano(reserve or Decimal(0))
        if self.cap is not None and me.booked + nano > me.lent:
            return False
        me.booked += nano
        me.largest = max(me.largest, nano)
        me.open += 1
        return True

    def ended(self, worker: int, reserve: Decimal | None, booked: Decimal | None) -> None:
        """Book the end of a request: what stands for it now, in place of its reserve. The worker may be gone."""
        change = to_nano(booked or Decimal(0)) - to_nano(reserve or Decimal(0))
        me = self._workers.get(worker)
        if me is None:
            self._spent += change
        else:
            me.booked += change
            me.open -= 1

    def leave(self, worker: int) -> None:
        """A worker is gone, or lost: what it had is lent again, but for the money of its requests."""
        self._spent += self._workers.pop(worker).booked

    def forgive(self, seconds: float) -> None:
        """The lender itself was deaf for so long, and nobody's silence tells anything of it."""
        for worker in self._workers.values():
            worker.seen += seconds

    def find_silent(self, now: float) -> list[int]:
        """The workers that have not reported for too long."""
        return [worker for worker, one in self._workers.items() if now - one.seen > self.patience]

    def _share_balance(self, me: _Worker, told: Decimal | None) -> Decimal | None:
        others = self._balance if me.balances < self._balances else None
        if told is not None:
            self._balance, self._balances = told, self._balances + 1
        me.balances = self._balances
        return others

    def _hear(self, heard: Heard, now: float) -> None:
        # workers report at different times, and a clock only goes forward
        self._clock = at = max(self._clock, now - heard.age)
        if isinstance(heard, Reading):
            mark = heard.mark
            self._pacer.told(
                at, Mark(now - mark.at, mark.requests, mark.tokens, mark.own), heard.buckets, refused=heard.refused
            )
            return
        limiter, held = self.limiter, self._count_held()
        limiter.may_send(at, held)
        if isinstance(heard, Success):
            limiter.succeeded(at, seconds=heard.seconds, output_tokens=heard.output_tokens)
        elif isinstance(heard, Trouble):
            limiter.failed(at, seconds=heard.seconds, jitter=heard.jitter)
        else:
            flying, wait = self.in_flight, heard.retry_after
            limiter.refused(at, seconds=heard.seconds, in_flight=flying, retry_after=wait, jitter=heard.jitter)

    def _count_held(self) -> int:
        return sum(worker.holds for worker in self._workers.values())

    def _lend_slots(self, worker: int, me: _Worker, now: float) -> None:
        # until the gateway has answered somebody, one request tells whether it does
        limit = self.limiter.limit if self._is_proven else 1
        most = 0 if self.closed is not None else min(me.wanted, _share(self._wants(), limit)[worker])
        if not most and me.wanted and me.slots and not me.in_flight and self.closed is None:
            # it got a slot a moment ago, and has not used it yet; where it is short of money, others give that back,
            # for who has no slot asks for none
            most = 1
        if self.limiter.frozen_for(now):
            # what is not in use is lent anew when it is over, few at a time
            most = min(most, me.in_flight)
        me.slots = min(me.slots, most)
        others = self._count_held() - me.holds
        while me.slots < most and others + me.slots < limit and self.limiter.may_send(now, others + me.holds):
            me.slots += 1
        if self._is_proven and me.slots and limit < sum(1 for one in self._workers.values() if one.wanted):
            # not enough for all: who has one now comes last the next time; but one alone finds out whether the gateway
            # answers, or each would need its own three refusals
            self._workers[worker] = self._workers.pop(worker)

    def _wants(self) -> dict[int, int]:
        return {worker: one.wanted for worker, one in self._workers.items()}

    def _lend_requests(self, me: _Worker, size: int, now: float) -> tuple[int, int]:
        requests = tokens = 0
        wanted = me.slots if self._pacer.is_told else 2 * me.slots + _AHEAD
        may_have = bool(me.slots and size)
        while may_have and (me.requests < wanted or me.tokens < size):
            # tokens that earlier requests did not take are for this one: else they add up, and the bucket looks empty
            more = min(size, max(0, (me.requests + 1) * size - me.tokens))
            if self._pacer.wait(now, more):
                break
            self._mark = self._pacer.sent(now, more)
            me.requests += 1
            me.tokens += more
            requests += 1
            tokens += more
        return requests, tokens

    def _find_mark(self, now: float) -> Mark:
        # what is lent and not used has not left
        requests = sum(worker.requests for worker in self._workers.values())
        tokens = sum(worker.tokens for worker in self._workers.values())
        return Mark(now, max(0, self._mark.requests - requests), max(0, self._mark.tokens - tokens), 0)

    def _lend_money(self, me: _Worker) -> bool:
        """Lend money for the next requests; whether no more will ever come for one that is short of it."""
        assert self.cap is not None, "it reports a cap"
        left = floor_nano(self.cap) - self._spent - sum(worker.money for worker in self._workers.values())
        free = me.lent - me.booked
        missing = max(0, me.short - free)
        chunk = min(_CHUNK * max(me.largest, me.short), max(0, left) // (2 * len(self._workers)))
        # who only wants to be sure of the next requests comes after those who cannot send one
        may_wait = not me.short and any(other.short for other in self._others(me))
        if free < max(_LOW * me.largest, me.short) and left >= max(missing, 1) and not may_wait and self.closed is None:
            me.lent += min(left, max(missing, chunk))
        if not me.short or me.lent - me.booked >= me.short:
            me.short = 0
            return False
        return not any(worker.open or worker.lent > worker.booked for worker in self._others(me))

    def _others(self, me: _Worker) -> Iterable[_Worker]:
        return (worker for worker in self._workers.values() if worker is not me)


def _share(wants: dict[int, int], limit: int) -> dict[int, int]:
    """Equal parts of `limit`, nobody more than it wants; what cannot be divided goes to the first in line."""
    parts, left = dict.fromkeys(wants, 0), limit
    while left and (hungry := [one for one in wants if parts[one] < wants[one]]):
        each = max(1, left // len(hungry))
        for one in hungry[:left]:
            part = min(each, wants[one] - parts[one])
            parts[one] += part
            left -= part
    return parts
