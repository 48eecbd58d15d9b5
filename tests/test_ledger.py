"""The ledger's rows, its file and its refusals. Second processes and broken disks are in test_ledger_crash."""

import contextlib
import os
import pickle
import socket
import sqlite3
import stat
import tempfile
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from packer import failpoints, ledger_file
from packer.errors import (
    LedgerDamaged,
    LedgerError,
    LedgerForeign,
    LedgerFull,
    LedgerInUse,
    LedgerNewer,
    LedgerReadOnly,
)
from packer.exchange import Charge, ChargeSource
from packer.ledger import AttemptState, Closed, Ledger, Opened, Place, Spending
from packer.ledger_lock import BALLAST_BYTES
from packer.usage import Usage

ABOUT = {"task": "f00d", "model": "openai/gpt-4o-mini", "parameters": {"temperature": 0}}
CENT = Decimal("0.01")
USAGE = Usage(100, 20, 40)
ENDINGS = ("", "-wal", "-shm", ".lock", ".ballast")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path) as opened:
        yield opened


def opened(attempt: int, job: int, *keys: str, reserve: Decimal | None = CENT) -> Opened:
    return Opened(attempt, job, keys, 1, reserve)


def closed(
    attempt: int,
    answers: dict[str, Any] | None = None,
    *,
    state: AttemptState = AttemptState.SETTLED,
    usd: str | None = "0.001",
    usage: Usage | None = USAGE,
    outcome: str = "1 of 1 answers",
    seconds: float = 1.5,
    sure: dict[str, float] | None = None,
) -> Closed:
    charge = None if usd is None else Charge(Decimal(usd), ChargeSource.HEADER)
    return Closed(attempt, state, outcome, charge, usage, seconds, answers or {}, sure or {})


def spent(
    settled: str = "0", doubt: str = "0", open_: str = "0", *, unknown: int = 0, lost: tuple[int, int] = (0, 0)
) -> Spending:
    """`lost`: the requests in doubt, and their texts."""
    return Spending(Decimal(settled), Decimal(doubt), Decimal(open_), unknown, *lost)


