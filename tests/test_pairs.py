"""What packs lose in accuracy is bounded as often as is said, and a shift of labels is told from chance."""

import functools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.intervals import upper_bound
from packer.pairs import differ_by_third, find_shifts, loss_bound, measure_loss

_bound = functools.cache(loss_bound)


def _binomial(trials: int, share: float) -> list[tuple[int, float]]:
    found = ((few, math.comb(trials, few) * share**few * (1 - share) ** (trials - few)) for few in range(trials + 1))
    return [(few, probability) for few, probability in found if probability > 1e-7]


@pytest.mark.parametrize("items", [100, 300])
@pytest.mark.parametrize("won", [0.0, 0.003, 0.01, 0.03, 0.06])
@pytest.mark.parametrize("loss", [0.01, 0.02, 0.03, 0.05])
def test_the_bound_misses_the_true_loss_in_about_5_percent_of_samples(items: int, won: float, loss: float) -> None:
    missed = 0.0
    for lost, chance in _binomial(items, won + loss):
        for gained, also in _binomial(items - lost, won / (1 - won - loss)):
            missed += chance * also * (_bound(lost, gained, items) < loss)
    assert missed <= (0.056 if won else 0.05)


def test_the_bound_is_tangos() -> None:
    assert loss_bound(3, 3, 300) == pytest.approx(0.0160, abs=5e-5)
    assert loss_bound(10, 10, 300) == pytest.approx(0.0259, abs=5e-5)
    assert loss_bound(3, 0, 300) == pytest.approx(upper_bound(3, 300))
    assert loss_bound(300, 0, 300) == 1.0


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 60))
def test_the_bound_is_never_below_what_was_seen(items: int, lost: int, won: int) -> None:
    lost = min(lost, items)
    won = min(won, items - lost)
    assert (lost - won) / items <= loss_bound(lost, won, items) <= 1


def test_a_loss_counts_what_was_right_and_takes_no_answer_for_a_wrong_one() -> None:
    loss = measure_loss([("a", "a", "a"), ("a", "b", "a"), ("b", "a", "a"), ("a", None, "a"), ("b", "c", "a")])
    assert (loss.items, loss.singles, loss.packs) == (5, 3, 2)
    assert loss.share == pytest.approx(0.2)
    assert loss.bound == loss_bound(2, 1, 5)
    nothing = measure_loss([])
    assert (nothing.share, nothing.bound) == (None, None)


def test_a_label_that_packs_favour_stands_first_and_is_no_chance() -> None:
    pairs: list[tuple[str, str | None]] = [("ham", "ham")] * 100
    pairs += [("spam", "spam")] * 80
    pairs += [("ham", "spam")] * 12 + [("news", "ham"), ("ham", "news"), ("news", None)]
    first, *others = find_shifts(pairs)
    assert (first.label, first.singles, first.packs) == ("spam", 80, 92)
    assert first.chance == pytest.approx(3 * 2 / 2**12)
    assert [(shift.label, shift.singles, shift.packs) for shift in others] == [("ham", 113, 101), ("news", 2, 1)]
    assert others[1].chance == 1.0
    assert find_shifts([]) == []


def test_thirds_of_a_pack_count_their_own() -> None:
    places = [(number, 20, number > 14) for number in range(1, 21)]
    assert differ_by_third(places) == [(0, 7), (0, 7), (6, 6)]
    assert differ_by_third([(1, 1, True)]) == [(1, 1), (0, 0), (0, 0)]
