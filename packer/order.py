"""What the command was asked to do, checked as far as that needs no file, before anything is done."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from packer.audit import MAX_DISAGREEMENT
from packer.cascade import SAMPLE
from packer.columns import fields_of
from packer.packs import PackLimits
from packer.report import Settings
from packer.tables import name_source
from packer.usage import Price
from packer.votes import BELOW

if TYPE_CHECKING:
    from packer.task import Task


@dataclass(frozen=True, slots=True)
class Order:
    """What the command was asked to do; names and None as in `Runner`, `connect` and `Reader`.

    `task_file` is where the task was read, None where it was given otherwise; `examples` is the table from which those
    were drawn that the task has besides its own.
    `output` None means standard output: a table for a person where that is a terminal, else data. `table` asks for the
    table wherever it goes.
    """

    input: str
    text: str
    task: Task
    model: str
    task_file: str | None = None
    id_column: str | None = None
    encoding: str = "utf-8"
    output: str | None = None
    raw: bool = False
    table: bool = False
    verbose: bool = False
    base_url: str | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    charge_header: str | None = None
    ledger: str = "prompt-packer.db"
    limits: PackLimits = PackLimits()  # noqa: RUF009  frozen
    budget_usd: Decimal | None = None
    price: Price | None = None
    concurrency: int | None = None
    on_doubt: Literal["retry", "hold"] = "retry"
    seed: int = 0
    report: str | None = None
    dashboard: bool = False
    untrusted: bool = False
    audit: float | None = None
    max_disagreement: float = MAX_DISAGREEMENT
    confidence: bool = False
    examples: str | None = None
    batch: bool = False
    abandon_batches: bool = False
    vote: int | None = None
    doubtful_below: float = BELOW
    escalate: str | None = None
    escalate_price: Price | None = None
    target_accuracy: float | None = None
    gold: str | None = None
    sample: int = SAMPLE

    @property
    def doubts(self) -> bool:
        """Whether anything is done about doubtful labels."""
        return self.vote is not None or self.escalate is not None

    @property
    def fields(self) -> tuple[str, ...]:
        """The record's fields; empty for a task with labels."""
        return fields_of(self.task)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the output adds, before a name is taken."""
        added = (*(("confidence",) if self.confidence else ()), *(("decision",) if self.doubts else ()))
        return (*(self.fields or ("label",)), *added, "status", "error")

    def settings(self, price: Price | None) -> Settings:
        """What a report says of it; `price` is the one that was reckoned with."""
        own: dict[str, Any] = {field.name: getattr(self, field.name, None) for field in fields(Settings)}
        caps = {"max_items": self.limits.max_items, "max_request_usd": self.limits.max_request_usd}
        return Settings(**(own | caps | {"price": price}))

    @property
    def has_cap(self) -> bool:
        """Whether it may cost no more than something, which takes a known price."""
        return self.budget_usd is not None or self.limits.max_request_usd is not None

    @property
    def job(self) -> str:
        """What the budget belongs to: the same column of the same file, run after run."""
        return name_source(self.input, text=self.text)
