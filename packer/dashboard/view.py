"""How a job stands, in words and numbers for a page; while it runs, what is left of it too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal

from packer.dashboard.bars import Share, line_up
from packer.dashboard.batches import BatchRow, Standings, tell_batches, tell_lead
from packer.dashboard.panels import Panel, draw_panels
from packer.drawing import cut, percent, shown
from packer.events import Statistics
from packer.recording import Unanswered
from packer.report import Report
from packer.report_words import (
    Tile,
    tell_counts,
    tell_item,
    tell_money,
    tell_reasons,
    tell_tiles,
    tell_verdict,
    write_interval,
    write_total,
)
from packer.shown import count_of
from packer.summary import write_seconds
from packer.usage import format_usd

_TONES = {
    "accept": "good",
    "answered": "good",
    "answered in part": "warn",
    "in flight": "run",
    "split": "warn",
    "resend": "warn",
    "rate limited": "warn",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """A request that was not answered as it should be, or what else a job tells; `at` is the time of day here."""

    at: str
    words: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a job stands: its report so far, which is that of its end once it `is_over`.

    `rows` is the length of the job, None where it is not known; `rate` is in items a second. What went wrong last is
    first in `troubles` and `lost`.
    """

    report: Report
    rows: int | None
    rate: float
    troubles: Sequence[Trouble]
    lost: Sequence[Unanswered]
    is_over: bool
    batches: Standings


@dataclass(frozen=True, slots=True)
class View:
    """What a page of a job shows, each part of it empty where there is nothing.

    `verdict` has a tone, a word, a sentence, what comes next, and where it runs.
    """

    verdict: Mapping[str, str]
    states: Sequence[Share]
    states_said: str
    tiles: Sequence[Tile]
    panels: Sequence[Panel] = ()
    outcomes: Sequence[tuple[str, str, Share]] = ()
    troubles: Sequence[Trouble] = ()
    items: Sequence[Mapping[str, str]] = ()
    reasons: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, Sequence[tuple[str, str]]]] = ()
    batches_said: str = ""
    batches: Sequence[BatchRow] = ()


def tell_standing(standing: Standing) -> View:
    """How a job of this process stands."""
    report = standing.report
    now, verdict = report.statistics, tell_verdict(report)
    whole = max(now.items, standing.rows or 0)
    return View(
        verdict=verdict if standing.is_over else _tell_running(standing, whole),
        states=list(tell_states(now, whole)),
        states_said=verdict["states_said"],
        tiles=list(tell_tiles(report) if standing.is_over else _tell_tiles(standing, whole)),
        panels=draw_panels(report.timeline),
        outcomes=tell_outcomes(report.outcomes),
        troubles=standing.troubles,
        items=[tell_item(item) for item in standing.lost],
        reasons=tell_reasons(report),
        facts=[("Money", list(tell_money(report))), ("Requests and tokens", list(tell_counts(report)))],
        batches_said=tell_lead(standing.batches),
        batches=tell_batches(standing.batches),
    )


def tell_states(now: Statistics, whole: int) -> Iterator[Share]:
    """How the items have ended, as parts of all of them."""
    counts = ((now.labelled, "good"), (now.failed, "bad"), (now.doubt, "warn"), (now.pending, "rest"))
    return line_up(counts, whole)


def tell_outcomes(outcomes: Mapping[str, int]) -> list[tuple[str, str, Share]]:
    """How requests ended: a name, how many, and their share of the most frequent one."""
    total, most = sum(outcomes.values()), max(outcomes.values(), default=1)
    return [
        (cut(name), f"{count:,} ({percent(count / total)})", Share(0, 100 * count / most, _TONES.get(name, "bad")))
        for name, count in sorted(outcomes.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def _tell_running(standing: Standing, whole: int) -> dict[str, str]:
    now, given = standing.report.statistics, standing.report.settings
    where = f"{shown(given.input)}, column {shown(given.text)}, by {shown(given.model)}. "
    where += f"Since {standing.report.began.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
    sentence = f"{now.labelled:,} of {count_of(whole, 'item')} labelled"
    if standing.rows is None:
        sentence = f"{now.labelled:,} labelled of {count_of(now.items, 'item')} read so far"
    if now.stopped is not None:
        after = f"{shown(now.stopped).rstrip('.').capitalize()}. {count_of(now.in_flight, 'request')} in flight."
        return {"tone": "warn", "word": "Stopping:", "sentence": f"{sentence}.", "next": after, "where": where}
    after = f"Every answer is kept in {shown(given.ledger)}. Ctrl-C in its terminal stops it, the same command goes on."
    if standing.batches.running:
        after += " What is in a batch by then is collected by it."
    return {"tone": "run", "word": "Running:", "sentence": f"{sentence}.", "next": after, "where": where}


def _tell_tiles(standing: Standing, whole: int) -> Iterator[Tile]:
    report = standing.report
    now, run, budget = report.statistics, report.run, report.settings.budget_usd
    done = now.labelled + now.failed + now.doubt + now.pending
    lost = ", ".join(f"{count:,} {word}" for count, word in ((now.failed, "failed"), (now.doubt, "in doubt")) if count)
    share = percent(now.labelled / whole) if whole and standing.rows is not None else ""
    yield Tile("Labelled", f"{now.labelled:,}", ", ".join(filter(None, (share, lost))), "bad" if now.failed else "good")
    yield Tile("Pace", f"{standing.rate:,.1f}/s", "items, over the last half minute", "run")
    tone = "warn" if run.least != run.most else "run"
    yield Tile("Cost of this run", write_interval(run), write_total(report), tone)
    flying = f"limit {now.limit:,}, packs of {now.pack_size:,}"
    yield Tile("In flight", f"{now.in_flight:,}", flying, "run")
    left = None if standing.rows is None else max(whole - done, 0)
    time = "unknown" if left is None or standing.rate <= 0 else write_seconds(left / standing.rate)
    yield Tile("Time left", time, f"ran for {write_seconds(now.seconds)}", "run")
    asked = done - now.known
    cost = "unknown"
    if left is not None and not run.unpriced and asked > 0:
        cost = format_usd(run.most * Decimal(left) / asked)
    kept = f"{format_usd(now.reserved)} set aside for what is in flight"
    if budget is not None:
        kept = f"{format_usd(max(budget - now.settled - now.in_doubt - now.reserved, Decimal(0)))} of the budget left"
    yield Tile("Cost to the end", cost, kept, "run")
