"""Which attempts are in which batch: written before the batch is made, so that no run after this one buys it again.

A row is written before anything is uploaded, gets the id of the uploaded file before the batch is made of it, and the
batch's own id after. So what is not there tells how far it came: no file, and the batch was never made; a file and no
batch, and the gateway's list tells. A batch is waiting as long as one of its attempts is open; nothing else says so.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from packer.items import canonical_json
from packer.ledger_file import LedgerFile, Row, checksum
from packer.ledger_jobs import read_attempts_in
from packer.ledger_rows import (
    BATCH_COLUMNS,
    FIRST_ID,
    Attempt,
    AttemptState,
    now,
    read_time,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One attempt in a batch: what its line is called there, and what it takes to read its answer.

    `canaries` are the labels of the canaries on its prompt, by their numbers.
    """

    attempt: int
    custom_id: str
    nonce: str
    canaries: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch at the gateway `url`, of one task (its fingerprint) and model; `token` stands in its metadata.

    `file` is the id of what was uploaded and `remote` its own, None as long as they are not known.
    """

    id: int
    url: str
    task: str
    model: str
    token: str
    lines: tuple[Line, ...]
    made: datetime
    file: str | None = None
    remote: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A batch, and its attempts that are open, by their ids."""

    batch: Batch
    attempts: Mapping[int, Attempt]


@dataclass(frozen=True, slots=True)
class WaitingSum:
    """Batches that wait, added up: how many, since when, at which gateways, and what is asked in them.

    `unmade` of them have no id of the gateway's yet. `reserved` USD are set aside; `unpriced` requests have no price.
    """

    batches: int
    unmade: int
    urls: tuple[str, ...]
    since: datetime
    requests: int
    texts: int
    reserved: Decimal
    unpriced: int


def add_up(waiting: Sequence[Waiting], *, job: int | None = None) -> WaitingSum | None:
    """What `waiting` comes to, or its requests of one `job`; None where that is nothing."""
    mine = [
        (one.batch, asked)
        for one in waiting
        if (asked := [attempt for attempt in one.attempts.values() if job is None or attempt.job == job])
    ]
    if not mine:
        return None
    batches, attempts = [batch for batch, _ in mine], [attempt for _, asked in mine for attempt in asked]
    return WaitingSum(
        batches=len(batches),
        unmade=sum(batch.remote is None for batch in batches),
        urls=tuple(dict.fromkeys(batch.url for batch in batches)),
        since=min(batch.made for batch in batches),
        requests=len(attempts),
        texts=sum(len(attempt.keys) for attempt in attempts),
        reserved=sum((attempt.reserve or Decimal(0) for attempt in attempts), Decimal(0)),
        unpriced=sum(attempt.reserve is None for attempt in attempts),
    )


def note_batch(file: LedgerFile, *, url: str, task: str, model: str, token: str, lines: Sequence[Line]) -> int:
    """Note that `lines` are about to go out together; the batch's id in the ledger."""
    about = canonical_json({"model": model, "task": task, "url": url})
    packed = canonical_json([[line.attempt, line.custom_id, line.nonce, _write(line.canaries)] for line in lines])

    def work(db: sqlite3.Connection) -> int:
        ((last,),) = db.execute("SELECT coalesce(max(id), 0) FROM batches")
        row = (int(last) + 1, about, token, packed, now(), None, None)
        db.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, checksum(row)))
        return int(last) + 1

    return file.write(work, starts=True)


def mark_batch(file: LedgerFile, batch: int, *, uploaded: str | None = None, remote: str | None = None) -> None:
    """Note the id of a batch's uploaded file, or its own at the gateway; None leaves what is there."""

    def work(db: sqlite3.Connection) -> None:
        row = db.execute(f"SELECT {BATCH_COLUMNS} FROM batches WHERE id = ?", (batch,)).fetchone()  # noqa: S608
        kept = file.sound(row, f"batch {batch}")
        marked = (*kept[:5], uploaded or kept[5], remote or kept[6])
        db.execute(
            "UPDATE batches SET file = ?, remote = ?, checksum = ? WHERE id = ?", (*marked[5:], checksum(marked), batch)
        )

    # the ballast's room is for this too: what is known of a batch is worth as much as an answer
    file.write(work, starts=False)


def find_waiting(file: LedgerFile) -> list[Waiting]:
    """The batches of which attempts are open, in the order in which they were made."""
    # all attempts are looked through for an open one: not where no batch was ever made
    if file.version < 3 or not file.read("SELECT 1 FROM batches LIMIT 1"):
        return []
    if not file.read("SELECT 1 FROM attempts WHERE state = 'open' LIMIT 1"):
        return []
    attempts = {attempt.id: attempt for attempt in read_attempts_in(file, AttemptState.OPEN)}
    batches = read_batches(file, after=FIRST_ID)
    return [one for batch in batches if (one := match(batch, attempts)).attempts]


def read_batches(file: LedgerFile, *, after: int) -> Iterator[Batch]:
    """All batches above `after`, in the order in which they were made."""
    if file.version < 3:
        return
    sql = f"SELECT {BATCH_COLUMNS} FROM batches WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608  constants
    for row in file.pages(sql, after):
        yield _read(file.sound(row, f"batch {row[0]}"))


def match(batch: Batch, attempts: Mapping[int, Attempt]) -> Waiting:
    """A batch with those of its attempts that are among the open ones."""
    return Waiting(batch, {line.attempt: attempts[line.attempt] for line in batch.lines if line.attempt in attempts})


def _read(row: Row) -> Batch:
    ident, about, token, packed, made, file, remote, _ = row
    told = json.loads(about)
    lines = tuple(
        Line(attempt, custom_id, nonce, {int(number): label for number, label in canaries.items()})
        for attempt, custom_id, nonce, canaries in json.loads(packed)
    )
    return Batch(ident, told["url"], told["task"], told["model"], token, lines, read_time(made), file, remote)


def _write(canaries: Mapping[int, str]) -> dict[str, str]:
    return {str(number): label for number, label in canaries.items()}
