"""A threshold keeps its promise with the stated probability, over hundreds of seeds, whatever confidence is worth."""

import math
import random
from collections.abc import Callable

import pytest

from packer.cascade import EVERYTHING, Trial, choose_threshold

TARGET = 0.9
DELTA = 0.1
SEEDS = 400
Law = Callable[[float], float]
"""How often an answer of some confidence is wrong."""
LAWS: dict[str, Law] = {
    "calibrated": lambda confidence: 1 - confidence,
    "too sure": lambda confidence: min(1.0, 2 * (1 - confidence) + 0.05),
    "worthless": lambda _: 0.15,
    "upside down": lambda confidence: 0.3 * confidence,
    "at the edge": lambda _: 1 - TARGET + 1e-9,
}


def draw(law: Law, rng: random.Random) -> Trial:
    confidence = 1 - rng.random() ** 2 / 2  # crowded near 1, from 0.5 on
    return Trial(confidence, rng.random() >= law(confidence))


def true_share_of_errors(law: Law, below: float) -> float:
    """Of all items, those that are kept and wrong; by the middles of many small steps."""
    steps = 2_000
    found = 0.0
    for step in range(steps):
        confidence = 1 - ((step + 0.5) / steps) ** 2 / 2
        found += law(confidence) if confidence >= below else 0.0
    return found / steps


def failures(law: Law, *, size: int, seeds: int = SEEDS) -> tuple[int, float]:
    """In how many of the seeds the promise is broken, and the share of answers that are kept on average."""
    broken, kept, known = 0, 0, {}
    for seed in range(seeds):
        rng = random.Random(f"{seed}")
        chosen = choose_threshold([draw(law, rng) for _ in range(size)], target=TARGET, delta=DELTA)
        if chosen.below not in known:
            known[chosen.below] = true_share_of_errors(law, chosen.below)
        broken += known[chosen.below] > 1 - TARGET
        kept += chosen.kept
    return broken, kept / seeds / size


@pytest.mark.no_cover
@pytest.mark.parametrize("law", LAWS)
def test_the_promise_is_broken_with_at_most_the_stated_probability(law: str) -> None:
    # 400 jobs, each of which may fail with probability 0.1: 56 is 2.7 standard errors above the mean
    broken, _ = failures(LAWS[law], size=200)
    assert broken <= SEEDS * DELTA + 16


@pytest.mark.no_cover
def test_answers_are_kept_where_confidence_is_worth_something() -> None:
    _, kept = failures(LAWS["calibrated"], size=200, seeds=40)
    assert kept > 0.65
    _, more = failures(LAWS["calibrated"], size=800, seeds=40)
    assert more > kept
    _, none = failures(LAWS["worthless"], size=200, seeds=40)
    assert none < 0.5


@pytest.mark.no_cover
def test_a_search_that_went_on_behind_a_failure_would_break_its_promise() -> None:
    """What the order guards against: the lowest threshold that looks right by itself, each tested as if alone."""
    from packer.cascade import _LADDER, _try

    rng_law, broken = LAWS["at the edge"], 0
    for seed in range(SEEDS):
        rng = random.Random(f"{seed}")
        # errors that do not hang on confidence, in what is kept and in what is escalated: every threshold is a new test
        trials = [
            Trial(1 - 10 ** (-6 * rng.random()), rng.random() >= rng_law(0.0), rng.random() >= rng_law(0.0))
            for _ in range(200)
        ]
        broken += any(_try(trials, below, target=TARGET, delta=DELTA).certified for below in _LADDER)
    assert broken > SEEDS * DELTA + 16


def test_gold_judges_the_stronger_model_too() -> None:
    right = [Trial(0.99, cheap_is_right=True)] * 100
    chosen = choose_threshold(right, target=0.9)
    assert (chosen.certified, chosen.below, chosen.kept, chosen.errors) == (True, 0.0, 100, 0)
    wrong_both = [Trial(0.4, cheap_is_right=False, strong_is_right=False)] * 20
    chosen = choose_threshold([*right, *wrong_both], target=0.9)
    assert (chosen.certified, chosen.below, chosen.errors) == (False, EVERYTHING, 20)
    assert 0.1 < chosen.bound < 0.3


def test_a_sample_that_is_too_small_says_how_many_items_it_would_take() -> None:
    chosen = choose_threshold([Trial(1.0, cheap_is_right=True)] * 58, target=0.95, delta=0.05)
    assert (chosen.certified, chosen.below, chosen.kept, chosen.needed) == (False, EVERYTHING, 0, 59)
    chosen = choose_threshold([Trial(1.0, cheap_is_right=True)] * 59, target=0.95, delta=0.05)
    assert (chosen.certified, chosen.below, chosen.kept) == (True, 0.0, 59)
    assert choose_threshold([], target=0.95).bound == 1.0


def test_where_no_cheap_answer_can_be_kept_everything_is_escalated_and_the_promise_holds() -> None:
    chosen = choose_threshold([Trial(1.0, cheap_is_right=False)] * 200, target=0.95)
    assert (chosen.certified, chosen.below, chosen.kept, chosen.errors) == (True, EVERYTHING, 0, 0)
    assert math.isclose(chosen.bound, 1 - 0.05 ** (1 / 200))
