"""From which confidence on a cheap answer is kept, so that a promise about the whole holds with a stated probability.

The promise: of all items, at most 1 - `target` end with a wrong label, where those below the threshold get the stronger
model's. Right is what gold says, or else what the stronger model says; then what is escalated is right by definition.

A sample of items, drawn at random before, is asked of both. Thresholds of a fixed list are tried from the strictest on;
each is accepted where Clopper and Pearson's upper bound of level 1 - `delta` on the share of wrong labels under it is
at most 1 - `target`, and the first that is not accepted ends the search. The last accepted one is used. Only the first
threshold of the list that breaks the promise can be accepted wrongly, which has a probability of at most `delta`, so no
correction for the many is needed (fixed-sequence testing: Maurer, Hothorn and Lehmacher, 1995). The setting, and the
idea that it takes no more than that, are those of BARGAIN (Zeighami, Shankar and Parameswaran, Cut Costs, Not Accuracy:
LLM-Powered Data Processing with Guarantees, SIGMOD 2026) and before it of SUPG (Kang et al., Approximate Selection with
Guarantees using Proxies, VLDB 2020); their bounds are tighter than this one, and sample where it tells most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from packer.intervals import upper_bound

DELTA = 0.05
SAMPLE = 200
EVERYTHING = 2.0  # over any confidence: nothing is kept
# Confidences crowd near 1: steps of equal ratio in what is missing there
_LADDER = (*(1 - 10 ** (-step / 10) for step in range(60, 0, -1)), 0.0)


@dataclass(frozen=True, slots=True)
class Trial:
    """An item of the sample: how sure the cheap answer is, and which of the two answers are right."""

    confidence: float
    cheap_is_right: bool
    strong_is_right: bool = True


@dataclass(frozen=True, slots=True)
class Threshold:
    """What came of the sample.

    Answers of at least `below` are kept, which were `kept` of `items` in the sample, where `errors` labels were wrong
    under it; the true share of wrong ones is at most `bound`, with probability 1 - `delta`. `certified` tells whether
    that meets `target`; where it does not, everything is escalated, and `needed` is how many items a sample would need
    at the least for anything to be certified.
    """

    target: float
    delta: float
    items: int
    below: float
    kept: int
    errors: int
    bound: float
    certified: bool
    needed: int


def count_needed(target: float, delta: float = DELTA) -> int:
    """How many items a sample has at the least where something is certified: without an error among them."""
    # the bound is then 1 - delta^(1/n)
    return math.ceil(math.log(delta) / math.log(target))


def choose_threshold(trials: Sequence[Trial], *, target: float, delta: float = DELTA) -> Threshold:
    """The lowest threshold that is certified; `EVERYTHING`, not certified, where none is. Raises as `upper_bound`."""
    chosen = _try(trials, EVERYTHING, target=target, delta=delta)
    tried = chosen
    steps = iter(_LADDER)
    while tried.certified:
        chosen = tried
        below = next(steps, None)
        if below is None:
            break
        tried = _try(trials, below, target=target, delta=delta)
    return chosen


def _try(trials: Sequence[Trial], below: float, *, target: float, delta: float) -> Threshold:
    kept = [trial for trial in trials if trial.confidence >= below]
    errors = sum(not trial.cheap_is_right for trial in kept)
    errors += sum(not trial.strong_is_right for trial in trials if trial.confidence < below)
    bound = upper_bound(errors, len(trials), level=1 - delta)
    needed = count_needed(target, delta)
    return Threshold(target, delta, len(trials), below, len(kept), errors, bound, bound <= 1 - target, needed)
