"""The public API as its users type it: mypy checks this file, nobody runs it."""

from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Literal, assert_type

import pandas as pd
import polars as pl
import pydantic

import packer
from packer.audit import AuditResult
from packer.cascade import Threshold
from packer.votes import DoubtResult


class Kind(StrEnum):
    SPAM = "spam"
    HAM = "ham"


class Ticket(pydantic.BaseModel):
    topic: str


async def texts() -> AsyncIterator[str | packer.Item]:
    yield "a"
    yield packer.Item("b", id=("any", "hashable"))


async def use() -> None:
    tasks = [
        packer.Task(["spam", "ham"]),
        packer.Task({"spam": "unwanted ads", "ham": ""}, examples=[("Win!", "spam")]),
        packer.Task(Kind, shape="object"),
        packer.Task(Literal["spam", "ham"]),
        packer.Task(record=Ticket, examples=[packer.Example("late again", {"topic": "delivery"})]),
        packer.Task(record={"type": "object", "properties": {"topic": {"type": "string"}}}),
        packer.Task(["spam", "ham"], canaries=[("Win!", "spam"), packer.Example("see you", "ham")]),
        packer.read_task("task.toml"),
    ]
    results = packer.label(["a", "b"], labels=["spam", "ham"], model="openai/gpt-4o-mini", budget_usd=1)
    assert_type(results, packer.Results)
    assert_type(results[0].label, str | None)
    assert_type(results[0].status, packer.Status)
    limits = packer.PackLimits(max_items=10, max_request_usd=Decimal("0.01"))
    price = packer.Price(Decimal("0.15"), Decimal("0.6"))
    async with packer.Runner(
        tasks[0], model="m", base_url="https://modeldatabase.com/v1", limits=limits, price=price, on_doubt="hold"
    ) as runner:
        async for result in runner.stream(texts()):
            assert_type(result, packer.Result)
        async for result in runner.stream(["a", packer.Item("b")]):
            assert_type(result.item, packer.Item)
        assert_type(await runner.submit("one text"), packer.Result)
        statistics = runner.statistics()
        assert_type(statistics.settled, Decimal)
        assert_type(statistics.usage, packer.Usage)
        async with runner.sibling("single", limits=packer.PackLimits(max_items=1), seed=1) as sibling:
            assert_type(sibling, packer.Runner)
            assert_type(await sibling.submit("one text"), packer.Result)
        assert_type(await runner.audit(), AuditResult | None)
        assert_type(runner.doubts(), DoubtResult | None)
        assert_type(await runner.certify(["a"], gold={"a": "x"}), Threshold)
        runner.stop("enough")


def use_frames(frame: pd.DataFrame, table: pl.DataFrame, lazy: pl.LazyFrame) -> None:
    assert_type(packer.label_frame(frame, ["spam", "ham"], text="text", model="m", budget_usd=1), pd.DataFrame)
    assert_type(packer.label_frame(table, text="text", task=packer.Task(Kind), model="m", seed=1), pl.DataFrame)
    assert_type(frame.pipe(packer.label_frame, ["spam", "ham"], text="text", model="m"), pd.DataFrame)
    packer.label_frame(frame, ["spam", "ham"], model="m")  # type: ignore[call-arg]  # no column is named
    packer.label_frame(lazy, ["spam", "ham"], text="text", model="m")  # type: ignore[type-var]  # no data frame


def listen(event: packer.Event) -> None:
    print(event)


def options() -> Mapping[str, object]:
    packer.label(["a"], task=packer.Task(["x", "y"]), model="local", ledger=None, on_event=listen, concurrency=2)
    packer.label(["a"], task=packer.read_task("task.toml"), model="local", untrusted=True)
    packer.label(["a"], labels=["x", "y"], model="m", audit=0.01, max_disagreement=0.05)
    packer.label(["a"], labels=["x", "y"], model="m", doubt=packer.Doubt(vote=3, escalate="stronger"))
    packer.label(["a"], labels=["x", "y"], model="local", surprise=1)  # type: ignore[call-arg]  # no such option
    return {}
