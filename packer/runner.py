"""Carries packs through prompt, transport, answer, recovery and ledger. What happens next is the job's decision.

An intent is committed before its request leaves, a verdict before it is shown. Nothing here retries.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pydantic

from packer import failpoints
from packer.books import Books
from packer.budget import Budget
from packer.canaries import find_canaries
from packer.connections import connect
from packer.errors import CallError, LedgerFull, PriceError, TransportError
from packer.events import (
    AttemptStarted,
    CanaryHit,
    Event,
    JobStarted,
    JobStopped,
    LimitChanged,
    PackSizeChanged,
    Paused,
    SettingRefused,
    Statistics,
)
from packer.exchange import Reply
from packer.items import Item, Result
from packer.job import Job
from packer.journal import Journal
from packer.lanes import Lane
from packer.ledger import Ledger
from packer.limiter import Limiter
from packer.options import MOST_IN_FLIGHT, read_concurrency, read_item, read_usd
from packer.packs import PackLimits, usual_items
from packer.pricing import find_price, refuse_unpriced
from packer.requests import PARAMETERS, Requests, make_keys, name_job
from packer.sizing import PackSizer
from packer.slots import Board, Slot
from packer.sources import slices
from packer.task import Task
from packer.tokens import bound_tokens, count_tokens
from packer.transport import Transport
from packer.usage import FREE, Price
from packer.verdicts import Request

DEFAULT_LEDGER = "prompt-packer.db"
_DEADLINE = 120.0  # seconds for one request, whatever happens on its way
_LONG_PAUSE = 10.0  # seconds: shorter ones are nobody's news
_SLICE = 500  # items looked up, shuffled and packed together


class Runner:
    """Labels items with `task` and `model`; an async context manager.

    `transport` None means the one that `model` and `base_url` name (see `connections.connect`); `api_key` None means
    the environment variable of that host. `ledger` is the file that remembers every answer, None for memory only. `job`
    names the job that a budget belongs to: runs with the same name, task and model share it. `budget_usd` caps what the
    job may cost in all its runs, None for no cap. `price` None means the task's, or else that of the price table.
    `concurrency` None means that the limit is searched for. `on_doubt` says what happens to items whose request was
    sent and may have been billed: asked again, or held. `seed` orders the items inside the look-ahead. `linger` is how
    long, in seconds, a single text waits for others to share its pack. `on_event` is called with everything that
    happens; it must not block. `untrusted` is for texts whose writers may want to steer the labels: packs of 5 where no
    `limits` are given, and two of the task's canaries in each; `docs/untrusted.md` says what that detects and what not.
    `confidence` asks the gateway for log-probabilities, so that results tell how sure the model was.

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
        ledger: Path | str | None = DEFAULT_LEDGER,
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
        confidence: bool = False,
    ) -> None:
        self.task = task
        self.model = model
        self._given_transport = transport
        self._address = (base_url, api_key)
        self._journal = Journal(ledger)
        self._name = name_job(task, model, job)
        self._canaries = find_canaries(task) if untrusted else {}
        self._limits = limits or PackLimits(usual_items(untrusted=untrusted))
        self._cap = None if budget_usd is None else read_usd("budget_usd", budget_usd)
        self._price = price
        self._concurrency = read_concurrency(concurrency, model)
        self._on_doubt = on_doubt
        self._seed = seed
        self._linger = linger
        self._on_event = on_event
        self._confidence = confidence

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        base_url, api_key = self._address
        self._transport = self._given_transport or connect(
            self.model, base_url=base_url, api_key=api_key, connections=MOST_IN_FLIGHT
        )
        try:
            await self._open()
        except BaseException:
            await self._transport.aclose()
            await self._journal.close()
            raise
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: set[asyncio.Event] = set()
        self._feeding = 0
        self._flush_at = 0.0
        self._lingering: list[Slot] = []
        self._broken: BaseException | None = None
        self._last_error: Exception | None = None  # raised once all that is in flight has ended
        self._untold: BaseException | None = None  # whichever of the two nobody has been told yet
        self._told: dict[Any, Event] = {}
        self._told_pause = 0.0
        self._ended_after: float | None = None
        self._dispatcher = asyncio.create_task(self._dispatch())
        self._dispatcher.add_done_callback(self._finished)
        try:
            self._emit(JobStarted(self._number, self.model, self.task.fingerprint))
        except BaseException:  # a Ctrl-C inside the listener: nobody will leave what was not entered
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # requests in flight are paid for: leaving waits for them, and only a second interrupt abandons them
            if self._lingering or not self._job.board.is_empty():
                self.stop("interrupted" if kind is asyncio.CancelledError else "the runner was closed")
            while self._tasks and self._broken is None:
                await asyncio.wait(self._tasks)
        finally:
            await self._close()
        if kind is None and self._untold is not None:
            # a caller who left the stream, or awaited single texts, has not met it
            raise self._untold

    async def stream(self, items: Iterable[Item | str] | AsyncIterable[Item | str]) -> AsyncGenerator[Result, None]:
        """One result an item, in the order of `items`, which are read as far ahead as memory's bound allows.

        A stream that is closed before its end buys nothing more; what is in flight is kept.

        An error that `items` raises is raised after the results of what came before it. Raises `LedgerError`, and
        `LedgerFull` after the results, since what is in flight when the disk fills is still kept.
        """
        lane = Lane()
        feeder = asyncio.create_task(self._feed(items, lane))
        self._listeners.add(lane.news)
        try:
            while True:
                lane.news.clear()
                for result in lane.take_ended():
                    yield result
                self._check()
                if lane.is_empty() and feeder.done():
                    feeder.result()
                    if self._last_error is not None:
                        self._untold = None
                        raise self._last_error
                    return
                await lane.news.wait()
        finally:
            self._listeners.discard(lane.news)
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
            # a stream that is left early: what was read ahead and not sent is not bought
            self._job.leave(lane.take_back())

    async def submit(self, item: Item | str) -> Result:
        """The result of one item, which is packed with whatever else is waiting. Raises `LedgerError`.

        A text whose caller gives up (a time-out round this call) is not bought; what is in flight is kept.
        """
        news = asyncio.Event()
        slot = Slot(read_item(item), wake=news.set)
        self._lingering.append(slot)
        if len(self._lingering) >= self._job.sizer.size:
            self._send_lingering()
        elif len(self._lingering) == 1:
            self._loop.call_later(self._linger, self._send_lingering)
        self._listeners.add(news)
        try:
            while slot.result is None:
                self._check()
                await news.wait()
                news.clear()
        finally:
            self._listeners.discard(news)
            if slot.result is None:
                self._take_back(slot)
        return slot.result

    def stop(self, reason: str) -> None:
        """Send nothing more: what is in flight is kept, all other items become pending."""
        self._send_lingering()
        self._job.stop(reason)
        self._wake.set()

    @property
    def price(self) -> Price | None:
        """What tokens are reckoned at once the runner is entered; None where it is unknown."""
        return self._price

    def statistics(self) -> Statistics:
        """How the job stands."""
        seconds = self._loop.time() - self._began if self._ended_after is None else self._ended_after
        return self._job.statistics(seconds=seconds, refused_settings=self._transport.refused_settings())

    async def _open(self) -> None:
        self._price = FREE if self._transport.is_free() else self._price or self.task.price or find_price(self.model)
        if self._price is None and (self._cap is not None or self._limits.max_request_usd is not None):
            raise refuse_unpriced(self.model)
        await self._journal.open()
        self._job = await self._journal.ask(self._make_job)
        failpoints.reach("job: about to be noted in the ledger")
        self._number = await self._journal.ask(self._start_job)
        failpoints.reach("job: noted")

    def _start_job(self, ledger: Ledger) -> int:
        about = {"task": self.task.fingerprint, "model": self.model, "parameters": dict(PARAMETERS)}
        return ledger.start_job(self._name, about)

    def _make_job(self, ledger: Ledger) -> Job:
        spending = ledger.spending(self._name)
        if spending.unknown and self._cap is not None:
            raise PriceError(
                f"what {spending.unknown} earlier requests of this job cost is unknown, and a budget needs it: "
                "go on without a budget, or start over with another ledger"
            )
        hold = self._on_doubt == "hold"
        return Job(
            board=Board(self.task, make_keys(self.task, self.model)),
            requests=Requests(self.task, self._limits, self._price, count_tokens, bound_tokens, self._canaries),
            budget=Budget(self._cap, spending.settled, spending.doubt),
            books=Books(spending.unknown, spending.doubt_requests, spending.doubt_texts, spending.assumed),
            limiter=Limiter(cap=MOST_IN_FLIGHT, fixed=self._concurrency),
            sizer=PackSizer(self._limits.max_items),
            rng=random.Random(self._seed),  # noqa: S311  shuffles and jitter, no secrets
            attempt=ledger.next_attempt(),
            hold=hold,
            confidence=self._confidence,
            doubtful=set(ledger.doubtful_keys()) if hold else set(),
        )

    async def _close(self) -> None:
        work = [*self._tasks, self._dispatcher]
        for task in work:
            # a request that is abandoned here stays open in the ledger: the next run finds it in doubt
            task.cancel()
        try:
            await asyncio.gather(*work, return_exceptions=True)
            if self._timer is not None:
                self._timer.cancel()
            self._tell_changes()
            self._ended_after = self._loop.time() - self._began
            if self._broken is None:
                standing = _standing_adapter().dump_python(self.statistics(), mode="json")
                outcome = self._job.stopped or "finished"
                failpoints.reach("job: about to be ended in the ledger")
                await self._journal.ask(lambda ledger: ledger.end_job(self._number, outcome, standing))
                failpoints.reach("job: ended")
        finally:
            self._broken = self._broken or CallError("the runner is closed")
            for listener in self._listeners:
                listener.set()
            try:
                await self._transport.aclose()
            finally:
                await self._journal.close()

    # Items in

    async def _feed(self, items: Iterable[Item | str] | AsyncIterable[Item | str], lane: Lane) -> None:
        self._feeding += 1
        try:
            async for taken in slices(items, size=_SLICE, patience=self._linger):
                fresh = [Slot(read_item(item)) for item in taken]
                lane.add(fresh)
                # the runner's task, not this one's: a stream that is left must not leave its texts half registered
                await asyncio.shield(self._start(self._register(fresh)))
                lane.news.set()
                await lane.has_room()
        finally:
            self._feeding -= 1
            lane.news.set()
            self._wake.set()

    async def _register(self, slots: list[Slot]) -> None:
        fresh = self._job.board.register(slots)
        known = await self._journal.ask(lambda ledger: ledger.find(list(fresh))) if fresh else {}
        sure = await self._journal.ask(lambda ledger: ledger.confidences(list(known))) if self._confidence else {}
        self._job.recall(fresh, known, sure)
        self._flush_at = self._loop.time() + self._linger
        self._wake.set()

    def _take_back(self, slot: Slot) -> None:
        if slot in self._lingering:
            self._lingering.remove(slot)
        else:
            self._job.leave([slot])

    def _send_lingering(self) -> None:
        slots, self._lingering = self._lingering, []
        if slots:
            self._start(self._register(slots))

    # Requests out, replies in

    async def _dispatch(self) -> None:
        while True:
            self._wake.clear()
            now = self._loop.time()
            flush = self._feeding == 0 or now >= self._flush_at
            while (request := self._job.next_request(now, flush=flush)) is not None:
                self._start(self._attempt(request))
            self._tell_changes()
            self._set_timer(now, flush=flush)
            await self._wake.wait()

    def _set_timer(self, now: float, *, flush: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        waits = [self._job.next_wake(now), None if flush else self._flush_at - now]
        ahead = [wait for wait in waits if wait is not None]
        self._timer = self._loop.call_later(min(ahead), self._wake.set) if ahead else None

    async def _attempt(self, request: Request) -> None:
        opened = request.opened(self._number)
        failpoints.reach("intent: about to be written")
        try:
            await self._journal.commit(opened)
        except LedgerFull as error:
            # nothing more may leave; what is in flight still has its room in the ledger, and is waited for
            self._keep_error(error)
            self._job.withdraw(request, str(error))
            self._wake.set()
            return
        if self._job.stopped is not None:
            # the stop came while the intent was written: nothing has left, and nothing shall
            await self._journal.commit(request.unsent())
            self._job.withdraw(request, self._job.stopped)
            return
        failpoints.reach("intent: durable, nothing sent")
        self._emit(AttemptStarted(request.attempt, len(request.pack), opened.number, request.prompt.max_tokens))
        began = self._loop.time()
        ended: Reply | TransportError
        try:
            ended = await self._transport.send(request.prompt, deadline=_DEADLINE)
        except TransportError as error:
            ended = error
        failpoints.reach("reply: here, nothing booked")
        seconds = self._loop.time() - began
        verdict = self._job.judge(request, ended, seconds, free=self._transport.is_free())
        await self._journal.commit(verdict.closed())
        failpoints.reach("verdict: durable, nothing shown")
        self._emit(self._job.apply(verdict, self._loop.time()))
        if verdict.missed:
            self._emit(CanaryHit(request.attempt, len(request.pack), verdict.missed))
        failpoints.reach("verdict: applied")
        self._wake.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # The ledger is gone, or there is a bug: nothing can go on, and everybody who waits is told
        if self._broken is None:
            self._broken = self._untold = error
        for listener in self._listeners:
            listener.set()

    def _check(self) -> None:
        if self._broken is not None:
            self._untold = None
            raise self._broken

    def _keep_error(self, error: Exception) -> None:
        if self._last_error is None:
            self._last_error = self._untold = error

    # What can be observed

    def _emit(self, event: Event) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception as error:  # noqa: BLE001  the listener's bug costs no paid answer: it is raised at the end
            self._on_event = None
            self._keep_error(error)
            self._job.stop(f"on_event raised {type(error).__name__}")
            self._wake.set()

    def _tell_changes(self) -> None:
        pause, until = self._job.limiter.frozen_for(self._loop.time()), self._job.limiter.frozen_until
        if pause > _LONG_PAUSE and until > self._told_pause + _LONG_PAUSE:
            self._told_pause = until
            self._emit(Paused(pause))
        standing: dict[Any, Event] = {
            LimitChanged: LimitChanged(self._job.limiter.limit),
            PackSizeChanged: PackSizeChanged(self._job.sizer.size),
        }
        standing |= {setting: SettingRefused(setting) for setting in self._transport.refused_settings()}
        if self._job.stopped is not None:
            standing[JobStopped] = JobStopped(self._job.stopped)
        for name, event in standing.items():
            if self._told.get(name) != event:
                self._emit(event)
        self._told = standing


@functools.cache
def _standing_adapter() -> pydantic.TypeAdapter[Statistics]:
    return pydantic.TypeAdapter(Statistics)
