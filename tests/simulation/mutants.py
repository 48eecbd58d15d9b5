"""The classic bugs of a job that spends money, each planted for as long as a test wants it: the simulation must see it.

A mutant is an edit of one function's source: exact words for other words. Where the words are no longer there, planting
it fails, so that no mutant can outlive the code that it breaks.
"""

import __future__

import contextlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from packer import desk, job, ledger, recovery, verdicts
from packer.account import Account
from packer.attempts import Attempts
from packer.budget import Budget
from packer.desk import Desk
from packer.job import Job
from packer.journal import Journal
from packer.runner import Runner


@dataclass(frozen=True)
class Mutant:
    """`edits` are pairs of what stands in the source of `owner`'s function `name` and what stands there instead."""

    owner: Any
    name: str
    edits: tuple[tuple[str, str], ...]

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        """The bug is there until the end of the block."""
        with mock.patch.object(self.owner, self.name, self._compile()):
            yield

    def _compile(self) -> Callable[..., Any]:
        function = inspect.unwrap(getattr(self.owner, self.name))
        source = textwrap.dedent(inspect.getsource(function))
        for old, new in self.edits:
            assert source.count(old) == 1, f"{self.name}: expected once, found {source.count(old)} times: {old}"
            source = source.replace(old, new)
        made: dict[str, Any] = {}
        # in the function's own module: what a test has patched there is seen by a mutant too
        exec(compile(source, "a mutant", "exec", __future__.annotations.compiler_flag), function.__globals__, made)
        return made[self.name]  # type: ignore[no-any-return]


_COMMIT = "    await self._journal.commit(verdict.closed())\n"
_APPLY = "    self._emit(self._job.apply(verdict, self._loop.time()))\n"

MUTANTS = {
    "a result is shown before it is committed": Mutant(Attempts, "carry", ((_COMMIT, ""), (_APPLY, _APPLY + _COMMIT))),
    "a request leaves before its intent is written": Mutant(
        Attempts,
        "carry",
        (
            (
                "await self._journal.commit(opened)",
                "written = asyncio.ensure_future(self._journal.commit(opened))",
            ),
            (_COMMIT, "    await written\n" + _COMMIT),
        ),
    ),
    "the reserve of a lost reply is freed": Mutant(
        recovery,
        "book",
        (("Failure.CUT):\n            return Booking.DOUBT", "Failure.CUT):\n            return Booking.RELEASE"),),
    ),
    "what is in doubt is bought again under hold": Mutant(
        desk, "open_account", (("set(ledger.doubtful_keys()) if hold else set()", "set()"),)
    ),
    "what was in flight when a process died costs nothing": Mutant(
        ledger.Ledger, "_doubt_what_is_open", (("AttemptState.DOUBT", "AttemptState.FREED"),)
    ),
    "a budget forgets what earlier runs left in doubt": Mutant(
        desk, "open_account", (("spending.settled, spending.doubt, ", "spending.settled, Decimal(0), "),)
    ),
    "a budget forgets what is in flight": Mutant(
        Budget, "has_room", (("self._settled + self._doubt + self._reserved", "self._settled + self._doubt"),)
    ),
    "sound rows are asked again with the rest": Mutant(
        Job, "apply", (("request.pack.without({keys[number - 1] for number in verdict.rows})", "request.pack"),)
    ),
    "an answer to another pack is taken": Mutant(job, "judge", (("nonce=request.nonce", "nonce=ended.text[9:13]"),)),
    "what is known is bought again": Mutant(Journal, "find", (("ledger.find(keys)", "dict[str, Any]()"),)),
    "a job goes on after a fatal refusal": Mutant(
        Job, "_follow", (("self.account.close(self.route, step.reason)", "step = GiveUp(step.reason)"),)
    ),
    "a reply without a charge costs nothing": Mutant(
        verdicts, "_book", (("Charge(cost(usage, price), ", "Charge(Decimal(0), "),)
    ),
    "a rejected answer costs nothing": Mutant(
        job,
        "judge",
        (
            (
                '    words = f"{outcome.sound}',
                '    if not rows:\n        state, charge = AttemptState.FREED, None\n    words = f"{outcome.sound}',
            ),
        ),
    ),
    "a pack is sent again for ever": Mutant(
        recovery,
        "_after_failure",
        (("pack.failures < (MAX_FREE_ATTEMPTS if free else MAX_ATTEMPTS)", "pack.failures"),),
    ),
    "a row reaches the item at its place": Mutant(
        Job,
        "apply",
        (
            (
                "for number, value in verdict.rows.items():\n        self.board.answer(keys[number - 1]",
                "for number, value in enumerate(verdict.rows.values(), 1):\n        self.board.answer(keys[number - 1]",
            ),
        ),
    ),
    "a lost text is never told": Mutant(
        Job,
        "_follow",
        (
            (
                "for key in rest.keys:\n            self.board.give_up(key, Status.PENDING",
                "for key in rest.keys[1:]:\n            self.board.give_up(key, Status.PENDING",
            ),
        ),
    ),
    "what a sibling spends is not the job's": Mutant(
        Desk, "start_job", (("ledger.start_job(self.name, about)", "ledger.start_job(self.name + ask, about)"),)
    ),
    "a refused key is tried again by whoever else asks": Mutant(
        Account, "close", (("for member in self.members:", "for member in self.members[1:]:"),)
    ),
    "a sibling's answer is taken for an ordinary one": Mutant(
        Runner, "_make_job", (("make_keys(self.task, self.model, self._ask)", "make_keys(self.task, self.model)"),)
    ),
}
