"""A job told in numbers, for a program or a later look: one JSON object, readable by its owner only.

Money first: what is settled, what is in doubt, and between which two amounts the true spending lies. The task's words
are in it, and up to a hundred texts that got no label; texts, reasons and messages come from strangers and are kept
short. What was labelled stands in the output and nowhere here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import MaxLen

from packer import __version__
from packer.audit import AuditResult
from packer.errors import CallError
from packer.events import Statistics
from packer.outputs import encode_line
from packer.recording import MOST_MOMENTS, MOST_UNANSWERED, Doubtful, Moment, Recording, Unanswered
from packer.usage import Price
from packer.votes import DoubtResult

if TYPE_CHECKING:
    from packer.task import Task


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
    vote: int | None
    doubtful_below: float
    escalate: str | None
    target_accuracy: float | None
    gold: str | None


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
class Asked:
    """What every item was asked: the task's words.

    `labels` go from name to description, and are empty for a record task, whose `fields` are named instead; `examples`
    and `canaries` are counted.
    """

    instructions: str
    labels: Mapping[str, str]
    fields: Sequence[str]
    examples: int
    canaries: int
    shape: str


@dataclass(frozen=True, slots=True)
class Report:
    """One run of a job, and what all its runs on this ledger took together.

    `task` is the task's fingerprint. `stopped` says why the job ended before its end, None where it did not. `job` is
    the money of all runs, `run` of this one. `failed` counts failed items by their reason. `outcomes` counts this run's
    requests: those that were answered by the step that followed, the others by how they failed. `unanswered` are the
    first items without a label, pending ones only where there is room, and `doubtful` the first whose label is in doubt
    still. `audit` tells how often packing changed an
    answer, None where that was not asked; `doubt` what came of doubtful labels, likewise.
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
    asked: Asked
    outcomes: Mapping[str, int]
    timeline: Annotated[Sequence[Moment], MaxLen(MOST_MOMENTS)]
    unanswered: Annotated[Sequence[Unanswered], MaxLen(MOST_UNANSWERED)]
    doubtful: Annotated[Sequence[Doubtful], MaxLen(MOST_UNANSWERED)]
    audit: AuditResult | None
    doubt: DoubtResult | None


def make_report(
    *,
    task: Task,
    began: datetime,
    ended: datetime,
    exit_code: int,
    stopped: str | None,
    settings: Settings,
    earlier: Statistics,
    now: Statistics,
    failed: Mapping[str, int],
    recording: Recording,
    audit: AuditResult | None = None,
    doubt: DoubtResult | None = None,
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
    return Report(
        version=__version__,
        task=task.fingerprint,
        began=began,
        ended=ended,
        exit_code=exit_code,
        stopped=stopped,
        settings=settings,
        job=job,
        run=run,
        failed=failed,
        statistics=now,
        asked=_describe(task),
        outcomes=dict(recording.outcomes),
        timeline=recording.timeline,
        unanswered=recording.unanswered,
        doubtful=recording.doubtful,
        audit=audit,
        doubt=doubt,
    )


def _describe(task: Task) -> Asked:
    return Asked(
        instructions=task.instructions,
        labels=dict(task.labels),
        fields=() if task.record_schema is None else tuple(task.record_schema["properties"]),
        examples=len(task.examples),
        canaries=len(task.canaries),
        shape=task.shape.value,
    )


def encode_report(report: Report) -> bytes:
    """The report as JSON; money is a decimal in a text, so that nothing of it is rounded."""
    import pydantic  # noqa: PLC0415  a bad call does not wait for it

    # not dump_json: it refuses what a file's name may hold that is not UTF-8
    document = pydantic.TypeAdapter(Report).dump_python(report, mode="json")
    return encode_line(json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def check_report_path(path: str, *, option: str = "--report") -> Path:
    """`path`, which `option` gave, as the file of a report. Raises `CallError`."""
    if Path(path).suffix.lower() != ".json":
        raise CallError(f"{option} {path}: expected a name that ends in .json")
    if Path(path).exists() and not (Path(path).is_file() or Path(path).is_dir()):
        # it would be replaced by a file
        raise CallError(f"{option} {path}: expected a file, this is a pipe or a device")
    return Path(path)


def check_report_paths(path: str) -> tuple[Path, Path | None]:
    """The file of a report, and of its page where one is asked for (`.html`). Raises `CallError`."""
    suffix = Path(path).suffix.lower()
    if suffix not in {".json", ".html"}:
        raise CallError(f"--report {path}: expected a name that ends in .json or .html")
    page = Path(path) if suffix == ".html" else None
    if page is not None and page.exists() and not (page.is_file() or page.is_dir()):
        raise CallError(f"--report {path}: expected a file, this is a pipe or a device")
    return check_report_path(path if page is None else str(page.with_suffix(".json"))), page
