"""The page of a report: its numbers are the report's, its words are text and nothing else, and it needs no network.

It is one file without a script, and names no other. The same report makes the same page, byte for byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from packer.audit import AuditResult
from packer.charts import chart_levels, chart_outcomes, chart_time
from packer.drawing import Chart, cut, percent, shown
from packer.errors import CallError
from packer.evaluation import Evaluation, RecordEvaluation
from packer.extras import check_extra
from packer.intervals import Interval
from packer.outputs import OutputFile
from packer.quality_charts import chart_audit, chart_buckets, chart_confusion, chart_labels
from packer.reading import read_evaluation, read_report
from packer.report import Report
from packer.report_words import (
    tell_asked,
    tell_counts,
    tell_doubtful,
    tell_items,
    tell_money,
    tell_reasons,
    tell_settings,
    tell_tiles,
    tell_verdict,
)
from packer.shown import count_of

_MODULES = ("jinja2", "vl_convert")
_LARGE = 12  # labels from which a matrix takes the whole width
_CONFUSIONS = 20
_CUT = 300  # characters of a text in a table


def check_page_can_be_made() -> None:
    """Raise `CallError` where the extra is not installed."""
    check_extra("report", {name: name for name in _MODULES}, needed_by="a page")


def write_page(report: Report, evaluation: Evaluation | RecordEvaluation | None = None) -> str:
    """The page as HTML, with an `evaluation` where there is one. Raises `CallError` without the extra."""
    check_page_can_be_made()
    import jinja2  # noqa: PLC0415  an extra
    import markupsafe  # noqa: PLC0415  comes with it

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["drawn"] = markupsafe.Markup  # by drawing.py, which keeps known elements only; our style
    files = resources.files("packer")
    template = environment.from_string(files.joinpath("page.html").read_text(encoding="utf-8"))
    style = files.joinpath("page.css").read_text(encoding="utf-8")
    return template.render(_view(report, evaluation), style=style)


def make_page(report: str, *, evaluation: str | None, output: str | None) -> Path:
    """Write the page of the report in a file, beside it where no `output` is given; its path. Raises `CallError`."""
    path = Path(output) if output is not None else Path(report).with_suffix(".html")
    if path.suffix.lower() != ".html":
        raise CallError(f"--output {path}: expected a name that ends in .html")
    for source in (report, evaluation):
        if source is not None and os.path.realpath(source) == os.path.realpath(path):
            raise CallError(f"{source}: the page would replace what it is made from; expected another file")
    check_page_can_be_made()
    page = write_page(read_report(report), None if evaluation is None else read_evaluation(evaluation))
    file = OutputFile(path, private=True)
    try:
        file.write(page.encode())
        file.finish()
    except OSError as error:
        file.abandon()
        raise CallError(f"{path}: the page cannot be written: {error.strerror}") from error
    return path


def _view(report: Report, evaluation: Evaluation | RecordEvaluation | None) -> dict[str, Any]:
    return {
        "title": f"Report: {shown(report.settings.input)}",
        "verdict": tell_verdict(report),
        "tiles": list(tell_tiles(report)),
        "time": chart_time(report) if len(report.timeline) > 1 else None,
        "outcomes": chart_outcomes(report) if report.outcomes else None,
        "levels": chart_levels(report),
        "audit": None if report.audit is None else _audit(report.audit),
        "qualities": list(_qualities(evaluation)),
        "reasons": tell_reasons(report),
        "items": tell_items(report),
        "doubtful": tell_doubtful(report),
        "asked": tell_asked(report),
        "settings": list(tell_settings(report)),
        "money": list(tell_money(report)),
        "counts": list(tell_counts(report)),
        "footer": f"prompt-packer {shown(report.version)}. The same numbers stand in the report's JSON file.",
    }


def _audit(audit: AuditResult) -> dict[str, Any]:
    verdict = "The promise is broken" if audit.broken else "The promise holds"
    lead = f"{audit.agreed:,} of {count_of(audit.asked, 'item')} got the same label when asked again alone. "
    if audit.asked:
        lead += f"{verdict}: at most {percent(audit.promise)} were to disagree; {_write_share(audit.disagreement)} did."
    position = chart_buckets("Disagreement by position", "number in the pack", audit.by_position)
    return {
        "lead": lead,
        "chart": chart_audit(audit) if audit.asked else None,
        "position": position if audit.by_position else None,
    }


def _qualities(evaluation: Evaluation | RecordEvaluation | None) -> Iterator[dict[str, Any]]:
    match evaluation:
        case Evaluation():
            yield _quality("Accuracy", evaluation)
        case RecordEvaluation():
            for name, figures in evaluation.fields.items():
                yield _quality(f"Accuracy of {shown(name)}", figures)


def _quality(title: str, evaluation: Evaluation) -> dict[str, Any]:
    parts = [] if evaluation.accuracy.value is None else [f"Accuracy {_write_share(evaluation.accuracy)}"]
    if evaluation.macro_f1 is not None:
        parts.append(f"macro F1 {evaluation.macro_f1:.3f}")
    whole = f"{count_of(evaluation.compared, 'item')} of {evaluation.items:,} that have a label and a gold one."
    lead = f"{', '.join(parts)} over {whole}" if parts else f"Compared: {whole}"
    if missing := evaluation.items - evaluation.labelled:
        lead += f" {missing:,} were given no label."
    if evaluation.without_gold:
        lead += f" {evaluation.without_gold:,} have no gold one."
    units = {
        "position": ("position", "number in the pack"),
        "pack-size": ("pack size", "items in the pack"),
        "length": ("length", "characters of the text"),
    }
    by: Sequence[Chart] = [
        chart_buckets(f"Errors by {units[name][0]}", units[name][1], buckets)
        for name, buckets in evaluation.by.items()
        if buckets and name in units
    ]
    return {
        "title": title,
        "lead": lead,
        "confusion": chart_confusion(evaluation) if evaluation.labels else None,
        "is_large": len(evaluation.labels) > _LARGE,
        "dots": chart_labels(evaluation.labels) if evaluation.labels else None,
        "by": by,
        "confusions": [
            {
                "count": f"{pair.count:,}",
                "gold": cut(pair.gold, _CUT),
                "label": cut(pair.label, _CUT),
                "texts": [cut(text, _CUT) for text in pair.texts],
            }
            for pair in evaluation.confusions[:_CONFUSIONS]
        ],
        "labels": [
            {
                "label": cut(quality.label, _CUT),
                "support": f"{quality.support:,}",
                "predicted": f"{quality.predicted:,}",
                "precision": _write_share(quality.precision),
                "recall": _write_share(quality.recall),
                "f1": f"{quality.f1:.3f}",
            }
            for quality in evaluation.labels
        ],
    }


def _write_share(share: Interval | None) -> str:
    if share is None or share.value is None:
        return "-"
    return f"{percent(share.value)} ({percent(share.low)} to {percent(share.high)})"
