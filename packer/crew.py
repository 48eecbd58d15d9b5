"""What runs for one runner. The first error ends the waiting of everybody, and is told at least once.

An error that breaks (the ledger is gone, a bug) is raised at once; one that is kept (the disk is full, a listener's
bug) is raised when what is in flight has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Crew:
    """The tasks of a runner, and what has gone wrong in them. `listeners` are set when something has."""

    def __init__(self) -> None:
        self.listeners: set[asyncio.Event] = set()
        self.broken: BaseException | None = None
        self._kept: Exception | None = None
        self._untold: BaseException | None = None  # whichever of the two nobody has been told yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._servants: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], *, serves: bool = False) -> asyncio.Task[None]:
        """Run `work`; what `serves` runs until `close`, and is not waited for."""
        task = asyncio.create_task(work)
        (self._servants if serves else self._tasks).add(task)
        task.add_done_callback(self._finished)
        return task

    def keep(self, error: Exception) -> None:
        """Note an error that is raised at the end; the first one counts."""
        if self._kept is None:
            self._kept = self._untold = error

    def check(self) -> None:
        """Raise what has broken."""
        if self.broken is not None:
            self._untold = None
            raise self.broken

    def raise_kept(self) -> None:
        """Raise what was kept."""
        if self._kept is not None:
            self._untold = None
            raise self._kept

    def raise_untold(self) -> None:
        """Raise what nobody has been told."""
        if self._untold is not None:
            raise self._untold

    async def wait(self) -> None:
        """Until nothing runs any more, or something has broken."""
        while self._tasks and self.broken is None:
            await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        """End everything that runs."""
        work = [*self._tasks, *self._servants]
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    def end(self, error: Exception) -> None:
        """Whoever still waits, or comes later, meets `error`, or what broke before."""
        self.broken = self.broken or error
        self._notify()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._servants.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        # The ledger is gone, or there is a bug: nothing can go on, and everybody who waits is told
        if self.broken is None:
            self.broken = self._untold = error
        self._notify()

    def _notify(self) -> None:
        for listener in self.listeners:
            listener.set()
