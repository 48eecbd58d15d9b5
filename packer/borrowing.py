"""A worker's desk: what a job's own desk has, this one borrows from a lender that many workers share.

Everything that asks, reads and recovers is the ordinary runner's. Only the ledger's calls, the limit, the pace and the
money come from elsewhere, and the attempts' numbers in the ledger are the lender's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from packer.account import Account, Route
from packer.books import Books
from packer.crew import Crew
from packer.desk import Desk
from packer.errors import CallError
from packer.events import Event, Statistics
from packer.items import MOST_IN_FLIGHT
from packer.job import Job
from packer.journal import Found, Group, Journal
from packer.leases import Joined, Lease, Report, Terms
from packer.ledger import Closed, Opened
from packer.ledger_batches import Waiting
from packer.lent import LentBudget, LentLimiter, LentPacer, Log
from packer.task import Task
from packer.transport import Transport

_LEAST = 0.01  # seconds between two reports
_TELL = 1.0  # seconds between two words on how the items stand


class Lends(Protocol):
    """What a worker calls: a lender, or the way to one in another process. All as in `lender.Lender`."""

    async def join(self, terms: Terms) -> Joined:
        """Come as a new worker of a job with these `terms`."""

    async def report(self, worker: int, report: Report) -> Lease:
        """Tell how a worker stands, and get what it may use."""

    async def find(self, worker: int, keys: Sequence[str], *, confidences: bool) -> Found:
        """What is known of `keys`; the worker asks for the rest."""

    async def tell(self, worker: int, statistics: Statistics, ended: Sequence[str]) -> None:
        """Tell how a worker's items stand, and which keys it does not ask for any more."""

    async def commit(self, worker: int, changes: Sequence[Opened | Closed]) -> list[BaseException | None]:
        """Write `changes`; for each None, or why it is not written."""

    async def leave(self, worker: int, statistics: Statistics | None, closed: str | None) -> None:
        """Go; `closed` says why nothing more may be sent by anybody."""


@dataclass(frozen=True, slots=True)
class Borrowed:
    """In place of a ledger's path: what a runner needs is the lender's."""

    lender: Lends
    terms: Terms


class LentJournal(Journal):
    """The lender's ledger, for code that awaits."""

    def __init__(self, borrowed: Borrowed) -> None:
        super().__init__(None)
        self._lender, self._terms = borrowed.lender, borrowed.terms
        self._worker = 0
        self._statistics: Statistics | None = None
        self._closed: str | None = None
        self._asked: set[str] = set()
        self.job = 0

    async def open(self) -> None:
        """Come as a worker."""
        joined = await self._lender.join(self._terms)
        self._worker, self.job = joined.worker, joined.job

    async def find(self, keys: Sequence[str], *, confidences: bool) -> Found:
        """As `Journal.find`; what is not known, nor asked elsewhere, is asked here."""
        found = await self._lender.find(self._worker, keys, confidences=confidences)
        self._asked |= set(keys) - found.answers.keys() - found.elsewhere - found.doubtful
        return found

    async def report(self, report: Report) -> Lease:
        """Tell how this worker stands, and get what it may use."""
        return await self._lender.report(self._worker, report)

    async def tell(self, statistics: Statistics, waits_for: Callable[[str], bool]) -> None:
        """Tell how the items stand, and what is not asked any more."""
        ended = [key for key in self._asked if not waits_for(key)]
        self._asked.difference_update(ended)  # before it is told: meanwhile one may be asked for anew
        await self._lender.tell(self._worker, statistics, ended)

    def ends(self, statistics: Statistics, closed: str | None) -> None:
        """Note how things stood at the end."""
        self._statistics, self._closed = statistics, closed

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                ends = await self._lender.commit(self._worker, [change for change, _ in group])
            except Exception as error:  # noqa: BLE001  whoever waits gets it
                ends = [error] * len(group)
            _settle(group, ends)

    async def _end(self) -> None:
        if self._writer is not None:
            await asyncio.wait([self._writer])
        if self._worker:
            await self._lender.leave(self._worker, self._statistics, self._closed)


@dataclass(slots=True, eq=False)
class _LentAccount(Account):
    """What closes it is told to the lender at once, and by the lender to all."""

    log: Log = field(default_factory=Log)

    def close(self, route: Route, reason: str) -> None:
        """As an account's."""
        super(_LentAccount, self).close(route, reason)
        self.log.hurry()


