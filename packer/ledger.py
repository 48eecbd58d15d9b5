"""What was paid for is kept: an answer, and the money behind it, are in one transaction or in none.

An attempt is written with its reserve before its request leaves, and closed once: settled, in doubt or freed; what was
in doubt is closed anew where its fate comes to be known after all. What is open when a ledger is opened for writing
belongs to a process that died: it is in doubt before anything else happens, unless it is known to be in a batch, where
it goes on without a process of ours.

The first answer to a key stands. It is the one that was shown, so a later one, however it came to be bought, changes no
result that somebody already has.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from packer.errors import LedgerDamaged, LedgerError
from packer.items import canonical_json
from packer.ledger_batches import Batch, Line, Waiting, find_waiting, mark_batch, note_batch, read_batches
from packer.ledger_check import find_problems
from packer.ledger_file import LedgerFile, Row, checksum
from packer.ledger_jobs import (
    JobEntry,
    JobRecord,
    count_answers,
    count_answers_of,
    list_attempts,
    list_open,
    read_attempts,
    read_attempts_by_id,
    read_attempts_in,
    read_entry,
    read_job_row,
    read_jobs,
)
from packer.ledger_rows import (
    ANSWER_COLUMNS,
    ASSUMED,
    ATTEMPT_COLUMNS,
    BOOKED,
    CONFIDENCE_COLUMNS,
    FIRST_ID,
    JOB_COLUMNS,
    Attempt,
    AttemptState,
    Closed,
    Closing,
    LedgerStatistics,
    Opened,
    Place,
    Spending,
    assumed,
    booked,
    clean_text,
    now,
    opened_row,
    read_time,
)
from packer.usage import Usage, to_usd

__all__ = [
    "Attempt",
    "AttemptState",
    "Closed",
    "JobEntry",
    "JobRecord",
    "Ledger",
    "LedgerStatistics",
    "Opened",
    "Place",
    "Spending",
]

_FIND_KEYS = 500

_SUMS = f"state, count(*), count({BOOKED}), coalesce(sum({BOOKED}), 0), {ASSUMED}"


class Ledger:
    """The answers, attempts and spending in one SQLite file.

    `path` None keeps them in memory. Opened for writing, the ledger belongs to this process until `close`, and every
    attempt that was open, and in no batch, becomes in doubt; `read_only` takes no lock and changes nothing. One call at
    a time: a ledger may be handed to another thread, not shared.

    Every method raises `LedgerError` where the file cannot be used, by kind: LedgerInUse, LedgerForeign, LedgerNewer,
    LedgerDamaged, LedgerFull, LedgerReadOnly.
    """

    def __init__(self, path: Path | str | None, *, read_only: bool = False) -> None:
        self._file = LedgerFile(path, read_only=read_only)
        if not read_only:
            try:
                self._doubt_what_is_open()
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def snapshot(self) -> AbstractContextManager[None]:
        """All that is read inside is of one moment, whatever a running job writes meanwhile. For reading only."""
        return self._file.snapshot()

    def start_job(self, name: str, about: Mapping[str, Any]) -> int:
        """The id of a new job; jobs of one `name` share their spending.

        `about` is JSON with at least "task" (the fingerprint), "model" and "parameters".
        """
        row = (clean_text(name), canonical_json(dict(about)), now(), None, None, None)

        def work(db: sqlite3.Connection) -> int:
            ((last,),) = db.execute("SELECT coalesce(max(id), 0) FROM jobs")
            job = int(last) + 1
            _insert(db, "jobs", (job, *row))
            return job

        return self._file.write(work, starts=True)

    def end_job(self, job: int, outcome: str, statistics: Mapping[str, Any]) -> None:
        """Note how `job` ended; `statistics` is JSON."""
        end = (now(), clean_text(outcome), canonical_json(dict(statistics)))

        def work(db: sqlite3.Connection) -> None:
            rows = db.execute(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", (job,)).fetchall()  # noqa: S608  constant
            row = self._sound(rows, f"job {job}")
            db.execute(
                "UPDATE jobs SET ended = ?, outcome = ?, statistics = ?, checksum = ? WHERE id = ?",
                (*end, checksum((*row[:4], *end)), job),
            )

        self._file.write(work, starts=False)

    def next_attempt(self) -> int:
        """The first id that no attempt has; all higher ones are free too."""
        return 1 + int(self._file.read("SELECT coalesce(max(id), 0) FROM attempts")[0][0])

    def commit(self, changes: Sequence[Opened | Closed]) -> None:
        """Write `changes` in their order, in one transaction; all of them are durable when this returns.

        When this raises, none of them is written. From the first LedgerFull on, changes with an `Opened` among them are
        refused at once, while those that only close attempts are worth one more call: room was set aside for them.

        Raises ValueError for what cannot be stored: an answer that is no JSON or that its attempt did not ask for, a
        reserve that is no amount, an attempt that is freed and charged for.
        """
        time = now()
        prepared = [
            opened_row(change, time) if isinstance(change, Opened) else Closing(change, time) for change in changes
        ]
        if not prepared:
            return

        def work(db: sqlite3.Connection) -> None:
            for change in prepared:
                if isinstance(change, Closing):
                    self._close_attempt(db, change)
                else:
                    _insert(db, "attempts", change)

        self._file.write(work, starts=any(isinstance(change, Opened) for change in changes))

    def note_batch(self, *, url: str, task: str, model: str, token: str, lines: Sequence[Line]) -> int:
        """Note that open attempts are about to go out in one batch; its id in the ledger."""
        return note_batch(self._file, url=url, task=task, model=model, token=token, lines=lines)

    def mark_batch(self, batch: int, *, uploaded: str | None = None, remote: str | None = None) -> None:
        """Note the id of a batch's uploaded file, before the batch is made, or its own at the gateway."""
        mark_batch(self._file, batch, uploaded=uploaded, remote=remote)

    def waiting(self, task: str, model: str) -> list[Waiting]:
        """The batches of this task and model whose attempts are open, in the order in which they were made."""
        return [one for one in self.all_waiting() if (one.batch.task, one.batch.model) == (task, model)]

    def all_waiting(self) -> list[Waiting]:
        """The batches of all tasks and models whose attempts are open, in the order in which they were made."""
        return find_waiting(self._file)

    def spending(self, name: str) -> Spending:
        """What all jobs of this `name` have booked. Every row is checked: a cap must not rest on rotten money."""
        wanted = clean_text(name)
        sql = f"SELECT {JOB_COLUMNS} FROM jobs WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608  constants
        rows = (self._sound([row], f"job {row[0]}") for row in self._file.pages(sql, FIRST_ID))
        jobs = {row[0] for row in rows if row[1] == wanted}
        sums = {state.value: (0, 0, 0, 0) for state in AttemptState}
        sql = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608  constants
        doubt_texts = 0
        for row in self._file.pages(sql, FIRST_ID):
            self._sound([row], f"attempt {row[0]}")
            if row[1] in jobs:
                state, nano = booked(row)
                attempts, known, total, guessed = sums[state]
                sums[state] = (attempts + 1, known + (nano is not None), total + (nano or 0), guessed + assumed(row))
                doubt_texts += len(json.loads(row[2])) if state == AttemptState.DOUBT else 0
        return self._spending([(state, *counts) for state, counts in sums.items()], doubt_texts)

    def find(self, keys: Sequence[str]) -> dict[str, Any]:
        """The answers that are known, by their key: a label or a record's fields each."""
        return {row[0]: json.loads(row[1]) for row in self._rows_of(keys, "answers", ANSWER_COLUMNS)}

    def find_places(self, keys: Sequence[str]) -> dict[str, Place]:
        """The answers that are known, by their key, each with its place in the pack that gave it.

        Takes memory for the packs of all `keys`: ask for some hundreds at a time.
        """
        rows = self._rows_of(keys, "answers", ANSWER_COLUMNS)
        packs: dict[int, list[str]] = {}
        ordered = sorted({row[2] for row in rows})
        for start in range(0, len(ordered), _FIND_KEYS):
            part = ordered[start : start + _FIND_KEYS]
            sql = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE id IN ({_marks(part)})"  # noqa: S608  question marks
            for row in self._file.read(sql, part):
                self._sound([row], f"attempt {row[0]}")
                packs[row[0]] = json.loads(row[2])
        places = {}
        for key, value, attempt, *_ in rows:
            pack = packs.get(attempt, [])
            if key not in pack:
                raise LedgerDamaged(self._file.name, f"damaged: answer {key} is of no pack of attempt {attempt}")
            places[key] = Place(json.loads(value), pack.index(key) + 1, len(pack))
        return places

    def confidences(self, keys: Sequence[str]) -> dict[str, float]:
        """How sure the model was of the answers to `keys`, by their key, where that is known."""
        if self._file.version < 2:
            return {}
        return {row[0]: row[1] for row in self._rows_of(keys, "confidences", CONFIDENCE_COLUMNS)}

    def doubtful_keys(self) -> frozenset[str]:
        """The keys of attempts in doubt that have no answer yet, of all jobs."""
        keys = {key for attempt in self.attempts_in_doubt() for key in attempt.keys}
        return frozenset(keys - self.find(list(keys)).keys())

    def attempts_in_doubt(self) -> Iterator[Attempt]:
        """The attempts in doubt, in the order of their ids."""
        return read_attempts_in(self._file, AttemptState.DOUBT)

    def statistics(self) -> LedgerStatistics:
        """How things stand in the whole ledger."""
        tokens = ", ".join(f"coalesce(sum({part}_tokens), 0)" for part in ("input", "output", "cached_input"))
        rows = self._file.read(f"SELECT {_SUMS}, {tokens} FROM attempts GROUP BY state")  # noqa: S608  constants
        doubt_texts = sum(len(attempt.keys) for attempt in self.attempts_in_doubt())
        spending = self._spending([row[:5] for row in rows], doubt_texts)
        counts = {AttemptState(row[0]): row[1] for row in rows}
        return LedgerStatistics(
            schema_version=self._file.version,
            file_bytes=self._file.size(),
            jobs=self._file.read("SELECT count(*) FROM jobs")[0][0],
            answers=self._file.read("SELECT count(*) FROM answers")[0][0],
            attempts={state: counts.get(state, 0) for state in AttemptState},
            spending=spending,
            usage=sum((Usage(*row[5:]) for row in rows), Usage(0, 0)),
        )

    def jobs(self) -> list[JobRecord]:
        """The last 500 jobs, the newest first."""
        return read_jobs(self._file)

    def attempts(self, job: int) -> Iterator[Attempt]:
        """The requests of `job`, by its id, in the order in which they left; without the job's name."""
        return read_attempts(self._file, job)

    def job(self, job: int) -> JobEntry | None:
        """What `job`, by its id, says of itself; None where there is none."""
        return read_entry(self._file, job)

    def list_attempts(self, job: int, *, after: int) -> list[int]:
        """The ids of the requests of `job` above `after`."""
        return list_attempts(self._file, job, after=after)

    def list_open(self, attempts: Collection[int]) -> set[int]:
        """Those of `attempts`, by their ids, that are open."""
        return list_open(self._file, attempts)

    def attempts_by_id(self, attempts: Collection[int]) -> Iterator[Attempt]:
        """Those of `attempts`, by their ids, that are there; without their job's name."""
        return read_attempts_by_id(self._file, attempts)

    def count_answers_of(self, attempt: Attempt) -> int:
        """How many answers stand that `attempt` brought."""
        return count_answers_of(self._file, attempt)

    def batches(self, *, after: int) -> Iterator[Batch]:
        """The batches with an id above `after`, whether they wait or not."""
        return read_batches(self._file, after=after)

    def count_answers(self, job: int, *, since: datetime, step: timedelta) -> dict[int, int]:
        """How many answers of `job` came in each `step` after `since`, by the step's number from 0."""
        return count_answers(self._file, job, since=since, step=step)

    def verify(self) -> list[str]:
        """What is wrong with the ledger, one sentence each; empty where nothing is. Reads every row."""
        return find_problems(self._file)

    def export(self) -> Iterator[dict[str, Any]]:
        """Every answer in the order of the keys: "key", "value", "model", "task" (the fingerprint), "ask", "at".

        "ask" is how it was asked, empty for the ordinary way; "at" is ISO, UTC; "model" and "task" are None where the
        job does not say. Answers whose checksum is wrong are left out, and `LedgerDamaged` at the end tells how many
        they were.
        """
        abouts: dict[int | None, Mapping[str, Any]] = {None: {}}
        rotten = 0
        job_of = "(SELECT job FROM attempts WHERE attempts.id = attempt)"
        sql = f"SELECT {ANSWER_COLUMNS}, {job_of} FROM answers WHERE key > ? ORDER BY key LIMIT ?"  # noqa: S608  constants
        for *row, job in self._file.pages(sql, ""):
            key, value, _, at, _ = row
            if checksum(row[:-1]) != row[-1]:
                rotten += 1
                continue
            if job not in abouts:
                abouts[job] = json.loads(read_job_row(self._file, job)[2])
            yield {
                "key": key,
                "value": json.loads(value),
                "model": abouts[job].get("model"),
                "task": abouts[job].get("task"),
                "ask": abouts[job].get("ask", ""),
                "at": read_time(at).isoformat(),
            }
        if rotten:
            raise LedgerDamaged(
                self._file.name, f"damaged: {rotten} answers do not match their checksum and are left out"
            )

    def close(self) -> None:
        """Give the ledger up. Safe to call twice."""
        self._file.close()

    def _rows_of(self, keys: Sequence[str], table: str, columns: str) -> list[Row]:
        found: list[Row] = []
        # in the order of the tree, so that neighbours are read from one page
        ordered = sorted(set(keys))
        for start in range(0, len(ordered), _FIND_KEYS):
            part = ordered[start : start + _FIND_KEYS]
            sql = f"SELECT {columns} FROM {table} WHERE key IN ({_marks(part)})"  # noqa: S608  our own names
            found += (self._sound([row], f"{table[:-1]} {row[0]}") for row in self._file.read(sql, part))
        return found

    def _doubt_what_is_open(self) -> None:
        rows = self._file.read("SELECT id FROM attempts WHERE state = 'open'")
        waiting = {attempt for one in find_waiting(self._file) for attempt in one.attempts}
        gone = [row[0] for row in rows if row[0] not in waiting]
        self.commit([Closed(attempt, AttemptState.DOUBT, "interrupted", None, None, math.nan, {}) for attempt in gone])

    def _close_attempt(self, db: sqlite3.Connection, closing: Closing) -> None:
        attempt = closing.attempt
        sql = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE id = ?"  # noqa: S608  constants
        row = self._sound(db.execute(sql, (attempt,)).fetchall(), f"attempt {attempt}")
        _, _, keys, _, _, _, state, *_ = row
        if state not in closing.takes:
            raise LedgerError(
                self._file.name, f"attempt {attempt} is to be closed and is not open; did another program change it?"
            )
        # "An answer reaches only the item it names", once more where it cannot be taken back
        strangers = closing.answers.keys() - set(json.loads(keys))
        if strangers:
            raise ValueError(f"attempt {attempt} did not ask for {min(strangers)}")
        db.execute(
            "UPDATE attempts SET state = ?, charge_nano = ?, charge_source = ?, input_tokens = ?,"
            " cached_input_tokens = ?, output_tokens = ?, seconds = ?, outcome = ?, closed = ?, checksum = ?"
            " WHERE id = ?",
            (*closing.columns, checksum(closing.applied_to(row)), attempt),
        )
        answers = ((key, value, attempt, closing.at) for key, value in closing.answers.items())
        db.executemany(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
            ((*answer, checksum(answer)) for answer in answers),
        )
        # of this attempt's answers only: where an earlier one stands, how sure it was stands too
        sure = ((key, value, attempt) for key, value in closing.confidences.items())
        db.executemany(
            "INSERT INTO confidences SELECT ?1, ?2, ?3, ?4"
            " WHERE EXISTS (SELECT 1 FROM answers WHERE key = ?1 AND attempt = ?3) ON CONFLICT (key) DO NOTHING",
            ((*row, checksum(row)) for row in sure),
        )

    def _spending(self, rows: Sequence[Row], doubt_texts: int) -> Spending:
        sums = dict.fromkeys(AttemptState, 0)
        unknown = doubt_requests = guesses = 0
        for state, attempts, known, nano, guessed in rows:
            if state not in sums or not isinstance(nano, int) or not isinstance(guessed, int):
                raise LedgerDamaged(self._file.name, f"damaged: attempts in state {state!r} sum up to {nano!r}")
            sums[state] = nano
            guesses += guessed
            if state == AttemptState.DOUBT:
                doubt_requests = attempts
            if state != AttemptState.FREED:
                unknown += attempts - known
        return Spending(
            settled=to_usd(sums[AttemptState.SETTLED]),
            doubt=to_usd(sums[AttemptState.DOUBT]),
            open=to_usd(sums[AttemptState.OPEN]),
            unknown=unknown,
            doubt_requests=doubt_requests,
            doubt_texts=doubt_texts,
            assumed=to_usd(guesses),
        )

    def _sound(self, rows: Sequence[Row], what: str) -> Row:
        return self._file.sound(rows[0] if rows else None, what)


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _insert(db: sqlite3.Connection, table: str, columns: Row) -> None:
    marks = "?, " * len(columns)
    db.execute(f"INSERT INTO {table} VALUES ({marks}?)", (*columns, checksum(columns)))  # noqa: S608  our own names
