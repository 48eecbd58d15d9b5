"""What two answers to the same items tell besides how many differ: accuracy lost, labels shifted, numbers that err.

Everything here compares an item with itself, so that hard items and easy ones weigh the same on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from packer.looks import bound

_HALVINGS = 50
_ENDS = 3  # parts of a pack: its first third, its middle, its last third


@dataclass(frozen=True, slots=True)
class Loss:
    """The accuracy that packs lose against singles, as a share of items; below 0 where they gain.

    `singles` and `packs` are how many of `items` each had right; `bound` is what the true loss exceeds in about 5 % of
    samples (see `loss_bound`), None without items.
    """

    items: int
    singles: int
    packs: int
    bound: float | None

    @property
    def share(self) -> float | None:
        """What was lost in the sample."""
        return (self.singles - self.packs) / self.items if self.items else None


@dataclass(frozen=True, slots=True)
class Shift:
    """How often a label was given alone and in packs, and the probability of such a shift by chance alone."""

    label: str
    singles: int
    packs: int
    chance: float


def measure_loss(answers: Iterable[tuple[str, str | None, str]], *, level: float = 0.95) -> Loss:
    """The accuracy lost over (alone, in a pack, right) answers; no answer is a wrong one."""
    items = singles = packs = lost = won = 0
    for single, packed, right in answers:
        items += 1
        singles += single == right
        packs += packed == right
        lost += single == right != packed
        won += packed == right != single
    return Loss(items, singles, packs, loss_bound(lost, won, items, level=level) if items else None)


def loss_bound(lost: int, won: int, items: int, *, level: float = 0.95) -> float:
    """What the true loss of accuracy exceeds in about 1 - `level` of samples.

    `lost` of `items` are right alone and wrong in packs, `won` the other way round; the loss is (lost - won) / items.
    The bound is where Tango's score test of a paired difference ends (Equivalence test and confidence interval for the
    difference in proportions for the paired-sample design, Statistics in Medicine 17, 1998). Where `won` is 0 it is at
    least Clopper and Pearson's for `lost`, which is exact there and a little wider. Reckoned out for 100 and 300 items,
    losses of 1 to 5 % and gains of 0 to 6 %, it misses the true loss in at most 5.6 % of samples at a level of 95 %.
    """
    limit = NormalDist().inv_cdf(level)
    low, high = (lost - won) / items, 1.0
    if low >= 1:
        return 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _tango_score(lost, won, items, middle) >= -limit:
            low = middle
        else:
            high = middle
    return high if won else max(high, bound((), items, lost, level=level))


def _tango_score(lost: int, won: int, items: int, loss: float) -> float:
    """How many standard errors the observed loss is above `loss`, the errors being those that `loss` makes likely."""
    # the likeliest share of `won` where the loss is as given: a root of a quadratic (Tango, appendix)
    linear = (2 * items - lost + won) * loss - lost - won
    root = math.sqrt(linear * linear + 8 * items * won * loss * (1 - loss))
    share = (root - linear) / (4 * items)
    variance = items * (2 * share + loss * (1 - loss))
    return (lost - won - items * loss) / math.sqrt(variance) if variance > 0 else -math.inf


def find_shifts(pairs: Sequence[tuple[str, str | None]]) -> list[Shift]:
    """How each label's share moved from singles to packs, the least likely shift first.

    `chance` is McNemar's exact test for a label (Psychometrika 12, 1947: of the items that have it on one side only, as
    many are to be expected on each), times the number of labels (Bonferroni), at most 1.
    """
    labels = sorted({answer for pair in pairs for answer in pair if answer is not None})
    shifts = []
    for label in labels:
        gone = sum(single == label != packed for single, packed in pairs)
        come = sum(packed == label != single for single, packed in pairs)
        both = sum(single == label == packed for single, packed in pairs)
        shifts.append(Shift(label, both + gone, both + come, min(1.0, _even_chance(gone, come) * len(labels))))
    return sorted(shifts, key=lambda shift: (shift.chance, -abs(shift.packs - shift.singles)))


def differ_by_third(places: Iterable[tuple[int, int, bool]]) -> list[tuple[int, int]]:
    """Of the first, middle and last third of packs: how many items differ, and how many there are.

    `places` are each item's number in its pack from 1, the pack's size, and whether it differs.
    """
    thirds = [[0, 0] for _ in range(_ENDS)]
    for number, size, differs in places:
        third = thirds[(number - 1) * _ENDS // size]
        third[0] += differs
        third[1] += 1
    return [(differing, items) for differing, items in thirds]


def _even_chance(one: int, other: int) -> float:
    """How probable a division at least as uneven is where each side is as likely."""
    ends = sum(math.comb(one + other, few) for few in range(min(one, other) + 1))
    return min(1.0, 2 * ends / (1 << (one + other)))
