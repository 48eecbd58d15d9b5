"""Law 4: settled + in doubt + reserved never passes the cap. And estimates: what the next request will take."""

import random
from decimal import Context, Decimal, Inexact, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packer.books import Books
from packer.budget import Budget
from packer.estimates import AnswerAllowance, TokenScale
from packer.sizing import PackSizer
from packer.usage import Price, Usage, cost, floor_nano, format_usd, to_nano, to_usd

USD = st.decimals("0", "2", places=12)


@given(
    st.decimals("0.000000001", "5", places=10), USD, USD, st.lists(st.tuples(st.sampled_from("rshf"), USD), max_size=60)
)
def test_settled_in_doubt_and_reserved_never_pass_the_cap(
    cap: Decimal, spent: Decimal, doubt: Decimal, moves: list[tuple[str, Decimal]]
) -> None:
    budget = Budget(cap, spent, doubt)
    before = budget.settled + budget.in_doubt
    reserves: list[Decimal] = []
    for move, usd in moves:
        if move == "r" and budget.has_room(usd):
            reserves.append(budget.reserve(usd))
        elif move == "s" and reserves:
            reserve = reserves.pop()
            budget.settle(reserve, min(usd, reserve))
        elif move == "h" and reserves:
            budget.hold(reserves.pop())
        elif move == "f" and reserves:
            budget.release(reserves.pop())
        assert budget.settled + budget.in_doubt + budget.reserved <= max(cap, before)
        assert budget.reserved == sum(reserves)


def test_a_reserve_without_room_is_refused() -> None:
    budget = Budget(Decimal("0.01"))
    with pytest.raises(ValueError, match="no room"):
        budget.reserve(Decimal("0.010000001"))
    assert budget.reserve(Decimal("0.01")) == Decimal("0.01")
    assert not budget.has_room(Decimal("0.000000001"))


def test_without_a_cap_there_is_always_room() -> None:
    assert Budget().has_room(Decimal("1e9"))


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 2 * 10**6))
def test_cost_is_exact(inputs: int, outputs: int, cached: int) -> None:
    price = Price(Decimal("0.15"), Decimal("0.6"), Decimal("0.075"))
    cached_part = min(cached, inputs)
    exact = (
        Fraction(15, 100) * (inputs - cached_part) + Fraction(75, 1000) * cached_part + Fraction(6, 10) * outputs
    ) / 1_000_000
    assert Fraction(cost(Usage(inputs, outputs, cached), price)) == exact


def test_cached_tokens_without_a_price_of_their_own_cost_what_others_do() -> None:
    assert cost(Usage(10, 0, 10), Price(Decimal(1), Decimal(1))) == Decimal("0.00001")


@given(USD)
def test_money_in_whole_nanodollars_is_never_below_the_money(usd: Decimal) -> None:
    assert usd <= to_usd(to_nano(usd)) < usd + Decimal("1e-9")


@given(USD, st.integers(1, 6))
def test_money_does_not_hang_on_how_many_digits_the_caller_works_with(usd: Decimal, digits: int) -> None:
    price, usage = Price(Decimal("0.15"), Decimal("0.6")), Usage(123_457, 77)
    exact = (to_nano(usd), floor_nano(usd), to_usd(123_456_789), cost(usage, price), Budget(usd)._cap)
    with localcontext(Context(prec=digits, traps=[Inexact])):
        assert (to_nano(usd), floor_nano(usd), to_usd(123_456_789), cost(usage, price), Budget(usd)._cap) == exact


def test_a_fate_that_comes_to_be_known_leaves_no_doubt() -> None:
    budget, books, reserve = Budget(Decimal(1)), Books(unpriced=2), Decimal("0.3")
    budget.reserve(reserve)
    budget.hold(reserve)
    for priced in (True, False):
        books.doubted(texts=20, priced=priced)
    assert (budget.in_doubt, books.doubt_requests, books.doubt_texts, books.unpriced) == (reserve, 2, 40, 3)
    budget.reopen(reserve)
    assert (budget.in_doubt, budget.reserved) == (Decimal(0), reserve)
    budget.settle(reserve, Decimal("0.1"))
    for priced in (True, False):
        books.reopened(texts=20, priced=priced)
    assert (budget.settled, budget.reserved) == (Decimal("0.1"), Decimal(0))
    assert (books.doubt_requests, books.doubt_texts, books.unpriced) == (0, 0, 2)


def test_usages_add_up() -> None:
    assert Usage(1, 2, 3) + Usage(10, 20, 30) == Usage(11, 22, 33)


@pytest.mark.parametrize(
    ("usd", "words"),
    [
        (None, "unknown"),
        ("0", "$0"),
        ("12345.6", "$12,345.60"),
        ("0.1", "$0.10"),
        ("0.00123", "$0.0012"),
        ("0.00000012", "$0.00000012"),
    ],
)
def test_money_reads_well(usd: str | None, words: str) -> None:
    assert format_usd(None if usd is None else Decimal(usd)) == words


