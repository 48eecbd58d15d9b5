"""What a job will cost, for a person who decides whether to start it. Nothing is sent, and unknown is never zero."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from packer.batch_files import MOST_LINES
from packer.canaries import find_canaries
from packer.doubting import price_of
from packer.errors import CallError
from packer.examples import describe_examples
from packer.planning import Load, Plan, plan_job
from packer.pricing import Quote, find_batch_price, find_near, find_quote, refuse_unpriced
from packer.requests import Requests, make_keys, name_job
from packer.shown import count_of
from packer.summary import Line, write_facts
from packer.tables import Reader
from packer.tokens import bound_tokens, count_tokens
from packer.usage import FREE, Price, format_price, format_usd

if TYPE_CHECKING:
    from packer.ledger import Ledger
    from packer.order import Order

# A saving that decides nothing
_EVEN = 1  # per cent
# Providers that cache a prompt's beginning do so from about here on
_CACHED_FROM = 1_024


def show_plan(order: Order, *, width: int) -> list[Line]:
    """The plan of `order` as lines of at most `width`. Raises `CallError` and `LedgerError`."""
    with contextlib.ExitStack() as undo:
        # what is wrong with a file is told before the price table and the vocabulary are loaded
        reader = Reader(order.input, text=order.text, id_column=order.id_column, encoding=order.encoding)
        undo.callback(reader.close)
        ledger = open_ledger(order.ledger)
        if ledger is not None:
            undo.callback(ledger.close)
        quote, source = _find_price(order)
        price = None if quote is None else quote.price
        if price is None and order.has_cap:
            raise refuse_unpriced(order.model)
        canaries = find_canaries(order.task) if order.untrusted else {}
        requests = Requests(order.task, order.limits, price, count_tokens, bound_tokens, canaries)
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
        return Quote(FREE, "this machine", "local"), "it runs on this machine"
    given = order.price or order.task.price_of(order.model)
    if given is not None:
        return Quote(given, "", ""), "as given" if order.price is not None else "as the task file gives it"
    quote = find_quote(order.model)
    return quote, "" if quote is None else name_source(order.model, quote)


def name_source(model: str, quote: Quote) -> str:
    """Whose price it is; of which model, where that is not plain from `model`."""
    is_plain = model.lower().endswith(quote.model.lower())
    return f"{quote.provider}'s list price" + ("" if is_plain else f" of {quote.model}")


def open_ledger(path: str) -> Ledger | None:
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
        yield "known", f"{count_of(plan.known, 'text')} answered in {order.ledger} already, at no cost now", ""
    if order.examples is not None:
        yield "examples", f"{describe_examples(order.task)}, in every request", ""
    yield from describe_requests(plan, order.limits.max_items)
    if plan.asked:
        yield from _write_cost(order, plan, price, source)
        if order.batch:
            yield "batch", _write_batch(order, plan), ""
        share = Decimal(str(order.audit or 0))
        if order.audit is not None:
            yield "audit", _write_audit(plan.singles, price, share), ""
        yield from _write_doubtful(order, plan, price)
        if order.budget_usd is not None and price is not None:
            top = "; doubtful labels come on top" if order.doubts else ""
            yield "budget", _write_budget(plan, price, order.budget_usd, spent, share) + top, ""
        yield from _compare(plan, price, order.limits.max_items)
        if price is not None and price != FREE:
            shown = f"{format_price(price.input)} in, {format_price(price.output)} out per million tokens"
            yield "price", f"{shown}: {source}", ""
        yield from _notes(order, plan, price)


def count_items(plan: Plan) -> str:
    """The rows of a table in words."""
    if plan.items == plan.texts and not plan.too_long:
        return count_of(plan.items, "distinct text")
    parts = [count_of(plan.texts, "distinct text")]
    if plan.empty:
        parts.append(f"{plan.empty:,} empty")
    if plan.too_long:
        parts.append(f"{plan.too_long:,} too long to be asked")
    return f"{plan.items:,}: {', '.join(parts)}"


def describe_requests(plan: Plan, max_items: int) -> Iterator[tuple[str, str, str]]:
    """The requests in packs and as singles, as facts for `write_facts`."""
    if not plan.asked:
        yield "packs", "none: nothing is left to be asked", ""
        return
    if max_items > 1:
        yield "packs", f"{count_of(plan.packs.requests, 'request')} of up to {max_items}: {plan.packs}", ""
    yield "singles", f"{count_of(plan.singles.requests, 'request')} of one: {plan.singles}", ""


def _write_cost(order: Order, plan: Plan, price: Price | None, source: str) -> Iterator[tuple[str, str, str]]:
    if price is None:
        near = find_near(order.model)
        offer = f", or a name that the price table has: {', '.join(near)}" if near else ""
        ways = "--price-input and --price-output, or a [price] in the task file"
        yield "cost", f"unknown: no price is known for {order.model}; give {ways}{offer}", "yellow"
        return
    expected = plan.packs.cost(price)
    if not expected:
        yield "cost", f"nothing: {source}", ""
        return
    singles = "" if order.limits.max_items == 1 else f", {format_usd(plan.singles.cost(price))} as singles"
    packs = "" if order.limits.max_items == 1 else " in packs"
    yield "cost", f"about {format_usd(expected)}{packs}{singles}", "bold"
    yield "worst", f"{format_usd(plan.packs.worst)}, if every answer runs on for as long as it may", ""


def _write_batch(order: Order, plan: Plan) -> str:
    """What a Batch API takes, in money and in time."""
    given = order.price or order.task.price_of(order.model)
    price, quote = find_batch_price(order.model, given), find_quote(order.model)
    rounds = -(-plan.packs.requests // MOST_LINES)
    days = f"{count_of(rounds, 'batch', 'batches')} of up to {MOST_LINES:,} requests, one after the other"
    when = f"{days}, each within a day and mostly sooner; what is asked again takes longer"
    if price is None:
        return when
    if given is None and (quote is None or quote.batch is None):
        return f"no price of its Batch API is known, so that the ordinary one is reckoned with; {when}"
    source = "half of what was given" if given is not None else "its list price"
    shown = f"{format_price(price.input)} in, {format_price(price.output)} out per million tokens, {source}"
    return f"about {format_usd(plan.packs.cost(price))} ({shown}); {when}"


def _compare(plan: Plan, price: Price | None, max_items: int) -> Iterator[tuple[str, str, str]]:
    """Packs against singles: in money where it costs any, else in tokens."""
    if max_items == 1:
        yield "packing", "none with --max-items 1: every text is a request of its own", ""
        return
    few, many, what = Decimal(plan.packs.tokens), Decimal(plan.singles.tokens), "tokens"
    if price is not None and plan.singles.cost(price):
        few, many, what = plan.packs.cost(price), plan.singles.cost(price), "money"
    saved = 100 * (many - few) / many
    if saved > _EVEN:
        yield "packing", f"saves {saved:.0f} % of the {what}: singles take {many / few:.1f} times as much", ""
        return
    how = f"saves {saved:.1f} %" if saved >= 0 else f"adds {-saved:.1f} %"
    yield "packing", f"does not pay here: it {how}; --max-items 1 asks for each text alone", "yellow"


def _write_audit(singles: Load, price: Price | None, share: Decimal) -> str:
    requests = f"about {count_of(round(singles.requests * share), 'request')} more, each of one text"
    cost = singles.cost(price) * share if price is not None else None
    return f"{requests}, for about {format_usd(cost)}" if cost else requests


def _write_doubtful(order: Order, plan: Plan, price: Price | None) -> Iterator[tuple[str, str, str]]:
    """What doubtful labels cost besides, which hangs on how many there will be."""
    tenth = Decimal("0.1")
    if order.doubts:
        again = _write_more(plan.packs.requests, None if price is None else plan.packs.cost(price))
        limit = (
            ""
            if order.target_accuracy is not None
            else f"; else those whose confidence is below {order.doubtful_below:g}"
        )
        yield "votes", f"where the gateway tells no confidence, every text is asked twice: {again}{limit}", ""
        if order.vote is not None:
            # a majority takes at least half of the votes besides the first
            least = order.vote // 2
            tenths = tenth * least
            cost = None if price is None else plan.packs.cost(price) * tenths
            more = _write_more(round(plan.packs.requests * tenths), cost)
            yield "", f"for each 10 % of doubtful texts: {more} at the least, twice that at the most", ""
    if order.escalate is not None:
        strong = price_of(order)
        if strong is None and order.has_cap:
            raise refuse_unpriced(order.escalate)
        requests, cost = plan.singles.requests, None if strong is None else plan.singles.cost(strong)
        if order.target_accuracy is not None:
            share = Decimal(min(order.sample, plan.asked)) / plan.asked
            more = _write_more(round(requests * share), None if cost is None else cost * share)
            yield "sample", f"{more}, each of one text, to learn what to escalate", ""
        more = _write_more(round(requests * tenth), None if cost is None else cost * tenth)
        yield "escalate", f"for each 10 % of texts that go to {order.escalate}: {more}, each of one text", ""


def _write_more(requests: int, cost: Decimal | None) -> str:
    price = "at an unknown cost" if cost is None else f"for about {format_usd(cost)}"
    return f"about {count_of(requests, 'request')} more, {price}"


def _write_budget(plan: Plan, price: Price, budget: Decimal, spent: Decimal, audited: Decimal) -> str:
    assert plan.packs.worst is not None, "the price is known"
    assert plan.singles.worst is not None, "as above"
    worst = plan.packs.worst + plan.singles.worst * audited
    left = budget - spent
    earlier = f", of which {format_usd(spent)} is spent or in doubt," if spent else ""
    given = f"{format_usd(budget)}{earlier}"
    if left >= worst:
        return f"{given} covers even the worst case"
    expected = plan.packs.cost(price) + plan.singles.cost(price) * audited
    if left >= expected:
        return f"{given} covers what is expected, not the worst case"
    share = 100 * max(left, Decimal(0)) / expected
    return f"{given} does not cover it: it is enough for about {share:.0f} % of the texts"


def _notes(order: Order, plan: Plan, price: Price | None) -> Iterator[tuple[str, str, str]]:
    yield "note", "tokens are o200k's; other models count 0.8 to 2.5 times as many", ""
    if plan.constant >= _CACHED_FROM and price is not None and price.cached_input is not None:
        cached = f"{format_price(price.cached_input)} a million"
        yield "note", f"{plan.constant:,} tokens are always the same; cached, they cost {cached}", ""
    if order.task.record_schema is not None and not order.task.examples:
        yield "note", "a record's length is a guess; examples in the task make it a better one", ""
