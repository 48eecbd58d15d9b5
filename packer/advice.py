"""What to do after a pilot, in one sentence that needs no statistics. What is not known is said to be not known.

Of the settings that keep the promise, singles among them, the cheapest is chosen; where a cost is unknown, the one with
the most items in a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from packer.looks import items_needed
from packer.pilot import Arm, Outcome, Pilot, Standing

_SURE = "95 % sure"
_NO_GAIN = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Advice:
    """The setting to use, and the sentence that says why. `settled` False: the pilot could not tell."""

    arm: Arm
    sentence: str
    settled: bool


def advise(
    pilot: Pilot,
    costs: Mapping[Arm, Decimal | None],
    *,
    held: Mapping[Arm, float],
    answers: str,
    stopped: str = "",
) -> Advice:
    """The advice after `pilot`.

    `costs` are USD for as many texts each, None where unknown; `held` how many items a request of an arm had: packs
    that had to be split hold less than their size. `answers` is what an item gets ("labels", "records"). `stopped` says
    why the pilot ended before its end, empty where it did not.
    """
    kept = [arm for arm in pilot.arms() if pilot.outcome(arm) is Outcome.KEEPS]
    if kept:
        return _advise_packs(pilot, kept, costs, held, answers)
    return _advise_singles(pilot, answers, stopped)


def percent(share: float) -> str:
    """A share for a person: tenths of a per cent, and whole ones without."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def _advise_packs(
    pilot: Pilot, kept: list[Arm], costs: Mapping[Arm, Decimal | None], held: Mapping[Arm, float], answers: str
) -> Advice:
    single = costs[pilot.singles]
    prices = {arm: usd for arm in kept if (usd := costs[arm]) is not None}
    if single and len(prices) == len(kept):
        arm = min(prices, key=lambda arm: (prices[arm], -held[arm]))
        saved = (single - prices[arm]) / single
        gain = f"they cost {100 * saved:.0f} % less than asking each text alone"
        pays = saved > _NO_GAIN
    else:
        arm = max(kept, key=lambda arm: (arm.model == pilot.singles.model, held[arm]))
        gain = f"they take {held[arm]:.0f} times fewer requests than asking each text alone"
        pays = held[arm] > 1 + float(_NO_GAIN)
    if not pays:
        sentence = (
            f"Ask each text alone (--max-items 1): packs keep nearly all {answers}, but they would not be cheaper."
        )
        return Advice(pilot.singles, sentence, settled=True)
    sure = f"at most {percent(pilot.promise)} of {answers} change ({_SURE}: {_seen(pilot.standing(arm))} did)"
    return Advice(arm, f"Use {_name(pilot, arm)}: {gain}, and {sure}.", settled=True)


def _advise_singles(pilot: Pilot, answers: str, stopped: str) -> Advice:
    first = pilot.standing(next(iter(pilot.arms())))
    again = pilot.standing(pilot.again)
    promise = percent(pilot.promise)
    if stopped and first.outcome is not Outcome.BREAKS:
        seen = f"after {_seen(first)} changed in {first.arm}" if first.items else "before packs could be compared"
        sentence = f"Nothing can be told yet: it stopped {seen} ({stopped}); the same command goes on."
        return Advice(pilot.singles, sentence, settled=False)
    if not first.items:
        needed = items_needed(0.0, promise=pilot.promise, level=pilot.level)
        sentence = (
            f"Not enough items to tell: {pilot.items:,} texts cannot show that at most {promise} of {answers} change; "
            f"it takes {needed:,} or more, or a larger --max-disagreement."
        )
        return Advice(pilot.singles, sentence, settled=False)
    share = first.differing / first.items
    if again.items and again.differing / again.items > pilot.promise:
        sentence = (
            f"Ask each text alone, or allow more than {percent(again.differing / again.items)} with "
            f"--max-disagreement: asked alone a second time, {_seen(again)} got another answer already."
        )
        return Advice(pilot.singles, sentence, settled=True)
    if first.outcome is Outcome.BREAKS or share > pilot.promise:
        seen = f"{percent(share)} of {answers} change already in {first.arm} ({_seen(first)}), and you allow {promise}"
        return Advice(pilot.singles, f"Ask each text alone (--max-items 1): {seen}.", settled=True)
    needed = items_needed(share, promise=pilot.promise, level=pilot.level)
    way = f"try --sample {_round_up(needed)}" if needed else "no sample of a bearable size could tell"
    seen = f"{_seen(first)} changed in {first.arm}, which may be more than {promise} of all or less"
    return Advice(pilot.singles, f"Not enough items to tell: {seen}; {way}.", settled=False)


def _seen(standing: Standing) -> str:
    return f"{standing.differing:,} of {standing.items:,}"


def _name(pilot: Pilot, arm: Arm) -> str:
    shape = f" with the shape {arm.shape}" if arm.shape is not pilot.singles.shape else ""
    model = f" of {arm.model}" if arm.model != pilot.singles.model else ""
    return f"{'singles' if arm.size == 1 else f'packs of {arm.size}'}{model}{shape}"


def _round_up(items: int) -> int:
    return -(-items // 100) * 100
