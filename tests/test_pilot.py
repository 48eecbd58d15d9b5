"""A pilot is wrong in at most 5 % of its runs, finds the right size where the law is clear, and stops paying early."""

import pytest
from pilots import Law, Model, accepted, arms, constant, run_pilot, true_share

from packer.errors import CallError
from packer.looks import bound
from packer.pilot import Ask, Outcome, Pilot, Standing
from packer.task import AnswerShape

PROMISE = 0.03
SIZES = (5, 10, 20, 50)
SEEDS = range(400)
SINGLES = arms(1)[0]


def start(items: int = 300, *sizes: int, promise: float = PROMISE) -> Pilot:
    return Pilot(items, singles=SINGLES, lines=[arms(*(sizes or SIZES))], promise=promise)


def share_wrong(law: Law, *, nested: bool, lines: int = 1, seeds: int = len(SEEDS)) -> float:
    """The share of pilots that accept a size whose true share is over the promise."""
    wrong = 0
    for seed in range(seeds):
        shapes = list(AnswerShape)[:lines]
        pilot = Pilot(300, singles=SINGLES, lines=[arms(*SIZES, shape=shape) for shape in shapes], promise=PROMISE)
        run_pilot(pilot, Model(law, seed, nested=nested))
        wrong += any(true_share(law, arm.size) > PROMISE for arm in accepted(pilot))
    return wrong / seeds


AT_THE_BOUNDARY = PROMISE + 1e-9


@pytest.mark.no_cover
@pytest.mark.parametrize("good", range(len(SIZES)))
def test_errors_just_over_the_promise_are_accepted_in_at_most_5_percent_of_pilots(good: int) -> None:
    # the worst there is: sizes that are surely tried, up to one that is as near the promise as can be
    law = constant({size: 0.0 if place < good else AT_THE_BOUNDARY for place, size in enumerate(SIZES)})
    assert share_wrong(law, nested=False) <= 0.05


@pytest.mark.no_cover
def test_errors_that_grow_with_the_size_and_the_number_are_accepted_as_seldom() -> None:
    def law(size: int, number: int) -> float:
        return 0.0005 * (size - 1) + 0.0012 * (number - 1)  # 0.44, 1.0, 2.1 and 5.4 %

    assert true_share(law, 20) < PROMISE < true_share(law, 50)
    assert share_wrong(law, nested=True) <= 0.05


@pytest.mark.no_cover
def test_three_lines_share_the_error_of_one() -> None:
    assert share_wrong(constant(dict.fromkeys(SIZES, AT_THE_BOUNDARY)), nested=False, lines=3, seeds=1_500) <= 0.05


@pytest.mark.no_cover
def test_where_the_law_is_clear_the_right_size_is_found_nearly_always() -> None:
    right = saved = 0.0
    law = constant({5: 0.0, 10: 0.001, 20: 0.002, 50: 0.15})
    for seed in SEEDS:
        pilot = start()
        requests = run_pilot(pilot, Model(law, seed))
        right += accepted(pilot)[-1:] == arms(20)
        saved += 1 - requests / (300 + 300 / 5 + 300 / 10 + 300 / 20 + 300 / 50)
    assert right / len(SEEDS) > 0.97
    assert saved / len(SEEDS) > 0.35


def test_a_size_that_errs_often_is_given_up_as_soon_as_no_rest_could_save_it() -> None:
    pilot = start()
    run_pilot(pilot, Model(constant(dict.fromkeys(SIZES, 0.2)), 1))
    assert pilot.asked(arms(5)[0]) == 50
    assert pilot.standing(arms(5)[0]).outcome is Outcome.BREAKS
    assert pilot.asked(SINGLES) == 50
    assert pilot.standing(arms(10)[0]) == Standing(arms(10)[0], Outcome.NOT_ASKED, 0, 0, 0, None)


def test_what_errs_never_is_accepted_at_half_the_sample_and_for_half_the_money() -> None:
    pilot = start()
    requests = run_pilot(pilot, Model(constant(dict.fromkeys(SIZES, 0.0)), 1))
    assert accepted(pilot) == arms(*SIZES)
    assert requests == 150 + 150 / 5 + 150 / 10 + 120 / 20 + 150 / 50  # packs of 20 are looked at every 40 items
    assert pilot.asked(pilot.again) == 0