def by_hand(path: Path, *statements: str) -> None:
    """Change the file as only another program would."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        for statement in statements:
            db.execute(statement)
        db.commit()


def filled(path: Path, answers: int, *, pack: int = 20, value: Any = "spam") -> list[str]:
    """A closed ledger with so many answers; their keys."""
    keys = [f"b2:{number:040x}" for number in range(answers)]
    with Ledger(path) as ledger:
        job = ledger.start_job("mail", ABOUT)
        starts = range(0, answers, pack)
        ledger.commit([opened(1 + start // pack, job, *keys[start : start + pack]) for start in starts])
        for at in starts:
            part = keys[at : at + pack]
            ledger.commit([closed(1 + at // pack, dict.fromkeys(part, value), sure=dict.fromkeys(part[::2], 0.75))])
        ledger.end_job(job, "finished", {"items": answers})
    return keys


# Answers


def test_an_accepted_answer_is_found_again_by_another_process_of_the_same_ledger(path: Path) -> None:
    answers = {"b2:01": "spam", "b2:02": {"kind": "ham", "score": 0.5, "tags": ["ü", None]}}
    with Ledger(path) as ledger:
        job = ledger.start_job("mail", ABOUT)
        ledger.commit([opened(1, job, "b2:01", "b2:02", "b2:03")])
        ledger.commit([closed(1, answers)])
        assert ledger.find(["b2:01", "b2:02", "b2:03"]) == answers
    with Ledger(path) as ledger:
        assert ledger.find(["b2:03", "b2:02", "b2:01", "b2:02"]) == answers
        assert ledger.find([]) == {}


def test_thousands_of_keys_are_found_at_once(path: Path) -> None:
    keys = filled(path, 3_000)
    with Ledger(path) as ledger:
        found = ledger.find([*reversed(keys), "b2:unknown"])
        assert found == dict.fromkeys(keys, "spam")


def test_an_answer_is_placed_in_the_pack_that_gave_it(path: Path) -> None:
    with Ledger(path) as ledger:
        job = ledger.start_job("mail", ABOUT)
        ledger.commit([opened(1, job, "b2:03", "b2:01", "b2:02"), closed(1, {"b2:01": "spam"})])
        ledger.commit([opened(2, job, "b2:02", "b2:03"), closed(2, {"b2:03": {"kind": "ham"}, "b2:02": "ham"})])
    with Ledger(path, read_only=True) as ledger:
        assert ledger.find_places(["b2:01", "b2:02", "b2:03", "b2:04"]) == {
            "b2:01": Place("spam", 2, 3),
            "b2:02": Place("ham", 1, 2),
            "b2:03": Place({"kind": "ham"}, 2, 2),
        }
        assert ledger.find_places([]) == {}


def test_thousands_of_answers_are_placed_at_once(path: Path) -> None:
    keys = filled(path, 3_007, pack=1)
    with Ledger(path, read_only=True) as ledger:
        assert ledger.find_places(keys) == dict.fromkeys(keys, Place("spam", 1, 1))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM attempts",
        """UPDATE attempts SET keys = replace(keys, '[', '["b2:ff",')""",
        "UPDATE answers SET value = '\"ham\"'",
    ],
)
def test_no_place_is_told_from_rotten_rows(path: Path, statement: str) -> None:
    keys = filled(path, 3)
    by_hand(path, statement)
    with Ledger(path, read_only=True) as ledger, pytest.raises(LedgerDamaged):
        ledger.find_places(keys)


def test_the_first_answer_to_a_key_stands(ledger: Ledger) -> None:
    job = ledger.start_job("mail", ABOUT)
    ledger.commit([opened(1, job, "b2:01"), opened(2, job, "b2:01", "b2:02")])
    ledger.commit([closed(1, {"b2:01": "spam"})])
    ledger.commit([closed(2, {"b2:01": "ham", "b2:02": "ham"})])
    assert ledger.find(["b2:01", "b2:02"]) == {"b2:01": "spam", "b2:02": "ham"}
    assert ledger.verify() == []


def test_how_sure_the_model_was_is_kept_with_the_answer_that_stands(path: Path) -> None:
    with Ledger(path) as ledger:
        job = ledger.start_job("mail", ABOUT)
        ledger.commit([opened(1, job, "b2:01"), opened(2, job, "b2:01", "b2:02", "b2:03")])
        ledger.commit([closed(1, {"b2:01": "spam"})])
        second = dict.fromkeys(["b2:01", "b2:02", "b2:03"], "ham")
        ledger.commit([closed(2, second, sure={"b2:01": 1 / 3, "b2:02": 1 / 7})])
        assert ledger.confidences(["b2:01", "b2:02", "b2:03", "b2:04"]) == {"b2:02": 1 / 7}
    with Ledger(path, read_only=True) as ledger:
        assert ledger.confidences(["b2:02"]) == {"b2:02": 1 / 7}
        assert ledger.verify() == []


def test_a_rotten_confidence_is_not_read(path: Path) -> None:
    keys = filled(path, 40)
    by_hand(path, "UPDATE confidences SET value = 0.5")
    with Ledger(path) as ledger, pytest.raises(LedgerDamaged, match=f"confidence {keys[0]} does not match"):
        ledger.confidences(keys)


# Formats 1, which had no confidences, and 2, which had no batches

OLDER = {1: ("DROP TABLE confidences", "DROP TABLE batches"), 2: ("DROP TABLE batches",)}


@pytest.fixture(params=sorted(OLDER))
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def older(path: Path, version: int) -> Path:
    """A ledger of an older format with two answers."""
    filled(path, 2)
    by_hand(path, *OLDER[version], f"PRAGMA user_version = {version}")
    return path


def test_a_ledger_of_an_older_format_is_read_as_it_is(older: Path, version: int) -> None:
    content = older.read_bytes()
    with Ledger(older, read_only=True) as ledger:
        keys = [row["key"] for row in ledger.export()]
        assert ledger.find(keys) == dict.fromkeys(keys, "spam")
        assert bool(ledger.confidences(keys)) == (version > 1)
        assert ledger.waiting("task", "model") == []
        assert ledger.verify() == []
        assert ledger.statistics().schema_version == version
    assert older.read_bytes() == content


def test_a_ledger_of_an_older_format_that_is_opened_for_writing_keeps_its_answers_and_takes_new_ones(
    older: Path,
) -> None:
    with Ledger(older) as ledger:
        job = ledger.start_job("mail", ABOUT)
        ledger.commit([opened(2, job, "b2:new"), closed(2, {"b2:new": "ham"}, sure={"b2:new": 0.5})])
    with Ledger(older) as ledger:
        assert (ledger.statistics().answers, ledger.statistics().schema_version) == (3, 3)
        assert ledger.confidences(["b2:new"]) == {"b2:new": 0.5}
        assert ledger.verify() == []


def test_a_ledger_of_an_older_format_is_not_brought_up_by_halves(
    older: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "Answer and money in one transaction or in none" holds for the tables too."""
    content = older.read_bytes()

    def die(place: str) -> None:
        if place == "commit: written, not durable":
            raise RuntimeError(place)

    monkeypatch.setattr(failpoints, "reach", die)
    with pytest.raises(RuntimeError):
        Ledger(older)
    monkeypatch.undo()
    with contextlib.closing(sqlite3.connect(older)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (version,)
        assert not db.execute("SELECT name FROM sqlite_schema WHERE name = 'batches'").fetchall()
    assert len(older.read_bytes()) == len(content)


def test_a_file_that_says_format_1_and_has_later_tables_is_damaged(path: Path) -> None:
    filled(path, 2)
    by_hand(path, "PRAGMA user_version = 1")
    for read_only in (False, True):
        with pytest.raises(LedgerDamaged, match="its tables are not those of format 1"):
            Ledger(path, read_only=read_only)


def test_an_answer_to_a_key_that_its_attempt_did_not_ask_for_is_refused(ledger: Ledger) -> None:
    job = ledger.start_job("mail", ABOUT)
    ledger.commit([opened(1, job, "b2:01"), opened(2, job, "b2:02")])
    with pytest.raises(ValueError, match="attempt 2 did not ask for b2:01"):
        ledger.commit([closed(1, {"b2:01": "spam"}), closed(2, {"b2:01": "ham"})])
    assert ledger.find(["b2:01"]) == {}
    ledger.commit([closed(1, {"b2:01": "spam"}), closed(2, {"b2:02": "ham"})])
    assert ledger.find(["b2:01", "b2:02"]) == {"b2:01": "spam", "b2:02": "ham"}


# One transaction


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (closed(1, {"b2:01": float("nan")}), ValueError, "JSON"),
        (closed(1, {"b2:01": {"set": {1}}}), TypeError, "JSON"),
        (closed(1, {"b2:09": "spam"}), ValueError, "did not ask for b2:09"),
        (closed(1, {"b2:01": "spam"}, sure={"b2:01": float("nan")}), ValueError, "expected confidences from 0 to 1"),
        (closed(1, {"b2:01": "spam"}, sure={"b2:02": 0.5}), ValueError, "sure of answers that it does not give"),
        (closed(1, state=AttemptState.OPEN), ValueError, "cannot be closed as open"),
        (closed(1, state=AttemptState.FREED), ValueError, "cannot be freed and cost 0.001 USD"),
        (closed(2, {"b2:02": "spam"}), LedgerError, "attempt 2 is to be closed and is not open"),
        (closed(7), LedgerDamaged, "attempt 7 does not exist"),
        (opened(1, 1, "b2:01"), LedgerError, "a row contradicts those that are there"),
        (opened(8, 99, "b2:01"), LedgerError, "a row contradicts those that are there"),
        (opened(8, 1, "b2:01", reserve=Decimal("-0.1")), ValueError, "expected a reserve"),
        (opened(8, 1, "b2:01", reserve=Decimal("NaN")), ValueError, "expected a reserve"),
        (opened(8, 1, "b2:01", reserve=Decimal("1e30")), ValueError, "expected a reserve"),
    ],
)
def test_of_changes_that_cannot_all_be_written_none_is(
    ledger: Ledger, change: Opened | Closed, error: type[Exception], message: str
) -> None:
    job = ledger.start_job("mail", ABOUT)
    ledger.commit([opened(1, job, "b2:01"), opened(2, job, "b2:02"), opened(3, job, "b2:03")])
    ledger.commit([closed(2, {"b2:02": "ham"})])
    before = ledger.statistics()
    with pytest.raises(error, match=message):
        ledger.commit([closed(3, {"b2:03": "spam"}), opened(4, job, "b2:04"), change])
    after = ledger.statistics()
    assert (after.answers, after.attempts, after.spending) == (before.answers, before.attempts, before.spending)
    ledger.commit([closed(3, {"b2:03": "spam"}), closed(1, {"b2:01": "spam"})])
    assert ledger.verify() == []


