"""How right the labels are, in pictures: every share with its interval, and a matrix of what was taken for what."""

from __future__ import annotations

from collections.abc import Sequence

from packer.audit import AuditResult, Stretch
from packer.drawing import HALF, NARROW, Chart, Spec, cut, distinct, layer, mark, own_colour, percent, render, y_axis
from packer.evaluation import Bin, Evaluation, LabelFigures

MOST_DOTS = 30  # labels in a dot plot: the rest stands in the table
_NUMBERED = 12  # labels up to which a matrix shows its numbers


def chart_audit(audit: AuditResult) -> Chart:
    """The share that disagreed and its interval, against what was promised."""
    assert audit.disagreement.value is not None, "something was asked again"
    share, value, colour = audit.disagreement, audit.disagreement.value, "var(--bad)" if audit.broken else "var(--good)"
    said = f"{percent(value)} disagreed, {percent(share.low)} to {percent(share.high)}"
    row = {"low": share.low, "high": share.high, "value": value, "promise": audit.promise, "said": said}
    most = max(share.high, audit.promise) * 1.2 or 0.01

    def draw(width: int) -> str:
        scale = {"domain": [0, most], "nice": False}
        x = {"type": "quantitative", "scale": scale, "axis": {"format": "~%", "tickCount": 5}}
        layers = [
            layer(
                mark("bar", color=colour, opacity=0.3, height=26, cornerRadius=4),
                x=x | {"field": "low"},
                x2={"field": "high"},
            ),
            layer(
                mark("point", filled=True, size=150, color=colour, opacity=1),
                x=x | {"field": "value"},
                description={"field": "said"},
            ),
            layer(mark("rule", color="var(--ink)", strokeDash=[5, 4], strokeWidth=2), x=x | {"field": "promise"}),
            layer(
                mark(
                    "text",
                    align="right" if audit.promise > most / 2 else "left",
                    dx=-6 if audit.promise > most / 2 else 6,
                    y=8,
                    color="var(--ink)",
                    fontSize=12,
                    text=f"promise {percent(audit.promise)}",
                ),
                x=x | {"field": "promise"},
            ),
        ]
        return render({"width": width - 30, "height": 90, "data": {"values": [row]}, "layer": layers})

    word = "is broken" if audit.broken else "holds"
    return Chart(
        "Disagreement with singles",
        f"{said}; the promise of at most {percent(audit.promise)} {word}.",
        draw(HALF),
        draw(NARROW),
    )


def chart_buckets(title: str, unit: str, buckets: Sequence[Bin | Stretch]) -> Chart:
    """The share of errors by where they sit, with its interval where one is known."""
    rows: list[Spec] = []
    for bucket in buckets:
        rate = bucket.errors / bucket.items if bucket.items else 0.0
        name, low, high = _name_range(bucket), rate, rate
        if isinstance(bucket, Bin) and bucket.accuracy.value is not None:
            low, high = 1 - bucket.accuracy.high, 1 - bucket.accuracy.low
        rows.append(
            {
                "name": name,
                "rate": rate,
                "low": low,
                "high": high,
                "said": f"{unit} {name}: {bucket.errors:,} errors in {bucket.items:,} items, {percent(rate)}",
            }
        )
    most = max((row["high"] for row in rows), default=0.0) * 1.05 or 0.05
    names = distinct(str(row["name"]) for row in rows)
    for row, name in zip(rows, names, strict=True):
        row["name"] = name

    def draw(width: int) -> str:
        axis = {"labelAngle": 0, "labelOverlap": True, "title": unit}
        x = {"field": "name", "type": "nominal", "sort": None, "scale": {"domain": names}, "axis": axis}
        y = {"type": "quantitative", "axis": y_axis("~%"), "scale": {"domain": [0, most]}}
        layers = [
            layer(
                mark("bar", color="var(--bad)", opacity=0.75, cornerRadiusEnd=3, width={"band": 0.68}),
                y=y | {"field": "rate"},
                description={"field": "said"},
            ),
            layer(mark("rule", color="var(--ink)", strokeWidth=1.5), y=y | {"field": "low"}, y2={"field": "high"}),
        ]
        return render(
            {"width": width - 70, "height": 150, "data": {"values": rows}, "encoding": {"x": x}, "layer": layers}
        )

    alt = f"Share of wrong labels by {unit}: " + "; ".join(str(row["said"]) for row in rows)
    return Chart(title, f"{alt}.", draw(HALF), draw(NARROW))


