"""`evaluate` as a user calls it: on what `label` wrote, with nothing sent, and one line for whatever is wrong."""

import asyncio
import csv
import errno
import importlib.util
import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_command
import jsonschema
import pytest
from schema_documents import SCHEMAS
from test_cli import read_csv

from packer import connections
from packer.cli import main
from packer.evaluating import Question, show_evaluation
from packer.intervals import proportion
from packer.outputs import OutputFile
from packer.prompts import read_user
from packer.task import Task, read_task
from packer.testing import FakeTransport

JOB = ["--labels", "spam,ham", "--model", "fake/model"]
ROWS = [
    *[(f"free {number}", "spam") for number in range(9)],
    ("free, and fine", "ham"),
    *[(f"hello {number}", "ham") for number in range(20)],
    ("a win", "SPAM "),
    ("nobody knows", ""),
    ("", "ham"),
]

Refused = Callable[..., str]


def label(rows: list[tuple[str, str]] = ROWS, *, gold: str = "gold", out: str = "out.csv", code: int = 3) -> None:
    with Path("in.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", gold), *rows])
    assert main(["label", "in.csv", "--text", "text", *JOB, "--output", out, "--max-items", "8"]) == code


def evaluate(*options: str, table: str = "out.csv", gold: str = "gold") -> dict[str, Any]:
    """The figures as JSON, which hold to their document."""
    assert main(["evaluate", table, "--gold", gold, "--json", "figures.json", *options]) == 0
    found: dict[str, Any] = json.loads(Path("figures.json").read_text(encoding="utf-8"))
    jsonschema.validate(found, json.loads((SCHEMAS / "evaluation.schema.json").read_text(encoding="utf-8")))
    return found


@pytest.fixture
def refused(gateway: FakeTransport, capfd: pytest.CaptureFixture[str]) -> Refused:
    label()

    def run(*arguments: str, code: int = 2) -> str:
        capfd.readouterr()
        sent = len(gateway.prompts)
        assert main(["evaluate", *arguments]) == code
        shown = capfd.readouterr()
        assert (shown.out, shown.err.count("\n"), len(gateway.prompts)) == ("", 1, sent)
        assert not list(Path().glob(".*.part"))
        assert not Path("figures.json").exists()
        return shown.err.removeprefix("prompt-packer: ").rstrip("\n")

    return run


def test_an_evaluation_reads_like_this(
    gateway: FakeTransport, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    label()
    capfd.readouterr()
    assert main(["evaluate", "out.csv", "--gold", "gold"]) == 0
    assert (
        capfd.readouterr().out
        == """\
items      33: 32 labelled, 1 failed
gold       32 items with it; 1 without are in no figure
accuracy   0.935 (0.786-0.992) of 31 items with a label and a gold one
labelled   0.969 of the items with gold; the others counted as errors, accuracy
           is 0.906
macro F1   0.926 over 2 labels

label  precision         recall            f1-score  support
ham    0.95 (0.76-1.00)  0.95 (0.76-1.00)      0.95       21
spam   0.90 (0.55-1.00)  0.90 (0.55-1.00)      0.90       10

gold \\ label    ham   spam
ham              20      1
spam              1      9

gold -> label    items  of gold
ham -> spam          1     0.05
    free, and fine
spam -> ham          1     0.10
    a win

note       in brackets: where the true figure lies, with 95 % certainty, if
           items like these come again
"""
    )


def test_the_json_holds_the_same_and_is_its_owners(gateway: FakeTransport) -> None:
    label()
    found = evaluate()
    low, high = proportion(29, 31).low, proportion(29, 31).high
    assert found["accuracy"] == {"value": 29 / 31, "low": low, "high": high}
    assert (found["items"], found["labelled"], found["without_gold"], found["compared"]) == (33, 32, 1, 31)
    assert [row["label"] for row in found["labels"]] == ["ham", "spam"]
    assert found["confusion"] == [[20, 1], [1, 9]]
    assert found["confusions"][0] == {"gold": "ham", "label": "spam", "count": 1, "texts": ["free, and fine"]}
    assert found["by"] == {}
    assert Path("figures.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl"])
def test_a_gold_column_named_label_is_not_taken_for_what_was_given(gateway: FakeTransport, out: str) -> None:
    label(gold="label", out=out)
    assert evaluate(table=out, gold="label")["confusion"] == [[20, 1], [1, 9]]


def test_a_gold_column_that_was_added_later_may_have_any_name(gateway: FakeTransport) -> None:
    label()
    lines = Path("out.csv").read_text(encoding="utf-8").splitlines()
    Path("out.csv").write_text("\n".join(f"{line},{'spam' if n else 'label_9'}" for n, line in enumerate(lines)))
    assert evaluate(gold="label_9")["confusion"] == [[0, 0], [22, 10]]


