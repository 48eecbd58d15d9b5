"""Money as the gateway sees it: what was billed is gone from the account, to the nano-dollar, whatever was told."""

from dataclasses import dataclass, field
from decimal import Decimal

from packer.usage import Price, Usage, cost


@dataclass
class Account:
    """Who pays. `key` opens it; `name` stands in the log for it. `revoked_from` is a request's number, or None."""

    name: str
    key: str
    balance: Decimal = Decimal(100)
    revoked_from: int | None = None
    billed: Decimal = field(default=Decimal(0), init=False)

    def take(self, usd: Decimal) -> None:
        """Bill a request."""
        self.balance -= usd
        self.billed += usd


def count_input(body: bytes) -> int:
    """The tokens of a request: a quarter of its bytes, so that a client's bound of one a byte always holds."""
    return -(-len(body) // 4)


def count_output(text: str) -> int:
    """The tokens of an answer: a third of its characters, at least one."""
    return max(1, -(-len(text) // 3))


def cut_to(text: str, tokens: int) -> str:
    """`text` as far as `tokens` reach."""
    return text[: tokens * 3]


def bill_for(usage: Usage, price: Price) -> Decimal:
    """What a request costs, in whole nano-dollars."""
    return cost(usage, price).quantize(Decimal("1e-9"))
