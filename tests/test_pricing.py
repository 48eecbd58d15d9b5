"""Prices: an unknown model has none, and never that of a model like it."""

from decimal import Decimal

import pytest

from packer.pricing import find_price
from packer.usage import FREE, Price


def test_a_known_model_has_its_price_with_and_without_its_provider() -> None:
    assert find_price("gpt-4o-mini") == Price(Decimal("0.15"), Decimal("0.6"), Decimal("0.075"))
    assert find_price("openai/gpt-4o-mini") == find_price("gpt-4o-mini")
    assert find_price("google/gemini-2.0-flash") is not None


def test_a_tiered_price_counts_with_its_first_tier() -> None:
    price = find_price("google/gemini-2.5-pro")
    assert price is not None
    assert price.input == Decimal("1.25")


def test_the_local_model_is_free() -> None:
    assert find_price("local") == FREE


@pytest.mark.parametrize("model", ["", "no-such-model", "openai/no-such-model", "nobody/gpt-4o-mini", "/", "openai/"])
def test_an_unknown_model_has_no_price(model: str) -> None:
    assert find_price(model) is None
