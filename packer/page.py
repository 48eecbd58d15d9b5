"""The page of a report: its numbers are the report's, its words are text and nothing else, and it needs no network.

It is one file without a script, and names no other. The same report makes the same page, byte for byte.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from datetime import UTC
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from packer.audit import AuditResult
from packer.charts import chart_levels, chart_outcomes, chart_time
from packer.drawing import Chart, cut, percent, shown
from packer.errors import CallError
from packer.evaluation import Evaluation, RecordEvaluation
from packer.intervals import Interval
from packer.items import Status
from packer.outputs import OutputFile
from packer.quality_charts import chart_audit, chart_buckets, chart_confusion, chart_labels
from packer.reading import read_evaluation, read_report
from packer.report import Money, Report
from packer.shown import count_of
from packer.summary import write_seconds
from packer.usage import format_price, format_usd

_MODULES = ("jinja2", "vl_convert")
_LARGE = 12  # labels from which a matrix takes the whole width
_REASONS = 20
_CONFUSIONS = 20
_CUT = 300  # characters of a text in a table
_STATES = {Status.FAILED: ("failed", "bad"), Status.DOUBT: ("in doubt", "warn"), Status.PENDING: ("pending", "rest")}


class _Tile(NamedTuple):
    name: str
    value: str
    sub: str = ""
    tone: str = ""


def check_page_can_be_made() -> None:
    """Raise `CallError` where the extra is not installed."""
    for name in _MODULES:
        if importlib.util.find_spec(name) is None:
            raise CallError(f"a page needs {name}, which is not installed: pip install 'prompt-packer[report]'")


def write_page(report: Report, evaluation: Evaluation | RecordEvaluation | None = None) -> str:
    """The page as HTML, with an `evaluation` where there is one. Raises `CallError` without the extra."""
    check_page_can_be_made()
    import jinja2  # noqa: PLC0415  an extra
    import markupsafe  # noqa: PLC0415  comes with it

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["drawn"] = markupsafe.Markup  # by drawing.py, which keeps known elements only
    template = environment.from_string(resources.files("packer").joinpath("page.html").read_text(encoding="utf-8"))
    return template.render(_view(report, evaluation))


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
    asked = report.asked
    return {
        "title": f"Report: {shown(report.settings.input)}",
        "verdict": _verdict(report),
        "tiles": list(_tiles(report)),
        "time": chart_time(report) if len(report.timeline) > 1 else None,
        "outcomes": chart_outcomes(report) if report.outcomes else None,
        "levels": chart_levels(report),
        "audit": None if report.audit is None else _audit(report.audit),
        "qualities": list(_qualities(evaluation)),
        "reasons": _reasons(report),
        "items": _items(report),
        "asked": {
            "instructions": "\n".join(shown(line) for line in asked.instructions.splitlines()),
            "labels": [(shown(name), shown(words)) for name, words in asked.labels.items()],
            "facts": list(_asked_facts(report)),
        },
        "settings": list(_settings(report)),
        "money": list(_money(report)),
        "counts": list(_counts(report)),
        "footer": f"prompt-packer {shown(report.version)}. The same numbers stand in the report's JSON file.",
    }


def _verdict(report: Report) -> dict[str, Any]:
    now, settings = report.statistics, report.settings
    left = now.failed + now.doubt + now.pending
    if report.stopped is not None:
        tone, word = "warn", "Stopped:"
        sentence = f"{now.labelled:,} of {count_of(now.items, 'item')} labelled, {left:,} to go."
        why = shown(report.stopped).rstrip(".")
        when = "Run" if report.stopped == "interrupted" else "When that is mended, run"
        after = f"Why: {why}. {when} the same command again to go on; every answer is kept in {shown(settings.ledger)}."
    elif left:
        tone, word = "warn", "Finished:"
        sentence = f"{now.labelled:,} of {count_of(now.items, 'item')} labelled, {_count_left(report)}."
        after = "The column error of the output says why." if settings.output else "--output FILE keeps the reasons."
        after += " The same command again asks only for what has no answer yet."
    else:
        tone, word = "good", "Done:"
        sentence = f"{'all ' if now.items > 1 else ''}{count_of(now.items, 'item')} labelled."
        after = "Nothing is left to do" + (f": the rows are in {shown(settings.output)}." if settings.output else ".")
    counts = [("labelled", now.labelled, "good"), ("failed", now.failed, "bad"), ("in doubt", now.doubt, "warn")]
    counts.append(("pending", now.pending, "rest"))
    began, ended = report.began.astimezone(UTC), report.ended.astimezone(UTC)
    until = f"{ended:%H:%M}" if began.date() == ended.date() else f"{ended:%Y-%m-%d %H:%M}"
    when = f"{began:%Y-%m-%d %H:%M} to {until} UTC."
    return {
        "tone": tone,
        "word": word,
        "sentence": sentence,
        "next": after,
        "where": f"{shown(settings.input)}, column {shown(settings.text)}, by {shown(settings.model)}. {when}",
        "states": [{"count": count, "tone": state_tone} for _, count, state_tone in counts if count],
        "states_said": ", ".join(f"{count:,} {state}" for state, count, _ in counts) + ".",
    }


def _count_left(report: Report) -> str:
    now = report.statistics
    counts = ((now.failed, "failed"), (now.doubt, "in doubt"), (now.pending, "pending"))
    return ", ".join(f"{count:,} {word}" for count, word in counts if count)


def _tiles(report: Report) -> Iterator[_Tile]:
    now, run = report.statistics, report.run
    share = percent(now.labelled / now.items) if now.items else "no items"
    known = f", {now.known:,} without a request" if now.known else ""
    yield _Tile("Labelled", f"{now.labelled:,}", f"{share}{known}", "good")
    left = now.failed + now.doubt + now.pending
    yield _Tile("Without a label", f"{left:,}", _count_left(report), ("bad" if now.failed else "warn") if left else "")
    yield _Tile("Cost of this run", _write_interval(run), _write_total(report), "warn" if run.least != run.most else "")
    pace = f"{now.items / now.seconds:,.1f} items a second" if now.seconds > 0 else ""
    yield _Tile("Time", write_seconds(now.seconds), pace)
    refused = report.timeline[-1].refused if report.timeline else 0
    yield _Tile("Requests", f"{now.requests:,}", f"{refused:,} refused" if refused else "none refused")


def _write_interval(money: Money) -> str:
    if money.unpriced:
        return "unknown"
    least, most = format_usd(money.least), format_usd(money.most)
    return least if least == most else f"{least} to {most}"


def _write_total(report: Report) -> str:
    parts = []
    if report.run.unpriced:
        parts.append(f"no price for {count_of(report.run.unpriced, 'request')}")
    if report.job != report.run:
        parts.append(f"{_write_interval(report.job)} in all runs")
    if report.settings.budget_usd is not None:
        parts.append(f"of a budget of {format_usd(report.settings.budget_usd)}")
    return ", ".join(parts)


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


def _reasons(report: Report) -> list[tuple[str, str]]:
    ordered = sorted(report.failed.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = [(cut(reason, _CUT), f"{count:,}") for reason, count in ordered[:_REASONS]]
    if rest := ordered[_REASONS:]:
        rows.append((f"{len(rest):,} more reasons", f"{sum(count for _, count in rest):,}"))
    return rows


def _items(report: Report) -> dict[str, Any] | None:
    if not report.unanswered:
        return None
    now, rows = report.statistics, report.unanswered
    left = now.failed + now.doubt + now.pending
    return {
        "title": f"The first {len(rows):,} of {left:,} items" if len(rows) < left else "The items",
        "rows": [
            {
                "row": f"{item.row:,}",
                "state": _STATES.get(item.status, (item.status.value, ""))[0],
                "tone": _STATES.get(item.status, ("", ""))[1],
                "text": cut(item.text, _CUT),
                "reason": cut(item.reason, _CUT),
            }
            for item in rows
        ],
    }


def _asked_facts(report: Report) -> Iterator[tuple[str, str]]:
    asked = report.asked
    if asked.fields:
        yield "record's fields", ", ".join(shown(field) for field in asked.fields)
    if asked.labels:
        yield "labels", f"{len(asked.labels):,}"
    yield "examples", f"{asked.examples:,}"
    if asked.canaries:
        yield "canaries", f"{asked.canaries:,}"
    yield "shape of a row", shown(asked.shape)
    yield "fingerprint", shown(report.task)


def _settings(report: Report) -> Iterator[tuple[str, str]]:
    given = report.settings
    yield "model", shown(given.model)
    yield "gateway", shown(given.base_url or "the model's own")
    yield "input", f"{shown(given.input)}, column {shown(given.text)}"
    yield "output", shown(given.output or "standard output")
    yield "ledger", shown(given.ledger)
    yield "items in a pack", f"at most {given.max_items:,}" + (", untrusted" if given.untrusted else "")
    yield "in flight", "auto" if given.concurrency is None else f"at most {given.concurrency:,}"
    yield "on doubt", given.on_doubt
    if given.audit is not None:
        yield "audit", f"{percent(given.audit)} of the items, at most {percent(given.max_disagreement)} may disagree"
    yield "seed", str(given.seed)


def _money(report: Report) -> Iterator[tuple[str, str]]:
    now, given, price = report.statistics, report.settings, report.settings.price
    yield "this run", _write_interval(report.run)
    yield "all runs", _write_interval(report.job)
    yield "budget", "no cap" if given.budget_usd is None else format_usd(given.budget_usd)
    yield "one request", "no cap" if given.max_request_usd is None else f"at most {format_usd(given.max_request_usd)}"
    told = "unknown"
    if price is not None:
        told = f"{format_price(price.input)} in, {format_price(price.output)} out, a million tokens"
    yield "price", told
    if now.charge_sources:
        yield "told by", ", ".join(f"{source}: {count:,}" for source, count in sorted(now.charge_sources.items()))
    if report.job.doubt_requests:
        lost = f"{count_of(report.job.doubt_requests, 'request')} with {count_of(report.job.doubt_texts, 'text')}"
        yield "in doubt", f"{lost}: they may have been billed, and nobody said so"
    if report.job.unpriced:
        yield "unknown", f"{count_of(report.job.unpriced, 'request')} cost what nobody knows"
    if now.balance is not None:
        yield "balance", f"{format_usd(now.balance)} when the gateway last told it"
    if now.items and not report.run.unpriced and report.run.most > 0:
        yield "1,000 items", f"at most {format_usd(report.run.most * Decimal(1_000) / now.items)}"


def _counts(report: Report) -> Iterator[tuple[str, str]]:
    now = report.statistics
    yield "items", f"{now.items:,}"
    yield "known before", f"{now.known:,}, from the ledger or with the text of another item"
    yield "packs", f"{now.packs:,}"
    yield "requests", f"{now.requests:,}"
    yield "input tokens", f"{now.usage.input_tokens:,}, {now.usage.cached_input_tokens:,} of them cached"
    yield "output tokens", f"{now.usage.output_tokens:,}"
    yield "last limit", f"{now.limit:,} in flight, packs of {now.pack_size:,}"
    if now.refused_settings:
        yield "left out", f"{', '.join(shown(name) for name in now.refused_settings)}: the gateway does not take it"
    if now.canaries_asked:
        yield "canaries", f"{now.canaries_asked:,} asked, hit in {count_of(now.canary_hits, 'pack')}"
