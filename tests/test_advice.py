"""The advice is one sentence, true of what was seen, and cheap only where the promise is kept."""

from collections.abc import Mapping
from decimal import Decimal

import pytest
from pilots import Model, arms, constant, run_pilot

from packer.advice import Advice, advise, percent
from packer.pilot import Arm, Ask, Pilot
from packer.task import AnswerShape

SINGLES = arms(1)[0]
SIZES = (5, 10, 20, 50)
FALLING = {SINGLES: Decimal(40), **{arm: Decimal(20) / place for place, arm in enumerate(arms(*SIZES), 1)}}


def pilot_with(
    shares: Mapping[int, float], *, items: int = 300, promise: float = 0.03, fickle: float = 0.0, seed: int = 1
) -> Pilot:
    pilot = Pilot(items, singles=SINGLES, lines=[arms(*shares)], promise=promise)
    run_pilot(pilot, Model(constant(shares), seed, fickle=fickle))
    return pilot


def sentence(
    pilot: Pilot,
    costs: Mapping[Arm, Decimal | None] = FALLING,
    stopped: str = "",
    held: Mapping[Arm, float] | None = None,
) -> Advice:
    full = {arm: float(arm.size) for arm in (pilot.singles, *pilot.arms())}
    return advise(pilot, costs, held=full | dict(held or {}), answers="labels", stopped=stopped)


def test_the_cheapest_setting_that_keeps_the_promise_is_named_with_its_saving_and_its_certainty() -> None:
    advice = sentence(pilot_with({5: 0.0, 10: 0.0, 20: 0.0, 50: 0.4}))
    assert advice == Advice(
        arms(20)[0],
        "Use packs of 20: they cost 83 % less than asking each text alone, and at most 3 % of labels change "
        "(95 % sure: 0 of 120 did).",
        settled=True,
    )


def test_where_a_cost_is_unknown_the_largest_packs_of_the_same_model_are_chosen() -> None:
    pilot = Pilot(300, singles=SINGLES, lines=[arms(5, 10), arms(5, 10, 20, model="other")], promise=0.03)
    run_pilot(pilot, Model(constant({5: 0.0, 10: 0.0, 20: 0.0}), 1))
    costs = dict.fromkeys([SINGLES, *pilot.arms()])
    advice = sentence(pilot, costs)
    assert advice.arm == arms(10)[0]
    assert advice.sentence.startswith("Use packs of 10: they take 10 times fewer requests than asking each text alone")
    costs |= FALLING | {arm: Decimal(1) for arm in arms(5, 10, 20, model="other")}
    assert sentence(pilot, costs).sentence.startswith("Use packs of 20 of other: they cost 98 % less")


def test_another_shape_that_is_cheaper_is_named() -> None:
    pilot = Pilot(300, singles=SINGLES, lines=[arms(5), arms(5, shape=AnswerShape.PAIR)], promise=0.03)
    run_pilot(pilot, Model(constant({5: 0.0}), 1))
    costs = {SINGLES: Decimal(4), arms(5)[0]: Decimal(3), arms(5, shape=AnswerShape.PAIR)[0]: Decimal(2)}
    assert sentence(pilot, costs).sentence.startswith("Use packs of 5 with the shape pair: they cost 50 % less")


def test_packs_that_would_not_be_cheaper_are_not_advised() -> None:
    advice = sentence(pilot_with({5: 0.0}), {SINGLES: Decimal(3), arms(5)[0]: Decimal(4)})
    assert advice.arm == SINGLES
    assert advice.sentence == (
        "Ask each text alone (--max-items 1): packs keep nearly all labels, but they would not be cheaper."
    )


def test_packs_that_had_to_be_split_are_taken_for_what_they_were() -> None:
    pilot = pilot_with({5: 0.0, 10: 0.0})
    costs = dict.fromkeys([SINGLES, *arms(5, 10)])
    split = {arms(10)[0]: 1.0}
    assert sentence(pilot, costs, held=split).arm == arms(5)[0]
    assert sentence(pilot, costs, held={**split, arms(5)[0]: 1.0}).sentence.endswith("they would not be cheaper.")
    assert sentence(pilot, {SINGLES: Decimal(40), arms(5)[0]: Decimal(30), arms(10)[0]: Decimal(40)}).arm.size == 5
    same = dict.fromkeys([SINGLES, *arms(5, 10)], Decimal(40))
    assert sentence(pilot, same).arm == SINGLES