def test_an_attempt_may_open_and_close_in_one_commit(ledger: Ledger) -> None:
    job = ledger.start_job("mail", ABOUT)
    ledger.commit([])
    ledger.commit([opened(1, job, "b2:01"), closed(1, {"b2:01": "spam"})])
    assert ledger.find(["b2:01"]) == {"b2:01": "spam"}


# Money


def test_every_state_counts_with_what_is_booked_for_it(ledger: Ledger) -> None:
    job = ledger.start_job("mail", ABOUT)
    ledger.commit([opened(number, job, f"b2:{number}") for number in range(1, 7)])
    ledger.commit(
        [
            closed(1, usd="0.001"),
            closed(2, usd=None),  # settled, the charge is unknown: the reserve
            closed(3, state=AttemptState.DOUBT, usd=None),
            closed(4, state=AttemptState.DOUBT, usd="0.004"),
            closed(5, state=AttemptState.FREED, usd=None),
        ]
    )
    assert ledger.spending("mail") == spent("0.011", "0.014", "0.01", lost=(2, 2))
    assert ledger.statistics().spending == ledger.spending("mail")


def test_jobs_of_one_name_share_their_spending_and_no_other_does(path: Path) -> None:
    for _ in range(2):
        with Ledger(path) as ledger:
            mail, other = ledger.start_job("mail", ABOUT), ledger.start_job("", ABOUT)
            first = ledger.next_attempt()
            ledger.commit([opened(first, mail, "b2:01"), opened(first + 1, other, "b2:02", reserve=Decimal(3))])
            ledger.commit([closed(first), closed(first + 1, usd="2.5")])
    with Ledger(path) as ledger:
        assert ledger.spending("mail") == spent("0.002")
        assert ledger.spending("") == spent("5")
        assert ledger.spending("never ran") == spent()


def test_unknown_is_never_zero(ledger: Ledger) -> None:
    job = ledger.start_job("mail", ABOUT)
    ledger.commit([opened(number, job, f"b2:{number}", reserve=None) for number in range(1, 5)])
    assert ledger.spending("mail") == spent(unknown=4)
    ledger.commit(
        [
            closed(1, usd="0.001"),
            closed(2, usd=None),
            closed(3, state=AttemptState.DOUBT, usd=None),
            closed(4, state=AttemptState.FREED, usd=None),
        ]
    )
    assert ledger.spending("mail") == spent("0.001", unknown=2, lost=(1, 1))
    assert ledger.verify() == []


def test_parts_of_a_nano_dollar_are_rounded_up(ledger: Ledger) -> None:
    job = ledger.start_job("mail", ABOUT)
    ledger.commit([opened(1, job, "b2:01", reserve=Decimal("0.0000000011")), opened(2, job, "b2:02")])
    ledger.commit([closed(2, usd="0.0000000001")])
    assert ledger.spending("mail") == spent("0.000000001", open_="0.000000002")


@pytest.mark.parametrize("usd", ["NaN", "-NaN", "sNaN", "Infinity", "-0.000000001", "1000000.1", "1e999999"])
def test_a_charge_that_cannot_be_books_the_reserve_and_costs_no_answer(ledger: Ledger, usd: str) -> None:
    job = ledger.start_job("mail", ABOUT)
    ledger.commit([opened(1, job, "b2:01")])
    ledger.commit([closed(1, {"b2:01": "spam"}, usd=usd)])
    assert ledger.spending("mail") == spent("0.01")
    assert ledger.find(["b2:01"]) == {"b2:01": "spam"}


