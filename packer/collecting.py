"""What is in a batch is written down before it goes out, and collected by whichever run comes next, before it asks.

A batch outlives the process that made it. So the next run of the same task and model looks first at the batches that
the ledger knows to be waiting, waits until they have ended, and books what came of them as the run would have that made
them. Only then does it ask the ledger what is known: what they answered is, and is not bought again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from packer import failpoints
from packer.batch_files import GIVEN_UP, Standing
from packer.batches import BatchTransport
from packer.canaries import Canaries, Canary
from packer.desk import Desk
from packer.errors import CallError, StillWaiting, TransportError
from packer.events import BatchStands, Event
from packer.exchange import Prompt, Reply
from packer.job import Job
from packer.ledger import Attempt, AttemptState
from packer.ledger_batches import Line, Waiting
from packer.pacing import Mark
from packer.packs import Pack, Question
from packer.pricing import find_batch_price
from packer.prompts import read_user, write_user
from packer.recovery import PackRecord
from packer.task import Task
from packer.transport import Transport
from packer.usage import Price
from packer.verdicts import Request

_ANY_TOKENS = 10**9  # of an answer: how many were allowed is not known any more


class Collector:
    """The batches of `job`: those that `transport` makes, and those in `waiting` that earlier runs have left.

    `known` is set once nothing more is to be collected.
    """

    def __init__(
        self,
        job: Job,
        desk: Desk,
        transport: BatchTransport,
        waiting: list[Waiting],
        *,
        tell: Callable[[Event], None],
        known: asyncio.Event,
    ) -> None:
        self._transport = transport
        self._job = job
        self._desk = desk
        self._journal = desk.journal
        self._waiting = waiting
        self._emit = tell
        self._known = known
        self._flying: dict[int, Request] = {}
        self._sizes: dict[int, int] = {}  # of batches: a gateway tells theirs late
        transport.book = self

    async def send(self, request: Request, *, deadline: float) -> Reply:
        """As `Transport.send`, for a request whose batch is to be noted."""
        self._flying[request.attempt] = request
        try:
            return await self._transport.send(request.prompt, deadline=deadline)
        finally:
            del self._flying[request.attempt]

    def leave(self) -> None:
        """Wait for no batch any more."""
        self._transport.leave()

    async def note(self, token: str, prompts: Mapping[str, Prompt]) -> int:
        """As `Book.note`."""
        lines = []
        for custom_id, prompt in prompts.items():
            request = self._flying[prompt.attempt]
            canaries = {number: canary.label for number, canary in request.canaries.by_number.items()}
            lines.append(Line(prompt.attempt, custom_id, read_user(prompt.user)[0], canaries))
        url, task, model = self._transport.base_url, self._job.requests.task.fingerprint, self._job.route.model
        number = await self._journal.ask(
            lambda ledger: ledger.note_batch(url=url, task=task, model=model, token=token, lines=lines)
        )
        self._sizes[number] = len(lines)
        self._tell_unmade(number, "gathered")
        return number

    async def mark(self, batch: int, *, uploaded: str | None = None, remote: str | None = None) -> None:
        """As `Book.mark`."""
        await self._journal.ask(lambda ledger: ledger.mark_batch(batch, uploaded=uploaded, remote=remote))
        if remote is None:
            self._tell_unmade(batch, "uploaded")

    def give_up(self, batch: int) -> None:
        """As `Book.give_up`."""
        self._tell_unmade(batch, GIVEN_UP)

    def tell(self, batch: int, standing: Standing) -> None:
        """As `Book.tell`."""
        self._emit(
            BatchStands(
                batch=batch,
                id=standing.id,
                state=standing.state,
                ended=standing.ran or 0,
                failed=standing.failed or 0,
                requests=standing.total or self._sizes[batch],
                expires=standing.expires,
            )
        )

    def _tell_unmade(self, batch: int, state: str) -> None:
        size = self._sizes[batch]
        self._emit(BatchStands(batch, "", state, ended=0, failed=0, requests=size, expires=None))

    async def collect(self) -> None:
        """Wait for what earlier runs have left, and book it."""
        try:
            # they run beside each other at the gateway; one after the other, one is in memory
            for waiting in self._waiting:
                await self._collect(waiting)
                failpoints.reach("batch: an earlier one is collected")
        except StillWaiting as left:
            self._job.stop(left.reason or "interrupted")
            self._job.account.wake()
        finally:
            self._known.set()

    async def _collect(self, waiting: Waiting) -> None:
        batch = waiting.batch
        self._sizes[batch.id] = len(batch.lines)
        requests = {
            line.custom_id: _rebuild(line, waiting.attempts[line.attempt], logprobs=self._job.confidence)
            for line in batch.lines
            if line.attempt in waiting.attempts
        }
        ends = await self._transport.resume(
            batch.id,
            batch.remote,
            file=batch.file,
            token=batch.token,
            prompts={custom_id: request.prompt for custom_id, request in requests.items()},
        )
        books = [self._book(request, ends[custom_id], waiting) for custom_id, request in requests.items()]
        # together: what is committed at the same time shares a transaction
        await asyncio.gather(*books)

    async def _book(self, request: Request, ended: Reply | TransportError, waiting: Waiting) -> None:
        attempt = waiting.attempts[request.attempt]
        seconds = (datetime.now(UTC) - attempt.opened).total_seconds()
        verdict = self._job.judge(request, ended, seconds, free=False)
        await self._journal.commit(verdict.closed())
        if attempt.job_name == self._desk.name:
            account = self._job.account
            account.earlier.unpriced -= request.reserve is None  # it counted as unknown while it was open
            account.book(self._job.route, verdict)
        if self._job.hold and verdict.state is AttemptState.DOUBT:
            self._job.account.doubtful.update(request.pack.keys)


class Sender:
    """How requests of `job` are sent where there are no batches."""

    def __init__(self, job: Job) -> None:
        self._job = job

    async def send(self, request: Request, *, deadline: float) -> Reply:
        """As `Transport.send`."""
        return await self._job.route.transport.send(request.prompt, deadline=deadline)

    def leave(self) -> None:
        """Nothing is left anywhere."""

    async def collect(self) -> None:
        """Nothing was."""


def make_sender(
    job: Job, desk: Desk, waiting: list[Waiting], *, tell: Callable[[Event], None], known: asyncio.Event
) -> Sender | Collector:
    """What sends for `job`, in batches where that is its transport's way; `known` as in `Intake`."""
    if isinstance(job.route.transport, BatchTransport):
        return Collector(job, desk, job.route.transport, waiting, tell=tell, known=known)
    known.set()
    return Sender(job)