def test_packs_are_asked_full_whatever_the_size() -> None:
    pilot = start(300, 7, 40, 100)
    while (ask := pilot.next_ask()) is not None:
        if ask.arm.size > 1:
            assert (ask.end - ask.start) % ask.arm.size == 0
        for item in range(ask.start, ask.end):
            pilot.record(ask.arm, "a" if item % 90 else f"{ask.arm.size}")
    assert pilot.largest(arms(40)[0]) == 280


def test_an_item_without_an_answer_in_packs_differs_and_one_without_an_answer_alone_is_left_out() -> None:
    pilot = start(300, 5)
    for number, arm in ((50, SINGLES), (50, arms(5)[0])):
        assert pilot.next_ask() == Ask(arm, 0, number)
        for item in range(number):
            pilot.record(arm, None if item == 7 or (item == 9 and arm.size > 1) else "a")
    assert pilot.standing(arms(5)[0]) == Standing(arms(5)[0], Outcome.UNCLEAR, 49, 1, 1, bound((), 49, 1, level=0.95))


def test_items_that_cannot_be_compared_make_a_size_hopeless_sooner() -> None:
    pilot = start(300, 5)
    packs = arms(5)[0]
    while (ask := pilot.next_ask()) is not None:
        for item in range(ask.start, ask.end):
            is_other = ask.arm == packs and item in {70, 90, 120}
            pilot.record(ask.arm, None if ask.arm != packs and item < 60 else "b" if is_other else "a")
    # 3 of 300 would be accepted, 3 of the 240 that are left are not
    assert pilot.asked(packs) == 150
    assert pilot.standing(packs).outcome is Outcome.UNCLEAR


def test_a_model_that_often_has_no_answer_alone_ends_the_pilot_all_the_same() -> None:
    for seed in range(20):
        pilot = start()
        run_pilot(pilot, Model(constant(dict.fromkeys(SIZES, 0.0)), seed, moods=0.3))
        assert pilot.standing(arms(5)[0]).outcome is Outcome.KEEPS
    pilot = start(100)
    run_pilot(pilot, Model(constant(dict.fromkeys(SIZES, 0.0)), 1, moods=0.3))
    assert accepted(pilot) == []
    assert pilot.standing(arms(5)[0]).outcome is Outcome.UNCLEAR


def test_where_no_size_is_accepted_singles_are_asked_again() -> None:
    pilot = start()
    law = constant(dict.fromkeys(SIZES, 0.08))
    run_pilot(pilot, Model(law, 3, fickle=0.08))
    asked = pilot.asked(pilot.again)
    assert asked == min(100, pilot.asked(SINGLES))
    assert 0 < pilot.standing(pilot.again).differing < 20
    assert pilot.next_ask() is None


def test_a_sample_that_can_show_nothing_is_not_paid_for() -> None:
    pilot = start(90)
    assert pilot.next_ask() is None
    assert pilot.standing(arms(5)[0]) == Standing(arms(5)[0], Outcome.UNCLEAR, 0, 0, 0, None)


def test_too_few_items_for_a_size_leave_the_smaller_ones() -> None:
    pilot = start(180, 5, 100)
    run_pilot(pilot, Model(constant({5: 0.0, 100: 0.0}), 1))
    assert accepted(pilot) == arms(5, 100)
    pilot = start(180, 5, 97)
    run_pilot(pilot, Model(constant({5: 0.0, 97: 0.0}), 1))
    assert accepted(pilot) == arms(5)
    assert pilot.standing(arms(97)[0]).outcome is Outcome.UNCLEAR
    assert pilot.asked(pilot.again) == 0


def test_singles_among_the_sizes_are_what_the_others_are_compared_with() -> None:
    pilot = Pilot(300, singles=SINGLES, lines=[arms(1), arms(1, 5, model="other")], promise=PROMISE)
    assert list(pilot.arms()) == arms(1, 5, model="other")
    run_pilot(pilot, Model(constant({1: 0.0, 5: 0.0}), 1))
    assert accepted(pilot) == arms(1, 5, model="other")
    assert [str(arm) for arm in accepted(pilot)] == ["singles", "packs of 5"]


@pytest.mark.parametrize("promise", [0.0, 1.0])
def test_a_promise_that_cannot_be_is_refused(promise: float) -> None:
    with pytest.raises(CallError, match="expected more than 0 and less than 1"):
        start(promise=promise)


def test_sizes_that_do_not_grow_are_refused() -> None:
    with pytest.raises(CallError, match=r"larger than the one before, got \[5, 5\]"):
        start(300, 5, 5)
