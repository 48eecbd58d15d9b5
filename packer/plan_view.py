"""What a job will cost, for a person who decides whether to start it. Nothing is sent, and unknown is never zero."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from packer.errors import CallError
from packer.planning import Load, Plan, plan_job
from packer.pricing import Quote, find_near, find_quote, refuse_unpriced
from packer.requests import Requests, make_keys, name_job
from packer.summary import Line, count_of, write_facts
from packer.tables import Reader
from packer.tokens import bound_tokens, count_tokens
from packer.usage import FREE, Price, format_usd

if TYPE_CHECKING:
    from packer.labelling import Order
    from packer.ledger import Ledger

# A difference that decides nothing
_EVEN = Decimal("0.01")
# Providers that cache a prompt's beginning do so from about here on
_CACHED_FROM = 1_024


def show_plan(order: Order, *, width: int) -> list[Line]:
    """The plan of `order` as lines of at most `width`. Raises `CallError` and `LedgerError`."""
    quote, source = _find_price(order)
    price = None if quote is None else quote.price
    if price is None and (order.budget_usd is not None or order.limits.max_request_usd is not None):
        raise refuse_unpriced(order.model)
    requests = Requests(order.task, order.limits, price, count_tokens, bound_tokens)
    with contextlib.ExitStack() as undo:
        reader = Reader(order.input, text=order.text, id_column=order.id_column, encoding=order.encoding)
        undo.callback(reader.close)
        ledger = _open_ledger(order.ledger)
        if ledger is not None:
            undo.callback(ledger.close)
        plan = plan_job(
            (row.text for row in reader),
            requests=requests,
            make_key=make_keys(order.task, order.model),
            find=None if ledger is None else ledger.find,
        )
        spent = Decimal(0)
        if ledger is not None and order.budget_usd is not None:
            spending = ledger.spending(name_job(order.task, order.model, order.job))
            spent = spending.settled + spending.doubt + spending.open
    return write_facts(_facts(order, plan, price, source, spent), width=width)


def _find_price(order: Order) -> tuple[Quote | None, str]:
    """The price of the job, as the runner finds it, and where it is from."""
    if order.model == "local" and order.base_url is None:
        return Quote(FREE, "this machine", "local"), "free: it runs on this machine"
    given = order.price or order.task.price
    if given is not None:
        return Quote(given, "", ""), "as given" if order.price is not None else "as the task file gives it"
    quote = find_quote(order.model)
    return quote, "" if quote is None else f"{quote.provider}'s list price of {quote.model}"


def _open_ledger(path: str) -> Ledger | None:
    """The ledger at `path`, to be read; None where there is none yet."""
    from packer.ledger import Ledger  # noqa: PLC0415  sqlite3

    try:
        if Path(path).stat().st_size == 0:
            return None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CallError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return Ledger(path, read_only=True)


def _facts(
    order: Order, plan: Plan, price: Price | None, source: str, spent: Decimal
) -> Iterator[tuple[str, str, str]]:
    yield "items", count_items(plan), ""
    if plan.known:
        yield "known", f"{count_of(plan.known, 'text')} answered in {order.ledger} already; they cost nothing", ""
    packs, singles = plan.packs, plan.singles
    most = order.limits.max_items
    yield "to send", f"{count_of(plan.asked, 'text')} in {count_of(packs.requests, 'request')} of up to {most}", ""
    if not plan.asked:
        yield "cost", "nothing", ""
        return
    yield "tokens", str(packs), ""
    yield from _write_cost(order, packs, price, source)
    yield from _compare(packs, singles, price)
    if order.budget_usd is not None and price is not None:
        yield "budget", _write_budget(packs, price, order.budget_usd, spent), ""
    yield from _notes(order, plan, price)


def count_items(plan: Plan) -> str:
    """The rows of a table in words."""
    parts = [count_of(plan.texts, "distinct text")]
    if plan.empty:
        parts.append(f"{plan.empty:,} empty")
    if plan.too_long:
        parts.append(f"{plan.too_long:,} too long to be asked")
    return f"{plan.items:,}: {', '.join(parts)}"


def _write_cost(order: Order, packs: Load, price: Price | None, source: str) -> Iterator[tuple[str, str, str]]:
    if price is None:
        near = find_near(order.model)
        offer = f", or a name that the price table has: {', '.join(near)}" if near else ""
        ways = "--price-input and --price-output, or a [price] in the task file"
        yield "cost", f"unknown: no price is known for {order.model}; give {ways}{offer}", "yellow"
        return
    if price == FREE:
        yield "cost", f"nothing ({source})", ""
        return
    yield "cost", f"about {format_usd(packs.cost(price))}; {format_usd(packs.worst)} in the worst case", "bold"
    per_million = f"${price.input.normalize():f} in and ${price.output.normalize():f} out for a million tokens"
    yield "price", f"{per_million}, {source}", ""


def _compare(packs: Load, singles: Load, price: Price | None) -> Iterator[tuple[str, str, str]]:
    """Packs against one text a request: in money where the price is known, else in tokens."""
    shown = f"{count_of(singles.requests, 'request')}, {singles}"
    few, many = (Decimal(packs.tokens), Decimal(singles.tokens))
    what = "tokens"
    if price is not None and price != FREE:
        few, many, what = packs.cost(price), singles.cost(price), "money"
        shown += f": {format_usd(many)}"
    yield "singles", f"one text a request: {shown}", ""
    if many * (1 - _EVEN) > few:
        yield "packing", f"saves {100 * (many - few) / many:.0f} % of the {what}: {many / few:.1f} times cheaper", ""
        return
    change = f"{abs(100 * (few - many) / many):.1f} %"
    how = "nothing is saved" if few == many else f"{'saves' if few < many else 'adds'} {change}"
    yield "packing", f"does not pay here: {how}; --max-items 1 asks one text a request", "yellow"


def _write_budget(packs: Load, price: Price, budget: Decimal, spent: Decimal) -> str:
    assert packs.worst is not None, "the price is known"
    left = budget - spent
    earlier = f", {format_usd(spent)} of it spent or in doubt from earlier runs," if spent else ""
    given = f"{format_usd(budget)}{earlier}"
    if left >= packs.worst:
        return f"{given} covers even the worst case"
    expected = packs.cost(price)
    if left >= expected:
        return f"{given} covers what is expected, not the worst case"
    return f"{given} does not cover it: about {max(left, Decimal(0)) / expected:.0%} of the texts, then the job stops"


def _notes(order: Order, plan: Plan, price: Price | None) -> Iterator[tuple[str, str, str]]:
    yield "note", "tokens as o200k counts them; other models take 0.8 to 2.5 times as many", ""
    if plan.constant >= _CACHED_FROM and price is not None and price.cached_input is not None:
        cached = f"{format_usd(price.cached_input)} a million"
        yield "note", f"a provider that caches the {plan.constant:,} tokens of instructions bills them at {cached}", ""
    if order.task.record_schema is not None and not order.task.examples:
        yield "note", "the length of a record is a guess; an example in the task makes it a better one", ""
