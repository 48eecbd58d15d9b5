"""A job while it runs: it is told in the job's thread and read in the server's, and what passes between never changes.

What is kept does not grow with the job: how things stand, and the last of what went wrong.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from packer.dashboard.batches import Batches
from packer.dashboard.view import Standing, Trouble, tell_standing
from packer.dashboard.writing import write_empty, write_page, write_parts
from packer.drawing import cut, shown
from packer.events import AttemptEnded, AttemptStarted, BatchStands, Event, LimitChanged, PackSizeChanged
from packer.items import Result, Status
from packer.progress import write_event
from packer.recording import Unanswered

if TYPE_CHECKING:
    from packer.report import Report

_LAST = 30  # of what went wrong
_RATE_SAMPLES = 120  # of the reports, a few a second
_TEXT_CUT, _REASON_CUT = 160, 300  # characters
_QUIET = (AttemptStarted, LimitChanged, PackSizeChanged)


class LiveJob:
    """The pages of a job that runs. `event`, `result` and `show` are called in the job's thread."""

    def __init__(self, rows: int | None) -> None:
        self._rows = rows
        self._count = 0
        self._troubles: deque[Trouble] = deque(maxlen=_LAST)
        self._lost: deque[Unanswered] = deque(maxlen=_LAST)
        self._seen: deque[tuple[float, int]] = deque(maxlen=_RATE_SAMPLES)
        self._batches = Batches()
        self._standing: Standing | None = None
        self._written: tuple[Standing | None, Mapping[str, str]] = (None, {})

    def event(self, event: Event) -> None:
        """Hear of a request that went wrong, and of what else is told."""
        if isinstance(event, BatchStands) and not self._batches.event(event):
            return
        if isinstance(event, _QUIET) or (isinstance(event, AttemptEnded) and event.step == "accept"):
            return
        if (words := write_event(event)) is not None:
            who = f"{event.ask}: " if event.ask else ""
            self._troubles.appendleft(Trouble(time.strftime("%H:%M:%S"), cut(who + words, _REASON_CUT)))

    def result(self, text: str, result: Result) -> None:
        """See the next row's result."""
        self._count += 1
        if result.status not in {Status.LABELLED, Status.PENDING}:
            words, reason = cut(text[: _TEXT_CUT + 1], _TEXT_CUT), cut(result.error, _REASON_CUT)
            self._lost.appendleft(Unanswered(self._count, result.status, reason, words))

    def show(self, report: Report, *, is_over: bool = False) -> None:
        """From now on, things stand like this."""
        now = report.statistics
        done = now.labelled + now.failed + now.doubt + now.pending
        self._seen.append((now.seconds, done))
        # over the last samples only: what came from the ledger at the start says nothing of the rest
        seconds, before = self._seen[0]
        rate = (done - before) / (now.seconds - seconds) if now.seconds > seconds else 0.0
        troubles, lost, batches = tuple(self._troubles), tuple(self._lost), self._batches.standings()
        self._standing = Standing(report, self._rows, rate, troubles, lost, is_over, batches)

    def page(self, path: str) -> str | None:
        """The one page there is."""
        if path != "/":
            return None
        standing = self._standing
        if standing is None:
            return write_empty("The job has not begun yet.", is_early=True)
        title = f"{shown(standing.report.settings.input)} - prompt-packer"
        return write_page(title, self.parts() or {}, report=standing.report)

    def parts(self, path: str = "/") -> Mapping[str, str] | None:
        """What changes on it."""
        if path != "/":
            return None
        standing = self._standing
        before, parts = self._written
        if standing is not None and standing is not before:
            parts = write_parts(tell_standing(standing))
            self._written = (standing, parts)
        return parts