def test_the_token_scale_follows_what_replies_report() -> None:
    scale = TokenScale()
    assert scale.estimate(100) == 100
    scale.observed(counted=100, reported=150)
    assert scale.estimate(100) == 150
    for _ in range(50):
        scale.observed(counted=100, reported=80)
    assert scale.estimate(100) in {80, 81}


@pytest.mark.parametrize(("counted", "reported"), [(0, 10), (10, 0), (-1, 5)])
def test_usage_that_makes_no_sense_teaches_nothing(counted: int, reported: int) -> None:
    scale = TokenScale()
    scale.observed(counted=counted, reported=reported)
    assert scale.factor == 1.0


def test_a_stale_usage_moves_the_scale_within_bounds_only() -> None:
    scale = TokenScale()
    scale.observed(counted=10, reported=10**9)
    assert scale.factor == 3.0


def test_the_allowance_is_tight_and_learns_from_whole_answers() -> None:
    allowance = AnswerAllowance(row=10)
    first = allowance.allow(20)
    assert 200 < first <= 300
    for _ in range(5):
        allowance.answered(20, 20 * 4 + 16)
    assert 80 < allowance.allow(20) < 160
    assert allowance.allow(1) >= 10 + 16, "a single's only row may be the longest"


def test_a_truncated_answer_raises_the_allowance_once_and_a_whole_one_brings_it_to_what_is_taken() -> None:
    allowance = AnswerAllowance(row=10)
    allowed = allowance.allow(20)
    allowance.truncated(allowed, 20)
    allowance.truncated(allowed, 20)
    assert allowance.allow(20) == pytest.approx(4 * allowed, rel=0.01)
    allowance.answered(20, 900)
    assert 900 < allowance.allow(20) < 1_300


def test_the_allowance_has_a_ceiling() -> None:
    allowance = AnswerAllowance(row=10, ceiling=500)
    for _ in range(10):
        allowance.truncated(allowance.allow(20), 20)
    assert allowance.allow(20) == 500


def test_the_pack_halves_when_three_in_a_row_fail_and_grows_back_slowly() -> None:
    sizer = PackSizer(20)
    sizer.answered(20, 0)
    sizer.answered(20, 0)
    assert sizer.size == 20
    sizer.answered(20, 0)
    assert sizer.size == 10
    for _ in range(19):
        sizer.answered(10, 10)
    assert sizer.size == 10
    sizer.answered(10, 10)
    assert sizer.size == 11


def test_the_pack_stays_when_a_tenth_of_the_rows_fails_or_less() -> None:
    sizer = PackSizer(20)
    for _ in range(200):
        sizer.answered(20, 18)
    assert sizer.size == 20


def test_the_pack_halves_when_every_pack_loses_a_fifth_of_its_rows() -> None:
    sizer = PackSizer(20)
    for _ in range(30):
        sizer.answered(20, 16)
    assert sizer.size == 10


@pytest.mark.parametrize(("share", "least", "most"), [(0.03, 19.5, 20), (0.05, 18, 20), (0.3, 1, 2)])
def test_packs_that_fail_whole_now_and_then_keep_their_size_and_many_do_not(
    share: float, least: float, most: float
) -> None:
    sizes = []
    for seed in range(20):
        rng, sizer = random.Random(seed), PackSizer(20)
        for _ in range(1_000):
            sizer.answered(sizer.size, 0 if rng.random() < share else sizer.size)
            sizes.append(sizer.size)
    assert least <= sum(sizes) / len(sizes) <= most


def test_a_gateway_whose_answers_are_cut_at_six_rows_is_found_out_in_fifteen_packs() -> None:
    sizer = PackSizer(20)
    for _ in range(15):
        sizer.answered(sizer.size, min(sizer.size, 6))
    assert sizer.size == 5


@given(st.integers(1, 100), st.lists(st.tuples(st.integers(1, 100), st.floats(0, 1)), max_size=200))
def test_the_pack_size_stays_between_one_and_the_cap(cap: int, answers: list[tuple[int, float]]) -> None:
    sizer = PackSizer(cap)
    for asked, share in answers:
        sizer.answered(asked, int(asked * share))
        assert 1 <= sizer.size <= cap


def test_a_price_is_of_decimals_and_a_float_is_refused_before_anything_is_reckoned() -> None:
    make: Any = Price  # as a caller without a type checker has it
    assert make(1, 4, 0) == Price(Decimal(1), Decimal(4), Decimal(0))
    assert type(make(1, 4).input) is Decimal
    for wrong in (0.15, "0.15"):
        with pytest.raises(TypeError, match=r"Price.output: expected a Decimal, like Decimal\('0.15'\), got "):
            make(Decimal(1), wrong)
