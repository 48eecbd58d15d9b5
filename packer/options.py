"""What a runner may be asked for, and what is made of it: one clear line where it makes no sense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal, TypedDict

from packer.cascade import DELTA
from packer.errors import CallError
from packer.events import Event
from packer.items import MOST_IN_FLIGHT, Item
from packer.packs import PackLimits
from packer.transport import Transport
from packer.usage import Price
from packer.votes import BELOW, MOST_VOTES

_LOCAL_IN_FLIGHT = 2  # one runs, one waits: the CPU is the limit


@dataclass(frozen=True, slots=True)
class Doubt:
    """What is done about doubtful items.

    `vote` is the most answers that one gets (3, 5, 7 or 9), None for no voting. `below` is the confidence under which
    an item is doubtful. `escalate` is the stronger model that is asked for what is doubtful still, each item alone;
    `transport` and `price` are its own, None as in `Runner.sibling`. `target` takes the place of `below`: the share of
    labels that are to agree with that model, or with gold, except with probability `delta`; `Runner.certify` chooses
    the confidence for it, and until then everything is escalated. `docs/quality.md` says more. Raises `CallError`.
    """

    vote: int | None = None
    below: float = BELOW
    escalate: str | None = None
    transport: Transport | None = None
    price: Price | None = None
    target: float | None = None
    delta: float = DELTA

    def __post_init__(self) -> None:
        if self.vote is None and self.escalate is None:
            raise CallError("doubt: expected votes, a stronger model, or both")
        if self.vote is not None and self.vote not in MOST_VOTES:
            raise CallError(f"vote: expected 3, 5, 7 or 9 votes at most, got {self.vote!r}")
        read_share("below", self.below)
        if self.target is not None:
            if self.escalate is None or self.vote is not None:
                raise CallError("target: expected a stronger model to escalate to, and no votes")
            for name, share in (("target", self.target), ("delta", self.delta)):
                if not 0 < share < 1:
                    raise CallError(f"{name}: expected a share between 0 and 1, got {share!r}")


class RunnerOptions(TypedDict, total=False):
    """The options of `Runner`, for the functions that pass them on."""

    transport: Transport | None
    base_url: str | None
    api_key: str | None
    ledger: Path | str | None
    job: str
    limits: PackLimits
    budget_usd: Decimal | float | str | None
    price: Price | None
    concurrency: int | None
    on_doubt: Literal["retry", "hold"]
    seed: int
    linger: float
    on_event: Callable[[Event], None] | None
    untrusted: bool
    audit: float | None
    max_disagreement: float
    confidence: bool
    batch: bool
    abandon_batches: bool
    doubt: Doubt | None


def read_usd(name: str, given: Decimal | float | str) -> Decimal:
    """`given` as an amount. Raises `CallError`."""
    try:
        usd = Decimal(str(given))
    except InvalidOperation:
        usd = Decimal("NaN")
    if not usd.is_finite() or usd <= 0:
        raise CallError(f"{name}: expected US dollars above 0, got {given!r}")
    return usd


def read_share(name: str, given: float) -> float:
    """`given` as a share that is neither none nor more than all. Raises `CallError`."""
    if not 0 < given <= 1:
        raise CallError(f"{name}: expected a share above 0, and 1 at most, got {given!r}")
    return float(given)


def read_concurrency(given: int | None, model: str, *, most: int = MOST_IN_FLIGHT) -> int | None:
    """`given` as a fixed limit, None for one that is searched for. Raises `CallError`."""
    if given is None:
        return _LOCAL_IN_FLIGHT if model == "local" else None
    if not 1 <= given <= most:
        raise CallError(f"concurrency: expected 1 to {most}, or None to search for it, got {given!r}")
    return given


def read_item(given: Item | str) -> Item:
    """`given` as an item. Raises `CallError`."""
    item = Item(given) if isinstance(given, str) else given
    if not isinstance(item, Item) or not isinstance(item.text, str):
        raise CallError(f"expected texts or items, got {type(given).__name__}")
    return item
