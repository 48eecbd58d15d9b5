"""The jobs of a ledger as pages: read for each page anew, and while somebody looks at one, at a cheap pace."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from packer.dashboard.bars import Share
from packer.dashboard.panels import draw_panels
from packer.dashboard.view import View, tell_outcomes, tell_states
from packer.dashboard.writing import write_empty, write_jobs, write_list, write_page, write_parts, write_trouble
from packer.drawing import cut, percent, shown
from packer.errors import LedgerError
from packer.events import statistics_adapter
from packer.ledger_view import write_set_aside
from packer.report_words import Tile, write_range
from packer.shown import count_of
from packer.summary import write_seconds
from packer.usage import format_usd

if TYPE_CHECKING:
    from packer.dashboard.watching import JobWatch
    from packer.events import Statistics
    from packer.ledger import JobRecord
    from packer.ledger_batches import WaitingSum

_JOB_PAGE = re.compile(r"/job/([1-9][0-9]{0,14})")
_CUT = 300  # characters
_PACE = 2.0  # seconds between two looks at the ledger,
_SHARE = 20.0  # and so many times what the last one took
_MOST_WATCHED = 8  # pages


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


class Watch(Protocol):
    """What a page shows, read at each `look`. All raise `LedgerError`."""

    def look(self) -> Mapping[str, str] | None:
        """The HTML of each part as it stands now; None where there is no such page."""


class _Jobs:
    def __init__(self, path: str) -> None:
        self._path = path

    def look(self) -> Mapping[str, str]:
        from packer.ledger import Ledger  # noqa: PLC0415  sqlite3
        from packer.ledger_batches import add_up  # noqa: PLC0415  sqlite3

        with Ledger(self._path, read_only=True) as ledger, ledger.snapshot():
            jobs, waiting = ledger.jobs(), ledger.all_waiting()
        rows = [_tell_row(job, add_up(waiting, job=job.id)) for job in jobs]
        title = f"{count_of(len(rows), 'job')} in the ledger"
        if jobs and len(rows) < jobs[0].id:  # none is ever removed
            title = f"The last {len(rows):,} of {jobs[0].id:,} jobs in the ledger"
        return {"jobs": write_jobs(rows, title=title, ledger=self._path)}


class _Job:
    def __init__(self, path: str, job: int) -> None:
        from packer.dashboard.watching import JobWatch  # noqa: PLC0415  sqlite3

        self._watch = JobWatch(path, job)

    def look(self) -> Mapping[str, str] | None:
        return write_parts(_tell_job(self._watch)) if self._watch.look() else None


@dataclass(slots=True)
class _Seen:
    """What a page showed when it was last looked at, and when it may be looked at again."""

    watch: Watch
    parts: Mapping[str, str]
    again: float


class PastJobs:
    """The pages of the ledger at `path`; `clock` tells seconds."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._seen: dict[str, _Seen] = {}  # the least recently asked for first

    def page(self, path: str) -> str | None:
        """The list of jobs, or one of them."""
        try:
            parts = self._look(path)
        except LedgerError as error:
            return write_empty(str(error))
        if parts is None:
            return None
        return write_list(parts) if path == "/" else write_page(f"Job {path[5:]} - prompt-packer", parts)

    def parts(self, path: str = "/") -> Mapping[str, str] | None:
        """What a page shows now, or a moment ago."""
        seen = self._seen.get(path)
        if seen is not None and self._clock() < seen.again:
            return seen.parts
        try:
            return self._look(path)
        except LedgerError as error:
            if seen is not None:
                seen.again = self._clock() + _PACE
                seen.parts = dict.fromkeys(seen.parts, "") | {next(iter(seen.parts)): write_trouble(str(error))}
                return seen.parts
            return None

    def _look(self, path: str) -> Mapping[str, str] | None:
        seen = self._seen.pop(path, None)
        watch = self._watch(path) if seen is None else seen.watch
        if watch is None:
            return None
        began = self._clock()
        try:
            parts = watch.look()
        finally:
            # one that fails is put back, so that it is not begun anew at each beat
            if seen is not None:
                self._seen[path] = seen
        if parts is None:
            self._seen.pop(path, None)
            return None
        ended = self._clock()
        self._seen[path] = _Seen(watch, parts, ended + max(_PACE, _SHARE * (ended - began)))
        if len(self._seen) > _MOST_WATCHED:
            del self._seen[next(iter(self._seen))]
        return parts

    def _watch(self, path: str) -> Watch | None:
        if path == "/":
            return _Jobs(self._path)
        found = _JOB_PAGE.fullmatch(path)
        return None if found is None else _Job(self._path, int(found[1]))


def _tell_row(job: JobRecord, waiting: WaitingSum | None) -> Row:
    now = _read_statistics(job)
    word, tone = _tell_end(job, now)
    if waiting is not None:
        word = f"{word}, {count_of(waiting.batches, 'batch', 'batches')} waiting"
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


def _tell_job(watch: JobWatch) -> View:
    job, course = watch.record, watch.course
    now = _read_statistics(job)
    return View(
        verdict=_tell_verdict(job, now, watch.waiting),
        states=[] if now is None else list(tell_states(now, now.items)),
        states_said=""
        if now is None
        else f"{now.labelled:,} labelled, {now.failed:,} failed, {now.doubt:,} in doubt, {now.pending:,} pending.",
        tiles=list(_tell_tiles(job, now)),
        panels=draw_panels(course.moments(), bought=True) if job.requests else (),
        outcomes=tell_outcomes({name: count for name, count in course.outcomes.items() if count}),
        troubles=list(course.troubles),
        facts=[("The job", list(_tell_facts(job, now))), ("Requests and tokens", list(_tell_counts(job, now)))],
        batches_said="" if watch.waiting is None else _tell_waiting(watch.waiting),
    )


def _tell_waiting(waiting: WaitingSum) -> str:
    batches = count_of(waiting.batches, "batch waits", "batches wait")
    asked = f"{count_of(waiting.requests, 'request')} with {count_of(waiting.texts, 'text')}"
    urls = cut(", ".join(waiting.urls), _CUT)
    return (
        f"{batches} at {urls} since {waiting.since:%Y-%m-%d %H:%M} UTC: {asked}, {write_set_aside(waiting)} set aside. "
        "The same command with --batch collects what came of them."
    )


def _name_source(job: JobRecord) -> str:
    """What was labelled, where the job's name says so; else its name."""
    try:
        _, _, source = json.loads(job.name)
    except (ValueError, TypeError):
        source = job.name
    return cut(str(source), _CUT)


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


def _tell_verdict(job: JobRecord, now: Statistics | None, waiting: WaitingSum | None) -> dict[str, str]:
    word, tone = _tell_end(job, now)
    sentence = f"{count_of(job.answers, 'answer')} from {count_of(job.requests, 'request')}."
    if now is not None:
        sentence = f"{now.labelled:,} of {count_of(now.items, 'item')} labelled."
    after = "Its answers are in the ledger."
    if job.ended is None:
        after = (
            "It runs, or its process died. Ctrl-C in its terminal stops it, the same command goes on."
            f" Its last sign of life: {job.seen:%Y-%m-%d %H:%M:%S} UTC."
        )
    if job.outcome not in {None, "finished"}:
        after = f"Why: {cut(str(job.outcome), _CUT).rstrip('.')}. Its answers are in the ledger."
    if waiting is not None and job.ended is not None:
        after += " Batches wait at the gateway: see below."
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
