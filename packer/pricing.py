"""The price table. A model that is not in it has no price: None, never zero, and never that of a model like it."""

from __future__ import annotations

from decimal import Decimal

from packer.usage import FREE, Price


def find_price(model: str) -> Price | None:
    """The price of `model` (`gpt-4o-mini`, `openai/gpt-4o-mini`) in the offline catalogue of genai-prices.

    None where the catalogue does not know it. Of a tiered price it is the first tier: no request of ours is so long
    that a later one applies.
    """
    if model == "local":
        return FREE
    import genai_prices  # noqa: PLC0415  0.2 s that `--help` need not wait for

    provider, _, name = model.rpartition("/")
    try:
        found = genai_prices.calc_price(genai_prices.Usage(), name, provider_id=provider or None).model_price
    except LookupError:
        return None
    inputs, outputs = _base(found, "input_mtok"), _base(found, "output_mtok")
    if inputs is None or outputs is None:
        return None
    return Price(inputs, outputs, _base(found, "cache_read_mtok"))


def _base(prices: object, name: str) -> Decimal | None:
    price = getattr(prices, name, None)
    base = getattr(price, "base", price)
    return base if isinstance(base, Decimal) else None
