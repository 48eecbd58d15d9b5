"""One desk a job: its ledger, its account and its routes, opened by the main runner and closed when all have left.

Whoever asks within a job (the main runner and its siblings) comes here, asks in a way of its own, and leaves before the
desk closes. Everybody's spending stands under the one name of the job.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from packer import failpoints
from packer.account import Account, Route
from packer.batch_files import MOST_LINES
from packer.books import Books
from packer.budget import Budget
from packer.crew import Crew
from packer.errors import CallError, PriceError
from packer.events import AttemptEnded, Event, Statistics, statistics_adapter
from packer.items import MOST_IN_FLIGHT
from packer.job import Job
from packer.journal import Journal
from packer.ledger import AttemptState, Closed, Ledger
from packer.ledger_batches import Waiting
from packer.limiter import Limiter
from packer.requests import PARAMETERS
from packer.steady import SteadyLimiter
from packer.task import Task
from packer.transport import Transport


@dataclass(slots=True)
class Spent:
    """What a way of asking took in this run; `untold` requests cost what nobody knows."""

    requests: int = 0
    usd: Decimal = Decimal(0)
    untold: int = 0


class Desk:
    """What the runners of one job share, besides their account, that awaits.

    `undo` closes all of it, the latest first: a sibling before the main runner, the ledger last. `crews` are of those
    who are here. `tell` is the main runner's.
    """

    def __init__(
        self, ledger: Path | str | None, name: str, *, cap: Decimal | None, hold: bool, tell: Callable[[Event], None]
    ) -> None:
        self.journal = Journal(ledger)
        self.account: Account
        self.undo = AsyncExitStack()
        self.crews: list[Crew] = []
        self.cap = cap
        self.hold = hold
        self.tell = tell
        self.is_open = False
        self.name = name
        self._spent: dict[str, Spent] = {}
        self._ways: set[tuple[str, str, str]] = set()

    async def open(self, *, abandoned: tuple[Task, str] | None = None) -> None:
        """Open the ledger, and the account by what it says. Raises `PriceError` and `LedgerError`.

        What is in a batch for the task and model that are `abandoned` is in doubt from now on: nobody will collect it.
        """
        await self.journal.open()
        for waiting in [] if abandoned is None else await self.find_waiting(*abandoned):
            for attempt in waiting.attempts:
                ended = Closed(attempt, AttemptState.DOUBT, "its batch was abandoned", None, None, math.nan, {})
                await self.journal.commit(ended)
        self.account = await self.journal.ask(
            lambda ledger: open_account(ledger, self.name, cap=self.cap, hold=self.hold)
        )

    def admit(self, task: Task, model: str, ask: str, undo: AsyncExitStack) -> None:
        """Let somebody in who asks in a way that nobody else here does; `undo` is theirs. Raises `CallError`."""
        self.check_open()
        way = (ask, task.fingerprint, model)
        if way in self._ways:
            raise CallError(f"ask {ask!r}: another runner of this job is asking in the same way")
        self._ways.add(way)
        undo.callback(self._ways.discard, way)
        if undo is not self.undo:
            self.undo.push_async_callback(undo.aclose)

    def check_open(self) -> None:
        """Raise `CallError` unless the main runner is open."""
        if not self.is_open:
            raise CallError("expected the main runner to be open")

    def open_route(self, model: str, transport: Transport, concurrency: int | None, *, batch: bool = False) -> Route:
        """A new way to a model; it stays, with all that is known of it, as long as the desk."""
        if batch:
            limiter: Limiter = SteadyLimiter(fixed=concurrency or MOST_LINES)
        else:
            limiter = Limiter(cap=MOST_IN_FLIGHT, fixed=concurrency)
        route = Route(model, transport, limiter, is_patient=batch)
        self.account.routes.append(route)
        self.journal.on_late.append(route.limiter.waited)
        return route

    def serve(self, job: Job, crew: Crew, statistics: Callable[[], Statistics]) -> None:
        """Whatever the desk has to do while `crew` works for `job`: nothing, where all is its own."""

    async def start_job(self, task: Task, model: str, ask: str) -> int:
        """A number in the ledger for whoever asks; its spending is that of the job."""
        about = tell_job(task.fingerprint, model) | ({"ask": ask} if ask else {})
        failpoints.reach("job: about to be noted in the ledger")
        number = await self.journal.ask(lambda ledger: ledger.start_job(self.name, about))
        failpoints.reach("job: noted")
        return number

    async def end_job(self, number: int, outcome: str, statistics: Statistics) -> None:
        """Note in the ledger how it ended."""
        standing = statistics_adapter().dump_python(statistics, mode="json")
        failpoints.reach("job: about to be ended in the ledger")
        await self.journal.ask(lambda ledger: ledger.end_job(number, outcome, standing))
        failpoints.reach("job: ended")

    async def find_waiting(self, task: Task, model: str) -> list[Waiting]:
        """The batches in which earlier runs have left what they asked of `model`."""
        return await self.journal.ask(lambda ledger: ledger.waiting(task.fingerprint, model))

    def hear(self, event: Event) -> None:
        """A sibling's event: what its requests cost is added up, and everything is told."""
        if isinstance(event, AttemptEnded):
            spent = self._spent.setdefault(event.ask, Spent())
            spent.requests += 1
            spent.usd += Decimal(0) if event.charge is None else event.charge.usd
            spent.untold += event.charge is None
        self.tell(event)

    def spent(self, ask: str) -> Spent:
        """What those took who ask in this way."""
        return self._spent.get(ask, Spent())


def tell_job(task: str, model: str) -> dict[str, Any]:
    """What the ledger keeps of a job: the fingerprint of its `task`, its model, and how that is asked."""
    return {"task": task, "model": model, "parameters": dict(PARAMETERS)}


def open_account(ledger: Ledger, name: str, *, cap: Decimal | None, hold: bool) -> Account:
    """The account of the job `name`, as its earlier runs have left it. Raises `PriceError` where that defies a cap."""
    spending = ledger.spending(name)
    if spending.unknown and cap is not None:
        raise PriceError(
            f"what {spending.unknown} earlier requests of this job cost is unknown, and a budget needs it: "
            "go on without a budget, or start over with another ledger"
        )
    return Account(
        Budget(cap, spending.settled, spending.doubt, spending.open),
        Books(spending.unknown, spending.doubt_requests, spending.doubt_texts, spending.assumed),
        attempt=ledger.next_attempt(),
        doubtful=set(ledger.doubtful_keys()) if hold else set(),
    )
