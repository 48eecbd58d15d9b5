"""What a row means: the ledger's words, and their one translation into columns and back.

Inside, money is whole nano-USD and times are microseconds since 1970, UTC; outside, `Decimal` USD and `datetime`. NULL
is unknown, and unknown is never zero. Columns are complete before a transaction begins, so that nothing in a change
can fail in the middle of one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from packer.exchange import Charge, ChargeSource
from packer.items import canonical_json
from packer.ledger_file import Row
from packer.usage import MOST_USD, Usage, is_amount, to_nano, to_usd

# What is booked for an attempt: its charge, else its reserve; and how much of that nobody told
BOOKED = "coalesce(charge_nano, reserve_nano)"
ASSUMED = "coalesce(sum(charge_nano) FILTER (WHERE charge_source = 'reserve'), 0)"
JOB_COLUMNS = "id, name, about, started, ended, outcome, statistics, checksum"
ATTEMPT_COLUMNS = (
    "id, job, keys, number, reserve_nano, opened, state, charge_nano, charge_source, input_tokens, cached_input_tokens,"
    " output_tokens, seconds, outcome, closed, checksum"
)
ANSWER_COLUMNS = "key, value, attempt, at, checksum"
CONFIDENCE_COLUMNS = "key, value, attempt, checksum"
BATCH_COLUMNS = "id, about, token, lines, made, file, remote, checksum"
FIRST_ID = -(2**63)

# Of an attempt's columns, those that are written when it opens and never change
_OPENED_COLUMNS = 6
_MOST_TOKENS = 10**9  # more is a misread number, not a request
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AttemptState(StrEnum):
    """How things stand with one request."""

    OPEN = "open"  # about to be sent, or sent and not yet back
    SETTLED = "settled"  # back; its charge is booked, or its reserve where no charge is known
    DOUBT = "doubt"  # sent, its fate unknown; its reserve stays booked
    FREED = "freed"  # never left; nothing is booked


@dataclass(frozen=True, slots=True)
class Opened:
    """A request that is about to leave: `number` counts its pack's requests from 1.

    `reserve` is the most that it can cost, None where no price is known.
    """

    attempt: int
    job: int
    keys: tuple[str, ...]
    number: int
    reserve: Decimal | None


@dataclass(frozen=True, slots=True)
class Closed:
    """What became of an open attempt.

    `state` is any but OPEN. `charge` and `usage` are None where they are unknown. A charge that cannot be (negative,
    not finite, above a million dollars) is unknown too, and so is a token count: neither costs an answer. `answers`
    maps keys of this attempt to JSON values, a label or a record's fields; `confidences` maps some of them to how sure
    the model was, 0 to 1. With `late` the attempt may have been closed as in doubt before: its fate is known now.
    """

    attempt: int
    state: AttemptState
    outcome: str
    charge: Charge | None
    usage: Usage | None
    seconds: float
    answers: Mapping[str, Any]
    confidences: Mapping[str, float] = field(default_factory=dict)
    late: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt as it stands in the ledger; `closed` is None for an open one. Times are in UTC."""

    id: int
    job: int
    job_name: str
    keys: tuple[str, ...]
    number: int
    reserve: Decimal | None
    state: AttemptState
    charge: Charge | None
    usage: Usage | None
    seconds: float | None
    outcome: str
    opened: datetime
    closed: datetime | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer stands: its `value`, and its item's `number` (from 1) among the `items` of the pack that gave it.

    Canaries are no items of a pack, and are not counted.
    """

    value: Any
    number: int
    items: int


@dataclass(frozen=True, slots=True)
class Spending:
    """Booked money: charges that are settled, the most that is in doubt, reserves of what is open.

    An attempt whose charge is unknown counts with its reserve. `unknown` is the number of attempts that have neither:
    the sums say nothing about them. `doubt_requests` are the attempts in doubt, `doubt_texts` the texts they asked for.
    `assumed` is the part of `settled` that nobody told: reserves of requests that were answered without a charge.
    """

    settled: Decimal
    doubt: Decimal
    open: Decimal
    unknown: int = 0
    doubt_requests: int = 0
    doubt_texts: int = 0
    assumed: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class LedgerStatistics:
    """How things stand in a ledger; `attempts` has every state, `usage` is the sum of what is known."""

    schema_version: int
    file_bytes: int
    jobs: int
    answers: int
    attempts: Mapping[AttemptState, int]
    spending: Spending
    usage: Usage


class Closing:
    """A `Closed` in columns: `columns` of its attempt, the states that this `takes`, and the JSON of its `answers`."""

    def __init__(self, closed: Closed, now: int) -> None:
        if closed.state is AttemptState.OPEN:
            raise ValueError(f"attempt {closed.attempt} cannot be closed as open")
        charge = closed.charge if closed.charge is not None and is_amount(closed.charge.usd) else None
        if closed.state is AttemptState.FREED and charge is not None and charge.usd:
            raise ValueError(f"attempt {closed.attempt} cannot be freed and cost {charge.usd} USD")
        if not all(0 <= confidence <= 1 for confidence in closed.confidences.values()):
            raise ValueError(f"attempt {closed.attempt}: expected confidences from 0 to 1, got {closed.confidences}")
        if not closed.confidences.keys() <= closed.answers.keys():
            raise ValueError(f"attempt {closed.attempt} is sure of answers that it does not give")
        usage = closed.usage
        counts = () if usage is None else (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens)
        self.attempt = closed.attempt
        self.takes = {AttemptState.OPEN, AttemptState.DOUBT} if closed.late else {AttemptState.OPEN}
        self.at = now
        self.answers = {key: canonical_json(value) for key, value in closed.answers.items()}
        self.confidences = {key: float(confidence) for key, confidence in closed.confidences.items()}
        self.columns: Row = (
            closed.state.value,
            None if charge is None else to_nano(charge.usd),
            None if charge is None else charge.source.value,
            *(
                count if isinstance(count, int) and 0 <= count <= _MOST_TOKENS else None
                for count in counts or (None,) * 3
            ),
            # SQLite stores no NaN, and no negative zero
            max(0.0, float(closed.seconds)) if math.isfinite(closed.seconds) else None,
            clean_text(closed.outcome),
            now,
        )

    def applied_to(self, row: Row) -> Row:
        """The attempt's `row` once it is closed, without its checksum."""
        return (*row[:_OPENED_COLUMNS], *self.columns)


