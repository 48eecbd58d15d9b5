"""What a ledger tells of its jobs, one by one, for whoever looks back; it is read, and nothing is decided by it.

A job without an end may be running: each answer is the state of one moment.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from packer.ledger_file import LedgerFile, Row
from packer.ledger_rows import (
    ASSUMED,
    ATTEMPT_COLUMNS,
    BOOKED,
    FIRST_ID,
    JOB_COLUMNS,
    Attempt,
    AttemptState,
    read_attempt,
    read_time,
    to_microseconds,
)
from packer.usage import to_usd

_MOST_JOBS = 500
_FIND_IDS = 500
# A process that died closes nothing: its attempts are closed when the ledger is next opened, perhaps days later
_ALIVE = "max(max(opened), coalesce(max(closed) FILTER (WHERE outcome <> 'interrupted'), 0))"
_UNKNOWN = "count(*) FILTER (WHERE charge_nano IS NULL AND reserve_nano IS NULL AND state <> 'freed')"


@dataclass(frozen=True, slots=True)
class JobEntry:
    """What a run of a job says of itself: as in `JobRecord`."""

    id: int
    name: str
    about: Mapping[str, Any]
    started: datetime
    ended: datetime | None
    outcome: str | None
    statistics: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One run of a job, as it stands in the ledger. Times are in UTC, money in USD.

    `ended`, `outcome` and `statistics` are None without an end: it runs, or its process died. `seen` is its last sign
    of life. `answers` are those that its requests brought. The true cost lies between `least` and `most`, besides that
    of `unpriced` requests.
    """

    id: int
    name: str
    about: Mapping[str, Any]
    started: datetime
    ended: datetime | None
    seen: datetime
    outcome: str | None
    statistics: Mapping[str, Any] | None
    requests: int
    in_flight: int
    answers: int
    least: Decimal
    most: Decimal
    unpriced: int


def read_jobs(file: LedgerFile) -> list[JobRecord]:
    """The last jobs, the newest first."""
    rows = file.read(f"SELECT {JOB_COLUMNS} FROM jobs ORDER BY id DESC LIMIT {_MOST_JOBS}")  # noqa: S608  constants
    sums = f"job, state, count(*), {_ALIVE}, coalesce(sum({BOOKED}), 0), {ASSUMED}, {_UNKNOWN}"
    booked: dict[int, list[Row]] = {}
    for job, *sum_row in file.read(f"SELECT {sums} FROM attempts GROUP BY job, state"):  # noqa: S608  constants
        booked.setdefault(job, []).append(tuple(sum_row))
    joined = "SELECT job, count(*) FROM answers JOIN attempts ON attempts.id = attempt GROUP BY job"
    answers: dict[int, int] = dict(file.read(joined))
    return [_read_job(file, row, booked.get(row[0], []), answers.get(row[0], 0)) for row in rows]


def read_attempts(file: LedgerFile, job: int) -> Iterator[Attempt]:
    """The requests of a job in the order in which they left."""
    where = f"id > ? AND job = {int(job)}"
    sql = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE {where} ORDER BY id LIMIT ?"  # noqa: S608  a number
    for row in file.pages(sql, FIRST_ID):
        yield read_attempt(file.sound(row, f"attempt {row[0]}"), "")


def read_attempts_by_id(file: LedgerFile, attempts: Collection[int]) -> Iterator[Attempt]:
    """Those of `attempts` that are there, in the order in which they left."""
    ordered = sorted(attempts)
    for start in range(0, len(ordered), _FIND_IDS):
        part = ordered[start : start + _FIND_IDS]
        where = f"id IN ({', '.join('?' * len(part))})"
        sql = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE {where} ORDER BY id"  # noqa: S608  question marks
        for row in file.read(sql, part):
            yield read_attempt(file.sound(row, f"attempt {row[0]}"), "")


def list_attempts(file: LedgerFile, job: int, *, after: int) -> list[int]:
    """The ids of a job's requests above `after`."""
    return [row[0] for row in file.read("SELECT id FROM attempts WHERE id > ? AND job = ?", (after, job))]


