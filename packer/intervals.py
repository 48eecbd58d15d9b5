"""What a count of successes says of the probability behind it: bounds that hold at least as often as they promise.

All are Clopper and Pearson's (The use of confidence or fiducial limits illustrated in the case of the binomial,
Biometrika 26, 1934): the probabilities under which as few, or as many, successes as were seen are not rarer than the
level allows. They are exact for the binomial and never too narrow, for any number of trials, at the price of being a
little wide. They say nothing of trials that are not independent.

scipy has the inverse of the beta distribution; it comes with the extra `quality` and is imported by the first bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from packer.errors import CallError


@dataclass(frozen=True, slots=True)
class Interval:
    """A share from 0 to 1 that was measured, and between what the true one lies; `value` None: nothing was measured."""

    value: float | None
    low: float
    high: float


def proportion(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """The share of successes with its two-sided interval, which misses the true share at most 1 - `level` of the time.

    Without trials there is no share, and it can be anything: `Interval(None, 0, 1)`. Raises as `upper_bound`.
    """
    one_sided = (1 + level) / 2
    low = lower_bound(successes, trials, level=one_sided)
    high = upper_bound(successes, trials, level=one_sided)
    return Interval(successes / trials if trials else None, low, high)


def upper_bound(successes: int, trials: int, *, level: float = 0.95) -> float:
    """What the true share exceeds at most 1 - `level` of the time; 1.0 without trials.

    Raises `CallError` where scipy is missing, and `ValueError` for counts or a level that cannot be.
    """
    _check(successes, trials, level)
    if successes == trials:
        return 1.0
    return _solve(successes + 1, trials - successes, level)


def lower_bound(successes: int, trials: int, *, level: float = 0.95) -> float:
    """What the true share falls short of at most 1 - `level` of the time; 0.0 without trials. Raises the same."""
    _check(successes, trials, level)
    if not successes:
        return 0.0
    return _solve(successes, trials - successes + 1, 1 - level)


def _check(successes: int, trials: int, level: float) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 to {trials} successes of {trials} trials, got {successes}")
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}")


def _solve(a: int, b: int, share: float) -> float:
    """Where the beta distribution with the shapes `a` and `b` has `share` of its mass below."""
    try:
        from scipy.special import betaincinv  # noqa: PLC0415  0.4 s, and it may be absent
    except ImportError as missing:
        message = "intervals are worked out by scipy, which is not installed: pip install 'prompt-packer[quality]'"
        raise CallError(message) from missing
    return float(betaincinv(a, b, share))