def test_a_table_that_was_labelled_twice_is_evaluated_by_its_last_labels(gateway: FakeTransport) -> None:
    label()
    rows = [row | {"label": "spam"} for row in read_csv("out.csv")]
    with Path("again.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert main(["label", "again.csv", "--text", "text", *JOB, "--output", "out.csv"]) == 3
    assert evaluate()["confusion"] == [[20, 1], [1, 9]]


def test_a_table_with_confidences_is_evaluated_like_any_other(gateway: FakeTransport) -> None:
    label()
    assert main(["label", "in.csv", "--text", "text", *JOB, "--output", "out.csv", "--confidence"]) == 3
    assert list(read_csv("out.csv")[0]) == ["text", "gold", "label", "confidence", "status", "error"]
    assert evaluate()["confusion"] == [[20, 1], [1, 9]]


def test_the_ledger_is_asked_with_the_examples_that_label_drew(gateway: FakeTransport) -> None:
    label()  # writes in.csv
    examples = ["--examples", "examples.csv", "--seed", "5"]
    Path("examples.csv").write_text("text,label\n" + "".join(f"{n},{'spam' if n % 2 else 'ham'}\n" for n in range(99)))
    assert main(["label", "in.csv", "--text", "text", *JOB, "--output", "out.csv", *examples]) == 3
    for given, unknown in ((examples, 0), (examples[:2], 31)):
        found = evaluate("--by", "position", *JOB, *given)["by"]["position"]
        assert sum(part["items"] for part in found if part["least"] is None) == unknown


def test_rows_come_through_a_pipe(gateway: FakeTransport, in_folder: Path) -> None:
    label()
    with Path("out.csv").open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "packer", "evaluate", "-", "--gold", "gold"],
            stdin=file, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    assert "accuracy   0.935 (0.786-0.992) of 31 items" in done.stdout
    assert done.stderr == ""


# Where errors sit


def test_position_and_pack_size_are_those_of_the_prompts_that_were_answered(gateway: FakeTransport) -> None:
    label()
    places = {}
    for prompt in gateway.prompts:
        for number, text in enumerate(read_user(prompt.user)[1], 1):
            places[text] = number, len(read_user(prompt.user)[1])
    assert max(places.values()) == (8, 8)
    compared = [text for text, gold in ROWS if text and gold]
    wrong = {"free, and fine", "a win"}
    found = evaluate("--by", "position", "--by", "pack-size", *JOB)["by"]
    assert list(found) == ["position", "pack-size"]
    for side, bins in enumerate(found.values()):
        for part in bins:
            inside = [text for text in compared if part["least"] <= places[text][side] <= part["most"]]
            assert part["items"] == len(inside)
            assert part["errors"] == len(wrong.intersection(inside))
        assert sum(part["items"] for part in bins) == len(compared)


def test_what_the_ledger_does_not_know_is_unknown(gateway: FakeTransport, capfd: pytest.CaptureFixture[str]) -> None:
    label()
    by = ["--by", "position", "--labels", "spam,ham", "--model"]
    (part,) = evaluate(*by, "fake/another")["by"]["position"]
    assert part | {"accuracy": 0} == {"least": None, "most": None, "items": 31, "errors": 2, "accuracy": 0}
    assert "\nunknown                    31        2  0.94" in capfd.readouterr().out
    # the ledger's answer is not the one that the table gives
    rows = Path("out.csv").read_text(encoding="utf-8").replace("hello 0,ham,ham", "hello 0,ham,spam")
    Path("out.csv").write_text(rows, encoding="utf-8")
    last = evaluate(*by, "fake/model")["by"]["position"][-1]
    assert (last["least"], last["items"], last["errors"]) == (None, 1, 1)


def test_a_cell_that_got_an_apostrophe_is_still_known_to_the_ledger(gateway: FakeTransport) -> None:
    label([("=free(1)", "spam"), ("'=free(2)", "spam"), ("hello", "ham")], code=0)
    assert read_csv("out.csv")[0]["text"] == "'=free(1)"
    bins = evaluate("--by", "position", *JOB)["by"]["position"]
    assert [part["least"] for part in bins] == [1, 2, 3]


def test_length_is_of_the_text_and_needs_no_ledger(gateway: FakeTransport) -> None:
    label()
    Path("prompt-packer.db").unlink()
    bins = evaluate("--by", "length")["by"]["length"]
    lengths = Counter((len(text) - 1).bit_length() for text, gold in ROWS if text and gold)
    assert [part["items"] for part in bins] == [lengths[place] for place in sorted(lengths)]
    assert (bins[0]["least"], bins[-1]["most"]) == (5, 14)