def list_open(file: LedgerFile, attempts: Collection[int]) -> set[int]:
    """Those of `attempts` that are open."""
    found: set[int] = set()
    ordered = sorted(attempts)
    for start in range(0, len(ordered), _FIND_IDS):
        part = ordered[start : start + _FIND_IDS]
        where = f"id IN ({', '.join('?' * len(part))}) AND state = 'open'"
        found.update(row[0] for row in file.read(f"SELECT id FROM attempts WHERE {where}", part))  # noqa: S608
    return found


def read_attempts_in(file: LedgerFile, state: AttemptState) -> Iterator[Attempt]:
    """The requests of all jobs that are in `state`, in the order in which they left."""
    names: dict[int, str] = {}
    sql = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE id > ? AND state = '{state}' ORDER BY id LIMIT ?"  # noqa: S608
    for row in file.pages(sql, FIRST_ID):
        file.sound(row, f"attempt {row[0]}")
        if row[1] not in names:
            names[row[1]] = read_job_row(file, row[1])[1]
        yield read_attempt(row, names[row[1]])


def read_job_row(file: LedgerFile, job: int) -> Row:
    """A job as it stands in its table."""
    rows = file.read(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", (job,))  # noqa: S608  constants
    return file.sound(rows[0] if rows else None, f"job {job}")


def count_answers(file: LedgerFile, job: int, *, since: datetime, step: timedelta) -> dict[int, int]:
    """How many answers of a job came in each `step` after `since`, by the step's number from 0."""
    length = max(step // timedelta(microseconds=1), 1)
    sql = """SELECT (at - ?) / ?, count(*) FROM answers
        WHERE attempt IN (SELECT id FROM attempts WHERE job = ?) GROUP BY 1"""
    return dict(file.read(sql, (to_microseconds(since), length, job)))


def count_answers_of(file: LedgerFile, attempt: Attempt) -> int:
    """How many answers stand that an attempt brought."""
    where = f"key IN ({', '.join('?' * len(attempt.keys))}) AND attempt = ?"
    sql = f"SELECT count(*) FROM answers WHERE {where}"  # noqa: S608  question marks
    return int(file.read(sql, (*attempt.keys, attempt.id))[0][0])


def read_entry(file: LedgerFile, job: int) -> JobEntry | None:
    """A job as it stands in its table; None where there is none."""
    rows = file.read(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", (job,))  # noqa: S608  constants
    if not rows:
        return None
    return JobEntry(**_read_row(file, rows[0]))


def _read_row(file: LedgerFile, row: Row) -> dict[str, Any]:
    """What a job's row says, by the names of `JobEntry`."""
    ident, name, about, started, ended, outcome, statistics, _ = file.sound(row, f"job {row[0]}")
    return {
        "id": ident,
        "name": name,
        "about": json.loads(about),
        "started": read_time(started),
        "ended": None if ended is None else read_time(ended),
        "outcome": outcome,
        "statistics": None if statistics is None else json.loads(statistics),
    }


def _read_job(file: LedgerFile, row: Row, booked: list[Row], answers: int) -> JobRecord:
    entry = _read_row(file, row)
    sums = {state: total for state, _, _, total, _, _ in booked}
    settled, assumed = sums.get(AttemptState.SETTLED, 0), sum(row[4] for row in booked)
    counts = {state: count for state, count, *_ in booked}
    signs = [entry["started"], entry["ended"] or entry["started"], *(read_time(alive) for _, _, alive, *_ in booked)]
    return JobRecord(
        **entry,
        seen=max(signs),
        requests=sum(counts.values()),
        in_flight=counts.get(AttemptState.OPEN, 0),
        answers=answers,
        least=to_usd(settled - assumed),
        most=to_usd(settled + sums.get(AttemptState.DOUBT, 0) + sums.get(AttemptState.OPEN, 0)),
        unpriced=sum(row[5] for row in booked),
    )
