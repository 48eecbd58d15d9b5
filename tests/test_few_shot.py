"""Examples that are drawn: as many of each label, the same in every request and every run, and never a wrong one."""

import asyncio
import csv
import io
import json
import os
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from gateway.server import KEY, Gateway, Setup, running_gateway
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import texts

from packer.cli import main
from packer.errors import CallError, InputError
from packer.examples import LONGEST, MOST_TOKENS, describe_examples, draw_examples
from packer.items import normalise_text
from packer.prompts import read_labels
from packer.requests import make_keys
from packer.runner import Runner
from packer.task import Example, Task
from packer.testing import FakeClock, FakeTransport
from packer.tokens import count_tokens

TASK = Task(["spam", "ham", "other"])
ROWS = [(f"message number {number} of {number % 7}", ["spam", "ham", "other"][number % 3]) for number in range(90)]

Row = tuple[str, str]


def write_rows(path: Path, rows: Iterable[Row], *, columns: Row = ("text", "label")) -> str:
    if path.suffix == ".jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])
    return str(path)


def draw(path: str, task: Task = TASK, **options: Any) -> tuple[Example, ...]:
    return draw_examples(path, task, text="text", **options)


# The draw


@settings(max_examples=60)
@given(
    st.lists(st.tuples(texts(20), st.sampled_from(["spam", "HAM", " other ", ""])), min_size=1, max_size=60),
    st.integers(1, 5),
    st.integers(0, 2**63 - 1),
    st.randoms(use_true_random=False),
)
def test_each_label_gets_as_many_examples_as_the_next_as_far_as_the_table_goes(
    rows: list[Row], per_label: int, seed: int, rng: random.Random
) -> None:
    labels_of: dict[str, set[str]] = defaultdict(set)
    for text, label in rows:
        if normalise_text(text) and label:
            labels_of[normalise_text(text)].add(label.strip().lower())
    sure = {text: label for text, (label, *more) in labels_of.items() if not more}
    there = Counter(sure.values())
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(Path(folder) / "table.jsonl", rows)
        if not there:
            with pytest.raises(CallError, match="no row can be an example"):
                draw(path, per_label=per_label, seed=seed)
            return
        examples = draw(path, per_label=per_label, seed=seed)
        # the same question again, in whatever order the table stands
        assert (
            draw(write_rows(Path(folder) / "again.jsonl", rng.sample(rows, len(rows))), per_label=per_label, seed=seed)
            == examples
        )
    counts = Counter(str(example.answer) for example in examples)
    assert len({example.text for example in examples}) == len(examples)
    assert all(sure[example.text] == example.answer for example in examples)
    # of a table whose texts contradict each other more often than there are spares, fewer may be found
    few = len(labels_of) - len(sure)
    for label in TASK.labels:
        assert min(per_label, there[label]) - few <= counts[label] <= min(per_label, there[label])


def test_a_seed_draws_its_own_examples_and_all_rows_come_up(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "table.csv", ROWS)
    drawn = Counter(example.text for seed in range(400) for example in draw(path, seed=seed))
    assert len(drawn) == len(ROWS)
    # 2 of 30 in 400 draws: 26.7 on average, with a deviation of 5
    assert all(6 <= count <= 55 for count in drawn.values())


def test_a_row_more_changes_no_example_but_by_being_one(tmp_path: Path) -> None:
    before = draw(write_rows(tmp_path / "table.csv", ROWS))
    after = draw(write_rows(tmp_path / "more.csv", [*ROWS, ("one more", "spam")]))
    assert len({example.text for example in before} - {example.text for example in after}) <= 1


def test_examples_of_all_labels_are_mixed(tmp_path: Path) -> None:
    examples = draw(write_rows(tmp_path / "table.csv", ROWS), per_label=3)
    for start in range(0, 9, 3):
        assert {example.answer for example in examples[start : start + 3]} == set(TASK.labels)
    orders = {
        tuple(example.answer for example in draw(str(tmp_path / "table.csv"), seed=seed))[:3] for seed in range(40)
    }
    assert len(orders) == 6


def test_a_text_with_two_labels_is_no_example(tmp_path: Path) -> None:
    rows = [("twice", "spam"), *ROWS[:3], ("twice", "ham"), ("twice", "spam")]
    path = write_rows(tmp_path / "table.csv", rows)
    for seed in range(20):
        assert "twice" not in {example.text for example in draw(path, seed=seed, per_label=5)}


def test_long_texts_canaries_and_the_tasks_own_examples_are_left_out(tmp_path: Path) -> None:
    task = Task(TASK.labels, examples=[("own", "spam")], canaries=[("bird", "ham"), ("cage", "spam")])
    rows = [("own ", "spam"), ("bird", "ham"), ("cage", "spam"), ("x" * (LONGEST + 1), "other"), ("y" * LONGEST, "ham")]
    examples = draw(write_rows(tmp_path / "table.csv", rows), task)
    assert examples == (Example("y" * LONGEST, "ham"),)
    whole = task.with_examples(examples)
    assert whole.examples == (Example("own", "spam"), *examples)
    assert (whole.canaries, whole.labels, whole.shape) == (task.canaries, task.labels, task.shape)
    assert describe_examples(whole) == "2 examples, 1 a label; fewer for 'other'"