def chart_confusion(evaluation: Evaluation) -> Chart:
    """The confusion matrix: each row is a gold label, and its cells are shares of that row."""
    names = distinct(cut(quality.label) for quality in evaluation.labels)
    cells, numbered = [], len(names) <= _NUMBERED
    for gold, row in zip(names, evaluation.confusion, strict=True):
        total = sum(row)
        for given, count in zip(names, row, strict=True):
            if count:
                share = count / total
                colour = "var(--good)" if gold == given else "var(--bad)"
                cells.append(
                    {
                        "gold": gold,
                        "given": given,
                        "count": count,
                        "ink": "var(--page)" if share > 0.35 else "var(--ink)",
                        "shade": 0.08 + 0.92 * share**0.5,  # a few errors are seen, many are seen first
                        "colour": colour,
                        "said": f"{gold} labelled {given}: {count:,} of {total:,}",
                    }
                )
    size = max(len(names), 1)
    step = max(34, min(84, 340 // size)) if numbered else max(11, min(15, 840 // size))
    longest = max((len(name) for name in names), default=0)

    def draw() -> str:
        font = 12 if numbered else step - 2
        axis: Spec = {"labelFontSize": font, "labelLimit": 200, "domain": False, "grid": True, "tickBand": "extent"}
        tilt: Spec = {
            "labelAngle": (-45 if numbered else -60) if longest * 7 > step else 0,
            "orient": "top",
            "title": "the label that was given",
        }
        if longest * 7 > step:
            tilt["labelAlign"] = "left"
        x = {"field": "given", "type": "nominal", "sort": None, "scale": {"domain": names}, "axis": axis | tilt}
        y = {
            "field": "gold",
            "type": "nominal",
            "sort": None,
            "scale": {"domain": names},
            "axis": axis | {"title": "gold"},
        }
        rect = mark("rect", cornerRadius=3 if numbered else 1)
        shade = {"field": "shade", "type": "quantitative", "scale": None}
        layers: list[Spec] = [
            {"mark": rect, "encoding": {"color": own_colour(), "opacity": shade, "description": {"field": "said"}}}
        ]
        if numbered:
            text = {"field": "count", "type": "quantitative", "format": ",d" if step > 30 else "~s"}
            ink = {"field": "ink", "type": "nominal", "scale": None}
            layers.append({"mark": mark("text", fontSize=12, aria=False), "encoding": {"text": text, "color": ink}})
        return render(
            {
                "width": {"step": step},
                "height": {"step": step},
                "data": {"values": cells},
                "encoding": {"x": x, "y": y},
                "layer": layers,
            }
        )

    right = sum(row[place] for place, row in enumerate(evaluation.confusion))
    total = sum(map(sum, evaluation.confusion))
    alt = f"Confusion matrix of {len(names)} labels: {right:,} of {total:,} labels are the gold ones."
    keys = [("good", "right"), ("bad", "wrong")]
    wide = draw()
    return Chart("Confusion matrix", alt, wide, wide, keys, "Darker is a larger share of the gold label.", scrolls=True)


def chart_labels(qualities: Sequence[LabelFigures]) -> Chart:
    """Precision and recall of each label, the worst first, with their intervals."""
    worst = sorted(qualities, key=lambda quality: (quality.f1, quality.label))[:MOST_DOTS]
    names = distinct(cut(quality.label) for quality in worst)
    rows = []
    for name, quality in zip(names, worst, strict=True):
        for kind, share in (("precision", quality.precision), ("recall", quality.recall)):
            if share is not None and share.value is not None:
                interval = f"{percent(share.low)} to {percent(share.high)}"
                said = f"{name}, {kind}: {percent(share.value)} ({interval})"
                rows.append(
                    {
                        "name": name,
                        "kind": kind,
                        "value": share.value,
                        "low": share.low,
                        "high": share.high,
                        "said": said,
                    }
                )
    longest = max((len(name) for name in names), default=0)

    def draw(width: int) -> str:
        room = min(longest * 7 + 12, width // 3)

        def panel(kind: str, colour: str, *, first: bool) -> Spec:
            y_axis = {"labelLimit": room - 8, "minExtent": room, "maxExtent": room, "domain": False, "grid": True}
            y: Spec = {"field": "name", "type": "nominal", "sort": None, "scale": {"domain": names}}
            y["axis"] = y_axis if first else y_axis | {"labels": False, "minExtent": 0, "maxExtent": 0}
            axis = {"format": "~%", "tickCount": 3, "orient": "top"}
            x = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": axis}
            return {
                "title": kind,
                "width": (width - room - 50) // 2,
                "height": {"step": 20},
                "transform": [{"filter": f"datum.kind === '{kind}'"}],
                "encoding": {"y": y},
                "layer": [
                    layer(
                        mark("rule", color=colour, strokeWidth=5, opacity=0.35, strokeCap="round"),
                        x=x | {"field": "low"},
                        x2={"field": "high"},
                    ),
                    layer(
                        mark("point", filled=True, size=55, color=colour, opacity=1),
                        x=x | {"field": "value"},
                        description={"field": "said"},
                    ),
                ],
            }

        panels = [panel("precision", "var(--accent)", first=True), panel("recall", "var(--good)", first=False)]
        return render({"data": {"values": rows}, "hconcat": panels, "spacing": 24})

    shown_of = (
        f"the {len(names)} worst of {len(qualities)} labels" if len(qualities) > len(names) else f"{len(names)} labels"
    )
    alt = f"Precision and recall of {shown_of}, with 95 % intervals; the table below has the numbers."
    note = f"The {len(names)} of {len(qualities)} labels with the lowest F1." if len(qualities) > len(names) else ""
    return Chart("Precision and recall", alt, draw(HALF + 60), draw(NARROW), note=note)


def _name_range(bucket: Bin | Stretch) -> str:
    if bucket.least is None or bucket.most is None:
        return "unknown"
    return f"{bucket.least:,}" if bucket.least == bucket.most else f"{bucket.least:,}-{bucket.most:,}"