async def find_waiting(
    desk: Desk, task: Task, model: str, transport: Transport, *, price: Price | None
) -> list[Waiting]:
    """What earlier runs have left in batches; `price` is the ordinary one where it was given.

    Raises `CallError` where this run cannot collect it, or where there are no batches at the gateway.
    """
    waiting = await desk.find_waiting(task, model)
    url = transport.base_url if isinstance(transport, BatchTransport) else None
    for one in waiting:
        if one.batch.url != url:
            batch = one.batch.remote or "that may not have been made"
            raise CallError(
                f"{len(one.attempts)} requests of an earlier run are in a batch ({batch}) at {one.batch.url}: "
                "run it there with --batch to collect them, or with --abandon-batches to ask again"
            )
    if isinstance(transport, BatchTransport):
        transport.price = find_batch_price(model, price or task.price_of(model))
        await transport.check()
    return waiting


def _rebuild(line: Line, attempt: Attempt, *, logprobs: bool) -> Request:
    """The request of an earlier run, as far as it takes to read its reply."""
    # no text: an answer names numbers, and the ledger's keys stand in their order
    pack = Pack(tuple(Question(key, "", 0, 0) for key in attempt.keys))
    canaries = Canaries({number: Canary("", label) for number, label in line.canaries.items()})
    prompt = Prompt("", write_user([], line.nonce), {}, _ANY_TOKENS, logprobs, line.attempt)
    record = PackRecord(failures=attempt.number - 1)
    mark = Mark(0.0, 0, 0, 0)
    return Request(line.attempt, pack, record, prompt, line.nonce, attempt.reserve, 1, canaries, mark)