def opened_row(opened: Opened, now: int) -> Row:
    """The columns of a new attempt, without its checksum."""
    if opened.reserve is not None and not is_amount(opened.reserve):
        raise ValueError(f"attempt {opened.attempt}: expected a reserve of 0 to {MOST_USD} USD, got {opened.reserve}")
    reserve = None if opened.reserve is None else to_nano(opened.reserve)
    keys = canonical_json(list(opened.keys))
    closing = (None,) * 8
    return (opened.attempt, opened.job, keys, opened.number, reserve, now, AttemptState.OPEN.value, *closing)


def read_attempt(row: Row, job_name: str) -> Attempt:
    """The attempt in `row`, whose checksum is right."""
    (ident, job, keys, number, reserve, opened, state, charge, source, *counts, seconds, outcome, closed, _) = row
    tokens, cached, answer_tokens = counts
    return Attempt(
        id=ident,
        job=job,
        job_name=job_name,
        keys=tuple(json.loads(keys)),
        number=number,
        reserve=None if reserve is None else to_usd(reserve),
        state=AttemptState(state),
        charge=None if charge is None else Charge(to_usd(charge), ChargeSource(source)),
        usage=None if tokens is None or answer_tokens is None else Usage(tokens, answer_tokens, cached or 0),
        seconds=seconds,
        outcome=outcome or "",
        opened=read_time(opened),
        closed=None if closed is None else read_time(closed),
    )


def booked(row: Row) -> tuple[str, int | None]:
    """The state of an attempt's row, and the nano-USD that stand for it: its charge, else its reserve, else None."""
    reserve, state, charge = row[4], row[6], row[7]
    return state, reserve if charge is None else charge


def assumed(row: Row) -> int:
    """The nano-USD of an attempt's row that were booked because its charge was not told."""
    charge, source = row[7], row[8]
    return charge if source == ChargeSource.RESERVE else 0


def read_time(microseconds: int) -> datetime:
    """A stored time."""
    return _EPOCH + timedelta(microseconds=microseconds)


def to_microseconds(time: datetime) -> int:
    """A time, as it is stored."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def now() -> int:
    """The time, as it is stored."""
    return time.time_ns() // 1000


def clean_text(text: str) -> str:
    """`text` as SQLite can hold it: a lone surrogate, from a gateway's message, is written out."""
    return text.encode("utf-8", "backslashreplace").decode()
