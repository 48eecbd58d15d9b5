"""The gateway's word on money, added up; a balance is low when two readings in a row say so."""

from decimal import Decimal

import pytest

from packer.books import Books
from packer.exchange import Charge, ChargeSource
from packer.usage import Usage

CENT = Decimal("0.01")


def with_balances(*balances: str) -> Books:
    books = Books()
    for balance in balances:
        books.told(None, Decimal(balance))
    return books


@pytest.mark.parametrize(
    ("balances", "low"),
    [
        ((), False),
        (("0",), False),
        (("5", "0"), False),
        (("0", "5"), False),
        (("0.02", "0.01"), True),
        (("0.03", "0.01"), False),
        (("9", "0.01", "0.02"), True),
    ],
)
def test_a_balance_is_low_when_two_readings_in_a_row_say_so(balances: tuple[str, ...], low: bool) -> None:
    books = with_balances(*balances)
    assert books.is_low(CENT, reserved=2 * CENT, in_flight=2) == low


def test_without_a_price_each_request_is_taken_for_the_largest_charge() -> None:
    books = with_balances("0.05", "0.05")
    assert not books.is_low(None, reserved=Decimal(0), in_flight=3)
    books.charged(Charge(CENT, ChargeSource.HEADER))
    books.charged(Charge(CENT / 2, ChargeSource.HEADER))
    assert not books.is_low(None, reserved=Decimal(0), in_flight=4)
    assert books.is_low(None, reserved=Decimal(0), in_flight=5)


@pytest.mark.parametrize("source", [*ChargeSource])
def test_only_a_charge_that_came_from_the_gateway_was_told(source: ChargeSource) -> None:
    books = Books()
    books.charged(Charge(CENT, source))
    assert books.tells_charges() == (source in {ChargeSource.HEADER, ChargeSource.PROXY, ChargeSource.BODY})
    assert books.sources == {source: 1}


def test_usage_adds_up_and_a_balance_that_is_not_told_changes_nothing() -> None:
    books = with_balances("5")
    books.told(Usage(1, 2, 1), None)
    books.told(Usage(10, 20), None)
    assert books.usage == Usage(11, 22, 1)
    assert books.balance == 5


def test_levels_are_powers_of_two_and_a_cost_that_is_unknown_makes_the_levels_unknown() -> None:
    books = Books()
    charge = Charge(CENT, ChargeSource.HEADER)
    books.answered(in_flight=1, items=20, seconds=2.0, charge=charge)
    books.answered(in_flight=2, items=20, seconds=2.0, charge=charge)
    books.answered(in_flight=3, items=10, seconds=3.0, charge=charge)
    books.answered(in_flight=4, items=0, seconds=0.0, charge=None)
    one, few, more = books.levels()
    assert (one.least, one.most, one.items_a_second, one.usd_an_item) == (1, 1, 10.0, CENT / 20)
    assert (few.least, few.most, few.requests, few.items, few.usd) == (2, 3, 2, 30, 2 * CENT)
    assert few.items_a_second == pytest.approx(30 * 2.5 / 5.0)
    assert (more.least, more.usd, more.usd_an_item, more.items_a_second) == (4, None, None, None)
