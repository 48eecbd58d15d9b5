"""What a report says, in words: the page of a report and the dashboard tell the same numbers in the same ones.

What comes from a stranger is on one line, with what is invisible as escapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from decimal import Decimal
from typing import Any, NamedTuple

from packer.drawing import cut, percent, shown
from packer.items import Status
from packer.recording import Unanswered
from packer.report import Money, Report
from packer.shown import count_of
from packer.summary import write_seconds
from packer.usage import format_price, format_usd

_REASONS = 20
_CUT = 300  # characters of a text in a table
_STATES = {Status.FAILED: ("failed", "bad"), Status.DOUBT: ("in doubt", "warn"), Status.PENDING: ("pending", "rest")}


class Tile(NamedTuple):
    """One number, what it is called, and a line below it."""

    name: str
    value: str
    sub: str = ""
    tone: str = ""


def tell_verdict(report: Report) -> dict[str, Any]:
    """The first screen: whether it is done, what comes next, and how the items ended."""
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


def tell_tiles(report: Report) -> Iterator[Tile]:
    """The numbers that count."""
    now, run = report.statistics, report.run
    share = percent(now.labelled / now.items) if now.items else "no items"
    known = f", {now.known:,} without a request" if now.known else ""
    yield Tile("Labelled", f"{now.labelled:,}", f"{share}{known}", "good")
    left = now.failed + now.doubt + now.pending
    yield Tile("Without a label", f"{left:,}", _count_left(report), ("bad" if now.failed else "warn") if left else "")
    yield Tile("Cost of this run", write_interval(run), write_total(report), "warn" if run.least != run.most else "")
    pace = f"{now.items / now.seconds:,.1f} items a second" if now.seconds > 0 else ""
    yield Tile("Time", write_seconds(now.seconds), pace)
    refused = report.timeline[-1].refused if report.timeline else 0
    yield Tile("Requests", f"{now.requests:,}", f"{refused:,} refused" if refused else "none refused")


def write_interval(money: Money) -> str:
    """The two amounts between which the true spending lies; one where they are the same."""
    if money.unpriced:
        return "unknown"
    return write_range(money.least, money.most)


def write_range(least: Decimal, most: Decimal) -> str:
    """Two amounts, or one where they read the same."""
    low, high = format_usd(least), format_usd(most)
    return low if low == high else f"{low} to {high}"


def write_total(report: Report) -> str:
    """What stands below the cost of a run: all runs, and the budget."""
    parts = []
    if report.run.unpriced:
        parts.append(f"no price for {count_of(report.run.unpriced, 'request')}")
    if report.job != report.run:
        parts.append(f"{write_interval(report.job)} in all runs")
    if report.settings.budget_usd is not None:
        parts.append(f"of a budget of {format_usd(report.settings.budget_usd)}")
    return ", ".join(parts)


def tell_reasons(report: Report) -> list[tuple[str, str]]:
    """Why items failed, the most frequent reason first."""
    ordered = sorted(report.failed.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = [(cut(reason, _CUT), f"{count:,}") for reason, count in ordered[:_REASONS]]
    if rest := ordered[_REASONS:]:
        rows.append((f"{len(rest):,} more reasons", f"{sum(count for _, count in rest):,}"))
    return rows


def tell_items(report: Report) -> dict[str, Any] | None:
    """The items without a label; None where there are none."""
    if not report.unanswered:
        return None
    now, rows = report.statistics, report.unanswered
    left = now.failed + now.doubt + now.pending
    return {
        "title": f"The first {len(rows):,} of {left:,} items" if len(rows) < left else "The items",
        "rows": [tell_item(item) for item in rows],
    }


def tell_item(item: Unanswered) -> dict[str, str]:
    """An item without a label."""
    state, tone = _STATES.get(item.status, (item.status.value, ""))
    return {
        "row": f"{item.row:,}",
        "state": state,
        "tone": tone,
        "text": cut(item.text, _CUT),
        "reason": cut(item.reason, _CUT),
    }


def tell_doubtful(report: Report) -> dict[str, Any] | None:
    """What came of doubtful labels, and those that are in doubt still; None where nobody asked for it."""
    doubt = report.doubt
    if doubt is None:
        return None
    parts = []
    if doubt.asked_again:
        parts.append(
            f"{count_of(doubt.asked_again, 'text')} asked again, {doubt.changed:,} of which changed their label."
        )
    if doubt.escalated:
        stronger = count_of(doubt.escalated, "text")
        parts.append(f"{stronger} labelled by the stronger model, {doubt.overruled:,} of which otherwise.")
    left = count_of(doubt.doubtful, "label")
    parts.append(f"{left} in doubt still." if doubt.doubtful else "No label is in doubt any more.")
    return {
        "lead": " ".join(parts),
        "rows": [
            {
                "row": f"{item.row:,}",
                "answer": cut(item.answer, _CUT),
                "confidence": "unknown" if item.confidence is None else f"{item.confidence:.2f}",
                "votes": f"{item.votes:,}",
                "text": cut(item.text, _CUT),
            }
            for item in report.doubtful
        ],
    }


def tell_asked(report: Report) -> dict[str, Any]:
    """What each item was asked."""
    asked = report.asked
    return {
        "instructions": "\n".join(shown(line) for line in asked.instructions.splitlines()),
        "labels": [(shown(name), shown(words)) for name, words in asked.labels.items()],
        "facts": list(_tell_task(report)),
    }


def _tell_task(report: Report) -> Iterator[tuple[str, str]]:
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


def tell_settings(report: Report) -> Iterator[tuple[str, str]]:
    """What the command was told."""
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


def tell_money(report: Report) -> Iterator[tuple[str, str]]:
    """Where the money went."""
    now, given, price = report.statistics, report.settings, report.settings.price
    yield "this run", write_interval(report.run)
    yield "all runs", write_interval(report.job)
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


def tell_counts(report: Report) -> Iterator[tuple[str, str]]:
    """Packs, requests and tokens."""
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