def test_a_job_that_runs_is_not_disturbed(gateway: FakeTransport) -> None:
    label()
    held = Path("prompt-packer.db").read_bytes()

    async def run() -> None:
        import packer

        async with packer.Runner(Task(["spam", "ham"]), model="m", transport=gateway, ledger="prompt-packer.db"):
            found = await asyncio.to_thread(evaluate, "--by", "position", *JOB)
            assert found["by"]["position"][-1]["least"] is not None

    asyncio.run(run())
    assert len(Path("prompt-packer.db").read_bytes()) >= len(held)


# Records

RECORD = {
    "record": {
        "type": "object",
        "properties": {
            "topic": {"enum": ["bill", "other"]},
            "amount": {"type": ["number", "null"]},
            "urgent": {"type": "boolean"},
            "note": {"type": "string"},
        },
        "required": ["topic", "amount", "urgent", "note"],
    }
}


def answer(text: str) -> dict[str, Any]:
    number = int(text.rsplit(maxsplit=1)[-1])
    return {"topic": "bill", "amount": float(number) if number % 2 else None, "urgent": number > 10, "note": text}


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl"])
def test_a_record_is_evaluated_field_by_field(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], out: str
) -> None:
    Path("task.json").write_text(json.dumps(RECORD))
    transport = FakeTransport(read_task("task.json"), answer, seconds=0)
    monkeypatch.setattr(connections, "connect", fake_command.connect_to(transport))
    rows = [
        {"text": f"text {n}", "topic": "Bill" if n % 4 else "other", "paid": str(n) if n % 2 else "null",
         "hurry": n > 12, "note": f"text {n}" if n else "none"}
        for n in range(150)
    ]  # fmt: skip
    Path("in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    job = ["--task", "task.json", "--model", "m"]
    assert main(["label", "in.jsonl", "--text", "text", *job, "--output", out]) == 0
    gold = ["--gold", "amount=paid", "--gold", "urgent=hurry", "--gold", "note"]
    found = evaluate(*gold, "--by", "position", *job, table=out, gold="topic")["fields"]
    assert list(found) == ["topic", "amount", "urgent", "note"]
    assert {name: round(field["accuracy"]["value"] * 150) for name, field in found.items()} == {
        "topic": 112, "amount": 150, "urgent": 148, "note": 149,
    }  # fmt: skip
    assert [row["label"] for row in found["topic"]["labels"]] == ["bill", "other"]
    assert found["urgent"]["confusion"] == [[11, 2], [0, 137]]
    assert "null" in [row["label"] for row in found["amount"]["labels"]]
    assert (found["note"]["labels"], found["note"]["macro_f1"]) == ([], None)
    assert all(part["least"] is not None for field in found.values() for part in field["by"]["position"])
    shown = capfd.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("field ")] == [
        "field topic", "field amount", "field urgent", "field note",
    ]  # fmt: skip
    assert "macro F1   none: the field has too many values for figures a value" in shown


# What is wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.csv", "--gold", "gold"], "no.csv: there is no such file"),
        (["in.csv", "--gold", "gold"], "in.csv: no column 'status'; expected a table that prompt-packer label wrote"),
        (["out.csv", "--gold", "gould"], "out.csv: no column 'gould'; did you mean 'gold'?"),
        (["out.csv", "--gold", "label"], "out.csv: 'label' is the column of the labels that were given; expected a"),
        (
            ["out.csv", "--gold", "topic=gold"],
            "out.csv: no column with answers to 'topic' besides the gold one, 'gold'",
        ),
        (["out.csv", "--gold", "gold", "--gold", "text"], "--gold: expected one column for the label, got two"),
        (["out.csv", "--gold", "gold", "--text", "txt"], "out.csv: no column 'txt'; did you mean 'text'?"),
        (["out.csv", "--gold", "gold", "--by", "place"], "--by: expected position, pack-size or length, got 'place'"),
        (["out.csv", "--gold", "gold", "--by", "position"], "--by position: missing: --labels or --task"),
        (["out.csv", "--gold", "gold", "--by", "pack-size", "--labels", "a,b"], "--by pack-size: missing: --model"),
        (["out.csv", "--gold", "gold", "--json", "out.csv"], "--json out.csv: expected a name that ends in .json"),
        (["out.csv", "--gold", "gold", "--json", "no/figures.json"], "no/figures.json: there is no folder no"),
        (["out.csv"], "evaluate: missing: --gold"),
    ],
)
def test_bad_input_is_one_line(refused: Refused, arguments: list[str], words: str) -> None:
    Path("no.db").touch()
    assert words in refused(*arguments)


