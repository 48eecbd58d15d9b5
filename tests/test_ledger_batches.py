"""What the ledger says of batches: which attempts wait in which, and what is wrong with a row."""

import contextlib
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from packer.cli import main
from packer.errors import LedgerDamaged
from packer.ledger import AttemptState, Closed, Ledger, Opened
from packer.ledger_batches import Line
from packer.ledger_file import checksum

URL = "https://gateway.test/v1"
LINES = [Line(1, "1-abc", "nonc", {2: "spam", 4: "ham"}), Line(2, "2-def", "othr", {})]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with attempts 1 to 3 open, of which 1 and 2 are in a batch."""
    with Ledger(tmp_path / "labels.db") as ledger:
        job = ledger.start_job("mail", {"task": "t", "model": "m", "parameters": {}})
        ledger.commit([Opened(n, job, (f"b2:{n}",), 1, Decimal("0.5")) for n in (1, 2, 3)])
        assert ledger.note_batch(url=URL, task="t", model="m", token="a token", lines=LINES) == 1
    return tmp_path / "labels.db"


def test_what_is_in_a_batch_waits_and_what_is_in_none_is_in_doubt(path: Path) -> None:
    with Ledger(path) as ledger:
        (waiting,) = ledger.waiting("t", "m")
        assert waiting.batch.lines == tuple(LINES)
        assert (waiting.batch.url, waiting.batch.token, waiting.batch.file) == (URL, "a token", None)
        assert {n: one.state for n, one in waiting.attempts.items()} == dict.fromkeys((1, 2), AttemptState.OPEN)
        assert [one.id for one in ledger.attempts_in_doubt()] == [3]
        assert ledger.spending("mail").open == 1
        assert ledger.waiting("another", "m") == ledger.waiting("t", "another") == []
        assert ledger.verify() == []


def test_what_has_ended_waits_no_more(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.mark_batch(1, uploaded="file-1")
        ledger.mark_batch(1, remote="batch_1")
        ledger.commit([Closed(1, AttemptState.SETTLED, "", None, None, 1.0, {"b2:1": "spam"})])
    with Ledger(path) as ledger:
        (waiting,) = ledger.waiting("t", "m")
        assert (waiting.batch.file, waiting.batch.remote) == ("file-1", "batch_1")
        assert list(waiting.attempts) == [2]
        ledger.commit([Closed(2, AttemptState.FREED, "", None, None, 1.0, {})])
        assert ledger.waiting("t", "m") == []
        assert ledger.note_batch(url=URL, task="t", model="m", token="b", lines=[]) == 2
        assert ledger.verify() == []


def test_a_batch_that_does_not_exist_cannot_be_marked(path: Path) -> None:
    with Ledger(path) as ledger, pytest.raises(LedgerDamaged, match="batch 7 does not exist"):
        ledger.mark_batch(7, uploaded="file-1")


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE batches SET token = 'another'", "batch 1: its content does not match its checksum"),
        ("UPDATE batches SET about = '7'", "batch 1: what it is about is no JSON object"),
        ("UPDATE batches SET lines = '[[1,2]]'", "batch 1: its lines are no JSON list of four each"),
        ("UPDATE batches SET lines = '[[9,2,3,4]]'", "batch 1: its attempt 9 does not exist"),
        ("UPDATE batches SET remote = 'batch_1'", "batch 1: it was made of nothing that was uploaded"),
    ],
)
def test_verify_tells_what_is_wrong_with_a_batch(path: Path, statement: str, problem: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(statement)
        if "checksum" not in problem:
            (row,) = db.execute("SELECT id, about, token, lines, made, file, remote FROM batches")
            db.execute("UPDATE batches SET checksum = ?", (checksum(row),))
    with Ledger(path, read_only=True) as ledger:
        assert ledger.verify() == [problem]


def test_a_rotten_batch_is_not_taken_for_one_that_is_not_there(path: Path) -> None:
    """What waits would be bought again."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE batches SET lines = '[]'")
    with pytest.raises(LedgerDamaged, match="batch 1 does not match its checksum"):
        Ledger(path)


# What the command says of them


def show(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["ledger", str(path)]) == 0
    return capsys.readouterr().out


def test_the_summary_says_what_waits_at_the_gateway_and_what_to_do(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Ledger(path) as ledger:
        lines = [Line(4, "4-ghi", "nonc", {})]
        ledger.commit([Opened(4, 1, ("b2:4", "b2:5", "b2:6"), 1, Decimal("0.25"))])
        ledger.note_batch(url="https://other.test/\x1b[2J", task="t", model="m", token="b", lines=lines)
        (since,) = {f"{one.batch.made:%Y-%m-%d %H:%M}" for one in ledger.waiting("t", "m")[:1]}
    shown = show(path, capsys)
    assert "in doubt   at most $0.50, so that $0.50 is the most it can be\n" in shown, "attempt 3 alone"
    assert (
        f"batches    2 batches waiting at {URL}, https://other.test/\\x1b[2J\n"
        f"           since {since} UTC: 3 requests with 5 texts, at most $1.25 besides\n"
        "           the same command with --batch collects what came of them\n"
    ) in shown


def test_what_waits_in_a_batch_is_not_called_in_doubt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(tmp_path / "l.db") as ledger:
        job = ledger.start_job("mail", {"task": "t", "model": "m", "parameters": {}})
        ledger.commit([Opened(1, job, ("b2:1",), 1, None)])
        assert ledger.note_batch(url=URL, task="t", model="m", token="a token", lines=LINES[:1]) == 1
    shown = show(tmp_path / "l.db", capsys)
    assert "in doubt" not in shown
    assert ": 1 request with 1 text, an unknown cost of 1 request besides\n" in shown
    with Ledger(tmp_path / "l.db") as ledger:
        ledger.commit([Closed(1, AttemptState.FREED, "", None, None, 1.0, {})])
    assert "batches" not in show(tmp_path / "l.db", capsys)


def test_the_summary_is_of_one_moment(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch that is collected while the ledger is read would else be subtracted from what it is no part of."""
    read = Ledger.all_waiting

    with Ledger(path) as ledger:

        def collect_first(reader: Ledger) -> Any:
            ledger.commit([Closed(n, AttemptState.FREED, "", None, None, 1.0, {}) for n in (1, 2)])
            return read(reader)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ledger, "all_waiting", collect_first)
            shown = show(path, capsys)
    assert "1 batch waiting" in shown
    assert "in doubt   at most $0.50" in shown
    assert "batches" not in show(path, capsys)
