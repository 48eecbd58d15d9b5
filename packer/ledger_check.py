"""Every row is read again and held against its checksum and its neighbours; nothing is repaired.

A problem is a sentence for a person. A ledger with one is not to be written any more: what rotted in one place may have
rotted in another that no check sees.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from packer.errors import LedgerDamaged
from packer.exchange import ChargeSource
from packer.ledger_file import LedgerFile, Row, checksum
from packer.ledger_rows import (
    ANSWER_COLUMNS,
    ATTEMPT_COLUMNS,
    BATCH_COLUMNS,
    CONFIDENCE_COLUMNS,
    FIRST_ID,
    JOB_COLUMNS,
    AttemptState,
)

_MOST_PROBLEMS = 100
_STATES = frozenset(state.value for state in AttemptState)
_SOURCES = frozenset(source.value for source in ChargeSource)


def find_problems(file: LedgerFile) -> list[str]:
    """What is wrong with the ledger, one sentence each; empty where nothing is.

    After a hundred problems the search ends, and the last sentence says so.
    """
    problems = list(islice(_problems(file), _MOST_PROBLEMS + 1))
    if len(problems) > _MOST_PROBLEMS:
        problems[_MOST_PROBLEMS:] = [f"more than {_MOST_PROBLEMS} problems; the rest is not listed"]
    return problems


def _problems(file: LedgerFile) -> Iterator[str]:
    searches = (_page_problems, _job_problems, _attempt_problems, _answer_problems, _confidence_problems)
    for search in (*searches, _batch_problems):
        found = search(file)
        while True:
            # one broken table leaves the others to be looked at
            try:
                problem = next(found, None)
            except LedgerDamaged as damage:
                yield str(damage).removeprefix(f"ledger {file.name}: ")
                break
            if problem is None:
                break
            yield problem


def _page_problems(file: LedgerFile) -> Iterator[str]:
    for (finding,) in file.read(f"PRAGMA integrity_check({_MOST_PROBLEMS})"):
        if finding != "ok":
            yield " ".join(str(finding).split())


def _job_problems(file: LedgerFile) -> Iterator[str]:
    sql = f"SELECT {JOB_COLUMNS} FROM jobs WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608  constants
    for row in file.pages(sql, FIRST_ID):
        job, _, about, _, ended, outcome, statistics, _ = row
        yield from _rot(f"job {job}", row)
        if not isinstance(_json(about), dict):
            yield f"job {job}: what it is about is no JSON object"
        if (ended is None) != (outcome is None) or (ended is None) != (statistics is None):
            yield f"job {job}: its end is half there"
        if statistics is not None and not isinstance(_json(statistics), dict):
            yield f"job {job}: its statistics are no JSON object"


def _attempt_problems(file: LedgerFile) -> Iterator[str]:
    has_job = "EXISTS (SELECT 1 FROM jobs WHERE jobs.id = job)"
    sql = f"SELECT {ATTEMPT_COLUMNS}, {has_job} FROM attempts WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608  constants
    for row in file.pages(sql, FIRST_ID):
        attempt, job, keys, _, reserve, _, state, charge, source, *tokens, _, _, closed, _, found = row
        yield from _rot(f"attempt {attempt}", row[:-1])
        if not found:
            yield f"attempt {attempt}: its job {job} does not exist"
        listed = _json(keys)
        if not isinstance(listed, list) or not all(isinstance(key, str) for key in listed):
            yield f"attempt {attempt}: its keys are no JSON list of texts"
        if reserve is not None and (not isinstance(reserve, int) or reserve < 0):
            yield f"attempt {attempt}: its reserve is {reserve!r} nano-USD"
        if charge is not None and (not isinstance(charge, int) or charge < 0):
            yield f"attempt {attempt}: its charge is {charge!r} nano-USD"
        if (charge is None) != (source is None) or (source is not None and source not in _SOURCES):
            yield f"attempt {attempt}: the source of its charge is {source!r}"
        if any(count is not None and (not isinstance(count, int) or count < 0) for count in tokens):
            yield f"attempt {attempt}: its tokens are {tokens!r}"
        if state not in _STATES:
            yield f"attempt {attempt}: its state is {state!r}"
        elif (state == "open") != (closed is None):
            yield f"attempt {attempt}: {state}, " + (
                "without a closing time" if closed is None else "with a closing time"
            )
        elif state == "freed" and charge:
            yield f"attempt {attempt}: freed, and charged for"


def _answer_problems(file: LedgerFile) -> Iterator[str]:
    asked = "(SELECT keys FROM attempts WHERE attempts.id = attempt)"
    state_of = "(SELECT state FROM attempts WHERE attempts.id = attempt)"
    sql = f"SELECT {ANSWER_COLUMNS}, {asked}, {state_of} FROM answers WHERE key > ? ORDER BY key LIMIT ?"  # noqa: S608  constants
    for row in file.pages(sql, ""):
        key, value, attempt, _, _, keys, state = row
        yield from _rot(f"answer {key}", row[:5])
        if _json(value) is None:
            yield f"answer {key}: its value is no JSON"
        if state is None:
            yield f"answer {key}: its attempt {attempt} does not exist"
        elif state == "open":
            yield f"answer {key}: its attempt {attempt} is still open"
        elif json.dumps(str(key)) not in str(keys):
            yield f"answer {key}: its attempt {attempt} did not ask for it"


def _confidence_problems(file: LedgerFile) -> Iterator[str]:
    if file.version < 2:
        return
    of = "(SELECT attempt FROM answers WHERE answers.key = confidences.key)"
    sql = f"SELECT {CONFIDENCE_COLUMNS}, {of} FROM confidences WHERE key > ? ORDER BY key LIMIT ?"  # noqa: S608  constants
    for row in file.pages(sql, ""):
        key, value, attempt, _, answered_by = row
        yield from _rot(f"confidence {key}", row[:-1])
        if not isinstance(value, float) or not 0 <= value <= 1:
            yield f"confidence {key}: it is {value!r}"
        if answered_by != attempt:
            yield f"confidence {key}: its attempt {attempt} did not give the answer"


def _batch_problems(file: LedgerFile) -> Iterator[str]:
    if file.version < 3:
        return
    sql = f"SELECT {BATCH_COLUMNS} FROM batches WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608  constants
    for row in file.pages(sql, FIRST_ID):
        batch, about, _, lines, _, uploaded, remote, _ = row
        yield from _rot(f"batch {batch}", row)
        if not isinstance(_json(about), dict):
            yield f"batch {batch}: what it is about is no JSON object"
        if remote is not None and uploaded is None:
            yield f"batch {batch}: it was made of nothing that was uploaded"
        listed = _json(lines)
        if not isinstance(listed, list) or not all(isinstance(line, list) and len(line) == 4 for line in listed):
            yield f"batch {batch}: its lines are no JSON list of four each"
            continue
        for attempt, *_ in listed:
            if not file.read("SELECT 1 FROM attempts WHERE id = ?", (attempt,)):
                yield f"batch {batch}: its attempt {attempt} does not exist"


def _rot(what: str, row: Row) -> Iterator[str]:
    if checksum(row[:-1]) != row[-1]:
        yield f"{what}: its content does not match its checksum"


def _json(text: Any) -> Any:
    """`text` read as JSON; None where it is none (no answer is null)."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        return json.loads(text)
    return None
