"""What a run looked like: over time, by how its requests ended, and by how many of them were in flight."""

from __future__ import annotations

from collections.abc import Sequence

from packer.drawing import (
    COUNT,
    HALF,
    NARROW,
    RATE,
    WIDE,
    Chart,
    Spec,
    cut,
    distinct,
    mark,
    own_colour,
    percent,
    render,
    y_axis,
)
from packer.recording import Moment
from packer.report import Report

_MOST_OUTCOMES = 24  # more than there are
_OUTCOME_COLOURS = {
    "accept": "var(--good)",
    "split": "var(--warn)",
    "resend": "var(--warn)",
    "rate limited": "var(--warn)",
}


def chart_time(report: Report) -> Chart:
    """Labels, money and requests over the time of the run, one below the other on one axis."""
    moments = report.timeline
    unit, seconds = _choose_unit(moments[-1].seconds)
    has_doubt = any(moment.in_doubt > moments[0].in_doubt for moment in moments)
    has_failed = any(moment.failed for moment in moments)
    has_refused = moments[-1].refused > 0
    rows = _time_rows(moments, seconds)
    most = max(row["most"] for row in rows)
    money = _money_format(most)

    def draw(width: int) -> str:
        x = {"field": "t", "type": "quantitative", "scale": {"nice": False, "domain": [rows[0]["t"], rows[-1]["t"]]}}
        axis = {"grid": True, "tickCount": width // 110}
        bare, told = x | {"axis": axis | {"labels": False}}, x | {"axis": axis | {"title": unit}}

        def panel(title: str, layers: Sequence[Spec], *, form: str = COUNT) -> Spec:
            y: Spec = {"type": "quantitative", "axis": y_axis(form)}
            for drawn in layers:
                drawn["encoding"]["y"] = y | drawn["encoding"]["y"]
            return {
                "title": title,
                "width": width - 70,
                "height": 120,
                "layer": layers,
                "encoding": {"x": bare},
            }

        labelled = [_area("labelled", "var(--good)"), _line("labelled", "var(--good)")]
        failed = [_line("failed", "var(--bad)")] if has_failed else []
        doubt = [_area("most", "var(--warn)", to="least", opacity=0.7)] if has_doubt else []
        spent = [*doubt, _area("least", "var(--accent)"), _line("least", "var(--accent)")]
        flying = [
            _area("flying", "var(--accent)", step=True),
            _line("limit", "var(--ink)", limit=True),
        ]
        refusals = _area("refused", "var(--warn)", step=True, opacity=0.85)
        refused = panel(f"Refused by the gateway, a {unit[:-1]}", [refusals], form=RATE)
        size = panel("Most items in a pack", [_line("size", "var(--ink)", limit=True)])
        panels = [
            panel("Items labelled", labelled + failed),
            *([panel("Spent in this run, USD", spent, form=money)] if most > 0 else []),
            panel("Requests in flight", flying),
            *([refused] if has_refused else []),
            *([size] if len({row["size"] for row in rows}) > 1 else []),
        ]
        panels[-1]["encoding"]["x"] = told
        return render({"data": {"values": rows}, "vconcat": panels, "resolve": {"scale": {"x": "shared"}}})

    last, now = rows[-1], report.statistics
    keys = [("good", "labelled"), *([("bad", "failed")] if has_failed else []), ("accent", "settled, in flight")]
    keys += [("warn", "in doubt" if not has_refused else "in doubt, refused")] if has_doubt or has_refused else []
    keys.append(("dash", "limit of requests, of items in a pack"))
    alt = (
        f"Over {last['t']:.3g} {unit}: items labelled rose to {now.labelled:,}; spending in this run rose to "
        f"{last['least']:.4g} USD; at most {max(moment.in_flight for moment in moments)} requests were in flight."
    )
    return Chart("Over time", alt, draw(WIDE), draw(NARROW), keys)


def chart_outcomes(report: Report) -> Chart:
    """How requests ended."""
    total = sum(report.outcomes.values()) or 1
    ordered = sorted(report.outcomes.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_OUTCOMES]
    names = distinct(cut(name) for name, _ in ordered)
    rows: list[Spec] = [
        {
            "name": name,
            "count": count,
            "words": f"{count:,} ({percent(count / total)})",
            "colour": _OUTCOME_COLOURS.get(outcome, "var(--bad)"),
            "said": f"{name}: {count:,} requests",
        }
        for name, (outcome, count) in zip(names, ordered, strict=True)
    ]
    y = {"field": "name", "type": "nominal", "sort": None, "scale": {"domain": names}, "axis": _name_axis(110)}
    most = max((row["count"] for row in rows), default=1)

    def draw(width: int) -> str:
        x = {"field": "count", "type": "quantitative", "axis": None, "scale": {"domain": [0, most * 1.45]}}
        bar = mark("bar", cornerRadiusEnd=3, height={"band": 0.68})
        words = mark("text", align="left", dx=6, color="var(--ink)", fontSize=12, aria=False)
        return render(
            {
                "width": width - 130,
                "height": {"step": 30},
                "data": {"values": rows},
                "encoding": {"y": y, "x": x},
                "layer": [
                    {"mark": bar, "encoding": {"color": own_colour(), "description": {"field": "said"}}},
                    {"mark": words, "encoding": {"text": {"field": "words"}}},
                ],
            }
        )

    alt = "Requests by what followed: " + ", ".join(row["said"] for row in rows) + "."
    return Chart("Requests by outcome", alt, draw(HALF), draw(NARROW))


def chart_levels(report: Report) -> Chart | None:
    """Cost and pace by how many requests were in flight; None where nothing can be compared."""
    levels = [level for level in report.statistics.levels if level.items_a_second is not None]
    if not levels:
        return None
    rows: list[Spec] = [
        {
            "level": str(level.least) if level.least == level.most else f"{level.least}-{level.most}",
            "usd": None if level.usd_an_item is None else float(level.usd_an_item) * 1_000,
            "pace": level.items_a_second,
            "said": f"{level.items:,} items in {level.requests:,} requests",
        }
        for level in levels
    ]
    names = [str(row["level"]) for row in rows]
    most = max((row["usd"] or 0.0 for row in rows), default=0.0)
    money = _money_format(most)

    def draw(width: int) -> str:
        def panel(title: str, field: str, colour: str, form: str, *, last: bool) -> Spec:
            axis = {"labelAngle": 0, "labelOverlap": True, "title": "requests in flight when it left"}
            x: Spec = {"field": "level", "type": "nominal", "sort": None, "scale": {"domain": names}}
            x["axis"] = axis if last else {"labels": False}
            y = {"field": field, "type": "quantitative", "axis": y_axis(form)}
            bar = mark("bar", color=colour, cornerRadiusEnd=3, width={"band": 0.68})
            return {
                "title": title,
                "width": width - 70,
                "height": 110,
                "mark": bar,
                "encoding": {"x": x, "y": y, "description": {"field": "said"}},
            }

        pace = panel("Items a second", "pace", "var(--good)", RATE, last=most == 0)
        cost = panel("Cost of 1,000 items, USD", "usd", "var(--accent)", money, last=True)
        panels = [pace, cost] if most > 0 else [pace]
        return render({"data": {"values": rows}, "vconcat": panels})

    alt = "With more in flight: " + "; ".join(
        f"{row['level']} in flight, {row['pace']:.3g} items a second, "
        + ("cost unknown" if row["usd"] is None else f"{row['usd']:.3g} USD for 1,000 items")
        for row in rows
    )
    return Chart("Cost and pace by load", f"{alt}.", draw(HALF), draw(NARROW))


def _area(field: str, colour: str, *, to: str = "", step: bool = False, opacity: float = 0.28) -> Spec:
    encoding: Spec = {"y": {"field": field}} | ({"y2": {"field": to}} if to else {})
    shape = "step-after" if step else "linear"
    return {"mark": mark("area", color=colour, opacity=opacity, interpolate=shape, aria=False), "encoding": encoding}


def _line(field: str, colour: str, *, limit: bool = False) -> Spec:
    style: Spec = {"strokeDash": [4, 3], "strokeWidth": 1.5, "interpolate": "step-after"} if limit else {}
    drawn = mark("line", color=colour, strokeWidth=2, aria=False) | style
    return {"mark": drawn, "encoding": {"y": {"field": field}}}


def _name_axis(room: int) -> Spec:
    return {"labelLimit": room - 8, "minExtent": room, "maxExtent": room, "domain": False, "labelColor": "var(--ink)"}


def _time_rows(moments: Sequence[Moment], unit: float) -> list[dict[str, float]]:
    first, rows, before = moments[0], [], moments[0]
    for moment in moments:
        least = float(moment.settled - first.settled)
        passed = (moment.seconds - before.seconds) / unit
        rows.append(
            {
                "t": moment.seconds / unit,
                "labelled": moment.labelled,
                "failed": moment.failed,
                "least": least,
                "most": least + float(moment.in_doubt - first.in_doubt),
                "flying": moment.in_flight,
                "limit": moment.limit,
                "size": moment.pack_size,
                "refused": (moment.refused - before.refused) / passed if passed > 0 else 0.0,
            }
        )
        before = moment
    return rows


def _choose_unit(seconds: float) -> tuple[str, float]:
    return ("seconds", 1.0) if seconds < 180 else ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


def _money_format(most: float) -> str:
    """Digits enough that neighbouring ticks differ."""
    digits = next((digits for digits in range(2, 9) if most >= 5 * 10.0**-digits), 9)
    return f"$,.{digits if most < 10 else 0}f"