@pytest.mark.parametrize("tokens", [-1, 10**30, None, 1.5, "12"])
def test_a_token_count_that_cannot_be_is_unknown_and_costs_no_answer(ledger: Ledger, tokens: Any) -> None:
    job = ledger.start_job("mail", ABOUT)
    ledger.commit([opened(1, job, "b2:01")])
    ledger.commit([closed(1, {"b2:01": "spam"}, usage=Usage(tokens, 20, 3))])
    assert ledger.statistics().usage == Usage(0, 20, 3)
    assert ledger.find(["b2:01"]) == {"b2:01": "spam"}
    assert ledger.verify() == []


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, -0.0, 7])
@pytest.mark.parametrize("outcome", ["", "half a pair: \ud83d", "a NUL \0 and\nlines", "\u2028\x85é"])
def test_what_a_gateway_says_is_kept_whatever_it_is(ledger: Ledger, seconds: float, outcome: str) -> None:
    job = ledger.start_job("mail \udfff", ABOUT)
    ledger.commit([opened(1, job, "b2:01")])
    ledger.commit([closed(1, {"b2:01": "\ud83d"}, outcome=outcome, seconds=seconds, state=AttemptState.DOUBT)])
    ledger.end_job(job, outcome, {"reason": outcome})
    assert ledger.find(["b2:01"]) == {"b2:01": "\ud83d"}
    assert ledger.spending("mail \udfff").doubt == Decimal("0.001")
    assert [attempt.outcome for attempt in ledger.attempts_in_doubt()] == [outcome.replace("\ud83d", "\\ud83d")]
    assert ledger.verify() == []


# In doubt


def test_what_was_open_when_the_ledger_is_opened_is_in_doubt(path: Path) -> None:
    with Ledger(path) as ledger:
        job = ledger.start_job("mail", ABOUT)
        ledger.commit([opened(1, job, "b2:01", "b2:02"), opened(2, job, "b2:03")])
        ledger.commit([closed(2, {"b2:03": "ham"})])
        assert ledger.doubtful_keys() == frozenset()
    with Ledger(path, read_only=True) as ledger:
        assert ledger.spending("mail") == spent("0.001", open_="0.01")
    with Ledger(path) as ledger:
        assert ledger.spending("mail") == spent("0.001", "0.01", lost=(1, 2))
        assert ledger.doubtful_keys() == {"b2:01", "b2:02"}
        assert ledger.next_attempt() == 3
        with pytest.raises(LedgerError, match="is not open"):
            ledger.commit([closed(1, {"b2:01": "spam"})])


def test_a_key_that_was_answered_since_is_not_doubtful(ledger: Ledger) -> None:
    job = ledger.start_job("mail", ABOUT)
    ledger.commit([opened(1, job, "b2:01", "b2:02")])
    ledger.commit([closed(1, state=AttemptState.DOUBT, usd=None), opened(2, job, "b2:02")])
    ledger.commit([closed(2, {"b2:02": "ham"})])
    assert ledger.doubtful_keys() == {"b2:01"}


def test_an_attempt_in_doubt_is_told_with_all_that_is_known_of_it(ledger: Ledger) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    jobs = [ledger.start_job(name, ABOUT) for name in ("mail", "news")]
    ledger.commit([Opened(5, jobs[0], ("b2:01", "b2:02"), 3, CENT), opened(6, jobs[1], "b2:03", reserve=None)])
    ledger.commit([closed(6, state=AttemptState.DOUBT, usd=None, usage=None, outcome="lost: reset", seconds=2.0)])
    ledger.commit([closed(5, state=AttemptState.DOUBT, outcome="cut")])
    cut, lost = ledger.attempts_in_doubt()
    assert (cut.id, cut.job, cut.job_name, cut.keys, cut.number) == (5, jobs[0], "mail", ("b2:01", "b2:02"), 3)
    assert (cut.reserve, cut.charge) == (CENT, Charge(Decimal("0.001"), ChargeSource.HEADER))
    assert (cut.usage, cut.seconds, cut.outcome, cut.state) == (USAGE, 1.5, "cut", AttemptState.DOUBT)
    assert (lost.job_name, lost.reserve, lost.charge, lost.usage) == ("news", None, None, None)
    assert lost.closed is not None
    assert before < lost.opened <= lost.closed < datetime.now(UTC) + timedelta(seconds=1)


# What can be seen


def test_statistics_count_everything(path: Path) -> None:
    filled(path, 100)
    with Ledger(path) as ledger:
        job = ledger.start_job("more", {})
        ledger.commit([opened(6, job, "b2:x")])
        now = ledger.statistics()
        assert (now.answers, now.jobs, now.schema_version) == (100, 2, ledger_file.SCHEMA_VERSION)
        assert now.attempts == {"open": 1, "settled": 5, "doubt": 0, "freed": 0}
        assert now.usage == Usage(500, 100, 200)
        assert now.spending == spent("0.005", open_="0.01")
        assert now.file_bytes == sum(Path(f"{path}{ending}").stat().st_size for ending in ("", "-wal"))


def test_a_new_ledger_is_empty(ledger: Ledger) -> None:
    now = ledger.statistics()
    assert (now.answers, now.jobs, set(now.attempts.values()), now.usage) == (0, 0, {0}, Usage(0, 0))
    assert (ledger.next_attempt(), ledger.verify(), list(ledger.export())) == (1, [], [])


def test_the_export_is_in_the_order_of_the_keys_and_says_what_answered(path: Path) -> None:
    keys = filled(path, 2_345)
    with Ledger(path) as ledger:
        job = ledger.start_job("other", {})
        ledger.commit([opened(1_000, job, "b2:zz"), closed(1_000, {"b2:zz": {"kind": "ham"}})])
        rows = list(ledger.export())
    assert [row["key"] for row in rows] == [*keys, "b2:zz"]
    assert {(row["value"], row["model"], row["task"]) for row in rows[:-1]} == {("spam", ABOUT["model"], ABOUT["task"])}
    assert (rows[-1]["value"], rows[-1]["model"], rows[-1]["task"]) == ({"kind": "ham"}, None, None)
    assert datetime.fromisoformat(rows[0]["at"]).utcoffset() == timedelta(0)


