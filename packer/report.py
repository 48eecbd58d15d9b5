"""A job told in numbers, for a program or a later look: one JSON object, readable by its owner only.

Money first: what is settled, what is in doubt, and between which two amounts the true spending lies. Texts and labels
are not in it; reasons and messages come from strangers and are kept short.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal

from packer import __version__
from packer.audit import AuditResult
from packer.errors import CallError
from packer.events import Statistics
from packer.usage import Price


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command was asked to do; None as in its options: no cap, or searched for."""

    input: str
    text: str
    output: str | None
    ledger: str
    model: str
    base_url: str | None
    max_items: int
    max_request_usd: Decimal | None
    budget_usd: Decimal | None
    price: Price | None
    concurrency: int | None
    on_doubt: Literal["retry", "hold"]
    seed: int
    untrusted: bool
    audit: float | None
    max_disagreement: float
    confidence: bool
    examples: str | None


@dataclass(frozen=True, slots=True)
class Money:
    """USD. `least` is what was told, or follows from usage and price; `most` adds what is in doubt or assumed.

    The true spending lies between the two.

    `doubt_requests` may have been billed without a word; they asked for `doubt_texts` texts. `unpriced` requests cost
    what nobody knows, and stand in no other number here.
    """

    least: Decimal
    most: Decimal
    doubt_requests: int
    doubt_texts: int
    unpriced: int


@dataclass(frozen=True, slots=True)
class Report:
    """One run of a job, and what all its runs on this ledger took together.

    `task` is the task's fingerprint. `stopped` says why the job ended before its end, None where it did not. `job` is
    the money of all runs, `run` of this one. `failed` counts failed items by their reason. `audit` tells how often
    packing changed an answer, None where that was not asked.
    """

    version: str
    task: str
    began: datetime
    ended: datetime
    exit_code: int
    stopped: str | None
    settings: Settings
    job: Money
    run: Money
    failed: Mapping[str, int]
    statistics: Statistics
    audit: AuditResult | None


def make_report(
    *,
    task: str,
    began: datetime,
    ended: datetime,
    exit_code: int,
    stopped: str | None,
    settings: Settings,
    earlier: Statistics,
    now: Statistics,
    failed: Mapping[str, int],
    audit: AuditResult | None = None,
) -> Report:
    """The report of a run; `earlier` are the statistics from before its first item."""
    least, most = now.settled - now.assumed, now.settled + now.in_doubt
    job = Money(least, most, now.doubt_requests, now.doubt_texts, now.unpriced)
    run = Money(
        job.least - earlier.settled + earlier.assumed,
        job.most - earlier.settled - earlier.in_doubt,
        job.doubt_requests - earlier.doubt_requests,
        job.doubt_texts - earlier.doubt_texts,
        job.unpriced - earlier.unpriced,
    )
    return Report(__version__, task, began, ended, exit_code, stopped, settings, job, run, failed, now, audit)


def encode_report(report: Report) -> bytes:
    """The report as JSON; money is a decimal in a text, so that nothing of it is rounded."""
    import pydantic  # noqa: PLC0415  a bad call does not wait for it

    return pydantic.TypeAdapter(Report).dump_json(report, indent=2) + b"\n"


def check_report_path(path: str, *, option: str = "--report") -> Path:
    """`path`, which `option` gave, as the file of a report. Raises `CallError`."""
    if Path(path).suffix.lower() != ".json":
        raise CallError(f"{option} {path}: expected a name that ends in .json")
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        # it would be replaced by a file
        raise CallError(f"{option} {path}: expected a file, this is a pipe or a device")
    return Path(path)