class BorrowingDesk(Desk):
    """As `Desk`, with what `lender` lends. It has no place for batches, nor for those who ask in another way."""

    def __init__(
        self, borrowed: Borrowed, name: str, *, cap: Decimal | None, hold: bool, tell: Callable[[Event], None]
    ) -> None:
        super().__init__(None, name, cap=cap, hold=hold, tell=tell)
        self.journal: LentJournal = LentJournal(borrowed)
        self._hurry = asyncio.Event()
        self._log = Log(self._hurry.set)
        self._balance: Decimal | None = None  # that the lender knows
        self._limiter = LentLimiter(log=self._log)
        self._pacer = LentPacer(log=self._log)
        self._budget = LentBudget(cap, log=self._log)

    async def open(self, *, abandoned: tuple[Task, str] | None = None) -> None:
        """Come as a worker."""
        if abandoned is not None:
            raise CallError("abandon_batches: expected a job of one process")
        await self.journal.open()
        self.account = _LentAccount(self._budget, Books(), attempt=1, log=self._log)

    def admit(self, task: Task, model: str, ask: str, undo: AsyncExitStack) -> None:
        """Let the main runner in, and nobody else."""
        if undo is not self.undo:
            raise CallError("expected a job that asks in one way: audits, votes and siblings need one process")
        super().admit(task, model, ask, undo)

    def open_route(self, model: str, transport: Transport, concurrency: int | None, *, batch: bool = False) -> Route:
        """The way to the model, on which the lender says how much may leave."""
        del concurrency  # the lender's
        if batch:
            raise CallError("batch: expected a job of one process; the gateway works through its batches by itself")
        route = Route(model, transport, self._limiter)
        route.pacer = self._pacer
        self.account.routes.append(route)
        return route

    async def start_job(self, task: Task, model: str, ask: str) -> int:
        """The job's number in the ledger, where it is the lender's."""
        del task, model, ask
        return self.journal.job

    async def end_job(self, number: int, outcome: str, statistics: Statistics) -> None:
        """Note how it ended for this worker."""
        del number, outcome
        self.journal.ends(statistics, self.account.routes[0].closed)

    async def find_waiting(self, task: Task, model: str) -> list[Waiting]:
        """None: batches are collected by a job of one process."""
        del task, model
        return []

    def serve(self, job: Job, crew: Crew, statistics: Callable[[], Statistics]) -> None:
        """Report to the lender for as long as `crew` runs."""
        crew.start(self._report(job, statistics), serves=True)

    async def _report(self, job: Job, statistics: Callable[[], Statistics]) -> None:
        loop = asyncio.get_running_loop()
        told = loop.time()
        while True:
            self._hurry.clear()
            lease = await self.journal.report(self._make_report(job, loop.time()))
            self._take(lease, job, loop.time())
            if loop.time() - told >= _TELL:
                told = loop.time()
                await self.journal.tell(statistics(), job.board.waits_for)
            await asyncio.sleep(_LEAST)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(lease.after):
                    await self._hurry.wait()

    def _make_report(self, job: Job, now: float) -> Report:
        return Report(
            in_flight=job.in_flight,
            wanted=job.in_flight if job.stopped is not None else min(MOST_IN_FLIGHT, job.count_ready()),
            heard=self._log.take(now),
            cap=self._budget.lent,
            short=self._budget.short,
            requests=self._pacer.requests,
            tokens=self._pacer.tokens,
            size=self._pacer.size,
            is_proven=job.is_proven,
            closed=job.route.closed,
            balance=self._take_balance(job.route.books.balance),
        )

    def _take_balance(self, balance: Decimal | None) -> Decimal | None:
        told, self._balance = self._balance, balance
        return None if balance == told else balance

    def _take(self, lease: Lease, job: Job, now: float) -> None:
        self._limiter.lend(lease.slots, now + lease.frozen if lease.frozen else self._limiter.frozen_until)
        self._pacer.lend(lease.requests, lease.tokens, lease.mark)
        self._budget.lend(lease)
        if lease.is_proven:
            job.trust()
        if lease.balance is not None:
            job.route.books.told(None, lease.balance)
            self._balance = lease.balance
        if lease.closed is not None and job.route.closed is None:
            self.account.close(job.route, lease.closed)
        self.account.wake()


def _settle(group: Group, ends: Sequence[BaseException | None]) -> None:
    for (_, done), end in zip(group, ends, strict=True):
        if done.done():
            continue
        if end is None:
            done.set_result(None)
        else:
            done.set_exception(end)