def test_what_costs_nothing_is_asked_in_the_largest_packs() -> None:
    advice = sentence(pilot_with({5: 0.0, 10: 0.0}), dict.fromkeys([SINGLES, *arms(5, 10)], Decimal(0)))
    assert advice.sentence.startswith("Use packs of 10: they take 10 times fewer requests")


def test_the_smallest_packs_that_change_too_much_are_named() -> None:
    advice = sentence(pilot_with({5: 0.3, 10: 0.4}))
    assert (advice.arm, advice.settled) == (SINGLES, True)
    assert advice.sentence.startswith("Ask each text alone (--max-items 1): ")
    assert advice.sentence.endswith("of labels change already in packs of 5 (17 of 50), and you allow 3 %.")


def test_a_model_that_differs_from_itself_is_told_from_packs_that_spoil() -> None:
    advice = sentence(pilot_with({5: 0.3}, fickle=0.2, seed=5))
    assert advice.settled
    assert "asked alone a second time, 9 of 50 got another answer already" in advice.sentence
    assert advice.sentence.startswith("Ask each text alone, or allow more than 18 % with --max-disagreement")


def test_too_few_texts_are_too_few_and_how_many_would_do_is_said() -> None:
    advice = sentence(pilot_with({5: 0.0}, items=90))
    assert not advice.settled
    assert advice.sentence == (
        "Not enough items to tell: 90 texts cannot show that at most 3 % of labels change; "
        "it takes 99 or more, or a larger --max-disagreement."
    )


def recorded(differing: int, items: int) -> Pilot:
    """A pilot of packs of 5 that has ended, with so many different answers at the end of its sample."""
    pilot = Pilot(items, singles=SINGLES, lines=[arms(5)], promise=0.03)
    while (ask := pilot.next_ask()) is not None:
        for item in range(ask.start, ask.end):
            is_other = ask.arm.size > 1 and item % (items // differing) == items // differing - 1
            pilot.record(ask.arm, "b" if is_other else "a")
    return pilot


def test_a_share_that_may_be_below_the_promise_asks_for_a_larger_sample() -> None:
    advice = sentence(recorded(4, 300))
    assert not advice.settled
    assert advice.sentence == (
        "Not enough items to tell: 4 of 300 changed in packs of 5, which may be more than 3 % of all or less; "
        "try --sample 400."
    )


@pytest.mark.no_cover
def test_a_share_that_is_too_near_the_promise_has_no_sample() -> None:
    pilot = Pilot(10_000, singles=SINGLES, lines=[[Arm("m", AnswerShape.LINE, 100)]], promise=0.03)
    while (ask := pilot.next_ask()) is not None:
        for item in range(ask.start, ask.end):
            pilot.record(ask.arm, "b" if ask.arm.size > 1 and item * 59 % 2_000 < 59 else "a")
    assert sentence(pilot, {}).sentence.endswith("; no sample of a bearable size could tell.")


def test_a_pilot_that_was_stopped_says_how_far_it_came() -> None:
    pilot = Pilot(300, singles=SINGLES, lines=[arms(5)], promise=0.03)
    advice = sentence(pilot, stopped="interrupted")
    assert advice.sentence == (
        "Nothing can be told yet: it stopped before packs could be compared (interrupted); the same command goes on."
    )
    assert pilot.next_ask() == Ask(SINGLES, 0, 50)
    for arm, answer in ((SINGLES, "a"), (arms(5)[0], "a")):
        for _ in range(50):
            pilot.record(arm, answer)
    advice = sentence(pilot, stopped="budget: it is spent")
    assert not advice.settled
    assert "it stopped after 0 of 50 changed in packs of 5 (budget: it is spent)" in advice.sentence


@pytest.mark.parametrize(("share", "text"), [(0.03, "3 %"), (0.0256, "2.6 %"), (1.0, "100 %"), (0.0004, "0 %")])
def test_a_share_is_written_in_tenths(share: float, text: str) -> None:
    assert percent(share) == text
