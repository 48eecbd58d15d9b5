"""Intervals: they hold as often as they promise, by enumeration of all that can be seen; never by chance."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.errors import CallError
from packer.intervals import Interval, lower_bound, proportion, upper_bound

LEVELS = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
SHARES = st.floats(0, 1) | st.sampled_from([0.001, 0.03, 0.05, 0.5, 0.97])
ROUNDING = 1e-9


@st.composite
def counts(draw: st.DrawFn, most: int = 100_000) -> tuple[int, int]:
    trials = draw(st.integers(1, most))
    return draw(st.integers(0, trials)), trials


def chances(trials: int, share: float) -> list[float]:
    """How probable each number of successes is, from none to all."""
    return [math.comb(trials, seen) * share**seen * (1 - share) ** (trials - seen) for seen in range(trials + 1)]


@given(trials=st.integers(1, 60), share=SHARES, level=LEVELS)
def test_an_interval_and_both_bounds_hold_at_least_as_often_as_they_promise(
    trials: int, share: float, level: float
) -> None:
    held = {"both": 0.0, "upper": 0.0, "lower": 0.0}
    for seen, chance in enumerate(chances(trials, share)):
        both = proportion(seen, trials, level=level)
        held["both"] += chance * (both.low - ROUNDING <= share <= both.high + ROUNDING)
        held["upper"] += chance * (share <= upper_bound(seen, trials, level=level) + ROUNDING)
        held["lower"] += chance * (share >= lower_bound(seen, trials, level=level) - ROUNDING)
    assert min(held.values()) >= level - ROUNDING, held


@given(counts=counts(300), level=LEVELS)
def test_a_bound_is_no_wider_than_it_must_be(counts: tuple[int, int], level: float) -> None:
    # Clopper and Pearson's own definition: at the bound, what was seen is just as rare as the level allows
    seen, trials = counts
    if seen < trials:
        high = upper_bound(seen, trials, level=level)
        assert math.isclose(sum(chances(trials, high)[: seen + 1]), 1 - level, rel_tol=1e-6)
    if seen:
        low = lower_bound(seen, trials, level=level)
        assert math.isclose(sum(chances(trials, low)[seen:]), 1 - level, rel_tol=1e-6)


@given(counts=counts(), level=LEVELS)
def test_an_interval_is_both_bounds_with_half_of_the_error_each(counts: tuple[int, int], level: float) -> None:
    found = proportion(*counts, level=level)
    half = (1 + level) / 2
    assert found == Interval(counts[0] / counts[1], lower_bound(*counts, level=half), upper_bound(*counts, level=half))
    assert 0 <= found.low <= counts[0] / counts[1] <= found.high <= 1


@given(counts=counts(), level=LEVELS)
def test_more_successes_raise_the_bounds_and_a_higher_level_moves_them_apart(
    counts: tuple[int, int], level: float
) -> None:
    seen, trials = counts
    for bound in (lower_bound, upper_bound):
        assert bound(seen, trials, level=level) <= bound(min(seen + 1, trials), trials, level=level)
        assert bound(seen, trials + 1, level=level) <= bound(seen, trials, level=level)
    wide, narrow = proportion(seen, trials, level=(1 + level) / 2), proportion(seen, trials, level=level)
    assert wide.low <= narrow.low <= narrow.high <= wide.high


@given(counts=counts(), level=LEVELS)
def test_successes_and_failures_are_one_another_s_mirror(counts: tuple[int, int], level: float) -> None:
    seen, trials = counts
    mirrored = 1 - lower_bound(trials - seen, trials, level=level)
    assert math.isclose(upper_bound(seen, trials, level=level), mirrored, abs_tol=1e-9)


def test_figures_of_the_books_come_out() -> None:
    # no success in 300: the rule of three, exactly 1 - 0.05 ** (1 / 300)
    assert math.isclose(upper_bound(0, 300), 1 - 0.05 ** (1 / 300), rel_tol=1e-12)
    assert math.isclose(lower_bound(300, 300), 0.05 ** (1 / 300), rel_tol=1e-12)
    # NIST/SEMATECH e-Handbook 7.2.4.1: 4 of 20, both bounds one-sided at 95 %
    assert round(lower_bound(4, 20), 5) == 0.07135
    assert round(upper_bound(4, 20), 5) == 0.40103


def test_nothing_tried_is_nothing_known() -> None:
    assert proportion(0, 0) == Interval(None, 0.0, 1.0)
    assert (lower_bound(0, 0), upper_bound(0, 0)) == (0.0, 1.0)
    assert (lower_bound(0, 9), upper_bound(9, 9)) == (0.0, 1.0)


def test_a_million_trials_are_no_trouble() -> None:
    found = proportion(970_000, 1_000_000)
    assert found.value == 0.97
    assert 0.9696 < found.low < 0.97 < found.high < 0.9704
    assert 0 < upper_bound(0, 10**9) < 3e-9


@pytest.mark.parametrize(("seen", "trials"), [(-1, 5), (6, 5), (0, -1)])
def test_counts_that_cannot_be_are_refused(seen: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes of"):
        proportion(seen, trials)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 95.0, math.nan])
def test_a_level_that_cannot_be_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        upper_bound(1, 5, level=level)


def test_without_scipy_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(CallError, match=r"scipy.*pip install 'prompt-packer\[quality\]'"):
        proportion(1, 5)
