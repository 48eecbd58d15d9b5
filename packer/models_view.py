"""What one job would cost with each of several models, cheapest first. A model without a price is last, and unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packer.packs import PackLimits
from packer.plan_view import count_items, describe_requests, name_source
from packer.planning import Plan, plan_job
from packer.pricing import Quote, find_quote, table_version
from packer.requests import Requests, make_keys
from packer.shown import cut_text, show_text
from packer.summary import Line, write_facts
from packer.tables import Reader
from packer.tokens import bound_tokens, count_tokens
from packer.usage import format_price, format_usd

if TYPE_CHECKING:
    from packer.task import Task

# Small models of several makers, which are what short texts are labelled with
COMMON = (
    "openai/gpt-4o-mini",
    "openai/gpt-4.1-nano",
    "openai/gpt-5-nano",
    "openai/gpt-5.4-nano",
    "openai/gpt-5.6-luna",
    "google/gemini-2.5-flash-lite",
    "google/gemini-3.5-flash-lite",
    "anthropic/claude-haiku-4-5",
    "anthropic/claude-haiku-5-5",
    "mistral/mistral-small-latest",
    "deepseek/deepseek-v4-flash",
    "groq/llama-3.1-8b-instant",
)
_COLUMNS = ("packs", "singles", "batch API", "in / M", "out / M")
_WIDTHS = (9, 9, 9, 7, 7)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared: a column of a table with a task, asked of `models` in packs of at most `max_items`."""

    input: str
    text: str
    task: Task
    models: Sequence[str] = COMMON
    id_column: str | None = None
    encoding: str = "utf-8"
    max_items: int = 20


def show_models(asked: Comparison, *, width: int) -> list[Line]:
    """The comparison as lines of at most `width`. Raises `CallError`."""
    task = asked.task
    with Reader(asked.input, text=asked.text, id_column=asked.id_column, encoding=asked.encoding) as reader:
        requests = Requests(task, PackLimits(asked.max_items), None, count_tokens, bound_tokens)
        # the keys only tell texts apart: no model's answers are looked up
        plan = plan_job((row.text for row in reader), requests=requests, make_key=make_keys(task, ""))
    quotes = {model: find_quote(model) for model in asked.models}
    priced = {model: quote for model, quote in quotes.items() if quote is not None}
    return [
        *write_facts(_describe(plan, asked), width=width),
        Line(""),
        *_table(plan, priced, [model for model in quotes if model not in priced], width),
        Line(""),
        *write_facts(_notes(plan, asked, priced), width=width),
    ]


def _describe(plan: Plan, asked: Comparison) -> Iterator[tuple[str, str, str]]:
    yield "items", count_items(plan), ""
    yield from describe_requests(plan, asked.max_items)


def _table(plan: Plan, priced: dict[str, Quote], unpriced: Sequence[str], width: int) -> Iterator[Line]:
    room = max(width - sum(_WIDTHS) - 2 * len(_WIDTHS), 20)
    yield _row("model", _COLUMNS, room, "bold")
    for model, quote in sorted(priced.items(), key=lambda pair: plan.packs.cost(pair[1].price)):
        price, batch = quote.price, quote.batch
        cells = [
            format_usd(plan.packs.cost(price)),
            format_usd(plan.singles.cost(price)),
            "-" if batch is None else format_usd(plan.packs.cost(batch)),
            format_price(price.input),
            format_price(price.output),
        ]
        yield _row(model, cells, room)
    for model in unpriced:
        yield _row(model, ["unknown", "unknown", "-", "-", "-"], room, "yellow")


def _notes(plan: Plan, asked: Comparison, priced: dict[str, Quote]) -> Iterator[tuple[str, str, str]]:
    yield "prices", f"{table_version()}, list prices a million tokens, not your gateway's", ""
    yield "tokens", "o200k's; other models' tokenizers count 0.8 to 2.5 times as many", ""
    yield "hidden", "what a model thinks first is billed as output, and is not in here", ""
    if any(quote.batch is not None for quote in priced.values()):
        yield "batch API", "packs at the provider's Batch API price: label --batch", ""
    for model, quote in priced.items():
        if quote.context is not None and quote.context < plan.packs.longest:
            short = f"{model} takes {quote.context:,} tokens, and these packs need up to {plan.packs.longest:,}"
            yield "context", f"{short}; --max-items {max(asked.max_items // 2, 1)}", "yellow"
    for model, quote in priced.items():
        provider = model.lower().rpartition("/")[0].partition("/")[0]
        if not provider or provider not in quote.provider.lower():
            yield "taken", f"for {model}: {name_source(model, quote)}", ""


def _row(name: str, cells: Sequence[str], room: int, style: str = "") -> Line:
    shown = cut_text(show_text(name), room)
    columns = "".join(f"  {cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
    return Line(f"{shown:<{room}}{columns}", style)
