"""A job's requests added up over time, one by one as the ledger tells of them, in a bounded number of steps.

A step becomes twice as long where the job outgrows them. What comes from a clock that was put back is in the first one.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from packer.dashboard.view import Trouble
from packer.drawing import cut
from packer.errors import Failure
from packer.exchange import ChargeSource
from packer.ledger import Attempt, AttemptState, JobEntry, JobRecord
from packer.recording import FAILURES, MOST_MOMENTS, Moment
from packer.usage import to_nano, to_usd

_WHOLE = re.compile(r"([0-9]+) of \1 answers")
_LAST = 30  # of what went wrong
_CUT = 300  # characters
_ANSWERED, _IN_PART, _INTERRUPTED = "answered", "answered in part", "interrupted"
_IN_FLIGHT = "in flight"
_SHORTEST = timedelta(milliseconds=1)


class Course:
    """The requests of `job`: `opened` is told of each, and `closed` of it again once it has ended.

    `open` are the ids of those that have not. Amounts are in nano-USD: a Counter holds whole numbers.
    """

    def __init__(self, job: JobEntry) -> None:
        self.step = _SHORTEST
        self.open: set[int] = set()
        self.requests = 0
        self.answers = 0
        self.troubles: deque[Trouble] = deque(maxlen=_LAST)
        self._outcomes: Counter[str] = Counter()
        self._started = self._seen = job.started
        self._unpriced = self._assumed = self._reserved = 0
        self._left: Counter[int] = Counter()
        self._back: Counter[int] = Counter()
        self._refused: Counter[int] = Counter()
        self._answers: Counter[int] = Counter()
        self._settled: Counter[int] = Counter()
        self._doubt: Counter[int] = Counter()

    def opened(self, attempt: Attempt) -> None:
        """See the next request; where it is open, it may be closed later."""
        self.requests += 1
        self._seen = max(self._seen, attempt.opened)
        self._left[self._place(attempt.opened)] += 1
        if attempt.closed is None:
            self.open.add(attempt.id)
            self._reserved += _nano(attempt.reserve)
            self._unpriced += attempt.reserve is None

    def closed(self, attempt: Attempt, answers: int = 0) -> None:
        """See how a request has ended, and how many answers it brought."""
        assert attempt.closed is not None, "it has ended"
        if attempt.id in self.open:
            self.open.remove(attempt.id)
            self._reserved -= _nano(attempt.reserve)
            self._unpriced -= attempt.reserve is None
        outcome = _name_outcome(attempt)
        self._outcomes[outcome] += 1
        if outcome != _ANSWERED:
            pack = "single" if len(attempt.keys) == 1 else f"pack of {len(attempt.keys):,}"
            words = f"{pack}, attempt {attempt.number}: {attempt.outcome}"
            self.troubles.appendleft(Trouble(f"{attempt.closed:%H:%M:%S}", cut(words, _CUT)))
        # a process that died closes nothing: its requests are closed when the ledger is next opened, perhaps days later
        if attempt.outcome != _INTERRUPTED:
            self._seen = max(self._seen, attempt.closed)
        place = self._place(min(attempt.closed, self._seen))
        self._back[place] += 1
        self._refused[place] += outcome == Failure.RATE_LIMITED
        self.answers += answers
        self._answers[place] += answers
        usd = attempt.reserve if attempt.charge is None else attempt.charge.usd
        self._unpriced += usd is None and attempt.state is not AttemptState.FREED
        if attempt.charge is not None and attempt.charge.source is ChargeSource.RESERVE:
            self._assumed += _nano(attempt.charge.usd)
        booked = {AttemptState.SETTLED: self._settled, AttemptState.DOUBT: self._doubt}.get(attempt.state)
        if booked is not None:
            booked[place] += _nano(usd)

    def answered(self, counts: Mapping[int, int]) -> None:
        """Add answers by the number of their `step`."""
        for place, count in counts.items():
            self.answers += count
            self._answers[min(max(place, 0), MOST_MOMENTS - 1)] += count

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many requests ended in which way, those in flight included."""
        return self._outcomes | Counter({_IN_FLIGHT: len(self.open)})

    def record(self, job: JobEntry) -> JobRecord:
        """The job with its sums."""
        settled, doubt = self._settled.total(), self._doubt.total()
        return JobRecord(
            id=job.id,
            name=job.name,
            about=job.about,
            started=job.started,
            ended=job.ended,
            seen=max(self._seen, job.ended or job.started),
            outcome=job.outcome,
            statistics=job.statistics,
            requests=self.requests,
            in_flight=len(self.open),
            answers=self.answers,
            least=to_usd(settled - self._assumed),
            most=to_usd(settled + doubt + self._reserved),
            unpriced=self._unpriced,
        )

    def moments(self) -> list[Moment]:
        """How things stood at the end of each step, the last of which is the last in which something happened."""
        sums, moments = Counter[str](), []
        for place in range(1 + max(max(self._left, default=0), max(self._back, default=0))):
            sums["left"] += self._left[place]
            sums["back"] += self._back[place]
            sums["refused"] += self._refused[place]
            sums["answers"] += self._answers[place]
            sums["settled"] += self._settled[place]
            sums["doubt"] += self._doubt[place]
            moment = Moment(
                seconds=self.step.total_seconds() * place,
                labelled=sums["answers"],
                failed=0,
                requests=sums["left"],
                refused=sums["refused"],
                settled=to_usd(sums["settled"]),
                in_doubt=to_usd(sums["doubt"]),
                in_flight=max(sums["left"] - sums["back"], 0),  # a clock may be put back
                limit=0,
                pack_size=0,
            )
            moments.append(moment)
        return moments

    def _place(self, time: datetime) -> int:
        since = time - self._started
        while since // self.step >= MOST_MOMENTS:
            self._widen()
        return max(since // self.step, 0)

    def _widen(self) -> None:
        self.step *= 2
        for counts in (self._left, self._back, self._refused, self._answers, self._settled, self._doubt):
            halved = Counter[int]()
            for place, count in counts.items():
                halved[place // 2] += count
            counts.clear()
            counts.update(halved)


def _name_outcome(attempt: Attempt) -> str:
    kind = attempt.outcome.partition(":")[0]
    if kind in FAILURES or kind == _INTERRUPTED:
        return kind
    return _ANSWERED if _WHOLE.fullmatch(attempt.outcome) else _IN_PART


def _nano(usd: Decimal | None) -> int:
    return 0 if usd is None else to_nano(usd)
