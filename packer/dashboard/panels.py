"""A run over time as SVG that holds numbers and nothing else: no word in it comes from a stranger.

A panel is as wide as its place: what is drawn is stretched, what is written is not. It names classes, not colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from packer.recording import Moment
from packer.summary import write_seconds
from packer.usage import format_usd

_WIDTH, _HEIGHT = 1000, 120  # of what is drawn; the height is in pixels
_TIME_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_MOST_TIMES, _MOST_VALUES = 5, 4  # ticks
_ROOM = 1.08  # above the highest value
_RATE_SHARE = 12  # a rate is taken over this part of the run, and
_RATE_SECONDS = 2.0  # over this at least
_USUAL = 0.95  # of the rates; the others may be off the top: what the ledger knew comes in no time

_Points: TypeAlias = Sequence[tuple[float, float]]
_Write: TypeAlias = Callable[[float, float], str]


@dataclass(frozen=True, slots=True)
class Panel:
    """A drawing, how things stand at its right end, and both in words; `keys` are classes and what they mean."""

    title: str
    now: str
    svg: str
    alt: str
    keys: Sequence[tuple[str, str]] = ()


def draw_panels(moments: Sequence[Moment], *, bought: bool = False) -> list[Panel]:
    """Pace, items, money and requests over the time of a run; `moments` are in order, and at least one.

    `bought`: they count answers that were paid for instead of items, and know no limit.
    """
    first, last = moments[0], moments[-1]
    until = max(last.seconds, 0.1)

    def series(read: Callable[[Moment], float]) -> _Points:
        return [(moment.seconds, read(moment)) for moment in moments]

    def panel(title: str, now: str, layers: str, top: float, write: _Write, *keys: tuple[str, str]) -> Panel:
        return Panel(title, now, _frame(layers, until, top, write), f"{title} over {write_seconds(until)}: {now}", keys)

    rates = _rates(moments)
    ordered = sorted(rate for _, rate in rates)
    fast = _top(ordered[math.ceil(_USUAL * (len(ordered) - 1))])
    pace = _area(rates, until, fast, "accent") + _line(rates, until, fast, "accent")

    labelled, failed = series(lambda moment: moment.labelled), series(lambda moment: moment.failed)
    many = _top(max(last.labelled, last.failed))
    items = _area(labelled, until, many, "good") + _line(labelled, until, many, "good")
    what = "answers" if bought else "labelled"
    counts, tones = f"{last.labelled:,} {what}", [("good", what)]
    if last.failed:
        items += _line(failed, until, many, "bad")
        counts, tones = f"{counts}, {last.failed:,} failed", [*tones, ("bad", "failed")]

    least = series(lambda moment: float(moment.settled - first.settled))
    most = series(lambda moment: float(moment.settled + moment.in_doubt - first.settled - first.in_doubt))
    dear = _top(max(usd for _, usd in most), least=1e-9)
    money = _area(least, until, dear, "accent") + _line(least, until, dear, "accent")
    cost, prices = format_usd(last.settled - first.settled), [("accent", "settled")]
    if most[-1][1] > least[-1][1]:
        money = _area(most, until, dear, "warn", over=least) + money
        cost += f" to {format_usd(last.settled + last.in_doubt - first.settled - first.in_doubt)}"
        prices.append(("warn", "in doubt"))

    flying, limit = _steps(series(lambda moment: moment.in_flight)), _steps(series(lambda moment: moment.limit))
    busy = _top(max(value for _, value in [*flying, *limit]))
    load = _area(flying, until, busy, "accent") + _line(flying, until, busy, "accent")
    in_flight, loads = f"{last.in_flight:,}", [("accent", "in flight")]
    if not bought:
        load += _line(limit, until, busy, "limit")
        in_flight += f", the limit is {last.limit:,}"
        loads.append(("dash", "limit"))
    return [
        panel(f"{'Answers' if bought else 'Items'} a second", f"{rates[-1][1]:,.1f}", pace, fast, _write_count),
        panel("Answers" if bought else "Items", counts, items, many, _write_count, *tones),
        panel("Spent in this run", cost, money, dear, _write_usd, *prices),
        panel("Requests in flight", in_flight, load, busy, _write_count, *loads),
    ]


def _rates(moments: Sequence[Moment]) -> list[tuple[float, float]]:
    """Items that ended a second, over a part of the run before each moment."""
    span = max(moments[-1].seconds / _RATE_SHARE, _RATE_SECONDS)
    rates, start = [(moments[0].seconds, 0.0)], 0
    for number, moment in enumerate(moments[1:], 1):
        while start < number - 1 and moments[start + 1].seconds <= moment.seconds - span:
            start += 1
        before = moments[start]
        done = moment.labelled + moment.failed - before.labelled - before.failed
        passed = max(moment.seconds - before.seconds, span)
        rates.append((moment.seconds, max(done, 0) / passed))
    return rates


def _top(value: float, *, least: float = 1.0) -> float:
    return _ROOM * max(value, least)


def _steps(points: _Points) -> _Points:
    stepped = [points[0]]
    for time, value in points[1:]:
        stepped += [(time, stepped[-1][1]), (time, value)]
    return stepped


def _path(points: _Points, until: float, top: float) -> str:
    return "L".join(f"{_WIDTH * time / until:.1f} {_HEIGHT - _HEIGHT * value / top:.1f}" for time, value in points)


def _line(points: _Points, until: float, top: float, tone: str) -> str:
    return f'<path class="line {tone}" vector-effect="non-scaling-stroke" d="M{_path(points, until, top)}"/>'


def _area(points: _Points, until: float, top: float, tone: str, *, over: _Points | None = None) -> str:
    below = [(points[0][0], 0.0), (points[-1][0], 0.0)] if over is None else list(over)
    outline = [*points, *reversed(below)]
    return f'<path class="area {tone}" d="M{_path(outline, until, top)}Z"/>'


def _frame(layers: str, until: float, top: float, write: _Write) -> str:
    """The panel around what is drawn: ticks and their words."""
    step = _nice_step(top, _MOST_VALUES)
    if write is _write_count:
        step = max(step, 1.0)
    rows = ""
    for number in range(int(top / step) + 1):
        y = _HEIGHT - _HEIGHT * number * step / top
        rows += f'<line x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>'
        rows += f'<text class="value" x="-8" y="{y + 4:.1f}">{write(number * step, step)}</text>'
    step = next((step for step in _TIME_STEPS if until / step <= _MOST_TIMES), _nice_step(until, _MOST_TIMES))
    for number in range(int(until / step) + 1):
        x = 100 * number * step / until
        rows += f'<line x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="{_HEIGHT}"/>'
        # the last one would stand over the edge
        side = "time end" if x > 96 else "time"
        rows += f'<text class="{side}" x="{x:.2f}%" y="{_HEIGHT + 18}">{_write_time(number * step, step)}</text>'
    drawn = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" width="100%" height="{_HEIGHT}">'
    return f'<svg class="panel" width="100%" height="{_HEIGHT}">{rows}{drawn}{layers}</svg></svg>'


def _nice_step(most: float, ticks: int) -> float:
    """The smallest of 1, 2, 5, 10, ... (times a power of ten) that takes at most so many steps."""
    size = 10.0 ** math.floor(math.log10(most / ticks))
    return next(size * factor for factor in (1, 2, 5, 10) if most / (size * factor) <= ticks)


def _write_count(value: float, step: float) -> str:
    del step
    return f"{value:,.0f}"


def _write_usd(value: float, step: float) -> str:
    digits = max(2, math.ceil(-math.log10(step) - 1e-9)) if step < 1 else 0
    return f"${value:,.{digits}f}"


def _write_time(seconds: float, step: float) -> str:
    if step < 1:
        return f"{seconds:.1f} s"
    if step < 60:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}:{rest:02}"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}:{minutes:02} h" if step >= 3600 or hours else f"{minutes} min"
