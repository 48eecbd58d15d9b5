"""What a person reads: the table of results and the summary. No line is wider than asked, and none is obeyed.

Texts, labels and errors come from strangers and from models: control, bidi and other invisible characters are shown as
escapes, so that a terminal prints them and does nothing else.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from packer.audit import AuditResult
from packer.columns import answers
from packer.events import Statistics
from packer.items import Result, Status
from packer.shown import count_of, cut_text, pad_text, show_text
from packer.standing import count_items, write_cost
from packer.usage import format_usd
from packer.votes import DoubtResult

_REASONS_SHOWN = 2
# That a fact may take: a reason is a stranger's word, and may be long
_LINES = {
    "audit": 4,
    "batch": 4,
    "votes": 3,
    "cost": 3,
    "doubtful": 3,
    "failed": 1,
    "items": 4,
    "next": 6,
    "stopped": 3,
}
_SCREEN = 23  # lines: 24, and one for the prompt below
# Where it does not fit, all but these are cut to a line; then what the report tells as well is left out, in this order
_WHOLE = {"cost", "in doubt", "items", "next", "stopped"}
_LEAST = ("in flight", "tokens", "sent", "refused", "cells", "known", "time", "column", "changed", "votes", "escalated")
# What to do about a reason to stop, by what it begins with
_MENDS = {
    "interrupted": "",
    "budget:": "with a larger --budget-usd, ",
    "balance:": "when the account has money again, ",
    "quota:": "when the account has money again, or its quota allows it, ",
    "key refused:": "with a key that the gateway takes (--api-key-env or --api-key-file), ",
    "unknown model:": "with a --model that the gateway serves, ",
    "": "when that is mended, ",
}


class Line(NamedTuple):
    """One line for the terminal; `style` is rich's, empty for none."""

    text: str
    style: str = ""


