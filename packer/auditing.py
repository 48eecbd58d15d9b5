"""What was labelled in a pack is asked again alone, in part, while the job goes on. No row waits for it, or changes.

Nothing is bought twice: answers that were given alone are kept in the ledger, and an item of an earlier run is compared
where both of its answers are there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from packer.audit import Audit
from packer.crew import Crew
from packer.errors import CallError
from packer.events import Audited, Event
from packer.items import Result, Status
from packer.job import Job
from packer.journal import Journal
from packer.options import read_share
from packer.packs import Pack, PackLimits

ASK = "single"  # how it is asked, in the ledger's keys
_MOST_WAITING = 1_000  # items to be asked again; one more is left out
_REMEMBERED = 50_000  # chosen items that are not counted again with their copies; a bound, not a promise


def make_audit(share: float, promise: float, limits: PackLimits, seed: int) -> Audit:
    """An audit of packs within `limits`. Raises `CallError`."""
    if limits.max_items == 1:
        raise CallError("audit: expected packs of more than one item, for singles are asked alone already")
    share, promise = read_share("audit", share), read_share("max_disagreement", promise)
    return Audit(share, promise, cap=limits.max_items, seed=seed)


class Auditor:
    """Carries `audit` out on `job`. `ask` gives a text's result alone, and `make_key` its key in the ledger."""

    def __init__(
        self,
        audit: Audit,
        job: Job,
        journal: Journal,
        *,
        ask: Callable[[str], Awaitable[Result]],
        make_key: Callable[[str], str],
        tell: Callable[[Event], None],
    ) -> None:
        self.audit = audit
        self._job = job
        self._journal = journal
        self._ask = ask
        self._make_key = make_key
        self._tell = tell
        self._told = 0
        self._crew = Crew()
        self._waiting = 0
        self._chosen: set[str] = set()

    def answered(self, pack: Pack, rows: Mapping[int, Any]) -> None:
        """Choose among the items of a pack that got an answer."""
        for number, value in rows.items() if len(pack) > 1 else ():
            question = pack.questions[number - 1]
            if self._waiting < _MOST_WAITING and self._chooses(question.key):
                self._waiting += 1
                self._crew.start(self._ask_again(question.text, value, size=len(pack), number=number))

    def recalled(self, known: Iterable[tuple[str, str, Any]]) -> None:
        """Compare items that were answered before, by key, text and answer, where they were asked alone too."""
        chosen = {self._make_key(text): value for key, text, value in known if self._chooses(key)}
        if chosen:
            self._crew.start(self._compare_known(chosen))

    async def finish(self) -> None:
        """Wait for what is still asked; with a job that has stopped, nothing is."""
        await self._crew.wait()
        if self.audit.asked > self._told:
            self._tell_result()

    async def close(self) -> None:
        """Ask no more."""
        await self._crew.cancel()

    async def _ask_again(self, text: str, value: Any, *, size: int, number: int) -> None:
        try:
            result = await self._ask(text)
        finally:
            self._waiting -= 1
        if result.status is Status.LABELLED:
            agreed = (result.label, result.record) == self._load(value)
            if self.audit.compared(agreed=agreed, size=size, number=number):
                self._job.sizer.lower(self.audit.cap)
                self._job.wake()
                self._tell_result()

    async def _compare_known(self, chosen: Mapping[str, Any]) -> None:
        alone = await self._journal.ask(lambda ledger: ledger.find(list(chosen)))
        for key, value in alone.items():
            self.audit.compared(agreed=self._load(value) == self._load(chosen[key]))

    def _tell_result(self) -> None:
        self._told = self.audit.asked
        found = self.audit.result()
        share = found.disagreement
        self._tell(Audited(found.asked, found.agreed, share.low, share.high, found.promise, found.broken))

    def _chooses(self, key: str) -> bool:
        if key in self._chosen or not self.audit.chooses(key):
            return False
        if len(self._chosen) >= _REMEMBERED:
            self._chosen.clear()
        self._chosen.add(key)
        return True

    def _load(self, value: Any) -> tuple[str | None, Any]:
        with contextlib.suppress(Exception):  # a model's validators are the user's code
            return self._job.board.task.load(value)
        return None, value
