"""A pilot as a person reads it: what it will cost before, a row a setting after, and one sentence at the end.

No line is wider than asked. The sentence is for someone who reads nothing else.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from packer.advice import percent
from packer.calibration import Calibration, Setting
from packer.pilot import Arm, Pilot
from packer.summary import Line, count_of, cut_text, pad_text, show_text, write_facts
from packer.trials import ArmPlan
from packer.usage import format_usd

_SURE = 0.05  # a shift of labels that chance makes more seldom is told
_WORDS = {"singles": "", "keeps": "yes", "breaks": "no", "unclear": "cannot tell", "not asked": "not asked"}


def write_plan(
    pilot: Pilot, plans: Mapping[Arm, ArmPlan], *, items: int, budget: Decimal | None, width: int
) -> list[Line]:
    """What is going to be asked, and what it costs at most if no setting is given up or settled early."""
    return write_facts(_plan(pilot, plans, items, budget), width=width)


def _plan(
    pilot: Pilot, plans: Mapping[Arm, ArmPlan], items: int, budget: Decimal | None
) -> Iterator[tuple[str, str, str]]:
    yield "sample", f"{count_of(pilot.items, 'distinct text')} of {count_of(items, 'row')}", ""
    sizes = [str(size) for size in sorted({arm.size for arm in pilot.arms()})]
    shapes = sorted({str(arm.shape) for arm in pilot.arms()})
    models = list(dict.fromkeys(arm.model for arm in pilot.arms()))
    also = f", with the shapes {_and(shapes)}" if len(shapes) > 1 else ""
    also += f", of {_and(models)}" if len(models) > 1 else ""
    yield "asked", f"each alone, then in packs of {_and(sizes)}{also}", ""
    loads = [plan.left.packs for plan in plans.values()]
    requests = sum(load.requests for load in loads)
    if not requests:
        yield "cost", "nothing: all of it is answered in the ledger already", ""
        return
    known = [plan.left.packs.cost(plan.price) for plan in plans.values() if plan.price is not None]
    if len(known) < len(plans):
        unknown = f"unknown, for {count_of(requests, 'request')} at most: no price is known for every model"
        yield "cost", unknown, "yellow"
        return
    expected = sum(known, Decimal(0))
    worst = sum((load.worst or Decimal(0) for load in loads), Decimal(0))
    often = "less where it is clear sooner"
    yield "cost", f"about {format_usd(expected)} for {count_of(requests, 'request')} at most; {often}", "bold"
    yield "worst", f"{format_usd(worst)}, if every answer runs on for as long as it may", ""
    if budget is not None:
        covers = "covers even the worst case" if budget >= worst else "covers what is expected, not the worst case"
        covers = covers if budget >= expected else "does not cover it: it will stop, and tell what it knows"
        yield "budget", f"{format_usd(budget)} {covers}", "" if budget >= expected else "yellow"


def write_calibration(found: Calibration, *, width: int, after: Sequence[tuple[str, str, str]] = ()) -> list[Line]:
    """The table, what stands beside it, the sentence, and the facts of what comes `after`."""
    lines = [*_table(found, width), Line("")]
    lines += write_facts(_facts(found), width=width)
    lines.append(Line(""))
    lines += [Line(line, "bold") for line in textwrap.wrap(show_text(found.advice), max(width, 20))]
    return lines + write_facts(after, width=width)


def _table(found: Calibration, width: int) -> Iterator[Line]:
    with_gold = any(setting.loss for setting in found.settings)
    promise = f"keeps {percent(found.max_disagreement)}"
    head = f"{'texts':>6}{'changed':>9}{'at most':>9}"
    head += f"{'accuracy':>10}{'loss':>8}{'at most':>9}" if with_gold else ""
    head += f"{'$/million':>11}  {promise:<11}"
    room = min(max(len(_name(setting, found)) for setting in found.settings), max(width - len(head), 12))
    yield Line(f"{'setting':<{room}}{head}".rstrip(), "bold")
    for place, setting in enumerate(found.settings):
        row = f"{setting.items or '-':>6}{_changed(setting):>9}{_share(setting.at_most):>9}"
        if with_gold:
            loss = setting.loss
            is_singles = setting.outcome == "singles"
            row += f"{'-' if loss is None else percent(loss.packs / loss.items):>10}"
            row += f"{_share(None if loss is None or is_singles else loss.share):>8}"
            row += f"{_share(None if loss is None or is_singles else loss.bound):>9}"
        usd = setting.usd_per_million
        row += f"{'-' if usd is None else format_usd(usd):>11}  {_WORDS[setting.outcome]:<11}"
        line = f"{pad_text(show_text(_name(setting, found)), room)}{row}".rstrip()
        yield Line(cut_text(line, width), "bold green" if place == found.chosen and found.settled else "")


def _name(setting: Setting, found: Calibration) -> str:
    parts = ["singles" if setting.max_items == 1 else f"packs of {setting.max_items}"]
    if len({other.shape for other in found.settings}) > 1:
        parts.append(setting.shape)
    if len({other.model for other in found.settings}) > 1:
        parts.append(setting.model.rpartition("/")[2])
    return ", ".join(parts)


def _facts(found: Calibration) -> Iterator[tuple[str, str, str]]:
    if found.again is not None and found.again.items:
        again = found.again
        yield "alone", f"asked alone a second time, {again.differing:,} of {again.items:,} got another answer", ""
    chosen = found.settings[found.chosen]
    shown = chosen if chosen.max_items > 1 else next((other for other in found.settings if other.thirds), None)
    if shown is not None and shown.shifts:
        yield "mix", _mix(shown), "yellow" if shown.shifts[0].chance < _SURE else ""
    placed = [setting for setting in found.settings if sum(third.differing for third in setting.thirds)]
    if placed:
        last = placed[-1]
        first, middle, end = (f"{third.differing:,} of {third.items:,}" for third in last.thirds)
        parts = f"changed in the first third {first}, in the middle {middle}, in the last {end}"
        yield "places", f"in packs of {last.max_items}: {parts}", ""
    failed = [setting for setting in found.settings if setting.failed]
    if failed:
        most = max(failed, key=lambda setting: setting.failed)
        yield "failed", f"{count_of(most.failed, 'text')} got no answer at all in packs of {most.max_items}", "yellow"
    yield "texts", "another label in packs than alone is a change; 'at most' is 95 % sure", ""
    if found.usd is not None:
        yield "spent", f"{format_usd(found.usd)} for this pilot, in all its runs", ""


def _mix(setting: Setting) -> str:
    shift = setting.shifts[0]
    alone, packed = (percent(count / setting.items) for count in (shift.singles, shift.packs))
    moved = f"{show_text(shift.label)} is {alone} of the labels alone and {packed} in packs of {setting.max_items}"
    chance = shift.chance
    return f"{moved}: more than chance explains" if chance < _SURE else f"{moved}: no more than chance explains"


def _changed(setting: Setting) -> str:
    return "-" if setting.outcome in {"singles", "not asked"} or not setting.items else f"{setting.differing:,}"


def _share(share: float | None) -> str:
    return "-" if share is None else percent(share)


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def write_command(words: Sequence[str]) -> str:
    """A command as it is typed."""
    return shlex.join(words)
