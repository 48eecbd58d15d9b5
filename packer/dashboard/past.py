"""The jobs of a ledger as pages. It is read for each page anew, so a page shows what was so when it was asked for."""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from packer.dashboard.bars import Share
from packer.dashboard.panels import draw_panels
from packer.dashboard.view import Trouble, View, tell_outcomes, tell_states
from packer.dashboard.writing import write_empty, write_jobs, write_page, write_parts
from packer.drawing import cut, percent, shown
from packer.errors import Failure, LedgerError
from packer.events import statistics_adapter
from packer.recording import FAILURES, MOST_MOMENTS, Moment
from packer.report_words import Tile, write_range
from packer.shown import count_of
from packer.summary import write_seconds
from packer.usage import format_usd

if TYPE_CHECKING:
    from packer.events import Statistics
    from packer.ledger import Attempt, JobRecord, Ledger

_JOB_PAGE = re.compile(r"/job/([1-9][0-9]{0,14})")
_WHOLE = re.compile(r"([0-9]+) of \1 answers")
_LAST = 30  # of what went wrong
_CUT = 300  # characters
_IN_FLIGHT, _ANSWERED, _IN_PART, _INTERRUPTED = "in flight", "answered", "answered in part", "interrupted"


@dataclass(frozen=True, slots=True)
class Row:
    """A job in the list of them, in words; `states` as in `View`."""

    id: int
    name: str
    model: str
    began: str
    took: str
    word: str
    tone: str
    labelled: str
    requests: str
    cost: str
    states: tuple[Share, ...]


