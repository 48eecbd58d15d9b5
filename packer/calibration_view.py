"""A pilot as a person reads it: what it will cost before, a row a setting after, and one sentence at the end.

No line is wider than asked. The sentence is for someone who reads nothing else.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from packer.advice import percent
from packer.calibration import SINGLES, Calibration, Setting
from packer.pilot import Arm, Pilot
from packer.shown import count_of, cut_text, show_text
from packer.summary import Line, write_facts
from packer.trials import ArmPlan
from packer.usage import format_usd

_SURE = 0.05  # a shift of labels that chance makes more seldom is told
_WORDS = {"singles": "", "keeps": "yes", "breaks": "no", "unclear": "unclear", "not asked": "not asked"}


def write_plan(
    pilot: Pilot, plans: Mapping[Arm, ArmPlan], *, items: int, budget: Decimal | None, width: int
) -> list[Line]:
    """What is going to be asked, and what it costs at most if no setting is given up or settled early."""
    return write_facts(_plan(pilot, plans, items, budget), width=width)


def _plan(
    pilot: Pilot, plans: Mapping[Arm, ArmPlan], items: int, budget: Decimal | None
) -> Iterator[tuple[str, str, str]]:
    yield "sample", f"{count_of(pilot.items, 'distinct text')} of {count_of(items, 'row')}", ""
    tried = [arm for arm in pilot.arms() if plans[arm].is_tried]
    if not tried:
        yield "asked", "nothing: the sample is too small", ""
        return
    sizes = [str(size) for size in sorted({arm.size for arm in tried})]
    shapes = sorted({str(arm.shape) for arm in tried})
    models = list(dict.fromkeys(arm.model for arm in tried))
    also = f", with the shapes {_and(shapes)}" if len(shapes) > 1 else ""
    also += f", of {_and(models)}" if len(models) > 1 else ""
    yield "asked", f"each alone, then in packs of {_and(sizes)}{also}", ""
    asked = [plans[arm] for arm in (pilot.singles, *tried)]
    loads = [plan.left.packs for plan in asked]
    requests = sum(load.requests for load in loads)
    if not requests:
        yield "cost", "nothing: all of it is answered in the ledger already", ""
        return
    known = [plan.left.packs.cost(plan.price) for plan in asked if plan.price is not None]
    if len(known) < len(asked):
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


def write_calibration(found: Calibration, *, written: str, command: Sequence[str], width: int) -> list[Line]:
    """The table, what stands beside it, the sentence, and the command to run next.

    `written` is the task file that has the setting, empty for none. `command` has the words that stand on one line.
    """
    lines = [*_table(found, width), Line("")]
    lines += write_facts(_facts(found, written), width=width)
    # a number and its sign stay together
    sentence = show_text(found.advice).replace(" %", "\u00a0%")
    wrapped = textwrap.wrap(sentence, max(width, 20), break_on_hyphens=False)
    lines += [Line(""), *(Line(line.replace("\u00a0", " "), "bold") for line in wrapped)]
    return lines + [Line(line) for line in _write_command(command, width)]


def _write_command(words: Sequence[str], width: int) -> Iterator[str]:
    """A command as it is typed, an option and its value in one piece."""
    line = ""
    if words:
        yield ""
    for number, word in enumerate(words):
        if line and len(line) + len(word) + 3 > width:
            yield f"{line} \\"
            line = f"    {word}"
        else:
            line += f" {word}" if number else word
    if words:
        yield line


def _table(found: Calibration, width: int) -> Iterator[Line]:
    with_gold = any(setting.loss for setting in found.settings)
    promise = f"keeps {percent(found.max_disagreement)}"
    head = f"{'texts':>7}{'changed':>8}{'at most':>8}"
    head += f"{'accuracy':>9}{'loss':>7}{'at most':>8}" if with_gold else ""
    head += f"{'$/million':>10}  {promise:<9}"
    room = max(len(_name(setting)) for setting in found.settings)
    lines = {(setting.model, setting.shape) for setting in found.settings}
    above = None
    yield Line(f"{'setting':<{room}}{head}".rstrip(), "bold")
    for place, setting in enumerate(found.settings):
        if len(lines) > 1 and above != (setting.model, setting.shape):
            above = setting.model, setting.shape
            yield Line(cut_text(show_text(f"{setting.model}, answers as {setting.shape}"), width), "bold")
        row = f"{setting.items or '-':>7}{_changed(setting):>8}{_share(setting.at_most):>8}"
        if with_gold:
            loss = setting.loss
            row += f"{'-' if loss is None else percent(loss.packs / loss.items):>9}"
            is_lost = loss is not None and setting.outcome != SINGLES
            row += f"{_share(loss.share if loss and is_lost else None):>7}"
            row += f"{_share(loss.bound if loss and is_lost else None):>8}"
        usd = setting.usd_per_million
        row += f"{'-' if usd is None else format_usd(usd):>10}  {_WORDS[setting.outcome]:<9}"
        line = f"{_name(setting):<{room}}{row}".rstrip()
        yield Line(cut_text(line, width), "bold" if place == found.chosen and found.settled else "")


def _name(setting: Setting) -> str:
    return "singles" if setting.max_items == 1 else f"packs of {setting.max_items}"


def _facts(found: Calibration, written: str) -> Iterator[tuple[str, str, str]]:
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
    if found.stopped and found.settled:
        yield "stopped", f"before all settings were tried: {found.stopped}", "yellow"
    split = [setting for setting in found.settings if setting.items and setting.items_a_request < setting.max_items - 1]
    if split:
        fewest = min(split, key=lambda setting: setting.items_a_request / setting.max_items)
        held = f"{fewest.items_a_request:.1f} texts"
        yield (
            "split",
            f"packs of {fewest.max_items} had {held} on average: too long, or split after bad answers",
            "yellow",
        )
    failed = [setting for setting in found.settings if setting.failed]
    if failed:
        most = max(failed, key=lambda setting: setting.failed)
        yield "failed", f"{count_of(most.failed, 'text')} got no answer at all in packs of {most.max_items}", "yellow"
    priced = any(setting.usd_per_million is not None for setting in found.settings)
    cost = "; $/million: the expected cost of a million" if priced else ""
    yield "note", f"changed: another answer than alone; at most: of all such texts, 95 % sure{cost}", ""
    if found.usd is not None:
        yield "spent", f"{format_usd(found.usd)} for this pilot, in all its runs", ""
    if written:
        yield "task", f"{written} has the setting, and the table that it was chosen from", ""


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
