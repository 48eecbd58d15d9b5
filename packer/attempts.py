"""One request's way: its intent is committed before it leaves, and its verdict before that is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from packer import failpoints
from packer.collecting import Collector, Sender
from packer.crew import Crew
from packer.errors import LedgerFull, StillWaiting, StoppedError, TransportError
from packer.events import AttemptStarted, CanaryHit, Event
from packer.exchange import Reply
from packer.job import Job
from packer.journal import Journal
from packer.verdicts import Request

_DEADLINE = 120.0  # seconds for one request, whatever happens on its way


class Attempts:
    """The requests of `job`, whose number in the ledger is `number`, from intent to verdict."""

    def __init__(
        self,
        job: Job,
        journal: Journal,
        sender: Sender | Collector,
        crew: Crew,
        *,
        number: int,
        tell: Callable[[Event], None],
    ) -> None:
        self._job = job
        self._account = job.account
        self._journal = journal
        self._sender = sender
        self._crew = crew
        self._number = number
        self._emit = tell
        self._loop = asyncio.get_running_loop()

    async def carry(self, request: Request) -> None:
        """Send `request`, and apply what comes of it."""
        opened = request.opened(self._number)
        failpoints.reach("intent: about to be written")
        try:
            await self._journal.commit(opened)
        except LedgerFull as error:
            # nothing more may leave; what is in flight still has its room in the ledger, and is waited for
            self._crew.keep(error)
            self._job.withdraw(request, str(error))
            self._account.wake()
            return
        except StoppedError as error:
            # another worker of the job has met what stops all of them
            self._job.withdraw(request, error.reason)
            self._account.wake()
            return
        if self._job.stopped is not None:
            # the stop came while the intent was written: nothing has left, and nothing shall
            await self._journal.commit(request.unsent())
            self._job.withdraw(request, self._job.stopped)
            self._account.wake()
            return
        failpoints.reach("intent: durable, nothing sent")
        self._emit(AttemptStarted(request.attempt, len(request.pack), opened.number, request.prompt.max_tokens))
        began = self._loop.time()
        ended: Reply | TransportError
        try:
            ended = await self._sender.send(request, deadline=_DEADLINE)
        except TransportError as error:
            ended = error
        except StillWaiting as left:
            self._job.park(request, left.reason)
            self._account.wake()
            return
        failpoints.reach("reply: here, nothing booked")
        seconds = self._loop.time() - began
        verdict = self._job.judge(request, ended, seconds, free=self._job.route.transport.is_free())
        await self._journal.commit(verdict.closed())
        failpoints.reach("verdict: durable, nothing shown")
        self._emit(self._job.apply(verdict, self._loop.time()))
        if verdict.missed:
            self._emit(CanaryHit(request.attempt, len(request.pack), verdict.missed))
        failpoints.reach("verdict: applied")
        self._account.wake()
