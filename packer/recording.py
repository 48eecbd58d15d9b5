"""What a report remembers of a run while it runs takes the same memory however long the job is.

A series that is full drops every second moment and looks half as often from then on, so that it covers the whole run at
one distance. Requests are counted by names from a fixed set. Of items without a label, or with a doubtful one, the
first ones are kept, cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from annotated_types import MaxLen

from packer.errors import Failure
from packer.events import AttemptEnded, Event, Statistics
from packer.items import Decision, Result, Status, canonical_json, plain_record
from packer.shown import cut_shown

MOST_MOMENTS = 240
MOST_UNANSWERED = 100
_FIRST_STEP = 0.05  # seconds
_TEXT_CUT = 160  # characters
_REASON_CUT = 300
FAILURES = frozenset(failure.value for failure in Failure)
_STEPS = {"giveup": "give up"}


@dataclass(frozen=True, slots=True)
class Moment:
    """How things stood `seconds` after the start; counts are of this run, money of all runs of the job, in USD."""

    seconds: float
    labelled: int
    failed: int
    requests: int
    refused: int
    settled: Decimal
    in_doubt: Decimal
    in_flight: int
    limit: int
    pack_size: int


@dataclass(frozen=True, slots=True)
class Unanswered:
    """An item without a label: its row in the input from 1 (a header is none), why, and its text, cut."""

    row: int
    status: Status
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Doubtful:
    """An item whose answer is in doubt still: its row, the answer (a record as JSON) and its text, both cut.

    `confidence` is None where it is unknown; `votes` says how many answers were weighed.
    """

    row: int
    answer: str
    confidence: float | None
    votes: int
    text: str


@dataclass(frozen=True, slots=True)
class Recording:
    """What was seen of a run.

    `timeline` is in the order of time. `outcomes` counts requests: those that were answered by the step that followed,
    the others by how they failed. `unanswered` are the first items without a label, pending ones only where there is
    room for them. `doubtful` are the first items whose answer is in doubt still.
    """

    timeline: Annotated[Sequence[Moment], MaxLen(MOST_MOMENTS)]
    outcomes: Counter[str]
    unanswered: Annotated[Sequence[Unanswered], MaxLen(MOST_UNANSWERED)]
    doubtful: Annotated[Sequence[Doubtful], MaxLen(MOST_UNANSWERED)]


class Recorder:
    """Hears a run's events and results, and is shown its statistics from time to time."""

    def __init__(self) -> None:
        self._moments: list[Moment] = []
        self._step = _FIRST_STEP
        self._outcomes: Counter[str] = Counter()
        self._asked: list[Unanswered] = []
        self._pending: list[Unanswered] = []
        self._doubtful: list[Doubtful] = []
        self._rows = 0

    def event(self, event: Event) -> None:
        """Count a request that has ended, where it asked packs; statistics do not count those of an audit either."""
        if isinstance(event, AttemptEnded) and not event.ask:
            self._outcomes[_name_outcome(event)] += 1

    def sample(self, now: Statistics) -> None:
        """See how things stand; kept where the last moment is long enough ago."""
        if len(self._moments) == MOST_MOMENTS - 1:  # one place is the last moment's
            span = self._moments[-1].seconds - self._moments[0].seconds
            # a little under two distances, so that a look that comes early is not missed
            self._step = 1.9 * span / (MOST_MOMENTS - 2)
            del self._moments[1::2]
        if not self._moments or now.seconds >= self._moments[-1].seconds + self._step:
            self._moments.append(self._make_moment(now))

    def result(self, text: str, result: Result) -> None:
        """See the next row's result."""
        self._rows += 1
        if result.status is Status.LABELLED:
            if result.decision is Decision.DOUBTFUL and len(self._doubtful) < MOST_UNANSWERED:
                self._doubtful.append(_describe(self._rows, text, result))
            return
        kept = self._pending if result.status is Status.PENDING else self._asked
        if len(kept) < MOST_UNANSWERED:
            reason, shown = cut_shown(result.error, _REASON_CUT), cut_shown(text, _TEXT_CUT)
            kept.append(Unanswered(self._rows, result.status, reason, shown))

    def finish(self, now: Statistics) -> Recording:
        """All that was seen; `now` is the last moment."""
        last = self._make_moment(now)
        moments = [moment for moment in self._moments if moment.seconds < last.seconds]
        unanswered = self._asked + self._pending[: MOST_UNANSWERED - len(self._asked)]
        unanswered.sort(key=lambda item: item.row)
        return Recording([*moments, last], self._outcomes, unanswered, self._doubtful)

    def _make_moment(self, now: Statistics) -> Moment:
        return Moment(
            seconds=round(now.seconds, 3),
            labelled=now.labelled,
            failed=now.failed,
            requests=now.requests,
            refused=self._outcomes[Failure.RATE_LIMITED],
            settled=now.settled,
            in_doubt=now.in_doubt,
            in_flight=now.in_flight,
            limit=now.limit,
            pack_size=now.pack_size,
        )


def _name_outcome(ended: AttemptEnded) -> str:
    """How a request failed, else the step that followed its answer."""
    kind = ended.outcome.partition(":")[0]
    return kind if kind in FAILURES else _STEPS.get(ended.step, ended.step)


def _describe(row: int, text: str, result: Result) -> Doubtful:
    answer = result.label or canonical_json(plain_record(result.record))
    return Doubtful(row, cut_shown(answer, _TEXT_CUT), result.confidence, result.votes, cut_shown(text, _TEXT_CUT))