class ResultTable:
    """Results as lines of at most `width` cells: place, answer, text; a failed row is followed by its reason.

    `labels` are the task's, empty for a record task, whose `fields` are named instead. `rows` None: not known yet.
    """

    def __init__(self, *, labels: Sequence[str], fields: Sequence[str], rows: int | None, width: int) -> None:
        self._fields = fields
        self._width = width
        self._place = max(len(str(rows)), 2) if rows is not None else 6
        from rich.cells import cell_len  # noqa: PLC0415  as above

        longest = max((cell_len(show_text(label)) for label in labels), default=width)
        self._answer = min(max(longest, len(f"({Status.PENDING})")), width // (2 if fields else 3))
        self._count = 0

    def header(self) -> Line:
        """The names of the columns."""
        name = "record" if self._fields else "label"
        return Line(f"{'#':>{self._place}}  {pad_text(name, self._answer)}  text", "bold")

    def row(self, text: str, result: Result) -> Iterator[Line]:
        """The lines of one result."""
        self._count += 1
        answer, style = f"({result.status})", "red" if result.status is Status.FAILED else "yellow"
        if result.status is Status.LABELLED:
            answer, style = self._write_answer(result), ""
        place = f"{self._count:>{self._place}}  "
        line = f"{place}{pad_text(show_text(answer), self._answer)}  {show_text(text)}"
        yield Line(cut_text(line, self._width), style)
        if result.status in {Status.FAILED, Status.DOUBT}:
            yield Line(cut_text(" " * len(place) + show_text(result.error), self._width), "dim")

    def _write_answer(self, result: Result) -> str:
        found = answers(result, self._fields)
        if not self._fields:
            return str(found[0])
        return ", ".join(f"{name}: {_brief(value)}" for name, value in zip(self._fields, found, strict=True))


def _brief(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


@dataclass(frozen=True, slots=True)
class Ending:
    """How the command ended, besides the statistics.

    `earlier` are the statistics from before the first item; `reasons` count failed items by their error; `rows` is None
    where the input was not read to its end; `output` is None where the rows went to the screen or to a pipe;
    `renamed` are columns that got another name; `guarded` counts CSV cells with an apostrophe before a formula;
    `stopped` is why the job ended before its end, empty where it did not; `on_screen` tells that the rows went nowhere
    but to the screen; `audit` is what came of one; `unsure` counts labelled items whose confidence was asked for and is
    not known; `doubt` is what came of doubtful labels.
    """

    earlier: Statistics
    now: Statistics
    reasons: Mapping[str, int]
    ledger: str
    output: str | None = None
    budget: Decimal | None = None
    notice: str = ""
    renamed: Sequence[tuple[str, str]] = ()
    guarded: int = 0
    stopped: str = ""
    on_screen: bool = False
    audit: AuditResult | None = None
    unsure: int = 0
    doubt: DoubtResult | None = None


def write_summary(ending: Ending, *, width: int) -> list[Line]:
    """The summary, at most `width` wide and a screen long: what was done, what it took, what to do next."""
    facts = [*_facts(ending)]
    lines = write_facts(facts, width=width)
    for count in range(len(_LEAST) + 1):
        if len(lines) <= _SCREEN:
            break
        lines = write_facts([fact for fact in facts if fact[0] not in _LEAST[:count]], width=width, brief=True)
    return lines


def write_facts(facts: Iterable[tuple[str, str, str]], *, width: int, brief: bool = False) -> list[Line]:
    """Facts (a name of at most 9 letters, a text, a style) as lines of at most `width`, the texts below each other.

    `brief` gives each a line, but for what to do next and why it stopped.
    """
    lines: list[Line] = []
    room = max(width - 11, 20)
    for name, text, style in facts:
        shown = show_text(text)
        # a path is there to be copied, so it stays in one piece
        wrapped = [shown] if name == "output" else [cut_text(part, room) for part in textwrap.wrap(shown, room)]
        most = 1 if brief and name not in _WHOLE else _LINES.get(name, 2)
        if len(wrapped) > most:
            wrapped = [*wrapped[: most - 1], cut_text(f"{wrapped[most - 1]} …", room)]
        lines += [Line(f"{'' if number else name:<9}  {part}", style) for number, part in enumerate(wrapped)]
    return lines


def _facts(ending: Ending) -> Iterator[tuple[str, str, str]]:
    now = ending.now
    yield "items", count_items(now), ""
    if now.known:
        yield "known", f"{now.known:,} of them, from the ledger or with the text of another item", ""
    if now.requests:
        yield "sent", f"{count_of(now.packs, 'pack')} in {count_of(now.requests, 'request')}", ""
        usage = now.usage
        if usage.input_tokens:
            cached = f" ({usage.cached_input_tokens:,} of them cached)" if usage.cached_input_tokens else ""
            yield "tokens", f"{usage.input_tokens:,} in{cached}, {usage.output_tokens:,} out", ""
    if now.canary_hits:
        yield "canaries", f"hit in {count_of(now.canary_hits, 'pack')}: those items were asked one by one", "yellow"
    if ending.audit is not None:
        yield "audit", _write_audit(ending.audit, now.pack_size), "yellow" if ending.audit.broken else ""
    if ending.doubt is not None:
        yield from _write_doubtful(ending.doubt)
    cost = write_cost(ending.earlier, now, on_this_machine=bool(ending.notice), budget=ending.budget)
    yield "cost", cost, ""
    if now.doubt_requests:
        yield "in doubt", _write_doubt(now), "yellow"
    if levels := _write_levels(now):
        yield "in flight", levels, ""
    rate = f", {now.items / now.seconds:,.1f} items a second" if now.seconds > 0 and now.items else ""
    yield "time", f"{write_seconds(now.seconds)}{rate}", ""
    if now.refused_settings:
        yield "refused", f"the gateway does not take {', '.join(now.refused_settings)}; it was left out", ""
    if ending.renamed:
        given, chosen = (", ".join(map(repr, names)) for names in zip(*ending.renamed, strict=True))
        has, new = ("a column", "one is") if len(ending.renamed) == 1 else ("columns", "ones are")
        yield "column", f"the input has {has} {given} already; the new {new} {chosen}", ""
    if ending.unsure:
        why = "the gateway told none, or they were labelled by a run that did not ask"
        yield "column", f"confidence is empty for {count_of(ending.unsure, 'labelled item')}: {why}", "yellow"
    if ending.guarded:
        cells = f"{count_of(ending.guarded, 'cell')} got a leading ' so that no spreadsheet runs them; see --raw"
        yield "cells", cells, ""
    if ending.notice:
        yield "model", ending.notice, ""
    shown = sorted(ending.reasons.items(), key=lambda pair: -pair[1])[:_REASONS_SHOWN]
    for reason, count in shown:
        yield "failed", f"{count:,}: {reason}", "red"
    if len(ending.reasons) > len(shown):
        yield "", f"and for {count_of(len(ending.reasons) - len(shown), 'more reason')}", "red"
    yield from _next_steps(ending)


def _next_steps(ending: Ending) -> Iterator[tuple[str, str, str]]:
    now, output = ending.now, ending.output
    if output is not None:
        yield "output", output, ""
    if now.stopped and not ending.stopped:
        yield "note", now.stopped, "yellow"
    if ending.stopped:
        yield "stopped", ending.stopped, "yellow"
    yield "next", _write_next(ending), "bold"


def _write_next(ending: Ending) -> str:
    now, output = ending.now, ending.output
    kept = f"every answer is kept in {ending.ledger}"
    if ending.stopped:
        mend = next(mend for reason, mend in _MENDS.items() if ending.stopped.startswith(reason))
        what = f"{count_of(now.pending, 'item')} pending; " if now.pending else ""
        return f"{what}{mend}run the same command again to go on: {kept}"
    if now.failed or now.doubt:
        parts = ["the column error says why" if output is not None else "--output FILE keeps them with their reasons"]
        if now.failed:
            parts.append("the same command again asks only for what has no answer yet")
        if now.doubt:
            parts.append("--on-doubt retry asks again for what is in doubt, and may pay for it twice")
        return "; ".join(parts)
    if output is not None:
        return (
            f"prompt-packer evaluate {shlex.quote(output)} --gold COLUMN tells how right it is, where COLUMN is right"
        )
    if ending.on_screen:
        return "--output FILE writes the rows; nothing is asked again"
    return f"{kept}; the same command again asks nothing"


def _write_audit(audit: AuditResult, size: int) -> str:
    """What an audit found, for somebody who knows nothing of statistics."""
    if not audit.asked:
        return "nothing that was labelled in a pack has been asked again"
    share, promise = audit.disagreement, f"{100 * audit.promise:.3g} %"
    same = f"{audit.agreed:,} of {count_of(audit.asked, 'item')} got the same answer when asked again alone"
    changed = f"packing changes {100 * share.low:.1f} to {100 * share.high:.1f} % of the answers (95 % sure)"
    if audit.broken:
        verdict = f"over the promised {promise}, so packs became smaller; --max-items {size} begins there"
    elif audit.is_kept:
        verdict = f"the promised {promise} at most is kept"
    else:
        verdict = f"to be sure of {promise} at most, more would have to be asked"
    return f"{same}: {changed}; {verdict}"


def _write_doubtful(found: DoubtResult) -> Iterator[tuple[str, str, str]]:
    """What came of doubtful labels."""
    if found.asked_again:
        again = f"{count_of(found.asked_again, 'text')} asked again, {count_of(found.votes, 'further answer')} counted"
        yield "votes", f"{again}; {_write_price(found.vote_requests, found.vote_usd)}", ""
    if found.escalated:
        alone = f"{count_of(found.escalated, 'text')} labelled by the stronger model, {found.overruled:,} otherwise"
        yield "escalated", f"{alone}; {_write_price(found.escalate_requests, found.escalate_usd)}", ""
    if found.asked_again or found.escalated:
        yield "changed", f"{count_of(found.changed, 'label')} of these are not what was answered first", ""
    if found.doubtful:
        cut = f"; {count_of(found.cut, 'answer')} could not be asked for: {found.stopped}" if found.cut else ""
        yield "doubtful", f"{count_of(found.doubtful, 'label')} still: the column decision says which{cut}", "yellow"


def _write_price(requests: int, usd: Decimal | None) -> str:
    if not requests:
        return "nothing was asked in this run"
    return f"{count_of(requests, 'request')}, {'at an unknown cost' if usd is None else format_usd(usd)}"


def _write_doubt(now: Statistics) -> str:
    lost = f"{count_of(now.doubt_requests, 'request')} with {count_of(now.doubt_texts, 'text')}"
    if not now.in_doubt:
        return f"{lost}, and no word of what they cost"
    most = now.settled + now.in_doubt
    return (
        f"{lost}, and no word of what they cost: at most {format_usd(now.in_doubt)}, so that the job has cost "
        f"{format_usd(now.settled - now.assumed)} to {format_usd(most)}"
    )


def _write_levels(now: Statistics) -> str:
    """Cost and pace with the least and with the most in flight; empty where there is nothing to compare."""
    known = [level for level in now.levels if level.usd_an_item and level.items_a_second]
    parts = []
    for level in (known[0], known[-1]) if len(known) > 1 else ():
        size = str(level.least) if level.least == level.most else f"{level.least}-{level.most}"
        parts.append(f"{size}: {format_usd(level.usd_an_item)} an item, {level.items_a_second:,.0f}/s")
    return "; ".join(parts)


def write_seconds(seconds: float) -> str:
    """A duration for a person."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