def test_a_record_task_keeps_its_record_with_more_examples() -> None:
    task = Task(record={"type": "object", "properties": {"a": {"type": "integer"}}}, instructions="count")
    more = task.with_examples([Example("one", {"a": 1})])
    assert (more.record_schema, more.instructions, len(more.examples)) == (task.record_schema, "count", 1)
    assert task.with_examples([]).fingerprint == task.fingerprint


def test_a_round_that_would_take_too_many_tokens_is_left_out_whole(tmp_path: Path) -> None:
    labels = [f"label {number}" for number in range(60)]
    task = Task(labels)

    def rows(words: int) -> list[Row]:
        return [(f"{'a ' * words}{number} {label}", label) for label in labels for number in range(5)]

    path = write_rows(tmp_path / "table.csv", rows(20))
    examples = draw(path, task, per_label=5)
    assert Counter(Counter(example.answer for example in examples).values()) == {2: 60}
    assert sum(count_tokens([example.text for example in examples])) <= MOST_TOKENS
    with pytest.raises(CallError, match=r"one for each of 60 labels takes 6,\d+ tokens in every request"):
        draw(write_rows(tmp_path / "long.csv", rows(100)), task)


# The constant prefix


def test_the_system_message_is_the_same_in_every_request_and_every_run(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "table.jsonl", ROWS)
    systems, keys = set(), set()
    for items in (ROWS[:50], ROWS):
        task = TASK.with_examples(draw(path, seed=7))
        transport = FakeTransport(task, lambda _: "spam")

        async def run(task: Task = task, transport: FakeTransport = transport, items: Sequence[Row] = items) -> None:
            async with Runner(task, model="m", ledger=None, transport=transport) as runner:
                results = [result async for result in runner.stream(text for text, _ in items)]
            # a text that is an example is labelled like all others
            assert {result.label for result in results} == {"spam"}
            assert len(results) == len(items)

        FakeClock().run(run())
        assert len(transport.prompts) > 1
        systems |= {prompt.system for prompt in transport.prompts}
        keys.add(make_keys(task, "m")("a text"))
    assert len(systems) == len(keys) == 1
    assert list(read_labels(systems.pop())) == list(TASK.labels)
    other = TASK.with_examples(draw(path, seed=8))
    assert make_keys(other, "m")("a text") not in keys


# The command


def run_command(command: str, table: str, *more: str, url: str = "") -> int:
    gateway = ("--base-url", url, "--api-key-env", "REHEARSAL_KEY") if url else ()
    labels = () if "--task" in more else ("--labels", "spam,ham,other")
    return main([command, table, "--text", "text", *labels, "--model", "m", *gateway, *more])


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REHEARSAL_KEY", KEY)


def test_the_same_command_with_examples_buys_nothing_twice(
    in_folder: Path, key: None, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_rows(in_folder / "in.csv", ROWS)
    gold = write_rows(in_folder / "gold.jsonl", ROWS, columns=("text", "gold"))
    asked = []
    with running_gateway(Setup()) as gateway:
        for more in ((), ("--seed", "5"), ("--seed", "5"), ()):
            assert run_command("label", table, "--examples", gold, "--output", "out.csv", *more, url=gateway.url) == 0
            asked.append(len(gateway.log.records))
    assert 0 < asked[0] < asked[1] == asked[2] == asked[3]
    rows = list(csv.DictReader(io.StringIO((in_folder / "out.csv").read_text(encoding="utf-8"))))
    assert [(row["text"], row["label"], row["status"]) for row in rows] == [(*row, "labelled") for row in ROWS]
    assert "6 examples, 2 a label, in every request" in capsys.readouterr().err


def test_a_plan_counts_the_examples(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, gold = write_rows(in_folder / "in.csv", ROWS), write_rows(in_folder / "gold.csv", ROWS)
    tokens = []
    for more in ((), ("--examples", gold), ("--examples", gold, "--examples-per-label", "9")):
        assert run_command("plan", table, *more) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert ("a label, in every request" in told) == bool(more)
        tokens.append(int(told.split(" tokens in,")[0].split()[-1].replace(",", "")))
    assert "27 examples, 9 a label" in told
    assert tokens[0] < tokens[1] < tokens[2]


def test_models_are_compared_with_the_examples(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_rows(in_folder / "in.csv", ROWS)
    called = ["models", table, "--text", "text", "--labels", "spam,ham,other", "--models", "openai/gpt-4o-mini"]
    shown = []
    for more in ([], ["--examples", table]):
        assert main([*called, *more]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] != shown[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "text,label\nhi,spam\nyou,spm\n",
            "gold.csv: line 3: expected one of the labels (spam, ham, other), got 'spm'",
        ),
        ("text,label\nhi,\x1b[31m\n", "line 2: expected one of the labels (spam, ham, other), got '\\x1b[31m'"),
        (
            "text,label\nhi," + "e\u0301" * 500_000 + "\n",
            "line 2: expected one of the labels (spam, ham, other), got '",
        ),
        ("text,kind\nhi,spam\n", "no column 'label' or 'gold'"),
        ("text,label,label\nhi,spam,ham\n", "two columns are named 'label'"),
        ("texts,label\nhi,spam\n", "no column 'text'; did you mean 'texts'?"),
        ("text,label\nhi,\n , spam\n", "no row can be an example"),
        ("text,label\nhi,spam,x\n", "line 2: expected 2 cells as in the header, got 3"),
        ('text,label\nhi,"spam\n', "a quote is opened and never closed"),
        (b"text,label\nhi,\xff\n", "byte 0xFF at offset 14 is not UTF-8"),
        ("", "expected a table, there is nothing in it"),
    ],
)
def test_a_table_that_cannot_give_examples_is_told_in_one_line_and_nothing_is_sent(
    in_folder: Path, key: None, capsys: pytest.CaptureFixture[str], content: str | bytes, message: str
) -> None:
    table, gold = write_rows(in_folder / "in.csv", ROWS), in_folder / "gold.csv"
    gold.write_bytes(content if isinstance(content, bytes) else content.encode())
    with running_gateway(Setup()) as gateway:
        assert run_command("label", table, "--examples", "gold.csv", "--output", "out.csv", url=gateway.url) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert len(told) < 600
    assert not gateway.log.records
    assert not (in_folder / "out.csv").exists()
    assert not (in_folder / "prompt-packer.db").exists()


@pytest.mark.parametrize("label", [5, ["spam"], {"spam": 1}, True, 10**400])
def test_a_label_of_json_that_is_no_text_is_named_with_its_line(tmp_path: Path, label: Any) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps({"text": "a", "label": None}) + "\n" + json.dumps({"text": "b", "label": label}) + "\n")
    with pytest.raises(InputError, match="line 2: expected one of the labels") as raised:
        draw(str(path))
    assert raised.value.line == 2


