"""Looking several times is wrong no more often than looking once, and a single look is Clopper and Pearson's."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.intervals import lower_bound, upper_bound
from packer.looks import Look, acceptance, bound, exceeds, items_needed, most_accepted

PROMISE, LEVEL = 0.03, 0.95


def plan(items: int, every: int, *, promise: float = PROMISE, level: float = LEVEL) -> list[Look]:
    looks: list[Look] = []
    for due in range(every, items + 1, every):
        looks.append(Look(due, most_accepted(looks, due, items, promise=promise, level=level)))
    return looks


def test_acceptance_is_what_counting_every_walk_gives() -> None:
    looks, share = [Look(4, 0), Look(7, 1), Look(10, 3)], 0.2
    accepted = 0.0
    for walk in itertools.product((0, 1), repeat=10):
        if any(sum(walk[: look.items]) <= look.most for look in looks):
            accepted += math.prod(share if differs else 1 - share for differs in walk)
    assert acceptance(looks, share) == pytest.approx(accepted)


def test_a_share_of_none_or_of_all_is_certain() -> None:
    assert acceptance([Look(10, -1), Look(20, 0)], 0.0) == 1.0
    assert acceptance([Look(10, 0), Look(20, 19)], 1.0) == 0.0
    assert acceptance([Look(2, 5)], 0.5) == pytest.approx(1.0)


@pytest.mark.parametrize("promise", [0.01, 0.03, 0.1])
@pytest.mark.parametrize(("items", "every"), [(300, 50), (280, 40), (300, 300), (1000, 160), (60, 10)])
def test_all_looks_together_accept_a_broken_promise_as_seldom_as_the_level_says(
    items: int, every: int, promise: float
) -> None:
    looks = plan(items, every, promise=promise)
    for over in (1.0, 1.1, 2.0):
        assert acceptance(looks, promise * over) <= 1 - LEVEL


def test_early_looks_take_nothing_from_the_last() -> None:
    assert plan(300, 50)[-1] == plan(300, 300)[-1] == Look(300, 3)
    assert upper_bound(3, 300) < PROMISE < upper_bound(4, 300)


def test_a_model_that_changes_nothing_is_accepted_at_half_the_sample() -> None:
    assert [look.most for look in plan(300, 50)] == [-1, -1, 0, 1, 2, 3]


@given(st.integers(0, 40), st.integers(1, 400), st.sampled_from([0.9, 0.95, 0.975]))
def test_the_bound_after_one_look_is_clopper_and_pearsons(differing: int, items: int, level: float) -> None:
    differing = min(differing, items)
    assert bound((), items, differing, level=level) == pytest.approx(upper_bound(differing, items, level=level))


@pytest.mark.parametrize("look", range(3, 7))
def test_the_bound_of_what_a_look_accepts_keeps_the_promise(look: int) -> None:
    looks = plan(300, 50)
    *past, last = looks[:look]
    assert bound(past, last.items, last.most, level=LEVEL) <= PROMISE
    assert bound(past, last.items, last.most + 1, level=LEVEL) > PROMISE
    assert bound(past, last.items, last.most, level=LEVEL) >= upper_bound(last.most, last.items)


def test_enough_that_differ_are_no_chance() -> None:
    for differing in range(30):
        assert exceeds(300, differing, PROMISE, level=LEVEL) == (lower_bound(differing, 300) >= PROMISE)


def test_items_needed_are_enough_and_few_more_than_that() -> None:
    assert items_needed(0.0, promise=PROMISE, level=LEVEL) == 99
    needed = items_needed(0.01, promise=PROMISE, level=LEVEL)
    assert needed is not None
    assert upper_bound(math.ceil(needed * 0.01), needed) <= PROMISE
    assert upper_bound(math.ceil(needed * 0.8 * 0.01), round(needed * 0.8)) > PROMISE
    assert items_needed(0.03, promise=PROMISE, level=LEVEL) is None
    assert items_needed(0.0299, promise=PROMISE, level=LEVEL) is None
