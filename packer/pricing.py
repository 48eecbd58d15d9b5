"""The price table. A model that is not in it has no price: None, never zero, and never that of a model like it.

The table is the one that genai-prices carries; nothing here fetches a newer one. It finds models by rules such as
"begins with claude-haiku-4-5", which take names that nobody has heard of for a model that they resemble. What it finds
is therefore taken only where the name is one that the table spells out, or such a name and a version.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from packer.errors import PriceError
from packer.usage import FREE, Price

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

# What gateways and SDKs call a provider, where that is not the table's own word. models/ is how Google names models.
_ALIASES = {
    "azure_ai": "azure",
    "bedrock": "aws",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "mistralai": "mistral",
    "models": "google",
    "together_ai": "together",
    "vertex_ai": "google",
    "xai": "x-ai",
}
# A day, -001, -latest, Bedrock's -v1:0; a fine-tune's day and owner. Not -preview, -mini or -high: those are others
_VERSION = re.compile(
    r"([-@](20\d\d-?\d\d-?\d\d|0\d\d|latest))?(-v\d+(:\d+)?)?|\d\d-\d\d:[^/]+",
)
# Prices besides those of plain tokens: no reserve of ours would cover them
_UNCOVERED = ("requests_kcount", "output_reasoning_mtok", "output_citation_mtok")
_LOOK_AHEAD = [timedelta(minutes=30 * step) for step in range(49)]


@dataclass(frozen=True, slots=True)
class Quote:
    """A model's list price, and whose it is.

    `provider` is its name and `model` what the table calls the model there. `batch` is the price through the provider's
    Batch API, `context` the most input tokens; both None where the table does not say.
    """

    price: Price
    provider: str
    model: str
    batch: Price | None = None
    context: int | None = None


def find_price(model: str) -> Price | None:
    """The price of `model`, None where the table has none; see `find_quote`."""
    quote = find_quote(model)
    return None if quote is None else quote.price


def find_batch_price(model: str, given: Price | None) -> Price | None:
    """The price of `model` through a Batch API: half of what was `given`, else what the table has for batches.

    Where it has the ordinary price only, that one: nobody said that this gateway takes less. None where it has none.
    """
    if given is not None:
        cached = None if given.cached_input is None else given.cached_input / 2
        return Price(given.input / 2, given.output / 2, cached)
    quote = find_quote(model)
    return None if quote is None else quote.batch or quote.price


def find_quote(model: str, *, at: datetime | None = None) -> Quote | None:
    """The list price of `model` from `at` on (now), None where the table has none.

    A first part that is a provider's name (`openai/...`, `openrouter/openai/...`) means that provider's price, or none.
    Where no part of the name is one, it is the price of the model's maker, if exactly one maker has a model so named.

    Of a tiered price it is the first tier: no request of ours is so long that a later one applies. Of a price that
    changes with the time of day, or within a day from now, it is the highest.
    """
    if model == "local":
        return Quote(FREE, "this machine", "local")
    found = _find(model.strip().lower())
    return None if found is None else _read_quote(*found, at=at or datetime.now(UTC))


def find_near(model: str) -> list[str]:
    """Names with a price that are spelt like `model`, the nearest first, three at most."""
    names = {
        f"{provider.id}/{info.id}": info.id
        for provider in _providers().values()
        if provider.model_match is not None
        for info in provider.models
        if "/" not in info.id
    }
    wanted = model.strip().lower()
    near = difflib.get_close_matches(wanted, names, 6, 0.75)
    last = wanted.rpartition("/")[2]
    near += [name for name, own in names.items() if own in difflib.get_close_matches(last, names.values(), 3, 0.8)]
    return [name for name in dict.fromkeys(near) if find_price(name) is not None][:3]


def refuse_unpriced(model: str) -> PriceError:
    """The error of a job that has a money cap and no price."""
    near = find_near(model)
    offer = f"; the price table has {', '.join(near)}" if near else ""
    return PriceError(
        f"no price is known for {model}, and a money cap needs one: give --price-input and --price-output, a [price] "
        f"in the task file, or price= in Python{offer}"
    )


def table_version() -> str:
    """The price table's name and version; it has no date of its own."""
    import genai_prices  # noqa: PLC0415  0.3 s that `--help` need not wait for

    return f"genai-prices {genai_prices.__version__}"


@functools.cache
def _providers() -> dict[str, Provider]:
    # the table in the wheel, whatever another part of the program may have fetched
    from genai_prices.data import providers  # noqa: PLC0415  0.5 s that `--help` need not wait for

    return {provider.id: provider for provider in providers}


def _find(name: str) -> tuple[Provider, ModelInfo] | None:
    providers = _providers()
    rest = name
    while "/" in rest:
        first, _, rest = rest.partition("/")
        provider = providers.get(_ALIASES.get(first, first))
        if provider is not None:
            return _find_at(provider, rest) or _find_at(provider, name)
    makers = [maker for maker in providers.values() if maker.model_match and maker.model_match.is_match(rest)]
    found = [each for maker in makers if (each := _find_at(maker, rest)) is not None]
    return found[0] if len(found) == 1 else None


def _find_at(provider: Provider, name: str) -> tuple[Provider, ModelInfo] | None:
    info = provider.find_model(name, all_providers=list(_providers().values())) if name else None
    if info is None or not any(_is_named(name, own) for own in _names(info)):
        return None
    return provider, info


def _is_named(name: str, own: str) -> bool:
    return name.startswith(own) and _VERSION.fullmatch(name, len(own)) is not None


def _names(info: ModelInfo) -> Iterator[str]:
    """What the table calls a model: its id, and whatever its rules spell out."""
    # regional.: the table's own prefix for prices that hold outside Bedrock's global route
    yield info.id.lower().removeprefix("regional.")
    rules: list[Any] = [info.match]
    while rules:
        rule = rules.pop()
        rules += getattr(rule, "or_", [])
        for kind in ("equals", "starts_with", "contains", "ends_with"):
            if (text := getattr(rule, kind, "")) != "":
                yield text.lower()


def _read_quote(provider: Provider, info: ModelInfo, *, at: datetime) -> Quote | None:
    price = _read_price(info, at, {})
    if price is None:
        return None
    batch = _read_price(info, at, {"processing": "batch"})
    # a context that the table has no price for changes nothing, without a word
    is_cheaper = batch is not None and (batch.input, batch.output) != (price.input, price.output)
    return Quote(price, provider.name, info.id, batch if is_cheaper else None, info.context_window)


def _read_price(info: ModelInfo, at: datetime, context: dict[str, str]) -> Price | None:
    changes = isinstance(info.prices, list)
    prices = [info.get_prices(at + ahead, context) for ahead in (_LOOK_AHEAD if changes else _LOOK_AHEAD[:1])]
    if any(_base(price, name) is not None for price in prices for name in _UNCOVERED):
        return None
    inputs, outputs = _highest(prices, "input_mtok"), _highest(prices, "output_mtok")
    if inputs is None or outputs is None:
        return None
    return Price(inputs, outputs, _highest(prices, "cache_read_mtok"))


def _highest(prices: list[ModelPrice], name: str) -> Decimal | None:
    found = [_base(price, name) for price in prices]
    known = [price for price in found if price is not None]
    return max(known) if len(known) == len(found) else None


def _base(prices: ModelPrice, name: str) -> Decimal | None:
    price = getattr(prices, name, None)
    base = getattr(price, "base", price)
    return base if isinstance(base, Decimal) else None