def test_a_job_goes_on_while_somebody_exports(path: Path) -> None:
    filled(path, 2_500)
    with Ledger(path) as writer, Ledger(path, read_only=True) as reader:
        export = reader.export()
        next(export)
        job = writer.start_job("more", ABOUT)
        for attempt in range(1_000, 1_010):
            writer.commit([opened(attempt, job, f"b2:{attempt}"), closed(attempt, {f"b2:{attempt}": "x" * 100_000})])
        assert len(list(export)) == 2_509
        assert Path(f"{path}-wal").stat().st_size < 8 << 20


def test_memory_does_not_grow_with_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 8, for what reads all rows."""
    monkeypatch.setattr(ledger_file, "PAGE_ROWS", 50)

    def peak(answers: int) -> int:
        path = tmp_path / f"{answers}.db"
        filled(path, answers)
        with Ledger(path, read_only=True) as ledger:
            tracemalloc.start()
            assert sum(1 for _ in ledger.export()) == answers
            assert ledger.verify() == []
            high = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return high

    peak(100)  # what is made once: compiled patterns, encoders
    small = peak(2_000)
    assert peak(8_000) < 1.5 * small


# What is wrong


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE answers SET value = '\"ham\"' WHERE key = 'b2:' || printf('%040d', 7)", "does not match its checksum"),
        ("UPDATE answers SET value = '{\"label\"'", "its value is no JSON"),
        ("UPDATE answers SET attempt = 99", "its attempt 99 does not exist"),
        ("UPDATE answers SET attempt = 2 WHERE key = 'b2:' || printf('%040d', 1)", "its attempt 2 did not ask for it"),
        ("UPDATE attempts SET state = 'open', closed = NULL", "its attempt 1 is still open"),
        ("UPDATE attempts SET keys = '[1]'", "attempt 1: its keys are no JSON list of texts"),
        ("UPDATE attempts SET keys = 'b2:01'", "attempt 1: its keys are no JSON list of texts"),
        ("UPDATE attempts SET reserve_nano = -1 WHERE id = 2", "attempt 2: its reserve is -1 nano-USD"),
        ("UPDATE attempts SET charge_nano = -5 WHERE id = 2", "attempt 2: its charge is -5 nano-USD"),
        ("UPDATE attempts SET charge_nano = charge_nano + 1 WHERE id = 1", "attempt 1: its content does not match"),
        ("UPDATE attempts SET charge_source = 'rumour'", "the source of its charge is 'rumour'"),
        ("UPDATE attempts SET input_tokens = -3", "its tokens are [-3, 40, 20]"),
        ("UPDATE attempts SET closed = NULL WHERE id = 1", "attempt 1: settled, without a closing time"),
        ("UPDATE attempts SET state = 'open' WHERE id = 1", "attempt 1: open, with a closing time"),
        ("UPDATE attempts SET state = 'lost' WHERE id = 1", "attempt 1: its state is 'lost'"),
        ("UPDATE attempts SET state = 'freed' WHERE id = 1", "attempt 1: freed, and charged for"),
        ("UPDATE attempts SET job = 12", "attempt 1: its job 12 does not exist"),
        ("UPDATE confidences SET value = 0.5", "its content does not match its checksum"),
        ("UPDATE confidences SET value = 1.5", "it is 1.5"),
        ("DELETE FROM answers", "its attempt 1 did not give the answer"),
        ("UPDATE confidences SET attempt = 2", "its attempt 2 did not give the answer"),
        ("UPDATE jobs SET about = '[]'", "job 1: what it is about is no JSON object"),
        ("UPDATE jobs SET statistics = '{'", "job 1: its statistics are no JSON object"),
        ("UPDATE jobs SET ended = NULL", "job 1: its end is half there"),
        ("UPDATE jobs SET name = 'mial'", "job 1: its content does not match its checksum"),
    ],
)
def test_a_contradiction_is_named(path: Path, statement: str, problem: str) -> None:
    filled(path, 40)
    by_hand(path, statement)
    with Ledger(path, read_only=True) as ledger:
        assert [found for found in ledger.verify() if problem in found]


def test_of_very_many_problems_a_hundred_are_told(path: Path) -> None:
    filled(path, 400)
    by_hand(path, "UPDATE answers SET value = 'x'")
    with Ledger(path, read_only=True) as ledger:
        problems = ledger.verify()
    assert len(problems) == 101
    assert problems[-1] == "more than 100 problems; the rest is not listed"


def test_a_rotten_row_is_neither_read_nor_written_again(path: Path) -> None:
    keys = filled(path, 40)
    by_hand(path, f"UPDATE answers SET value = '\"ham\"' WHERE key = '{keys[3]}'", "UPDATE jobs SET about = '{}'")
    with Ledger(path) as ledger:
        with pytest.raises(LedgerDamaged, match=f"answer {keys[3]} does not match its checksum"):
            ledger.find(keys)
        assert ledger.find(keys[4:]) == dict.fromkeys(keys[4:], "spam")
        with pytest.raises(LedgerDamaged, match="job 1 does not match its checksum"):
            ledger.end_job(1, "finished", {})
        with pytest.raises(LedgerDamaged, match="job 7 does not exist"):
            ledger.end_job(7, "finished", {})


def test_the_export_gives_what_is_sound_and_then_says_what_is_missing(path: Path) -> None:
    keys = filled(path, 40)
    by_hand(path, f"UPDATE answers SET value = '\"ham\"' WHERE key < '{keys[3]}'")
    sound: list[dict[str, Any]] = []
    with Ledger(path, read_only=True) as ledger, pytest.raises(LedgerDamaged, match="3 answers do not match"):
        sound.extend(ledger.export())
    assert [row["key"] for row in sound] == keys[3:]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE attempts SET state = 'freed'",
        "UPDATE attempts SET charge_nano = charge_nano - 1",
        "UPDATE attempts SET job = 2",
        "UPDATE jobs SET name = 'mial'",
    ],
)
def test_no_spending_is_told_from_rotten_rows(path: Path, statement: str) -> None:
    filled(path, 20)
    by_hand(path, statement)
    with Ledger(path) as ledger, pytest.raises(LedgerDamaged, match="1 does not match its checksum"):
        ledger.spending("mail")


def test_statistics_of_states_that_are_none_are_refused(path: Path) -> None:
    filled(path, 20)
    by_hand(path, "UPDATE attempts SET state = 'lost'")
    with Ledger(path, read_only=True) as ledger, pytest.raises(LedgerDamaged, match="attempts in state 'lost'"):
        ledger.statistics()


# The file


def test_only_its_owner_can_read_the_ledger_and_what_is_beside_it(path: Path) -> None:
    before = os.umask(0)
    try:
        with Ledger(path) as ledger:
            ledger.start_job("mail", ABOUT)
            modes = {ending: stat.S_IMODE(Path(f"{path}{ending}").stat().st_mode) for ending in ENDINGS}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(ENDINGS, 0o600)


def test_the_ballast_is_really_allocated(ledger: Ledger, path: Path) -> None:
    assert ledger.next_attempt() == 1
    assert Path(f"{path}.ballast").stat().st_blocks * 512 >= BALLAST_BYTES


def test_a_closed_ledger_is_one_file(path: Path) -> None:
    filled(path, 100)
    assert list(path.parent.iterdir()) == [path]
    ledger = Ledger(path)
    ledger.close()
    ledger.close()
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(LedgerError, match="closed"):
        ledger.next_attempt()


def test_the_log_is_emptied_at_the_end_though_somebody_still_reads(path: Path) -> None:
    with Ledger(path) as writer:
        writer.start_job("mail", ABOUT)
        reader = Ledger(path, read_only=True)
    with reader:
        assert Path(f"{path}-wal").stat().st_size == 0
        assert reader.statistics().jobs == 1


def test_nothing_from_the_environment_gets_into_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 9: a key appears in no ledger."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-7731")
    with Ledger(path) as ledger:
        job = ledger.start_job("mail", ABOUT)
        ledger.commit([opened(1, job, "b2:01"), closed(1, {"b2:01": "spam"})])
        content = b"".join(Path(f"{path}{ending}").read_bytes() for ending in ENDINGS[:-1])
    assert b"canary" not in content + path.read_bytes()


@pytest.mark.parametrize("name", [":memory:", "a?mode=memory&b#c%20d.db", "ünï 'q\" ;\n.db", "-", b"\xff\xfe.db"])
def test_any_name_is_a_file_name(in_folder: Path, name: str | bytes) -> None:
    text = os.fsdecode(name)
    for _ in range(2):
        with Ledger(text) as ledger:
            ledger.start_job("mail", ABOUT)
    assert [file.name for file in in_folder.iterdir()] == [text]
    with Ledger(text, read_only=True) as ledger:
        assert ledger.statistics().jobs == 2


def test_in_memory_nothing_is_written_anywhere(in_folder: Path) -> None:
    with Ledger(None) as ledger:
        job = ledger.start_job("mail", ABOUT)
        ledger.commit([opened(1, job, "b2:01"), closed(1, {"b2:01": "spam"})])
        assert ledger.find(["b2:01"]) == {"b2:01": "spam"}
        assert ledger.statistics().file_bytes > 0
        assert ledger.verify() == []
    assert list(in_folder.iterdir()) == []


def test_a_second_writer_is_told_who_holds_the_ledger(ledger: Ledger, path: Path) -> None:
    ledger.start_job("mail", ABOUT)
    here = f"process {os.getpid()} on {socket.gethostname()}"
    with pytest.raises(LedgerInUse, match=f"in use by {here} .this very one.; let it end"):
        Ledger(path)
    with Ledger(path, read_only=True) as reader:
        assert reader.statistics().jobs == 1
    assert Path(f"{path}.lock").read_text() == f"{os.getpid()} {socket.gethostname()}\n"
    ledger.start_job("still writing", ABOUT)


def test_a_lock_file_that_a_dead_process_left_is_no_lock(path: Path) -> None:
    Path(f"{path}.lock").write_text("4711 elsewhere\n, and more than that")
    with Ledger(path) as ledger:
        assert ledger.next_attempt() == 1
        assert Path(f"{path}.lock").read_text() == f"{os.getpid()} {socket.gethostname()}\n"


def test_another_program_that_writes_to_it_is_told_as_such(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "OPENING_SECONDS", 0.02)
    monkeypatch.setattr(ledger_file, "WRITING_SECONDS", 0.02)
    with Ledger(path) as ledger, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerInUse, match="another program is writing to it"):
            ledger.start_job("mail", ABOUT)
        ledger.close()
        with pytest.raises(LedgerInUse, match="another program is writing to it"):
            Ledger(path)
        other.execute("ROLLBACK")
    with Ledger(path) as ledger:
        assert ledger.start_job("mail", ABOUT) == 1


def test_a_process_may_change_its_folder_while_a_ledger_is_open(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (in_folder / "other").mkdir()
    with Ledger("labels.db") as ledger:
        monkeypatch.chdir(in_folder / "other")
        assert ledger.start_job("mail", ABOUT) == 1
    assert sorted(file.name for file in in_folder.iterdir()) == ["labels.db", "other"]


def test_a_reader_can_neither_write_nor_make_a_ledger(path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no such file"):
        Ledger(path, read_only=True)
    filled(path, 20)
    content = path.read_bytes()
    with Ledger(path, read_only=True) as ledger:
        with pytest.raises(LedgerReadOnly, match="opened for reading only"):
            ledger.start_job("mail", ABOUT)
        with pytest.raises(LedgerReadOnly, match="opened for reading only"):
            ledger.commit([closed(1)])
    assert path.read_bytes() == content


def test_a_ledger_that_is_moved_away_takes_no_more_rows(ledger: Ledger, path: Path) -> None:
    job = ledger.start_job("mail", ABOUT)
    path.rename(path.with_name("tidied-away.db"))
    with pytest.raises(LedgerError, match="was moved, replaced or deleted while it was in use"):
        ledger.commit([opened(1, job, "b2:01")])


def test_the_log_does_not_grow_with_the_job(ledger: Ledger, path: Path) -> None:
    job = ledger.start_job("mail", ABOUT)
    for attempt in range(1, 31):
        keys = [f"b2:{attempt}:{number}" for number in range(500)]
        ledger.commit([opened(attempt, job, *keys)])
        ledger.commit([closed(attempt, dict.fromkeys(keys, "x" * 2_000))])
    assert path.stat().st_size > 25 << 20
    assert Path(f"{path}-wal").stat().st_size < 10 << 20


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a folder; name a file in it"),
        (lambda path: path.symlink_to("elsewhere.db"), r"is a symbolic link; name the file itself: .*elsewhere\.db"),
        (os.mkfifo, "is no regular file"),
        (lambda path: Path(f"{path}.lock").mkdir(), "its lock file cannot be made"),
        (lambda path: Path(f"{path}.lock").symlink_to("elsewhere"), "its lock file cannot be made"),
        (lambda path: Path(f"{path}.ballast").mkdir(), "its ballast file cannot be made"),
    ],
)
def test_what_is_no_plain_file_is_left_alone(path: Path, make: Any, message: str) -> None:
    make(path)
    before = sorted(path.parent.iterdir())
    with pytest.raises(LedgerError, match=message):
        Ledger(path)
    assert {file for file in path.parent.iterdir() if file.name != path.name} <= set(before)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/labels.db", r"its folder .*missing does not exist; make it first"),
        ("file/labels.db", "cannot be looked at: Not a directory"),
        ("a\0b.db", "cannot be looked at: .*embedded null"),
        ("n" * 300, "cannot be looked at: File name too long"),
        ("n" * 254, "its lock file cannot be made: File name too long"),
        ("", "is a folder"),
    ],
)
def test_a_path_that_cannot_be_a_file_is_told(in_folder: Path, name: str, message: str) -> None:
    (in_folder / "file").write_text("")
    with pytest.raises(LedgerError, match=message):
        Ledger(name)
    assert [file.name for file in in_folder.iterdir()] == ["file"]


def other_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY)")
        db.commit()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(range(256)) * 40),
        lambda path: path.write_text("text,label\nhello,ham\n" * 100),
        lambda path: path.write_bytes(b"\n"),
        lambda path: path.write_bytes(b"SQLite format 3\0"),
        lambda path: path.write_bytes(b"\0" * 4096),
        other_database,
    ],
    ids=["jpeg", "text", "one byte", "only a header", "zeros", "another database"],
)
def test_a_file_that_is_not_ours_is_refused_and_unchanged(path: Path, make: Any, read_only: bool) -> None:
    make(path)
    content = path.read_bytes()
    with pytest.raises(LedgerForeign, match="not a ledger of prompt-packer"):
        Ledger(path, read_only=read_only)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_an_empty_file_is_a_new_ledger(path: Path) -> None:
    path.touch()
    with pytest.raises(LedgerForeign, match="is empty"):
        Ledger(path, read_only=True)
    with Ledger(path) as ledger:
        assert ledger.start_job("mail", ABOUT) == 1


@pytest.mark.parametrize("read_only", [False, True])
def test_a_ledger_of_a_later_version_is_refused_and_unchanged(path: Path, read_only: bool) -> None:
    filled(path, 20)
    by_hand(path, "PRAGMA user_version = 4")
    content = path.read_bytes()
    with pytest.raises(
        LedgerNewer, match=r"written by a later version of prompt-packer \(format 4, this one knows 3\)"
    ):
        Ledger(path, read_only=read_only)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version = 0",
        "DROP TABLE answers",
        "ALTER TABLE attempts ADD COLUMN more TEXT",
        "ALTER TABLE jobs RENAME TO job",
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_ledger_with_other_tables_is_damaged(path: Path, statement: str, read_only: bool) -> None:
    filled(path, 20)
    by_hand(path, statement)
    with pytest.raises(LedgerDamaged, match=r"its tables are not those of format [03]"):
        Ledger(path, read_only=read_only)


def test_what_sqlite_finds_wrong_at_the_start_ends_the_job_before_it_begins(path: Path) -> None:
    filled(path, 20)
    by_hand(path, "UPDATE attempts SET reserve_nano = -1")
    with pytest.raises(LedgerDamaged, match="CHECK constraint failed in attempts"):
        Ledger(path)
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_may_grow_no_more_takes_what_has_room_and_refuses_the_rest(ledger: Ledger) -> None:
    job = ledger.start_job("mail", ABOUT)
    ledger.commit([opened(1, job, "b2:01"), opened(2, job, "b2:02")])
    ledger._file._db.execute("PRAGMA max_page_count = 1")  # no less than what is there
    with pytest.raises(LedgerFull, match="no room for another row"):
        ledger.commit([closed(1, {"b2:01": "x" * 50_000})])
    with pytest.raises(LedgerFull, match="no room for another row"):
        ledger.commit([opened(3, job, "b2:03")])
    ledger.commit([closed(2, {"b2:02": "spam"})])
    assert ledger.find(["b2:01", "b2:02"]) == {"b2:02": "spam"}
    assert ledger.spending("mail") == spent("0.001", open_="0.01")
    assert ledger.verify() == []


# The ledger against a dictionary


class LedgerAgainstDictionary(RuleBasedStateMachine):
    """ "What was paid for is kept": what the ledger says is what was committed, over any number of restarts.

    "Settled + in doubt + reserved": the three sums are exact to the nano-dollar at every moment, and on a restart what
    was reserved is in doubt, so that their total never falls by one.
    """

    attempts = Bundle("attempts")
    amounts = st.decimals(0, 2, places=9)
    names = st.sampled_from(["mail", "news"])

    def __init__(self) -> None:
        super().__init__()
        # in memory where there is such a folder: the disk is not what is tested here, and waiting for it takes minutes
        memory = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)
        self.path = Path(self.folder.name) / "l.db"
        self.ledger = Ledger(self.path)
        self.answers: dict[str, Any] = {}
        self.booked: dict[int, tuple[str, AttemptState, Decimal]] = {}
        self.keys: dict[int, tuple[str, ...]] = {}
        self.jobs: dict[str, int] = {}

    @initialize()
    def start(self) -> None:
        self.jobs = {name: self.ledger.start_job(name, ABOUT) for name in ("mail", "news")}

    @rule(
        target=attempts,
        name=names,
        packs=st.lists(st.tuples(st.lists(st.integers(0, 30), min_size=1, unique=True), amounts), max_size=4),
    )
    def open(self, name: str, packs: list[tuple[list[int], Decimal]]) -> Any:
        first = self.ledger.next_attempt()
        changes = [
            Opened(first + index, self.jobs[name], tuple(f"b2:{key:02}" for key in keys), 1, reserve)
            for index, (keys, reserve) in enumerate(packs)
        ]
        self.ledger.commit(changes)
        for change in changes:
            assert change.reserve is not None
            self.booked[change.attempt] = (name, AttemptState.OPEN, change.reserve)
            self.keys[change.attempt] = change.keys
        return multiple(*(change.attempt for change in changes))

    @rule(
        chosen=st.lists(attempts, max_size=4, unique=True),
        state=st.sampled_from([AttemptState.SETTLED, AttemptState.DOUBT, AttemptState.FREED]),
        usd=st.none() | amounts,
        value=st.one_of(
            st.text(),
            st.dictionaries(st.text(), st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)),
        ),
        sound=st.integers(0, 30),
        seconds=st.floats(),
    )
    def close(
        self, *, chosen: list[int], state: AttemptState, usd: Decimal | None, value: Any, sound: int, seconds: float
    ) -> None:
        chosen = [attempt for attempt in chosen if self.booked[attempt][1] is AttemptState.OPEN]
        usd = None if state is AttemptState.FREED else usd
        charge = None if usd is None else Charge(usd, ChargeSource.BODY)
        answers = {attempt: dict.fromkeys(self.keys[attempt][:sound], value) for attempt in chosen}
        self.ledger.commit([Closed(a, state, "so", charge, Usage(1, 1), seconds, answers[a]) for a in chosen])
        for attempt in chosen:
            name, _, reserve = self.booked[attempt]
            self.booked[attempt] = (name, state, reserve if usd is None else usd)
            self.answers = answers[attempt] | self.answers

    @rule(chosen=attempts)
    def close_again(self, chosen: int) -> None:
        if self.booked[chosen][1] is not AttemptState.OPEN:
            with pytest.raises(LedgerError):
                self.ledger.commit([closed(chosen, dict.fromkeys(self.keys[chosen], "another"))])

    @rule(name=names)
    def new_job(self, name: str) -> None:
        self.ledger.end_job(self.jobs[name], "finished", {})
        self.jobs[name] = self.ledger.start_job(name, ABOUT)

    @rule()
    def restart(self) -> None:
        total = sum(usd for name in self.jobs for usd in self.totals(name))
        self.ledger.close()
        self.ledger = Ledger(self.path)
        self.booked = {
            attempt: (name, AttemptState.DOUBT if state is AttemptState.OPEN else state, usd)
            for attempt, (name, state, usd) in self.booked.items()
        }
        assert sum(usd for name in self.jobs for usd in self.totals(name)) == total

    def totals(self, name: str) -> tuple[Decimal, Decimal, Decimal]:
        spending = self.ledger.spending(name)
        return spending.settled, spending.doubt, spending.open

    @invariant()
    def answers_are_those_that_were_committed_first(self) -> None:
        assert self.ledger.find([f"b2:{key:02}" for key in range(31)]) == self.answers
        assert {row["key"]: row["value"] for row in self.ledger.export()} == self.answers

    @invariant()
    def money_is_exact(self) -> None:
        for name in self.jobs:
            expected = [
                sum((usd for job, state, usd in self.booked.values() if (job, state) == (name, wanted)), Decimal(0))
                for wanted in (AttemptState.SETTLED, AttemptState.DOUBT, AttemptState.OPEN)
            ]
            assert list(self.totals(name)) == expected

    @invariant()
    def what_is_in_doubt_is_listed(self) -> None:
        doubtful = {a for a, (_, state, _) in self.booked.items() if state is AttemptState.DOUBT}
        assert {attempt.id for attempt in self.ledger.attempts_in_doubt()} == doubtful
        keys = {key for attempt in doubtful for key in self.keys[attempt]}
        assert self.ledger.doubtful_keys() == keys - self.answers.keys()

    def teardown(self) -> None:
        try:
            assert self.ledger.verify() == []
        finally:
            self.ledger.close()
            self.folder.cleanup()


TestLedgerAgainstDictionary = LedgerAgainstDictionary.TestCase
TestLedgerAgainstDictionary.settings = settings(max_examples=30, stateful_step_count=20)


def test_errors_of_a_ledger_cross_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(LedgerFull("/data/l.db", "the disk is full")))
    assert (type(error), str(error), error.path) == (LedgerFull, "ledger /data/l.db: the disk is full", "/data/l.db")
