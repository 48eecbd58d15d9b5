"""Prices: a name is the model that it names, an unknown model has no price, and never that of a model like it."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import data_snapshot, update_prices
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ClauseStartsWith,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
)

from packer import pricing
from packer.errors import PriceError, TaskError
from packer.packs import PackLimits
from packer.pricing import Quote, find_near, find_price, find_quote, table_version
from packer.runner import Runner
from packer.task import Task, read_task
from packer.testing import FakeTransport
from packer.usage import FREE, Price

MINI = Price(Decimal("0.15"), Decimal("0.6"), Decimal("0.075"))


def quote(model: str) -> Quote:
    found = find_quote(model)
    assert found is not None, model
    return found


@pytest.mark.parametrize(
    ("model", "provider", "price"),
    [
        ("gpt-4o-mini", "OpenAI", ("0.15", "0.6")),
        ("openai/gpt-4o-mini", "OpenAI", ("0.15", "0.6")),
        ("OpenAI/GPT-4o-mini", "OpenAI", ("0.15", "0.6")),
        ("openai/gpt-4o-mini-2024-07-18", "OpenAI", ("0.15", "0.6")),
        ("openai/gpt-5-nano-2025-08-07", "OpenAI", ("0.05", "0.4")),
        ("openai/ft:gpt-4o-mini-2024-07-18:acme::1", "OpenAI", ("0.3", "1.2")),
        ("openrouter/openai/gpt-4o-mini", "OpenRouter", ("0.15", "0.6")),
        ("azure/gpt-4o", "Microsoft Azure", ("2.5", "10")),
        ("google/gemini-2.0-flash", "Google", ("0.1", "0.4")),
        ("models/gemini-2.0-flash-001", "Google", ("0.1", "0.4")),
        ("vertex_ai/gemini-2.5-flash-lite", "Google", ("0.1", "0.4")),
        ("anthropic/claude-haiku-4-5-20251001", "Anthropic", ("1", "5")),
        ("bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0", "AWS Bedrock", ("1.1", "5.5")),
        ("groq/llama-3.1-8b-instant", "Groq", ("0.05", "0.08")),
        ("together_ai/meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", "Together AI", ("0.18", "0.18")),
        ("accounts/fireworks/models/llama-v3p1-8b-instruct", "Fireworks", ("0.2", "0.2")),
    ],
)
def test_a_name_has_the_price_of_the_provider_that_it_names(model: str, provider: str, price: tuple[str, str]) -> None:
    found = quote(model)
    assert (found.provider, found.price.input, found.price.output) == (provider, *map(Decimal, price))


@pytest.mark.parametrize(
    "model", ["nobody/gpt-4o-mini", "my-gateway/chat/gpt-4o-mini", "my-gateway/openai/gpt-4o-mini"]
)
def test_behind_an_unknown_gateway_it_is_the_makers_price(model: str) -> None:
    assert (quote(model).provider, quote(model).price) == ("OpenAI", MINI)


@pytest.mark.parametrize(
    "model",
    [
        "",
        *["/", "openai/", "no-such-model", "openai/no-such-model", "openai/does-not-exist-gpt-4o", "gpt-4o-mini-evil"],
        *["anthropic/claude-haiku-4-5-evil", "openai/gpt-5-nano-evil", "google/gemini-2.5-pro-evil"],
        *["evil-gemini-2.0-flash", "google/evil-gemini-2.0-flash", "openai/gpt-4o-mini/evil", "anthropic/gpt-4o-mini"],
        # several providers sell it, at several prices, and its maker is none of them
        "meta-llama/llama-3.1-8b-instruct",
    ],
)
def test_a_model_that_the_table_does_not_name_has_no_price(model: str) -> None:
    assert find_price(model) is None


@pytest.mark.no_cover
@pytest.mark.parametrize("provider", [provider.id for provider in providers])
def test_no_models_name_with_more_behind_it_has_a_price(provider: str) -> None:
    table = next(each for each in providers if each.id == provider)
    for info in table.models:
        for name in (f"{info.id}-evil", f"evil-{info.id}", f"{info.id}evil"):
            assert find_price(f"{provider}/{name}") is None, name


def test_a_name_that_two_makers_have_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    price = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2))
    makers = {
        name: Provider(
            name,
            name,
            "",
            model_match=ClauseStartsWith("twin"),
            models=[ModelInfo("twin-1", ClauseEquals("twin-1"), prices=price)],
        )
        for name in ("one", "two")
    }
    monkeypatch.setattr(pricing, "_providers", lambda: makers)
    assert find_price("twin-1") is None
    assert find_price("one/twin-1") == Price(Decimal(1), Decimal(2))


@pytest.mark.parametrize("model", ["openai/text-embedding-3-small", "perplexity/sonar"])
def test_a_price_that_is_not_only_of_tokens_in_and_out_is_none(model: str) -> None:
    assert find_price(model) is None


def test_a_tiered_price_counts_with_its_first_tier() -> None:
    assert quote("google/gemini-2.5-pro").price.input == Decimal("1.25")


def test_a_price_that_follows_the_clock_counts_with_its_highest() -> None:
    prices = {find_price_at("deepseek/deepseek-v4-pro", hour) for hour in range(24)}
    assert prices == {Price(Decimal("1.32"), Decimal("3.96"), Decimal("0.044"))}


def find_price_at(model: str, hour: int) -> Price:
    found = find_quote(model, at=datetime(2026, 11, 25, hour, tzinfo=UTC))
    assert found is not None
    return found.price


def test_a_price_that_rises_within_a_day_counts_already() -> None:
    start = datetime(2026, 11, 26, tzinfo=UTC)
    cheap, dear = (ModelPrice(input_mtok=Decimal(usd), output_mtok=Decimal(usd)) for usd in (1, 2))
    prices = [
        ConditionalPrice(prices=cheap),
        ConditionalPrice(constraint=StartDateConstraint(start.date()), prices=dear),
    ]
    info = ModelInfo("m", ClauseEquals("m"), prices=prices)
    read = {hours: pricing._read_price(info, start - timedelta(hours=hours), {}) for hours in (1, 23, 30)}
    assert {hours: price and price.input for hours, price in read.items()} == {1: 2, 23: 2, 30: 1}


def test_the_price_through_the_batch_api_is_shown_where_the_table_has_one() -> None:
    at = datetime(2026, 11, 25, tzinfo=UTC)
    found = find_quote("openai/gpt-4o-mini", at=at)
    assert found is not None
    assert found.batch is not None
    assert (found.batch.input, found.batch.output) == (MINI.input / 2, MINI.output / 2)
    # the table knows none: what it says for a context that it does not know is the plain price
    without = find_quote("groq/llama-3.1-8b-instant", at=at)
    assert without is not None
    assert without.batch is None


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    pricing._providers.cache_clear()
    assert find_price("gpt-4o-mini") == MINI
    assert update_prices._shared_updater.thread is None


def test_a_table_that_another_part_of_the_program_has_fetched_is_not_used() -> None:
    data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot(providers=[], from_auto_update=True))
    try:
        pricing._providers.cache_clear()
        assert find_price("gpt-4o-mini") == MINI
    finally:
        data_snapshot.set_custom_snapshot(None)


def test_the_table_says_its_version() -> None:
    assert table_version().startswith("genai-prices 0.")


def test_the_local_model_is_free() -> None:
    assert find_price("local") == FREE


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("openai/gpt-4o-mni", "openai/gpt-4o-mini"),
        ("gpt4o-mini", "openai/gpt-4o-mini"),
        ("gemini-2.0-flsh", "google/gemini-2.0-flash"),
    ],
)
def test_near_names_are_offered_and_have_prices(model: str, near: str) -> None:
    found = find_near(model)
    assert found[0] == near
    assert all(find_price(name) for name in found)


def test_nothing_is_near_to_a_name_of_another_kind() -> None:
    assert find_near("gateway/model") == []


# The task's price


def write_task(folder: Path, price: str, name: str = "task.toml") -> Path:
    path = folder / name
    path.write_text(price, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("task.toml", 'labels = ["a", "b"]\n[price]\ninput = 0.15\noutput = 1\ncached_input = 0.1'),
        ("task.json", '{"labels": ["a", "b"], "price": {"input": 0.15, "output": 1, "cached_input": 0.1}}'),
    ],
)
def test_a_task_files_price_is_read_exactly(tmp_path: Path, name: str, content: str) -> None:
    task = read_task(write_task(tmp_path, content, name))
    assert task.price == Price(Decimal("0.15"), Decimal(1), Decimal("0.1"))


def test_the_price_is_no_part_of_what_is_asked(tmp_path: Path) -> None:
    task = read_task(write_task(tmp_path, 'labels = ["a", "b"]\n[price]\ninput = 0.15\noutput = 0.6'))
    assert task.fingerprint == Task(["a", "b"]).fingerprint


def test_a_records_numbers_stay_what_they_are_beside_a_price(tmp_path: Path) -> None:
    record = '[record]\ntype = "object"\n[record.properties.score]\ntype = "number"\nmaximum = 0.5\n'
    plain = read_task(write_task(tmp_path, record))
    priced = read_task(write_task(tmp_path, record + "[price]\ninput = 0.15\noutput = 0.6"))
    assert priced.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("output = 1", "price.input: Field required"),
        ("input = 1\noutput = nan", "price.output: .*expected US dollars per million tokens"),
        ("input = 1\noutput = 1e99999999999999999999", "price.output: .*expected US dollars per million tokens"),
        ('input = "0.15"\noutput = 1', "price.input: .*expected US dollars per million tokens, like 0.15, got '0.15'"),
        ("input = true\noutput = 1", "price.input: .*expected US dollars"),
        ("input = -1\noutput = 1", "price.input: .*expected US dollars"),
        ("input = 1\noutput = 1\ncached_input = 2", "price.cached_input: expected at most price.input, 1"),
        ("input = 1\noutput = 1\nbatch = 2", "price.batch: Extra inputs"),
    ],
)
def test_a_task_files_price_that_is_none_is_refused(tmp_path: Path, price: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        read_task(write_task(tmp_path, f'labels = ["a", "b"]\n[price]\n{price}'))


# Which price a job takes


def open_runner(model: str, task: Task, **options: Any) -> Price | None:
    async def run() -> Price | None:
        transport = FakeTransport(task, lambda _: "a")
        async with Runner(task, model=model, transport=transport, ledger=None, **options) as runner:
            return runner._price

    return asyncio.run(run())


def test_the_options_price_goes_before_the_tasks_and_that_before_the_tables() -> None:
    one, two = (Price(Decimal(usd), Decimal(usd)) for usd in (1, 2))
    plain, priced = Task(["a", "b"]), Task(["a", "b"], price=two)
    assert open_runner("gpt-4o-mini", plain) == MINI
    assert open_runner("gpt-4o-mini", priced) == two
    assert open_runner("gpt-4o-mini", priced, price=one) == one
    assert open_runner("gateway/model", priced, budget_usd=1) == two


@pytest.mark.parametrize("cap", [{"budget_usd": 1}, {"limits": PackLimits(max_request_usd=Decimal(1))}])
def test_a_money_cap_without_a_price_names_the_three_ways_to_give_one(cap: dict[str, Any]) -> None:
    with pytest.raises(PriceError) as refused:
        open_runner("openai/gpt-4o-mni", Task(["a", "b"]), **cap)
    words = str(refused.value)
    assert "\n" not in words
    for way in (
        "--price-input and --price-output",
        "[price] in the task file",
        "price= in Python",
        "openai/gpt-4o-mini",
    ):
        assert way in words