def test_a_label_of_very_many_marks_is_refused_at_once(tmp_path: Path) -> None:
    """Normalising it takes a time that grows with the square of its length: half a minute for this one."""
    path = write_rows(tmp_path / "gold.csv", [("a text", "a" + "\u0301\u0323" * 100_000)])
    began = time.perf_counter()
    with pytest.raises(InputError, match="line 2: expected one of the labels"):
        draw(path)
    assert time.perf_counter() - began < 5.0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--examples", "-"], "-: expected a file: examples are read twice"),
        (["--examples", "pipe.csv"], "pipe.csv: expected a file: examples are read twice"),
        (["--examples", "missing.csv"], "missing.csv: there is no such file"),
        (["--examples", "gold.txt"], "expected a name that ends in .csv"),
        (["--examples-per-label", "3"], "--examples-per-label: expected --examples FILE too"),
        (["--examples", "gold.csv", "--examples-per-label", "0"], "expected a whole number from 1 to 20, got '0'"),
        (["--examples", "gold.csv", "--output", "gold.csv"], "gold.csv: the output is the examples"),
        (["--examples", "gold.csv", "--task", "record.json"], "expected a task with labels"),
    ],
)
def test_what_cannot_be_asked_of_examples_is_told(
    in_folder: Path, key: None, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    table = write_rows(in_folder / "in.csv", ROWS)
    gold = write_rows(in_folder / "gold.csv", ROWS)
    (in_folder / "gold.txt").write_text("text,label\n")
    (in_folder / "record.json").write_text('{"record": {"type": "object", "properties": {"a": {}}}}')
    os.mkfifo(in_folder / "pipe.csv")
    before = Path(gold).read_bytes()
    assert run_command("label", table, *more, url="http://127.0.0.1:9/v1") == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert Path(gold).read_bytes() == before


def test_examples_of_real_intents_are_balanced_and_short(shared_data: Path, tmp_path: Path) -> None:
    with (shared_data / "banking77.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    column = next(name for name in ("label", "gold") if name in rows[0])
    task = Task(sorted({row[column] for row in rows}))
    examples = draw(str(shared_data / "banking77.csv"), task)
    counts = Counter(example.answer for example in examples)
    assert len(counts) == len(task.labels)
    assert len(set(counts.values())) == 1
    assert sum(count_tokens([example.text for example in examples])) < MOST_TOKENS


def test_a_gateway_learns_nothing_from_examples_that_it_would_take_for_items() -> None:
    """What reads prompts for the tests reads those with examples too: labels first, then items by their numbers."""

    async def run() -> list[str | None]:
        async with Gateway(Setup()) as gateway:
            task = TASK.with_examples([Example('1. "a text" -> spam\n2. x', "ham")])
            async with Runner(task, model="m", ledger=None, base_url=gateway.url, api_key=KEY) as runner:
                return [result.label async for result in runner.stream(["this is ham", "this is spam"])]

    assert asyncio.run(run()) == ["ham", "spam"]
