"""Looking several times at one sample, and being wrong no more often than after one look: bounds of a share.

Items come in, some of them disagree, and at each look the count may be small enough to be sure that the true share
keeps a promise. Every look is a chance to be wrong. What a rule of looks comes to is reckoned exactly: the count is a
walk of binomial steps, and `acceptance` sums up the walks that are accepted at some look. It falls as the share grows,
so that the error is largest at the promise itself, and there it stays within the level.

The last look accepts what Clopper and Pearson's bound accepts (Biometrika 26, 1934); because counts are whole numbers
this leaves some of the allowed error over, and the earlier looks spend it. A look that gives up costs no error at all.
The bound after several looks orders them by stage (Tsiatis, Rosner and Mehta, Exact confidence intervals following a
group sequential test, Biometrics 40, 1984); for a single look it is Clopper and Pearson's.

Items are taken as independent. Errors that come by whole packs are not: then a bound is surer than it may be.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_ITEMS = 100_000
_HALVINGS = 34  # of an interval, until a share is exact to 1e-10
_NOTHING = 1e-18  # a probability that adds up to nothing


@dataclass(frozen=True, slots=True)
class Look:
    """A look at `items` items, which accepts when at most `most` of them disagree; -1 accepts nothing."""

    items: int
    most: int


def acceptance(looks: Sequence[Look], share: float) -> float:
    """How probable it is that one of `looks` accepts, where each item disagrees with probability `share`.

    `looks` are in the order of their items.
    """
    accepted, items = 0.0, 0
    walking = {0: 1.0}  # by count; what no later look accepts is left out
    for place, look in enumerate(looks):
        ahead = max(later.most for later in looks[place:])
        walked = dict.fromkeys(range(ahead + 1), 0.0)
        for before, chance in walking.items():
            for step, probability in _binomial(look.items - items, share, ahead):
                if before + step > ahead:
                    break
                walked[before + step] += chance * probability
        accepted += math.fsum(chance for count, chance in walked.items() if count <= look.most)
        walking = {count: chance for count, chance in walked.items() if count > look.most and chance > _NOTHING}
        items = look.items
    return accepted


def most_accepted(past: Sequence[Look], items: int, last: int, *, promise: float, level: float) -> int:
    """How many may disagree at a look at `items` items, -1 for none, where `last` is what the last look will have.

    `past` are the looks that accepted nothing. All looks together accept a share above `promise` with a probability of
    at most 1 - `level`, and the last one still accepts as many as if this one were not made.
    """
    final = _most(tuple(past), last, (), promise, level)
    return final if items >= last else _most(tuple(past), items, (Look(last, final),), promise, level)


def bound(past: Sequence[Look], items: int, differing: int, *, level: float) -> float:
    """What the true share exceeds at most 1 - `level` of the time, after `differing` of `items` at the newest look.

    `past` are the looks that accepted nothing. 1.0 where all differ, and without items.
    """
    if differing >= items:
        return 1.0
    looks = (*past, Look(items, differing))
    low, high = differing / items, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if acceptance(looks, middle) > 1 - level:
            low = middle
        else:
            high = middle
    return high


def exceeds(items: int, differing: int, share: float, *, level: float) -> bool:
    """Whether so many differ that a true share of at most `share` shows as many at most 1 - `level` of the time."""
    return differing > 0 and 1 - acceptance((Look(items, differing - 1),), share) <= 1 - level


def items_needed(share: float, *, promise: float, level: float) -> int | None:
    """How many items one look needs to accept `promise` where `share` of them disagree; None for over 100,000."""
    if share >= promise:
        return None
    items = math.ceil(math.log(1 - level) / math.log1p(-promise))  # none differ
    while acceptance((Look(items, math.ceil(share * items)),), promise) > 1 - level:
        items = math.ceil(items * 1.05)
        if items > _MOST_ITEMS:
            return None
    return items


@functools.lru_cache(maxsize=1_000)
def _most(past: tuple[Look, ...], items: int, later: tuple[Look, ...], promise: float, level: float) -> int:
    def accepts(most: int) -> bool:
        return acceptance((*past, Look(items, most), *later), promise) <= 1 - level

    low, high = -1, 0  # the more a look accepts, the more probable it is that one does
    while accepts(high):
        low, high = high, 2 * high + 1
    while high - low > 1:
        middle = (low + high) // 2
        if accepts(middle):
            low = middle
        else:
            high = middle
    return low


@functools.lru_cache(maxsize=1_000)
def _binomial(trials: int, share: float, most: int) -> tuple[tuple[int, float], ...]:
    """The numbers of successes up to `most` that come at all, each with its probability."""
    if not 0 < share < 1:
        return ((0 if share <= 0 else trials, 1.0),)
    log, log_not = math.log(share), math.log1p(-share)
    likely = (
        (count, math.exp(_log_choose(trials, count) + count * log + (trials - count) * log_not))
        for count in range(min(most, trials) + 1)
    )
    return tuple((count, probability) for count, probability in likely if probability > _NOTHING)


def _log_choose(trials: int, count: int) -> float:
    return math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)
