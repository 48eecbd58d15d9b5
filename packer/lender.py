"""One lender a job: its ledger, its money and its limit are here, and many workers label parts of its items.

Workers may be tasks, threads or processes on other machines; one that is silent for too long is lost. What it has sent
is in doubt from then on, until its fate comes to be known after all, and what it was asking may be asked by others. A
text is asked by one worker at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from packer.account import Account, book_end
from packer.desk import open_account, tell_job
from packer.errors import CallError, LeaseLost, LedgerError, PackerError, StoppedError
from packer.events import Statistics, statistics_adapter
from packer.journal import Found, Journal
from packer.leases import Joined, Lease, Leases, Report, Terms
from packer.ledger import AttemptState, Closed, Opened
from packer.limiter import Limiter

MOST_IN_CLUSTER = 4096  # requests, of all workers together
_LOOK = 0.25  # seconds between two looks at who is silent
# What statistics count of items, and of what was asked for them
_COUNTS = ("items", "labelled", "failed", "doubt", "pending", "known", "packs", "canaries_asked", "canary_hits")


@dataclass(slots=True)
class _Sent:
    """A request of a worker; `attempt` is its number in the ledger."""

    attempt: int
    keys: tuple[str, ...]
    reserve: Decimal | None


class Lender:
    """Lends on `terms` what the job at `ledger` (None: in memory) has, once it is open.

    Every method raises `LedgerError` where the ledger cannot be used, and those of a worker raise `LeaseLost` where it
    was taken for lost.
    """

    def __init__(self, ledger: Path | str | None, terms: Terms) -> None:
        self._terms = terms
        self._path = ledger
        self._journal: Journal
        self._account: Account
        self._leases: Leases
        self._opening: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None]
        self._turn = asyncio.Lock()  # of those who open it
        self._job = 0
        self._workers = 0
        self._requests = 0
        self._sent: dict[tuple[int, int], _Sent] = {}
        self._askers: dict[str, int] = {}  # the worker that asks for a key
        self._told: dict[int, Statistics] = {}
        self._left: list[Statistics] = []  # the sum of those who have left, where there are any

    async def open(self, terms: Terms) -> None:
        """Open the ledger, unless it is open. Raises `CallError` and `PriceError`.

        A job that has stopped, or has other terms, begins anew once nobody is here who is at work on it: so a driver
        that was killed is followed by one with the same terms, or with a higher cap. Where somebody is at work, other
        terms are refused.
        """
        async with self._turn:
            if (terms != self._terms or self._has_stopped()) and await self.is_deserted():
                await self.close()
                self._terms = terms
        if terms != self._terms:
            raise CallError(f"a lender for this ledger is there, with other terms: {_differences(terms, self._terms)}")
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        try:
            await asyncio.shield(self._opening)
        except PackerError:
            self._opening = None  # who comes next may have more luck
            raise

    def _has_stopped(self) -> bool:
        opening = self._opening
        is_open = opening is not None and opening.done() and opening.exception() is None
        return is_open and self._leases.closed is not None

    async def join(self, terms: Terms) -> Joined:
        """Come as a new worker. Raises `CallError` where the job's terms are not `terms` any more."""
        if terms != self._terms:
            raise CallError(f"another job has taken this ledger's lender: {_differences(terms, self._terms)}")
        self._workers += 1
        self._leases.join(self._workers, self._now())
        return Joined(self._workers, self._job)

    async def report(self, worker: int, report: Report) -> Lease:
        """Tell how a worker stands, and get what it may use."""
        self._check(worker)
        return self._leases.report(worker, report, self._now())

    async def find(self, worker: int, keys: Sequence[str], *, confidences: bool) -> Found:
        """What is known of `keys`; the worker asks for the rest, but for what is told to be elsewhere or doubtful."""
        self._check(worker)
        # before the ledger is looked at: who asked before has the answer there before its key is free
        elsewhere = {key for key in keys if self._askers.setdefault(key, worker) != worker}
        found = await self._journal.find(keys, confidences=confidences)
        doubtful = self._account.doubtful.intersection(keys) - found.answers.keys() - elsewhere
        self._free(worker, [*found.answers, *doubtful])
        return replace(found, elsewhere=frozenset(elsewhere - found.answers.keys()), doubtful=frozenset(doubtful))

    async def tell(self, worker: int, statistics: Statistics, ended: Sequence[str]) -> None:
        """Tell how a worker's items stand, and which keys it does not ask for any more."""
        self._check(worker)
        self._told[worker] = statistics
        self._free(worker, ended)

    async def commit(self, worker: int, changes: Sequence[Opened | Closed]) -> list[BaseException | None]:
        """Write `changes`, whose attempts have the worker's own numbers; for each None, or why it is not written."""
        return await asyncio.gather(*(self._commit(worker, change) for change in changes), return_exceptions=True)

    async def leave(self, worker: int, statistics: Statistics | None, closed: str | None) -> None:
        """Go, after the last request; what is open still is in doubt. Nothing, where the worker is not here.

        `closed` as in `Report`.
        """
        if worker in self._leases:
            self._leases.closed = self._leases.closed or closed
            if statistics is not None:
                self._left = [_add_up([*self._left, statistics])]
            await self._drop([worker], "abandoned by its worker")

    async def stop(self, reason: str) -> None:
        """Let no worker send anything more."""
        self._leases.closed = self._leases.closed or reason

    def is_used(self) -> bool:
        """Whether a worker is here, or may be."""
        return bool(list(self._leases))

    async def is_deserted(self) -> bool:
        """Whether no worker is here; where one may have died, that is waited for."""
        waited_until = self._now() + self._terms.patience + 2 * _LOOK
        while self.is_used() and self._now() < waited_until:  # noqa: ASYNC110  workers leave in several ways
            await asyncio.sleep(_LOOK)
        return not self.is_used()

    async def statistics(self) -> Statistics:
        """How the job stands: items as the workers have told last, money as the ledger has it."""
        budget, books = self._account.budget, self._account.earlier
        told = [*self._left, *self._told.values()]
        whole = _add_up(told) if told else None
        return Statistics(
            **_count(told),
            requests=self._requests,
            in_flight=self._leases.in_flight,
            limit=self._leases.limiter.limit,
            pack_size=whole.pack_size if whole else 0,
            usage=books.usage,
            settled=budget.settled,
            in_doubt=budget.in_doubt,
            assumed=books.assumed,
            reserved=budget.reserved,
            unpriced=books.unpriced,
            doubt_requests=books.doubt_requests,
            doubt_texts=books.doubt_texts,
            balance=whole.balance if whole else None,
            charge_sources=dict(books.sources),
            levels=(),
            seconds=self._now() - self._began,
            stopped=self._leases.closed or (whole.stopped if whole else None),
            refused_settings=whole.refused_settings if whole else (),
        )

    async def close(self) -> None:
        """Note the job's end, and close the ledger. Workers that are still here are lost."""
        if self._opening is None:
            return
        try:
            await self._drop(list(self._leases), "abandoned by its worker")
            statistics = await self.statistics()
            standing = statistics_adapter().dump_python(statistics, mode="json")
            outcome = statistics.stopped or "finished"
            await self._journal.ask(lambda ledger: ledger.end_job(self._job, outcome, standing))
        finally:
            self._opening = None
            self._watch.cancel()
            await self._journal.close()

    async def _open(self) -> None:
        self._journal = Journal(self._path)
        try:
            await self._journal.open()
            await self._open_job()
        except BaseException:
            await self._journal.close()
            raise

    async def _open_job(self) -> None:
        terms = self._terms
        self._account = await self._journal.ask(
            lambda ledger: open_account(ledger, terms.name, cap=terms.cap, hold=terms.hold)
        )
        self._began = self._now()
        self._requests, self._told, self._left = 0, {}, []
        budget = self._account.budget
        spent = budget.settled + budget.in_doubt + budget.reserved
        limiter = Limiter(cap=MOST_IN_CLUSTER, fixed=terms.concurrency)
        self._leases = Leases(limiter, terms.cap, spent, terms.patience)
        about = tell_job(terms.task, terms.model)
        self._job = await self._journal.ask(lambda ledger: ledger.start_job(terms.name, about))
        self._watch = asyncio.create_task(self._watch_silence())

    async def _commit(self, worker: int, change: Opened | Closed) -> None:
        if isinstance(change, Opened):
            await self._commit_opened(worker, change)
        else:
            await self._commit_closed(worker, change)

    async def _commit_opened(self, worker: int, change: Opened) -> None:
        self._check(worker)
        if self._leases.closed is not None:
            raise StoppedError(self._leases.closed)  # it is on its way to this worker, too
        reserve = change.reserve or Decimal(0)
        # a charge over its reserve may have taken what was lent to others
        if not self._account.budget.has_room(reserve) or not self._leases.opened(worker, change.reserve):
            raise LeaseLost(f"worker {worker} was lent no money for a request of {change.reserve} USD at worst")
        self._account.budget.reserve(reserve)
        sent = _Sent(self._account.next_attempt(), change.keys, change.reserve)
        self._sent[worker, change.attempt] = sent
        try:
            await self._journal.commit(replace(change, attempt=sent.attempt, job=self._job))
        except BaseException:
            del self._sent[worker, change.attempt]
            self._account.budget.release(reserve)
            self._leases.ended(worker, change.reserve, None)
            raise
        self._requests += 1

    async def _commit_closed(self, worker: int, change: Closed) -> None:
        # taken out first: what is being written is not in doubt, should the worker be lost meanwhile
        sent = self._sent.pop((worker, change.attempt), None)
        if sent is None:
            raise LeaseLost(f"attempt {change.attempt} of worker {worker} is not open")
        was_lost = worker not in self._leases
        try:
            await self._journal.commit(replace(change, attempt=sent.attempt, late=was_lost))
        except BaseException:
            self._sent[worker, change.attempt] = sent
            raise
        self._book(worker, sent, change, was_lost=was_lost)

    def _book(self, worker: int, sent: _Sent, change: Closed, *, was_lost: bool) -> None:
        budget, books, texts = self._account.budget, self._account.earlier, len(sent.keys)
        is_doubt = change.state is AttemptState.DOUBT
        if was_lost:
            self._account.doubtful.difference_update(sent.keys)
            budget.reopen(sent.reserve or Decimal(0))
            books.reopened(texts=texts, priced=sent.reserve is not None)
        if is_doubt and self._terms.hold:
            self._account.doubtful.update(sent.keys)
        books.told(change.usage, None)
        book_end(budget, books, change.state, reserve=sent.reserve, charge=change.charge, texts=texts)
        charged = None if change.charge is None else change.charge.usd
        self._leases.ended(worker, sent.reserve, sent.reserve if is_doubt else charged)

    async def _watch_silence(self) -> None:
        """Let silent workers go, and nobody where it was this process that stood still: their calls wait in line."""
        while True:
            began = self._now()
            await asyncio.sleep(_LOOK)
            self._leases.forgive(max(0.0, self._now() - began - 2 * _LOOK))
            with contextlib.suppress(LedgerError):  # whoever calls meets it
                await self._drop_silent()

    async def _drop_silent(self) -> None:
        if silent := self._leases.find_silent(self._now()):
            await self._drop(silent, "its worker was lost")

    async def _drop(self, workers: Iterable[int], why: str) -> None:
        """Let workers go. What they have sent is in doubt, unless they tell of it later."""
        gone = set(workers)
        doubts = []
        for (worker, _), sent in self._sent.items():
            if worker in gone:
                doubts.append(Closed(sent.attempt, AttemptState.DOUBT, why, None, None, math.nan, {}))
                self._book(worker, sent, doubts[-1], was_lost=False)
        for worker in gone:
            self._leases.leave(worker)
            self._told.pop(worker, None)
        self._askers = {key: worker for key, worker in self._askers.items() if worker not in gone}
        await asyncio.gather(*(self._journal.commit(doubt) for doubt in doubts))

    def _free(self, worker: int, keys: Iterable[str]) -> None:
        for key in keys:
            if self._askers.get(key) == worker:
                del self._askers[key]

    def _check(self, worker: int) -> None:
        if worker not in self._leases:
            raise LeaseLost(f"worker {worker} was silent for too long: what it was asking is asked by others")

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _count(told: Sequence[Statistics]) -> dict[str, Any]:
    return {name: sum(getattr(one, name) for one in told) for name in _COUNTS}


def _add_up(told: Sequence[Statistics]) -> Statistics:
    """The counts of all, and what is told of the rest by the last who told it."""
    stopped = next((one.stopped for one in told if one.stopped is not None), None)
    balance = next((one.balance for one in reversed(told) if one.balance is not None), None)
    settings = sorted({setting for one in told for setting in one.refused_settings})
    return replace(told[-1], **_count(told), stopped=stopped, balance=balance, refused_settings=tuple(settings))


def _differences(given: Terms, own: Terms) -> str:
    names = [field.name for field in fields(Terms) if getattr(given, field.name) != getattr(own, field.name)]
    return ", ".join(f"{name} {getattr(own, name)}, not {getattr(given, name)}" for name in names)
