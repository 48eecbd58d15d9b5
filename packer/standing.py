"""How a job stands, in words: the same in the summary and in a notebook. An unknown cost is said to be unknown."""

from __future__ import annotations

from decimal import Decimal

from packer.events import Statistics
from packer.exchange import ChargeSource
from packer.shown import count_of
from packer.usage import format_usd

_SOURCES = {
    ChargeSource.HEADER: "told by the gateway",
    ChargeSource.PROXY: "told by the proxy",
    ChargeSource.BODY: "told in the replies",
    ChargeSource.PRICE: "tokens x price",
    ChargeSource.RESERVE: "worst case, the gateway told nothing",
}


def count_items(now: Statistics) -> str:
    """How many items there are, and in which states."""
    parts = [
        f"{count:,} {word}"
        for count, word in (
            (now.labelled, "labelled"),
            (now.failed, "failed"),
            (now.doubt, "in doubt"),
            (now.pending, "pending"),
        )
        if count
    ]
    return f"{now.items:,}" + (f": {', '.join(parts)}" if parts else "")


def write_cost(
    earlier: Statistics, now: Statistics, *, on_this_machine: bool = False, budget: Decimal | None = None
) -> str:
    """What was spent between `earlier` and `now`, and by whose word; with earlier runs, where there were any."""
    settled, doubt = now.settled - earlier.settled, now.in_doubt - earlier.in_doubt
    unpriced = now.unpriced - earlier.unpriced
    told = [_SOURCES[source] for source in now.charge_sources if source in _SOURCES]
    parts = []
    if not now.requests:
        parts.append("nothing in this run")
    elif told:
        parts.append(f"{format_usd(settled)} ({', '.join(told)})")
    elif not doubt and not unpriced:
        parts.append("free: it ran on this machine" if on_this_machine else "nothing was charged")
    if unpriced:
        parts.append(f"unknown for {count_of(unpriced, 'request')}: no charge was told, and no price is known")
    if earlier.settled or earlier.in_doubt:
        least = f"{format_usd(now.settled - now.assumed)} to " if now.in_doubt or now.assumed else ""
        parts.append(f"{least}{format_usd(now.settled + now.in_doubt)} with earlier runs")
    if budget is not None:
        parts.append(f"the budget is {format_usd(budget)}")
    return "; ".join(parts)
