"""A job of a ledger that another process may be writing: a look reads what has changed since the last one, and no more.

Each look opens the ledger for reading and is of one moment. A request is read when it is first seen, and once more when
it has ended; answers are counted where their request has, so that a look costs what happened and not what is there.
"""

from __future__ import annotations

from collections import deque

from packer.dashboard.course import Course
from packer.ledger import Attempt, JobEntry, JobRecord, Ledger
from packer.ledger_batches import Batch, Waiting, WaitingSum, add_up, match

_OVERLAP = 1_000  # requests that are committed a moment later than one with a higher number


class JobWatch:
    """The job with the id `job` in the ledger at `path`; `look` comes first."""

    def __init__(self, path: str, job: int) -> None:
        self.entry: JobEntry
        self.course: Course
        self.waiting: WaitingSum | None = None
        self._path = path
        self._job = job
        self._begun: JobEntry | None = None

    @property
    def record(self) -> JobRecord:
        """The job, as it was when it was looked at."""
        return self.course.record(self.entry)

    def look(self) -> bool:
        """Read what is new; whether the job is there. Raises `LedgerError`."""
        with Ledger(self._path, read_only=True) as ledger, ledger.snapshot():
            entry = ledger.job(self._job)
            if entry is None:
                return False
            begun, self._begun = self._begun, None  # what fails half way begins anew
            # another file in its place has another job
            if begun is None or (begun.started, begun.name) != (entry.started, entry.name):
                self._begin(ledger, entry)
            else:
                self._go_on(ledger)
            self._look_at_batches(ledger)
            self.entry = self._begun = entry
        return True

    def _begin(self, ledger: Ledger, entry: JobEntry) -> None:
        course = Course(entry)
        self._last = 0
        self._recent: deque[int] = deque(maxlen=2 * _OVERLAP)
        for attempt in ledger.attempts(entry.id):
            course.opened(attempt)
            if attempt.closed is not None:
                course.closed(attempt)
            self._note(attempt.id)
        course.answered(ledger.count_answers(entry.id, since=entry.started, step=course.step))
        self.course = course
        self._batches: list[Batch] = []
        self._last_batch = 0

    def _go_on(self, ledger: Ledger) -> None:
        course = self.course
        listed = ledger.list_attempts(self._job, after=self._last - _OVERLAP)
        known = set(self._recent)
        fresh = [ident for ident in listed if ident not in known]
        ended = course.open - ledger.list_open(course.open)
        for attempt in ledger.attempts_by_id(fresh):
            course.opened(attempt)
            self._note(attempt.id)
            if attempt.closed is not None:
                course.closed(attempt, ledger.count_answers_of(attempt))
        for attempt in ledger.attempts_by_id(ended):
            course.closed(attempt, ledger.count_answers_of(attempt))

    def _note(self, attempt: int) -> None:
        self._recent.append(attempt)
        self._last = max(self._last, attempt)

    def _look_at_batches(self, ledger: Ledger) -> None:
        after = min([batch.id - 1 for batch in self._batches], default=self._last_batch)
        waiting: list[Waiting] = []
        attempts: dict[int, Attempt] | None = None
        for batch in ledger.batches(after=after):
            if attempts is None:
                attempts = {attempt.id: attempt for attempt in ledger.attempts_by_id(self.course.open)}
            self._last_batch = max(self._last_batch, batch.id)
            if (one := match(batch, attempts)).attempts:
                waiting.append(one)
        self._batches = [one.batch for one in waiting]
        self.waiting = add_up(waiting)