class PastJobs:
    """The pages of the ledger at `path`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def page(self, path: str) -> str | None:
        """The list of jobs, or one of them."""
        from packer.ledger import Ledger  # noqa: PLC0415  sqlite3

        found = _JOB_PAGE.fullmatch(path)
        if path != "/" and found is None:
            return None
        try:
            with Ledger(self._path, read_only=True) as ledger:
                jobs = ledger.jobs()
                if found is None:
                    return write_jobs([_tell_row(job) for job in jobs], ledger=self._path)
                job = next((job for job in jobs if job.id == int(found[1])), None)
                if job is None:
                    return None
                title = f"Job {job.id} - prompt-packer"
                return write_page(title, write_parts(_tell_job(ledger, job)), is_live=False)
        except LedgerError as error:
            return write_empty(str(error))

    def parts(self) -> Mapping[str, str] | None:
        """Nothing on them changes."""
        return None


def _tell_row(job: JobRecord) -> Row:
    now = _read_statistics(job)
    word, tone = _tell_end(job, now)
    # without an end nobody knows how many items there are
    states = () if now is None else tuple(tell_states(now, now.items))
    return Row(
        id=job.id,
        name=_name_source(job),
        model=cut(str(job.about.get("model", "")), _CUT),
        began=f"{job.started:%Y-%m-%d %H:%M} UTC",
        took=write_seconds((job.seen - job.started).total_seconds()),
        word=word,
        tone=tone,
        labelled=f"{job.answers:,} answers" if now is None else f"{now.labelled:,} of {now.items:,}",
        requests=f"{job.requests:,}",
        cost=_write_cost(job),
        states=states,
    )


def _tell_job(ledger: Ledger, job: JobRecord) -> View:
    now = _read_statistics(job)
    course = _Course(job)
    for attempt in ledger.attempts(job.id):
        course.add(attempt)
    answers = ledger.count_answers(job.id, since=job.started, step=course.step)
    return View(
        verdict=_tell_verdict(job, now),
        states=[] if now is None else list(tell_states(now, now.items)),
        states_said=""
        if now is None
        else f"{now.labelled:,} labelled, {now.failed:,} failed, {now.doubt:,} in doubt, {now.pending:,} pending.",
        tiles=list(_tell_tiles(job, now)),
        panels=draw_panels(course.moments(answers), bought=True) if job.requests else (),
        outcomes=tell_outcomes(course.outcomes),
        troubles=list(course.troubles),
        facts=[("The job", list(_tell_facts(job, now))), ("Requests and tokens", list(_tell_counts(job, now)))],
    )


class _Course:
    """Adds a job's requests up over time, in a bounded number of steps."""

    def __init__(self, job: JobRecord) -> None:
        self.step = max((job.seen - job.started) / (MOST_MOMENTS - 1), timedelta(milliseconds=1))
        self.outcomes: Counter[str] = Counter()
        self.troubles: deque[Trouble] = deque(maxlen=_LAST)
        self._started = job.started
        self._left: Counter[int] = Counter()
        self._back: Counter[int] = Counter()
        self._refused: Counter[int] = Counter()
        self._settled: Counter[int] = Counter()  # in nano-USD: a Counter holds whole numbers
        self._doubt: Counter[int] = Counter()

    def add(self, attempt: Attempt) -> None:
        """See the next request."""
        from packer.ledger import AttemptState  # noqa: PLC0415  sqlite3

        outcome = _name_outcome(attempt)
        self.outcomes[outcome] += 1
        if outcome not in {_ANSWERED, _IN_FLIGHT}:
            pack = "single" if len(attempt.keys) == 1 else f"pack of {len(attempt.keys):,}"
            words = f"{pack}, attempt {attempt.number}: {attempt.outcome}"
            when = attempt.opened if attempt.closed is None else attempt.closed
            self.troubles.appendleft(Trouble(f"{when:%H:%M:%S}", cut(words, _CUT)))
        self._left[self._place(attempt.opened)] += 1
        if attempt.closed is None:
            return
        place = self._place(attempt.closed)
        self._back[place] += 1
        self._refused[place] += outcome == Failure.RATE_LIMITED
        usd = attempt.reserve if attempt.charge is None else attempt.charge.usd
        booked = {AttemptState.SETTLED: self._settled, AttemptState.DOUBT: self._doubt}.get(attempt.state)
        if usd is not None and booked is not None:
            booked[place] += int(usd.scaleb(9))

    def moments(self, answers: Mapping[int, int]) -> list[Moment]:
        """How things stood at the end of each step."""
        sums, moments = Counter[str](), []
        for place in range(MOST_MOMENTS):
            sums["left"] += self._left[place]
            sums["back"] += self._back[place]
            sums["refused"] += self._refused[place]
            sums["answers"] += answers.get(place, 0)
            sums["settled"] += self._settled[place]
            sums["doubt"] += self._doubt[place]
            moment = Moment(
                seconds=self.step.total_seconds() * place,
                labelled=sums["answers"],
                failed=0,
                requests=sums["left"],
                refused=sums["refused"],
                settled=Decimal(sums["settled"]).scaleb(-9),
                in_doubt=Decimal(sums["doubt"]).scaleb(-9),
                in_flight=sums["left"] - sums["back"],
                limit=0,
                pack_size=0,
            )
            moments.append(moment)
        return moments

    def _place(self, time: datetime) -> int:
        return min(max((time - self._started) // self.step, 0), MOST_MOMENTS - 1)


def _name_source(job: JobRecord) -> str:
    """What was labelled, where the job's name says so; else its name."""
    try:
        _, _, source = json.loads(job.name)
    except (ValueError, TypeError):
        source = job.name
    return cut(str(source), _CUT)


def _name_outcome(attempt: Attempt) -> str:
    if attempt.closed is None:
        return _IN_FLIGHT
    kind = attempt.outcome.partition(":")[0]
    if kind in FAILURES or kind == _INTERRUPTED:
        return kind
    return _ANSWERED if _WHOLE.fullmatch(attempt.outcome) else _IN_PART


def _read_statistics(job: JobRecord) -> Statistics | None:
    """Those of its end; None without an end, or where another version wrote what this one does not know."""
    import pydantic  # noqa: PLC0415  slow

    try:
        return None if job.statistics is None else statistics_adapter().validate_python(job.statistics)
    except pydantic.ValidationError:
        return None


def _tell_end(job: JobRecord, now: Statistics | None) -> tuple[str, str]:
    """A word and a tone."""
    if job.ended is None:
        return "No end", "warn"
    if job.outcome != "finished":
        return "Stopped", "warn"
    if now is not None and now.failed + now.doubt + now.pending:
        return "Finished", "warn"
    return "Done", "good"


def _tell_verdict(job: JobRecord, now: Statistics | None) -> dict[str, str]:
    word, tone = _tell_end(job, now)
    sentence = f"{count_of(job.answers, 'answer')} from {count_of(job.requests, 'request')}."
    if now is not None:
        sentence = f"{now.labelled:,} of {count_of(now.items, 'item')} labelled."
    after = (
        "Its answers are in the ledger." if job.ended else "It runs, or its process died. Load the page again to see."
    )
    if job.outcome not in {None, "finished"}:
        after = f"Why: {cut(str(job.outcome), _CUT).rstrip('.')}. Its answers are in the ledger."
    model = cut(str(job.about.get("model", "an unknown model")), _CUT)
    began, until = f"{job.started:%Y-%m-%d %H:%M}", ""
    if job.ended is not None:
        same_day = job.ended.date() == job.started.date()
        until = f" to {job.ended:%H:%M}" if same_day else f" to {job.ended:%Y-%m-%d %H:%M}"
    where = f"Job {job.id}, {_name_source(job)}, by {model}. {began}{until} UTC."
    return {"tone": tone, "word": f"{word}:", "sentence": sentence, "next": after, "where": where}


def _tell_tiles(job: JobRecord, now: Statistics | None) -> Iterator[Tile]:
    if now is not None:
        share = percent(now.labelled / now.items) if now.items else "no items"
        known = f", {now.known:,} without a request" if now.known else ""
        yield Tile("Labelled", f"{now.labelled:,}", f"{share}{known}", "good")
        counts = ((now.failed, "failed"), (now.doubt, "in doubt"), (now.pending, "pending"))
        left = ", ".join(f"{count:,} {word}" for count, word in counts if count)
        yield Tile("Without a label", f"{sum(count for count, _ in counts):,}", left, "warn" if left else "")
    yield Tile("Answers", f"{job.answers:,}", "from its requests", "good")
    unpriced = f"no price for {count_of(job.unpriced, 'request')}" if job.unpriced else ""
    yield Tile("Cost of this run", _write_cost(job), unpriced, "warn" if job.least != job.most else "")
    seconds = (job.seen - job.started).total_seconds()
    pace = f"{job.answers / seconds:,.1f} answers a second" if seconds > 0 else ""
    yield Tile("Time", write_seconds(seconds), pace)
    yield Tile("Requests", f"{job.requests:,}", f"{job.in_flight:,} in flight" if job.in_flight else "")


def _tell_facts(job: JobRecord, now: Statistics | None) -> Iterator[tuple[str, str]]:
    yield "input", _name_source(job)
    yield "model", cut(str(job.about.get("model", "unknown")), _CUT)
    yield "task", shown(str(job.about.get("task", "unknown")))
    if ask := job.about.get("ask"):
        yield "asked", shown(str(ask))
    yield "this run", _write_cost(job)
    if now is not None:
        yield "all runs then", write_range(now.settled - now.assumed, now.settled + now.in_doubt)
        if now.balance is not None:
            yield "balance", f"{format_usd(now.balance)} when the gateway last told it"


def _tell_counts(job: JobRecord, now: Statistics | None) -> Iterator[tuple[str, str]]:
    yield "requests", f"{job.requests:,}"
    if now is None:
        return
    yield "items", f"{now.items:,}"
    yield "packs", f"{now.packs:,}"
    yield "input tokens", f"{now.usage.input_tokens:,}, {now.usage.cached_input_tokens:,} of them cached"
    yield "output tokens", f"{now.usage.output_tokens:,}"
    yield "last limit", f"{now.limit:,} in flight, packs of {now.pack_size:,}"


def _write_cost(job: JobRecord) -> str:
    return "unknown" if job.unpriced else write_range(job.least, job.most)