def test_without_the_extra_the_table_is_not_read_for_nothing(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))
    assert refused("no.csv", "--gold", "gold") == (
        "evaluate needs scikit-learn, which is not installed: pip install 'prompt-packer[quality]'"
    )


def test_faults_that_are_met_on_the_way_leave_no_figures(refused: Refused) -> None:
    lines = Path("out.csv").read_text(encoding="utf-8").splitlines()
    for name, changed in {
        "cells.csv": [*lines[:3], "one,cell", *lines[3:]],
        "status.csv": [*lines[:3], "x,spam,spam,done,", *lines[3:]],
        "empty.csv": [lines[0], "x, ,spam,labelled,"],
        "many.csv": [lines[0], *(f"x,gold {number},ham,labelled," for number in range(1_001))],
    }.items():
        Path(name).write_text("\n".join(changed), encoding="utf-8")
    json_ = ["--json", "figures.json"]
    assert "line 4: expected 5 cells" in refused("cells.csv", "--gold", "gold", *json_)
    assert "line 4: expected one of labelled, failed, doubt, pending in 'status', got 'done'" in refused(
        "status.csv", "--gold", "gold", *json_
    )
    assert "more than 1,000 different labels so far; is 'gold' the gold column?" in refused(
        "many.csv", "--gold", "gold", *json_
    )
    assert "no row has anything in the gold column 'gold'" in refused("empty.csv", "--gold", "gold", *json_)
    by = ["--by", "position", "--text", "gold", *JOB, *json_]
    assert "ledger" in refused("out.csv", "--gold", "gold", *by, "--ledger", "in.csv", code=5)


def test_a_disk_without_room_is_one_line(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: OutputFile, __: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(OutputFile, "write", refuse)
    said = refused("out.csv", "--gold", "gold", "--json", "figures.json")
    assert said == "--json figures.json: cannot be written: No space left on device"


def test_the_figures_never_replace_what_they_are_made_of(refused: Refused) -> None:
    Path("task.json").write_text('{"labels": ["spam", "ham"]}')
    given = ["out.csv", "--gold", "gold", "--task", "task.json", "--model", "m", "--json", "task.json"]
    assert "--json task.json: this is the task file; expected another file" in refused(*given)
    assert Path("task.json").read_text() == '{"labels": ["spam", "ham"]}'


def test_texts_are_needed_where_something_is_asked_of_them(gateway: FakeTransport, capfd: Any) -> None:
    Path("in.csv").write_text("body,gold\nfree,ham\n")
    assert main(["label", "in.csv", "--text", "body", *JOB, "--output", "out.csv"]) == 0
    assert evaluate()["confusions"][0]["texts"] == []
    assert evaluate("--text", "body")["confusions"][0]["texts"] == ["free"]
    capfd.readouterr()
    assert main(["evaluate", "out.csv", "--gold", "gold", "--by", "length"]) == 2
    assert "--by length: expected --text COLUMN" in capfd.readouterr().err


def test_hostile_texts_and_labels_are_shown_and_written_safely(gateway: FakeTransport, capfd: Any) -> None:
    evil = "free \x1b[31m\u202e\x9b" + "x" * 100
    rows = [{"text": f"{evil}\ud800", "gold": "h\u202eam\x1b"}, {"text": "free", "gold": "\ud800"}]
    Path("in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert main(["label", "in.jsonl", "--text", "text", *JOB, "--output", "out.jsonl"]) == 0
    capfd.readouterr()
    found = evaluate(table="out.jsonl")
    shown = capfd.readouterr().out
    assert r"free \x1b[31m\u202e\x9bxxx" in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert {pair["gold"] for pair in found["confusions"]} == {"h\u202eam\x1b", "\ud800"}


# Memory


def test_memory_does_not_grow_with_the_table(gateway: FakeTransport) -> None:
    def peak(rows: int) -> int:
        label([(f"free {number}", f"gold {number % 9}") for number in range(50)], code=0)
        head, *lines = Path("out.csv").read_text(encoding="utf-8").splitlines(keepends=True)
        Path("many.csv").write_text(head + "".join(lines) * (rows // 50), encoding="utf-8")
        asked = Question(
            "many.csv", ["gold"], by=("length", "position"), task=Task(["spam", "ham"]), model="fake/model"
        )
        tracemalloc.start()
        assert len(show_evaluation(asked, width=80)) > 20
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(500)  # what is loaded once
    assert peak(20_000) < peak(8_000) + 1_000_000  # bytes; 12,000 rows in Python take 5 million
