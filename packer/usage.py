"""Tokens and money: `Decimal` USD outside, whole nano-USD inside, and unknown is never zero.

Costs that bound are rounded up to the next nano-USD, so that a sum of reserves is never below the sum of charges. They
are reckoned in a context of their own: how many digits the caller's code works with is its own matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal, localcontext

NANO = Decimal(1_000_000_000)
_MILLION = Decimal(1_000_000)
_EXACT = Context(prec=60, traps=[])
# No single request costs a million dollars: a larger amount is an error or an attack on the books, and is not known
MOST_USD = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one reply took, in tokens; `input_tokens` includes the cached ones."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
        )


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens; `cached_input` None means that cached tokens cost what others do.

    Raises `TypeError` for a float, which is not the amount that it shows.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached_input"):
            amount = getattr(self, name)
            if isinstance(amount, int):
                object.__setattr__(self, name, Decimal(amount))
            elif amount is not None and not isinstance(amount, Decimal):
                raise TypeError(f"Price.{name}: expected a Decimal, like Decimal('0.15'), got {amount!r}")


FREE = Price(Decimal(0), Decimal(0))


def cost(usage: Usage, price: Price) -> Decimal:
    """The USD that `usage` costs at `price`, exactly."""
    cached = min(usage.cached_input_tokens, usage.input_tokens)
    cached_price = price.input if price.cached_input is None else price.cached_input
    with localcontext(_EXACT):
        return (
            (usage.input_tokens - cached) * price.input + cached * cached_price + usage.output_tokens * price.output
        ) / _MILLION


def is_amount(usd: Decimal) -> bool:
    """Whether `usd` can be what one request costs: finite, from 0 to a million."""
    return usd.is_finite() and 0 <= usd <= MOST_USD


def to_nano(usd: Decimal) -> int:
    """`usd` in whole nano-USD, rounded up."""
    return int(_EXACT.multiply(usd, NANO).to_integral_value(ROUND_CEILING))


def floor_nano(usd: Decimal) -> int:
    """`usd` in whole nano-USD, rounded down: a cap is never passed."""
    return int(_EXACT.multiply(usd, NANO))


def to_usd(nano: int) -> Decimal:
    """Whole nano-USD as exact USD."""
    return _EXACT.divide(Decimal(nano), NANO)


def format_price(usd: Decimal) -> str:
    """A price per million tokens for a person: cents, and more digits only where there are any."""
    return f"${usd:,.2f}" if usd == round(usd, 2) else f"${usd.normalize():f}"


def format_usd(usd: Decimal | None) -> str:
    """`usd` for a person: two significant digits below a cent, cents above, `unknown` for None."""
    if usd is None:
        return "unknown"
    if usd == 0:
        return "$0"
    if abs(usd) >= Decimal("0.1"):
        return f"${usd:,.2f}"
    return f"${usd:.{max(4, 1 - usd.adjusted())}f}"
