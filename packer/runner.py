"""Carries packs through prompt, transport, answer, recovery and ledger. What happens next is the job's decision.

How one request goes its way is in `attempts.py`. Nothing here retries.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from packer.account import Account, Route
from packer.attempts import Attempts
from packer.audit import MAX_DISAGREEMENT, Audit, AuditResult
from packer.auditing import ASK, Auditor, make_audit
from packer.batch_files import MOST_LINES
from packer.batches import BatchTransport
from packer.borrowing import Borrowed, BorrowingDesk
from packer.canaries import find_canaries
from packer.cascade import Threshold
from packer.collecting import find_waiting, make_sender
from packer.connections import connect, shares_key
from packer.crew import Crew
from packer.desk import Desk
from packer.errors import CallError
from packer.events import Event, JobStarted, Statistics
from packer.intake import Intake
from packer.items import MOST_IN_FLIGHT, Item, Result
from packer.job import Job
from packer.ledger_batches import Waiting
from packer.options import Doubt, read_concurrency, read_usd
from packer.packs import PackLimits, usual_items
from packer.pricing import find_price, refuse_unpriced
from packer.requests import Requests, make_keys, name_job
from packer.sizing import PackSizer
from packer.slots import Board
from packer.task import Task
from packer.telling import Teller
from packer.tokens import bound_tokens, count_tokens
from packer.transport import Transport
from packer.usage import FREE, Price
from packer.votes import DoubtResult
from packer.voting import Jury, convene

DEFAULT_LEDGER = "prompt-packer.db"


class Runner:
    """Labels items with `task` and `model`; an async context manager.

    `transport` None means the one that `model` and `base_url` name (see `connections.connect`); `api_key` None means
    the environment variable of that host. `ledger` is the file that remembers every answer, None for memory only; a
    worker of several borrows it (see `distributed`). `job`
    names the job that a budget belongs to: runs with the same name, task and model share it. `budget_usd` caps what the
    job may cost in all its runs, None for no cap. `price` None means the task's, or else that of the price table.
    `concurrency` None means that the limit is searched for. `on_doubt` says what happens to items whose request was
    sent and may have been billed: asked again, or held. `seed` orders the items inside the look-ahead. `linger` is how
    long, in seconds, a single text waits for others to share its pack. `on_event` is called with everything that
    happens; it must not block. `untrusted` is for texts whose writers may want to steer the labels: packs of 5 where no
    `limits` are given, and two of the task's canaries in each; `docs/untrusted.md` says what that detects and what not.
    `audit` is the share of packed items that are asked again, each alone; where more than `max_disagreement` of them
    get another answer, packs become smaller; `docs/quality.md` says how that is decided. None asks nothing again.
    `confidence` asks the gateway for log-probabilities, so that results tell how sure the model was. `doubt` says what
    is done about doubtful items, and asks for these too; None: the first answer counts. `batch` sends
    through the gateway's Batch API, at half price and within a day; `docs/batch.md` says how. What an earlier run has
    left in a batch is collected first; with `abandon_batches` it is in doubt instead, and asked again.

    Raises `CallError` for what is wrong with the call and `LedgerError`, both on entering.
    """

    def __init__(
        self,
        task: Task,
        *,
        model: str,
        transport: Transport | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        ledger: Path | str | Borrowed | None = DEFAULT_LEDGER,
        job: str = "",
        limits: PackLimits | None = None,
        budget_usd: Decimal | float | str | None = None,
        price: Price | None = None,
        concurrency: int | None = None,
        on_doubt: Literal["retry", "hold"] = "retry",
        seed: int = 0,
        linger: float = 0.02,
        on_event: Callable[[Event], None] | None = None,
        untrusted: bool = False,
        audit: float | None = None,
        max_disagreement: float = MAX_DISAGREEMENT,
        confidence: bool = False,
        batch: bool = False,
        abandon_batches: bool = False,
        doubt: Doubt | None = None,
    ) -> None:
        self.task = task
        self.model = model
        self._given_transport = transport
        self._address = (base_url, api_key) if transport is None else None
        self._untrusted = untrusted
        self._canaries = find_canaries(task) if untrusted else {}
        self._limits = limits or PackLimits(usual_items(task.max_items, untrusted=untrusted))
        self._price = self._given_price = price
        self._given_concurrency = concurrency
        self._batch = batch if transport is None else isinstance(transport, BatchTransport)
        self._abandons = abandon_batches
        self._concurrency = read_concurrency(concurrency, model, most=MOST_LINES if self._batch else MOST_IN_FLIGHT)
        self._on_doubt = on_doubt
        self._seed = seed
        self._linger = linger
        self._confidence = confidence or doubt is not None
        self._doubt = doubt
        self._jury: Jury | None = None
        self._audit = None if audit is None else make_audit(audit, max_disagreement, self._limits, seed)
        self._auditor: Auditor | None = None
        self._teller = Teller(on_event, self._listener_failed)
        make_desk = partial(BorrowingDesk, ledger) if isinstance(ledger, Borrowed) else partial(Desk, ledger)
        self._desk: Desk = make_desk(
            name_job(task, model, job),
            cap=None if budget_usd is None else read_usd("budget_usd", budget_usd),
            hold=on_doubt == "hold",
            tell=self._teller.tell,
        )
        self._undo = self._desk.undo
        self._ask = ""
        self._leads = True  # False for a sibling
        self._crew = Crew()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._ended_after: float | None = None

    def sibling(
        self,
        ask: str,
        *,
        task: Task | None = None,
        model: str | None = None,
        transport: Transport | None = None,
        limits: PackLimits | None = None,
        price: Price | None = None,
        seed: int | None = None,
    ) -> Runner:
        """A runner that asks in another way, within this one's job: same ledger, same budget, same listener.

        `ask` says how, in a word or two ("single", "vote 2"). It is a part of the ledger's keys: what is asked in one
        way is bought once, and never taken for an answer to what is asked in another. Everything else that is None is
        this runner's; `price` None with another model means that of the price table, and `transport` None with another
        model the same address.

        Items, packs, records and counts are its own. On the way to the same model what is in flight counts for all; a
        key, an account or a model that is refused there stops all, any other stop only the sibling. It is entered and
        left while this one is open, and stops when this one does. Raises `CallError` here and on entering.
        """
        if not ask.strip():
            raise CallError("ask: expected a word that says how it is asked")
        if self._batch:
            raise CallError("batch: expected a job that asks in one way; no audit and no sibling can wait for a day")
        model = self.model if model is None else model
        base_url, api_key = self._address or (None, None)
        if not shares_key(base_url, self.model, model):
            api_key = None  # it was meant for another host
        if price is None and model == self.model:
            price = self._price
        sibling = Runner(
            self.task if task is None else task,
            model=model,
            transport=transport,
            base_url=base_url,
            api_key=api_key,
            ledger=None,
            limits=self._limits if limits is None else limits,
            price=price,
            concurrency=self._given_concurrency,
            on_doubt=self._on_doubt,
            seed=self._seed if seed is None else seed,
            linger=self._linger,
            untrusted=self._untrusted,
            confidence=self._confidence,
        )
        if self._address is None:
            sibling._address = None
        sibling._ask, sibling._desk, sibling._leads, sibling._undo = ask, self._desk, False, AsyncExitStack()
        sibling._teller = Teller(self._desk.hear, self._listener_failed, ask=ask)
        return sibling

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        try:
            await self._open()
            self._emit(JobStarted(self._number, self.model, self.task.fingerprint))
            if self._audit is not None:
                await self._open_audit(self._audit)
            if self._doubt is not None:
                shared = (self._job, self._crew, self._desk)
                self._jury = await convene(self._doubt, self.sibling, *shared, seed=self._seed)
        except BaseException:  # a Ctrl-C inside the listener, too: nobody will leave what was not entered
            await self._undo.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # requests in flight are paid for: leaving waits for them, and only a second interrupt abandons them
            reason = "interrupted" if kind is asyncio.CancelledError else "the runner was closed"
            if not self._intake.is_empty():
                self.stop(reason)
            if kind is None:
                await self.audit()
            if self._leads:
                self._desk.is_open = False
                self._account.stop_waiting(reason)
            self._sender.leave()
            for crew in [*self._desk.crews] if self._leads else [self._crew]:
                await crew.wait()
        finally:
            await self._undo.aclose()
        if kind is None:
            # a caller who left the stream, or awaited single texts, has not met it
            self._crew.raise_untold()

    def stream(self, items: Iterable[Item | str] | AsyncIterable[Item | str]) -> AsyncGenerator[Result, None]:
        """One result an item, in the order of `items`, which are read as far ahead as memory's bound allows.

        A stream that is closed before its end buys nothing more; what is in flight is kept.

        An error that `items` raises is raised after the results of what came before it. Raises `LedgerError`, and
        `LedgerFull` after the results, since what is in flight when the disk fills is still kept.
        """
        return self._intake.stream(items)

    async def submit(self, item: Item | str) -> Result:
        """The result of one item, which is packed with whatever else is waiting. Raises `LedgerError`.

        A text whose caller gives up (a time-out round this call) is not bought; what is in flight is kept.
        """
        return await self._intake.submit(item)

    def stop(self, reason: str) -> None:
        """Send nothing more: what is in flight is kept, all other items become pending."""
        self._intake.send_lingering()
        self._job.stop(reason)
        self._sender.leave()
        self._account.wake()

    @property
    def price(self) -> Price | None:
        """What tokens are reckoned at once the runner is entered; None where it is unknown."""
        return self._price

    def statistics(self) -> Statistics:
        """How the job stands."""
        seconds = self._loop.time() - self._began if self._ended_after is None else self._ended_after
        return self._job.statistics(seconds=seconds, refused_settings=self._job.route.transport.refused_settings())

    async def audit(self) -> AuditResult | None:
        """What the audit has found once all that it asks is answered; None where nothing is asked again."""
        if self._auditor is None:
            return None
        await self._auditor.finish()
        return self._auditor.audit.result()

    def doubts(self) -> DoubtResult | None:
        """What has come of doubtful items so far; None where nothing is doubted."""
        return None if self._jury is None else self._jury.result()

    async def certify(self, texts: Iterable[str], *, gold: Mapping[str, str] | None = None) -> Threshold:
        """Ask for a random sample of the job's texts in both ways, and keep cheap answers by what comes of it.

        `gold` has the right label of each of `texts`, normalised; None: the stronger model is right. To be called
        before anything else is asked. Raises `CallError` without a target in `doubt`.
        """
        if self._jury is None:
            raise CallError("certify: expected a Doubt with a target")
        return await self._jury.certify(self, texts, gold)

    async def _open(self) -> None:
        desk, route = self._desk, None
        if self._leads:
            self._undo.push_async_callback(desk.journal.close)
        else:
            desk.admit(self.task, self.model, self._ask, self._undo)
            route = desk.account.find_route(self.model, self._given_transport)
        transport = self._connect() if route is None else route.transport
        if self._price is None and not transport.is_free():
            # a task file's price is that of the model that it was written for
            self._price = (self.task.price_of(self.model) if self._leads else None) or find_price(self.model)
        self._price = FREE if transport.is_free() else self._price
        if self._price is None and (desk.cap is not None or self._limits.max_request_usd is not None):
            raise refuse_unpriced(self.model)
        if self._leads:
            await desk.open(abandoned=(self.task, self.model) if self._abandons else None)
        waiting = await find_waiting(desk, self.task, self.model, transport, price=self._given_price)
        if route is None:
            route = desk.open_route(self.model, transport, self._concurrency, batch=self._batch)
        self._number = await desk.start_job(self.task, self.model, self._ask)
        if self._leads:
            desk.is_open = True
            desk.admit(self.task, self.model, self._ask, self._undo)
        desk.check_open()  # it may have closed while the ledger was written
        self._join(desk.account, self._make_job(route), waiting)

    def _connect(self) -> Transport:
        transport = self._given_transport
        if transport is None:
            if self._address is None:
                raise CallError(f"model {self.model}: expected its transport, because the main runner was given one")
            url, key = self._address
            transport = connect(self.model, base_url=url, api_key=key, connections=MOST_IN_FLIGHT, batch=self._batch)
        self._desk.undo.push_async_callback(transport.aclose)
        return transport

    def _make_job(self, route: Route) -> Job:
        return Job(
            account=self._desk.account,
            route=route,
            board=Board(self.task, make_keys(self.task, self.model, self._ask)),
            requests=Requests(self.task, self._limits, self._price, count_tokens, bound_tokens, self._canaries),
            sizer=PackSizer(self._limits.max_items),
            rng=random.Random(self._seed),  # noqa: S311  shuffles and jitter, no secrets
            hold=self._desk.hold,
            wake=self._wake.set,
            leads=self._leads,
            confidence=self._confidence,
        )

    def _join(self, account: Account, job: Job, waiting: list[Waiting]) -> None:
        self._job, self._account = job, account
        self._intake = Intake(job, self._desk.journal, self._crew, linger=self._linger)
        self._sender = make_sender(job, self._desk, waiting, tell=self._emit, known=self._intake.known)
        self._attempts = Attempts(
            job, self._desk.journal, self._sender, self._crew, number=self._number, tell=self._emit
        )
        account.members.append(job)
        self._undo.callback(account.members.remove, job)
        self._desk.crews.append(self._crew)
        self._undo.callback(self._desk.crews.remove, self._crew)
        self._undo.push_async_callback(self._end)
        stopped = job.route.closed or account.stopped
        if stopped is not None:
            job.stop(stopped)
        self._crew.start(self._dispatch(), serves=True)
        self._crew.start(self._sender.collect())
        self._desk.serve(job, self._crew, self.statistics)

    async def _open_audit(self, audit: Audit) -> None:
        alone = self.sibling(ASK, limits=replace(self._limits, max_items=1))
        await alone.__aenter__()  # it is left when the desk closes
        make_key, journal = make_keys(self.task, self.model, ASK), self._desk.journal
        self._auditor = Auditor(audit, self._job, journal, ask=alone.submit, make_key=make_key, tell=self._emit)
        self._job.witnesses.append(self._auditor)
        self._undo.push_async_callback(self._auditor.close)

    async def _end(self) -> None:
        try:
            # a request that is abandoned here stays open in the ledger: the next run finds it in doubt
            await self._crew.cancel()
            self._job.abandon()
            self._account.wake()
            if self._timer is not None:
                self._timer.cancel()
            self._tell_changes()
            self._ended_after = self._loop.time() - self._began
            if self._crew.broken is None:
                await self._desk.end_job(self._number, self._job.stopped or "finished", self.statistics())
        finally:
            self._crew.end(CallError("the runner is closed"))

    # Requests out, replies in

    async def _dispatch(self) -> None:
        while True:
            self._wake.clear()
            now = self._loop.time()
            wait = self._intake.wait(now)
            while (request := self._job.next_request(now, flush=not wait)) is not None:
                self._crew.start(self._attempts.carry(request))
            if self._jury is not None and not wait:
                self._jury.look(stopped=self._job.stopped is not None)
            if self._job.stopped is not None:
                self._sender.leave()
            self._tell_changes()
            self._set_timer([self._job.next_wake(now), wait or None])
            await self._wake.wait()

    def _set_timer(self, waits: Iterable[float | None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        ahead = [wait for wait in waits if wait is not None]
        self._timer = self._loop.call_later(min(ahead), self._wake.set) if ahead else None

    # What can be observed

    def _emit(self, event: Event) -> None:
        self._teller.tell(event)

    def _tell_changes(self) -> None:
        # the main runner tells of its own route
        is_told = not self._leads and self._job.route is self._account.routes[0]
        self._teller.tell_changes(self._job, self._loop.time(), route=not is_told)

    def _listener_failed(self, error: Exception) -> None:
        self._crew.keep(error)
        self._job.stop(f"on_event raised {type(error).__name__}")
        self._account.wake()
